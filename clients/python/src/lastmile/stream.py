"""The publishing WebSocket: publications with receipts and a bounded window, replies, and presence events."""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Generator
from dataclasses import replace
from typing import Any

from .connection import Connection, Timing, log
from .errors import LastmileError, connection_lost
from .inbox import Inbox
from .keys import SigningKey
from .protocol import (
    ChannelEvent,
    Frame,
    Principal,
    PublishResult,
    encode,
    error_from_frame,
    principal_from_json,
    publish_result_from_frame,
    to_json,
)
from .signing import sign
from .url import Address

_PATH = "/v1/publish"
#: Replies or events that may wait for an iterator.
_MAX_QUEUED_ITEMS = 1000
#: Replies that are remembered to detect redeliveries.
_MAX_SEEN_REPLIES = 10_000
#: Failures that are kept for `flush`.
_MAX_KEPT_FAILURES = 100


class Receipt:
    """Tracks one publication that was sent. `await` returns its `PublishResult`, or raises its refusal."""

    def __init__(self, channel: str, data: Any, retry: bool) -> None:
        self.channel = channel
        self._data = data
        self._retry = retry
        self._is_awaited = False
        self._result: asyncio.Future[PublishResult] = asyncio.get_running_loop().create_future()

    def done(self) -> bool:
        return self._result.done()

    def __await__(self) -> Generator[Any, None, PublishResult]:
        self._is_awaited = True
        # Cancelling a waiter must not cancel the result.
        return asyncio.shield(self._result).__await__()


class Reply:
    """A subscriber's reply to a message. The subscriber waits until it is confirmed by `received` or `answer`."""

    def __init__(self, stream: Stream, frame: Frame) -> None:
        self._stream = stream
        self.reply: str = frame["reply"]
        self.channel: str = frame["channel"]
        #: The id of the message that this replies to.
        self.to: str = frame["to"]
        self.time: str = frame["time"]
        #: The subscriber's connection id.
        self.connection: str = frame["connection"]
        #: `None` for a subscriber without a token.
        self.principal: Principal | None = principal_from_json(frame.get("principal"))
        self.data: Any = frame.get("data")

    async def received(self) -> None:
        """Confirms the reply. Raises `reply_unknown` if the gateway no longer holds it."""
        await self._stream.confirm(self, {"type": "received", "reply": self.reply})

    async def answer(self, data: Any) -> None:
        """Confirms the reply and sends an answer to the subscriber."""
        await self._stream.confirm(self, {"type": "answer", "reply": self.reply, "data": data})


