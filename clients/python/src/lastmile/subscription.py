"""A subscription to one channel: each publication once and in order, and every gap reported."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from .errors import LastmileError
from .inbox import Inbox
from .protocol import Frame, Gap, Position, Publication, publication_from_frame

log = logging.getLogger("lastmile")


@dataclass(frozen=True)
class Options:
    since: Position | None
    backlog: int | None
    buffer: int
    overflow: Literal["pause", "drop_oldest"]
    on_gap: Callable[[Gap], None] | None


class SubscriptionOwner(Protocol):
    """The client that sends the commands of a subscription."""

    def send_subscribe(self, subscription: Subscription) -> None: ...
    def send_unsubscribe(self, subscription: Subscription) -> None: ...
    def remove(self, subscription: Subscription) -> None: ...


class Subscription:
    """Asynchronous iterator over the publications of a channel.

    `unsubscribe` or `async with` ends it. If it ends with an error, the iterator raises it. Publications missing before
    another one are reported in its `gap`."""

    def __init__(self, channel: str, carrier: SubscriptionOwner, options: Options) -> None:
        self.channel = channel
        #: Position of the last publication that arrived. The next connection resumes after it.
        self.position: Position | None = options.since
        #: Whether the gateway delivered everything after `position` when the subscription last started; `None` before the
        #: first start, `False` where no position was requested.
        self.recovered: bool | None = None
        #: The gateway's node cannot reach the others, so publications arrive late.
        self.degraded = False
        self._owner = carrier
        self._options = options
        self._inbox: Inbox[Publication] = Inbox()
        #: Id of the `subscribe` command that waits for its response.
        self._id = ""
        self._is_active = False
        self._is_paused = False
        #: Position at which a gap was reported: the next publication may skip offsets.
        self._gap_reported_at: Position | None = None
        #: The gap to attach to the next publication.
        self._gap: Gap | None = None
        self._subscribed_once = asyncio.Event()
        self._error: LastmileError | None = None

    async def ready(self) -> None:
        """Waits until the subscription is active for the first time. Raises the error if it is refused."""
        await self._subscribed_once.wait()
        if self.recovered is None and self._error is not None:
            raise self._error

    def unsubscribe(self) -> None:
        """Ends the subscription."""
        if not self._inbox.is_ended:
            self._inbox.clear()
            self._end(None)
            self._owner.send_unsubscribe(self)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Publication:
        publication = await self._inbox.take()
        if self._is_paused and len(self._inbox) <= self._options.buffer // 2 and not self._inbox.is_ended:
            self._is_paused = False
            self._owner.send_subscribe(self)
        return publication

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.unsubscribe()

    # Called by the client.

    def _resume_params(self) -> dict[str, Any]:
        """Parameters of the `subscribe` command: the position to resume from, or the backlog."""
        if self.position is not None:
            return {"since": {"epoch": self.position.epoch, "offset": self.position.offset}}
        return {"backlog": self._options.backlog} if self._options.backlog else {}

    def _suspend(self, command_id: str = "") -> None:
        """Ignores publications until the response to the `subscribe` command `number` arrives."""
        self._is_active = self.degraded = False
        self._id = command_id

    def _on_subscribed(self, frame: Frame) -> None:
        if frame.get("id") != self._id:
            return
        here = Position(frame["epoch"], frame["offset"])
        before = self.position
        is_complete = frame["recovered"] is True
        self._is_active, self.degraded = True, False
        if before is None:
            # If the connection is lost before the backlog arrives, the next one requests it again.
            self.position = Position(here.epoch, max(0, here.offset - (self._options.backlog or 0)))
            if not is_complete or self._options.backlog:
                self._gap_reported_at = here
        elif not is_complete:
            is_same_epoch = before.epoch == here.epoch
            # A subscriber that has the newest publication misses nothing, whatever the backlog holds.
            is_complete = is_same_epoch and here.offset <= before.offset
            was_reported = self._gap_reported_at == here
            self._gap_reported_at = None if is_complete else here
            if not is_same_epoch:
                self.position = Position(here.epoch, 0)
            if not is_complete and not was_reported:
                self._report_gap(Gap("history_lost", before))
        self.recovered = is_complete
        self._subscribed_once.set()

    def _on_message(self, frame: Frame) -> None:
        before = self.position
        if not self._is_active or self._inbox.is_ended or before is None:
            return
        here = Position(frame["epoch"], frame["offset"])
        is_same_epoch = here.epoch == before.epoch
        if is_same_epoch and here.offset <= before.offset:
            return
        if self._gap_reported_at is None and not (is_same_epoch and here.offset == before.offset + 1):
            self._report_gap(Gap("skipped" if is_same_epoch else "history_lost", before))
        publication = publication_from_frame(frame, self._gap)
        self.position, self._gap_reported_at, self._gap = here, None, None
        self._deliver(publication)

    def _deliver(self, publication: Publication) -> None:
        self._inbox.put(publication)
        if self._options.overflow == "pause":
            if len(self._inbox) >= self._options.buffer:
                self._is_paused = True
                self._suspend()
                self._owner.send_unsubscribe(self)
        elif len(self._inbox) > self._options.buffer:
            oldest = self._inbox.drop_oldest()
            after = oldest.gap.after if oldest.gap else Position(oldest.epoch, oldest.offset - 1)
            gap = Gap("overflow", after)
            self._inbox.change_oldest(lambda next_one: replace(next_one, gap=gap))
            self._call_on_gap(gap)

    def _report_gap(self, gap: Gap) -> None:
        self._gap = Gap(gap.reason, self._gap.after) if self._gap else gap
        self._call_on_gap(gap)

    def _call_on_gap(self, gap: Gap) -> None:
        if self._options.on_gap is not None:
            try:
                self._options.on_gap(gap)
            except Exception:
                # An error of the application must not end the connection.
                log.exception("on_gap failed")

    def _end(self, error: LastmileError | None) -> None:
        """Ends the subscription for good; buffered publications can still be taken."""
        if self._inbox.is_ended:
            return
        self._is_active = False
        self._error = error
        self._inbox.end(error)
        self._subscribed_once.set()
        self._owner.remove(self)
