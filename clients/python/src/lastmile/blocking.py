"""The API of the package without asyncio: every call blocks.

One thread with an event loop serves all objects of the process. The objects may be used from any thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Generic, Literal, TypeVar

from . import publisher, stream, subscriber, subscription
from .connection import State
from .errors import LastmileError
from .keys import KeySource
from .protocol import ChannelEvent, Frame, Gap, Position, Principal, Publication, PublishResult
from .tokens import TokenSource

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def _event_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="lastmile", daemon=True).start()
        return _loop


def _block_on(work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
    # The timeout runs inside the loop: an item that arrives as it expires is not lost.
    timed = work if timeout is None else asyncio.wait_for(work, timeout)
    future = asyncio.run_coroutine_threadsafe(timed, _event_loop())
    try:
        return future.result()
    except asyncio.TimeoutError:
        raise TimeoutError(f"nothing received within {timeout} s") from None
    finally:
        # The caller may have been interrupted, for example by Ctrl-C.
        future.cancel()


def _call_in_loop(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Runs a plain function in the event loop's thread."""

    async def work() -> T:
        return function(*args, **options)

    return _block_on(work())


class _Iterator(Generic[T]):
    """Blocking iterator over an asynchronous source. `take` waits at most `timeout` seconds."""

    def __init__(self, source: Any, close_source: Callable[[], None]) -> None:
        self._source = source
        self._close_source = close_source

    def take(self, timeout: float | None = None) -> T:
        """The next item. Raises `TimeoutError` if none arrived and `StopIteration` at the end."""
        try:
            item: T = _block_on(self._source.__anext__(), timeout)
        except StopAsyncIteration:
            raise StopIteration from None
        return item

    def close(self) -> None:
        """Ends the iterator."""
        _call_in_loop(self._close_source)

    def __iter__(self) -> _Iterator[T]:
        return self

    def __next__(self) -> T:
        return self.take()

    def __enter__(self) -> _Iterator[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Receipt:
    """Tracks one publication that was sent."""

    def __init__(self, receipt: stream.Receipt) -> None:
        self._receipt = receipt

    def done(self) -> bool:
        return self._receipt.done()

    def result(self, timeout: float | None = None) -> PublishResult:
        """The position of the publication. Raises the error if it was refused."""

        async def work() -> PublishResult:
            return await self._receipt

        return _block_on(work(), timeout)


class Reply:
    """A subscriber's reply to a message."""

    def __init__(self, reply: stream.Reply) -> None:
        self._reply = reply
        self.reply: str = reply.reply
        self.channel: str = reply.channel
        self.to: str = reply.to
        self.time: str = reply.time
        self.connection: str = reply.connection
        self.principal: Principal | None = reply.principal
        self.data: Any = reply.data

    def received(self) -> None:
        _block_on(self._reply.received())

    def answer(self, data: Any) -> None:
        _block_on(self._reply.answer(data))


class Replies(_Iterator[Reply]):
    def take(self, timeout: float | None = None) -> Reply:
        return Reply(super().take(timeout))  # type: ignore[arg-type]


class Publisher:
    """Blocking form of `lastmile.Publisher`, with the same options."""

    def __init__(self, url: str, key: KeySource, **options: Any) -> None:
        self._publisher = _call_in_loop(publisher.Publisher, url, key, **options)

    @property
    def state(self) -> State:
        return self._publisher.state

    def publish(self, channel: str, data: Any, idempotency_key: str | None = None) -> PublishResult:
        return _block_on(self._publisher.publish(channel, data, idempotency_key))

    def publish_many(
        self, channel: str, items: Iterable[Any], idempotency_key: str | None = None
    ) -> list[PublishResult | LastmileError]:
        return _block_on(self._publisher.publish_many(channel, list(items), idempotency_key))

    def send(self, channel: str, data: Any, *, retry: bool = False) -> Receipt:
        return Receipt(_block_on(self._publisher.send(channel, data, retry=retry)))

    def flush(self) -> None:
        _block_on(self._publisher.flush())

    def replies(self) -> Replies:
        replies = _call_in_loop(self._publisher.replies)
        return Replies(replies, replies.close)

    def watch(self, channel: str) -> _Iterator[ChannelEvent]:
        watch = _call_in_loop(self._publisher.watch, channel)
        return _Iterator(watch, watch.close)

    def create_channel(self, channel: str, **limits: int) -> Frame:
        return _block_on(self._publisher.create_channel(channel, **limits))

    def describe_channel(self, channel: str) -> Frame:
        return _block_on(self._publisher.describe_channel(channel))

    def close_channel(self, channel: str) -> None:
        _block_on(self._publisher.close_channel(channel))

    def close(self) -> None:
        _block_on(self._publisher.close())

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *error: Any) -> None:
        _block_on(self._publisher.__aexit__(*error))


class Subscription(_Iterator[Publication]):
    def __init__(self, inner: subscription.Subscription) -> None:
        super().__init__(inner, inner.unsubscribe)
        self._inner = inner
        self.channel = inner.channel

    @property
    def position(self) -> Position | None:
        return self._inner.position

    @property
    def recovered(self) -> bool | None:
        return self._inner.recovered

    def ready(self, timeout: float | None = None) -> None:
        _block_on(self._inner.ready(), timeout)

    def unsubscribe(self) -> None:
        self.close()


class Client:
    """Blocking form of `lastmile.Client`."""

    def __init__(self, client: subscriber.Client) -> None:
        self._client = client

    @property
    def state(self) -> State:
        return self._client.state

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
        """`on_gap` is called in the event loop's thread and must not block."""
        subscribe = self._client.subscribe
        options: dict[str, Any] = {"buffer": buffer, "overflow": overflow, "on_gap": on_gap}
        return Subscription(_call_in_loop(subscribe, channel, backlog=backlog, since=since, **options))

    def reply(self, channel: str, to: str, data: Any) -> None:
        _block_on(self._client.reply(channel, to, data))

    def ask(self, channel: str, to: str, data: Any) -> Any:
        return _block_on(self._client.ask(channel, to, data))

    def close(self) -> None:
        _block_on(self._client.close())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(url: str, token: TokenSource | None = None, **options: Any) -> Client:
    """Blocking form of `lastmile.connect`, with the same options."""
    return Client(_call_in_loop(subscriber.connect, url, token, **options))
