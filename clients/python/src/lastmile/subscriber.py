"""Subscriber: channels over one reconnecting WebSocket, and replies to messages."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, Literal

from .connection import Connection, Timing, log
from .errors import LastmileError, closed
from .protocol import (
    TOKEN_EXPIRED,
    UNAUTHENTICATED,
    Frame,
    Gap,
    Position,
    error_from_close,
    error_from_frame,
    is_final,
)
from .subscription import Options, Subscription
from .tokens import Tokens, TokenSource
from .url import Address


def connect(
    url: str, token: TokenSource | None = None, *, tls: ssl.SSLContext | None = None, timing: Timing = Timing()
) -> Client:
    """Creates a client, which connects on first use."""
    address = Address.parse(url)
    if address.secure and tls is None:
        tls = ssl.create_default_context()
    return Client(address, token, tls, timing)


class Client(Connection):
    def __init__(
        self, address: Address, token: TokenSource | None, tls: ssl.SSLContext | None, timing: Timing
    ) -> None:
        super().__init__(address, "/v1/subscribe", tls, timing)
        self._tokens = Tokens(token, timing.open)
        self._subscriptions: dict[str, Subscription] = {}
        #: Code of the last `unsubscribed` frame. If it was the last channel, the gateway closes the connection with the
        #: same code.
        self._last_channel_close = 0
        self._refresh_task: asyncio.Task[None] | None = None

    def subscribe(
        self,
        channel: str,
        *,
        backlog: int | None = None,
        since: Position | None = None,
        buffer: int = 1000,
        overflow: Literal["pause", "drop_oldest"] = "pause",
        on_gap: Callable[[Gap], None] | None = None,
    ) -> Subscription:
        """Subscribes to new publications, preceded by the newest `backlog` ones or all after the position `since`. A
        channel has one subscription at a time.

        At most `buffer` publications wait for the iterator. When it is full, `"pause"` unsubscribes until half of them
        are taken and then resumes from the gateway's backlog; `"drop_oldest"` drops the oldest one. `on_gap` is called
        for each gap at once; the next publication holds it as well."""
        if channel in self._subscriptions:
            raise LastmileError("already_subscribed", f"there is a subscription to {channel} already")
        subscription = Subscription(channel, self, Options(since, backlog, max(1, buffer), overflow, on_gap))
        if self.state in ("failed", "closed"):
            subscription._end(self.error or closed())
            return subscription
        self._subscriptions[channel] = subscription
        self.send_subscribe(subscription)
        return subscription

    async def reply(self, channel: str, to: str, data: Any) -> None:
        """Replies to the message with the id `to`. Returns once the publisher has confirmed the reply."""
        await self._request({"type": "reply", "channel": channel, "to": to, "data": data})

    async def ask(self, channel: str, to: str, data: Any) -> Any:
        """Replies to a message and returns the publisher's answer."""
        command = {"type": "reply", "channel": channel, "to": to, "data": data, "answer": True}
        return (await self._request(command, skip="replied")).get("data")

    async def close(self) -> None:
        """Closes the connection and ends all subscriptions."""
        await self._close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # The `SubscriptionOwner` interface.

    def send_subscribe(self, subscription: Subscription) -> None:
        if self._socket is None:
            return self._start()
        command_id = self._next_id()
        subscription._suspend(command_id)
        command = {"type": "subscribe", "id": command_id, "channel": subscription.channel, **subscription._resume_params()}
        self._send_soon(command)

    def send_unsubscribe(self, subscription: Subscription) -> None:
        self._send_soon({"type": "unsubscribe", "id": self._next_id(), "channel": subscription.channel})

    def remove(self, subscription: Subscription) -> None:
        if self._subscriptions.get(subscription.channel) is subscription:
            del self._subscriptions[subscription.channel]

    async def _resubscribe_later(self, subscription: Subscription) -> None:
        """Subscribes again after a temporary refusal of one channel, without a new connection."""
        socket = self._socket
        await asyncio.sleep(self._backoff.next(1.0))
        is_wanted = self._subscriptions.get(subscription.channel) is subscription and not subscription._is_paused
        if is_wanted and self._socket is socket and not subscription._id:
            self.send_subscribe(subscription)

    # The connection.

    async def _first_frame(self) -> Frame:
        token = await self._tokens.get()
        # Without a token, any command starts an anonymous session.
        return {"type": "hello", "token": token} if token else {"type": "ping"}

    def _on_welcome(self, frame: Frame) -> None:
        self._last_channel_close = 0
        self._tokens.on_accepted()
        self._schedule_refresh(frame.get("expires"))
        for subscription in self._subscriptions.values():
            if not subscription._is_paused:
                self.send_subscribe(subscription)

    def _on_frame(self, frame: Frame) -> None:
        kind = frame["type"]
        subscription = self._subscriptions.get(frame.get("channel", ""))
        if kind == "message":
            if subscription is not None:
                subscription._on_message(frame)
        elif kind == "subscribed":
            if subscription is not None:
                subscription._on_subscribed(frame)
        elif kind == "unsubscribed":
            # Without a reason it is the response to our own `unsubscribe`.
            if subscription is not None and frame.get("reason"):
                self._on_unsubscribed(subscription, error_from_close(int(frame["code"]), frame["reason"]))
        elif kind in ("degraded", "restored"):
            if subscription is not None:
                subscription.degraded = kind == "degraded"
        elif kind == "refreshed":
            self._schedule_refresh(frame.get("expires"))
        elif not self._resolve_pending(frame) and kind == "error":
            self._on_refusal(frame.get("id"), error_from_frame(frame))

    def _on_unsubscribed(self, subscription: Subscription, error: LastmileError) -> None:
        self._last_channel_close = error.status or 0
        subscription._suspend()
        if is_final(self._last_channel_close):
            subscription._end(error)
        else:
            self._spawn(self._resubscribe_later(subscription))

    def _on_refusal(self, command_id: str | None, error: LastmileError) -> None:
        for subscription in list(self._subscriptions.values()):
            if command_id and subscription._id == command_id:
                subscription._suspend()
                if error.temporary:
                    self._spawn(self._resubscribe_later(subscription))
                else:
                    subscription._end(error)
                return
        log.info("the gateway refused a command: %s", error)

    def _schedule_refresh(self, expires: str | None) -> None:
        """Schedules a token refresh for when a tenth of the remaining time is left, at most 60 s before expiry."""
        self._cancel_refresh()
        if not expires or not self._tokens.can_refresh:
            return
        left = (datetime.fromisoformat(expires.replace("Z", "+00:00")) - datetime.now(timezone.utc)).total_seconds()
        wait = left - min(60.0, left / 10)
        # Otherwise the clock is wrong or the token is not newer: wait for the gateway to close the connection.
        if wait > 0.5:
            self._refresh_task = asyncio.get_running_loop().create_task(self._refresh(wait))

    async def _refresh(self, wait: float) -> None:
        await asyncio.sleep(wait)
        try:
            token = await self._tokens.fetch()
        except LastmileError as error:
            log.warning("token refresh failed: %s", error)
        else:
            self._send_soon({"type": "refresh", "id": self._next_id(), "token": token})

    def _cancel_refresh(self) -> None:
        if self._refresh_task is not None and self._refresh_task is not asyncio.current_task():
            self._refresh_task.cancel()
        self._refresh_task = None

    def _reconnect_delay(self, error: LastmileError, was_stable: bool) -> float | None:
        is_channel_close = self._last_channel_close != 0 and error.status == self._last_channel_close
        if error.status == TOKEN_EXPIRED:
            self._tokens.drop()
        if error.status == UNAUTHENTICATED and not is_channel_close:
            retry = self._tokens.on_refused()
            return {"now": 0.0, "later": self._backoff.next(), "never": None}[retry]
        delay = super()._reconnect_delay(error, was_stable)
        return self._backoff.next() if delay is None and is_channel_close else delay

    def _is_needed(self) -> bool:
        return bool(self._subscriptions)

    async def _on_lost(self) -> None:
        self._cancel_refresh()
        for subscription in self._subscriptions.values():
            subscription._suspend()

    def _on_finished(self, error: LastmileError) -> None:
        self._cancel_refresh()
        for subscription in list(self._subscriptions.values()):
            subscription._end(None if self.state == "closed" else error)

