"""Queue of received items between a connection and an iterator; it may end with an error."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._wake = asyncio.Event()
        self._error: BaseException | None = None
        self.is_ended = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        if not self.is_ended:
            self._items.append(item)
            self._wake.set()

    def drop_oldest(self) -> T:
        return self._items.popleft()

    def change_oldest(self, change: Callable[[T], T]) -> None:
        self._items[0] = change(self._items[0])

    def clear(self) -> None:
        self._items.clear()

    def end(self, error: BaseException | None = None) -> None:
        """Queued items can still be taken."""
        if not self.is_ended:
            self.is_ended = True
            self._error = error
            self._wake.set()

    async def take(self) -> T:
        """The next item. After the end, raises the error once, then `StopAsyncIteration`."""
        while not self._items:
            if self.is_ended:
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._items.popleft()