class Replies:
    """Asynchronous iterator over replies. `close` or `async with` ends it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._inbox: Inbox[Reply] = Inbox()

    def close(self) -> None:
        self._inbox.end()
        self._stream.remove_replies(self)

    def __aiter__(self) -> Replies:
        return self

    async def __anext__(self) -> Reply:
        return await self._inbox.take()

    async def __aenter__(self) -> Replies:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class Watch:
    """Asynchronous iterator over the presence events of one channel. `close` or `async with` ends it."""

    def __init__(self, stream: Stream, channel: str) -> None:
        self.channel = channel
        self._stream = stream
        self._inbox: Inbox[ChannelEvent] = Inbox()
        self._dropped = 0

    def close(self) -> None:
        self._inbox.end()
        self._stream.remove_watch(self)

    def _put(self, event: ChannelEvent) -> None:
        if len(self._inbox) >= _MAX_QUEUED_ITEMS:
            self._dropped += 1 + event.missed
            return
        self._inbox.put(replace(event, missed=event.missed + self._dropped))
        self._dropped = 0

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> ChannelEvent:
        return await self._inbox.take()

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class Stream(Connection):
    def __init__(
        self,
        address: Address,
        key: SigningKey,
        tls: ssl.SSLContext | None,
        timing: Timing,
        window: int,
        publish: Callable[[str, Any], Awaitable[PublishResult]],
    ) -> None:
        """`publish` publishes by a request, for receipts with `retry`."""
        super().__init__(address, _PATH, tls, timing)
        self._authority = address.authority
        self._path = address.base_path + _PATH
        self._key = key
        self._publish = publish
        self._window = asyncio.Semaphore(window)
        #: Receipts without an answer, by id, and those that are published again by a request.
        self._unanswered: dict[str, Receipt] = {}
        self._to_retry: list[Receipt] = []
        self._failures: deque[tuple[Receipt, LastmileError]] = deque(maxlen=_MAX_KEPT_FAILURES)
        self._replies: Replies | None = None
        #: Received replies by id, and whether the gateway has the confirmation.
        self._seen_replies: OrderedDict[str, bool] = OrderedDict()
        self._watches: dict[str, Watch] = {}

    # Publications.

    async def send(self, channel: str, data: Any, retry: bool) -> Receipt:
        command_id = self._next_id()
        text = to_json({"type": "publish", "id": command_id, "channel": channel, **encode(data)})
        await self._window.acquire()
        try:
            socket = await self._wait_connected()
            receipt = Receipt(channel, data if retry else None, retry)
        except BaseException:
            self._window.release()
            raise
        self._unanswered[command_id] = receipt
        await self._send(socket, text)
        return receipt

    async def flush(self) -> None:
        waited = {receipt._result for receipt in (*self._unanswered.values(), *self._to_retry)}
        if waited:
            await asyncio.wait(waited)
        failed = [error for receipt, error in self._failures if not receipt._is_awaited]
        self._failures.clear()
        if failed:
            raise failed[0]

    def _resolve_receipt(self, receipt: Receipt, outcome: PublishResult | LastmileError) -> None:
        self._window.release()
        if isinstance(outcome, PublishResult):
            receipt._result.set_result(outcome)
            return
        receipt._result.set_exception(outcome)
        receipt._result.exception()  # Marks it as retrieved: `flush` raises it if the receipt is not awaited.
        self._failures.append((receipt, outcome))

    # Replies and events.

    def replies(self) -> Replies:
        if self._replies is not None:
            raise LastmileError("already_subscribed", "there is an iterator over replies already")
        self._replies = Replies(self)
        if self.state in ("failed", "closed"):
            self._replies._inbox.end(self.error)
        else:
            self._start()
        return self._replies

    def remove_replies(self, replies: Replies) -> None:
        if self._replies is replies:
            self._replies = None

    async def confirm(self, reply: Reply, command: Frame) -> None:
        try:
            await self._request(command, is_silent=command["type"] == "received")
        except LastmileError as error:
            # The gateway redelivers an unconfirmed reply: accept it again.
            if error.temporary:
                self._seen_replies.pop(reply.reply, None)
            raise
        if reply.reply in self._seen_replies:
            self._seen_replies[reply.reply] = True

    def watch(self, channel: str) -> Watch:
        if channel in self._watches:
            raise LastmileError("already_subscribed", f"{channel} is watched already")
        watch = self._watches[channel] = Watch(self, channel)
        if self.state in ("failed", "closed"):
            watch._inbox.end(self.error)
        elif self._socket is not None:
            self._spawn(self._send_watch(watch))
        else:
            self._start()
        return watch

    def remove_watch(self, watch: Watch) -> None:
        if self._watches.get(watch.channel) is watch:
            del self._watches[watch.channel]
            self._send_soon({"type": "unwatch", "channel": watch.channel})

    async def _send_watch(self, watch: Watch) -> None:
        try:
            await self._request({"type": "watch", "channel": watch.channel})
        except LastmileError as error:
            # The next connection sends `watch` again.
            if error.code != "connection_lost" and self._watches.get(watch.channel) is watch:
                del self._watches[watch.channel]
                watch._inbox.end(error)

    # The connection.

    async def _headers(self) -> dict[str, str]:
        return sign(self._key, "GET", self._authority, self._path)

    def _on_welcome(self, frame: Frame) -> None:
        for watch in self._watches.values():
            self._spawn(self._send_watch(watch))

    def _on_frame(self, frame: Frame) -> None:
        kind = frame["type"]
        if kind in ("published", "error") and frame.get("id") in self._unanswered:
            is_published = kind == "published"
            outcome = publish_result_from_frame(frame, frame["message_id"]) if is_published else error_from_frame(frame)
            self._resolve_receipt(self._unanswered.pop(frame["id"]), outcome)
        elif kind == "reply":
            self._on_reply(frame)
        elif kind == "event":
            self._on_event(frame, frame["event"])
        else:
            if kind == "watching":
                self._on_event(frame, kind)
            if not self._resolve_pending(frame) and kind == "error":
                log.info("the gateway refused a command: %s", error_from_frame(frame))

    def _on_reply(self, frame: Frame) -> None:
        name = frame["reply"]
        if name in self._seen_replies:
            if self._seen_replies[name]:
                self._send_soon({"type": "received", "reply": name})
        # A reply without room in the queue is dropped: the gateway redelivers it to some connection.
        elif self._replies is not None and len(self._replies._inbox) < _MAX_QUEUED_ITEMS:
            self._replies._inbox.put(Reply(self, frame))
            self._seen_replies[name] = False
            if len(self._seen_replies) > _MAX_SEEN_REPLIES:
                self._seen_replies.popitem(last=False)

    def _on_event(self, frame: Frame, event: str) -> None:
        watch = self._watches.get(frame["channel"])
        if watch is not None:
            principal = principal_from_json(frame.get("principal"))
            who, why, missed = frame.get("connection"), frame.get("reason"), frame.get("missed", 0)
            watch._put(ChannelEvent(frame["channel"], event, frame["connections"], who, principal, why, missed))

    async def _on_lost(self) -> None:
        self._to_retry = [receipt for receipt in self._unanswered.values() if receipt._retry]
        self._fail_receipts([receipt for receipt in self._unanswered.values() if not receipt._retry])
        self._unanswered.clear()
        # Sequentially and before newer publications, to keep the order.
        while self._to_retry:
            receipt = self._to_retry[0]
            outcome: PublishResult | LastmileError
            try:
                outcome = await self._publish(receipt.channel, receipt._data)
            except LastmileError as error:
                outcome = error
            self._resolve_receipt(self._to_retry.pop(0), outcome)

    def _fail_receipts(self, receipts: list[Receipt]) -> None:
        for receipt in receipts:
            self._resolve_receipt(receipt, connection_lost("outcome of the publication is unknown"))

    def _on_finished(self, error: LastmileError) -> None:
        self._fail_receipts([*self._unanswered.values(), *self._to_retry])
        self._unanswered.clear()
        self._to_retry.clear()
        if self._replies is not None:
            self._replies._inbox.end(None if self.state == "closed" else error)
        for watch in self._watches.values():
            watch._inbox.end(None if self.state == "closed" else error)

    async def close(self) -> None:
        await self._close()
