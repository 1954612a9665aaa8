"""Publishes to channels: signed requests for one or many, and a WebSocket for streams, replies and events."""

from __future__ import annotations

import ssl
import uuid
from collections.abc import Iterable
from typing import Any

from .connection import State, Timing
from .errors import LastmileError
from .http import Http
from .keys import KeySource, SigningKey
from .protocol import Frame, PublishResult, error_from_problem, publish_result_from_frame, to_json
from .stream import Receipt, Replies, Stream, Watch
from .url import Address, channel_path


class Publisher:
    """Opens a connection with its first use. `async with` closes it, after everything that was sent has its answer."""

    def __init__(
        self,
        url: str,
        key: KeySource,
        *,
        password: bytes | None = None,
        tls: ssl.SSLContext | None = None,
        window: int = 256,
        timeout: float = 10.0,
        retry_secs: float = 30.0,
        timing: Timing = Timing(),
    ) -> None:
        """`key` is a file's path or the text of an ed25519 key, OpenSSH or PEM. `window` is how many publications of
        `send` may be without an answer. A request waits `timeout` seconds for its answer, and is tried again for
        `retry_secs` when the gateway or the network says later."""
        self.key = SigningKey.load(key, password)
        address = Address.parse(url)
        if address.secure and tls is None:
            tls = ssl.create_default_context()
        self._http = Http(address, self.key, tls, timeout, retry_secs)
        self._stream = Stream(address, self.key, tls, timing, window, self.publish)

    @property
    def state(self) -> State:
        """Of the WebSocket."""
        return self._stream.state

    async def publish(self, channel: str, data: Any, idempotency_key: str | None = None) -> PublishResult:
        """Publishes one: `bytes` as they are, anything else as JSON. The same `idempotency_key` with the same data
        publishes once, also from another process; without one the tries of this call share one of their own."""
        is_json = not isinstance(data, (bytes, bytearray, memoryview))
        body = to_json(data).encode() if is_json else bytes(data)
        content_type = "application/json" if is_json else "application/octet-stream"
        answer = await self._post(channel, body, content_type, idempotency_key)
        return publish_result_from_frame(answer, answer["id"])

    async def publish_many(
        self, channel: str, items: Iterable[Any], idempotency_key: str | None = None
    ) -> list[PublishResult | LastmileError]:
        """Publishes JSON values in their order under one signature. Where the channel refused one, its place in the
        list holds the error. `TypeError` for `bytes`: send those one by one."""
        lines = [to_json(item) for item in items]
        if not lines:
            return []
        body = "\n".join(lines).encode()
        answers = await self._post(channel, body, "application/x-ndjson", idempotency_key)
        return [_outcome(answer) for answer in answers]

    async def send(self, channel: str, data: Any, *, retry: bool = False) -> Receipt:
        """Publishes over the WebSocket. It comes back as soon as there is room in the window and in the network's
        buffers; `await` the receipt for the publication's place.

        If the connection breaks before the answer, the receipt says `connection_lost`: nobody knows whether the
        publication was accepted. With `retry` it is published once more by a request, and may then be there twice."""
        return await self._stream.send(channel, data, retry)

    async def flush(self) -> None:
        """Waits until everything that was sent has its answer; the first error of a receipt that nobody awaited."""
        await self._stream.flush()

    def replies(self) -> Replies:
        """What subscribers reply, on channels with replies. Connects if need be."""
        return self._stream.replies()

    def watch(self, channel: str) -> Watch:
        """Who comes and goes on a channel."""
        return self._stream.watch(channel)

    async def create_channel(self, channel: str, **limits: int) -> Frame:
        """Creates a channel, or makes sure that it is there: `max_messages`, `max_data_bytes`, `max_message_bytes`,
        `max_connections`, `lifespan_secs` narrow what is configured. `channel_exists` if it has other limits."""
        answer: Frame = await self._http.request("PUT", channel_path(channel), to_json(limits).encode())
        return answer

    async def describe_channel(self, channel: str) -> Frame:
        """State and counts."""
        answer: Frame = await self._http.request("GET", channel_path(channel))
        return answer

    async def close_channel(self, channel: str) -> None:
        """Ends a channel; its subscribers are told `channel_closed`."""
        await self._http.request("DELETE", channel_path(channel))

    async def close(self) -> None:
        """Ends the connection at once. `flush` before it, or `async with`, waits for answers."""
        await self._stream.close()
        self._http.close()

    async def __aenter__(self) -> Publisher:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if error is None:
                await self.flush()
        finally:
            await self.close()

    async def _post(self, channel: str, body: bytes, content_type: str, idempotency_key: str | None) -> Any:
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return await self._http.request("POST", channel_path(channel) + "/messages", body, content_type, headers)


def _outcome(answer: Frame) -> PublishResult | LastmileError:
    if "offset" in answer:
        return publish_result_from_frame(answer, answer["id"])
    return error_from_problem(int(answer.get("status", 500)), to_json(answer).encode(), None)
