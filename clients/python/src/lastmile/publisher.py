"""Publisher: signed HTTP requests, and a WebSocket for streams, replies and presence events."""

from __future__ import annotations

import ssl
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from .connection import State, Timing
from .errors import LastmileError
from .http import Http
from .keys import KeySource, SigningKey
from .protocol import Frame, PublishResult, error_from_problem, publish_result_from_frame, to_json
from .stream import Receipt, Replies, Stream, Watch
from .url import Address, channel_path

#: The gateway's defaults of `limits.max_batch_messages` and `limits.max_batch_bytes`.
_MAX_BATCH_MESSAGES = 1000
_MAX_BATCH_BYTES = 4 * 2**20


class Publisher:
    """Connects on first use. `async with` flushes and closes it."""

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
        """`key` is the path or the text of an ed25519 key, OpenSSH or PEM. `window` is the number of publications that
        `send` may have without an answer. A request times out after `timeout` seconds and is retried for `retry_secs`
        on temporary errors."""
        self.key = SigningKey.load(key, password)
        address = Address.parse(url)
        if address.secure and tls is None:
            tls = ssl.create_default_context()
        self._http = Http(address, self.key, tls, timeout, retry_secs)
        self._stream = Stream(address, self.key, tls, timing, window, self.publish)

    @property
    def state(self) -> State:
        """State of the WebSocket."""
        return self._stream.state

    async def publish(self, channel: str, data: Any, idempotency_key: str | None = None) -> PublishResult:
        """Publishes `data`: `bytes` unchanged, anything else as JSON. The same `idempotency_key` with the same data is
        published once, also from another process. Without one, the retries of this call share a generated key."""
        is_json = not isinstance(data, (bytes, bytearray, memoryview))
        body = to_json(data).encode() if is_json else bytes(data)
        content_type = "application/json" if is_json else "application/octet-stream"
        response = await self._post(channel, body, content_type, idempotency_key)
        return publish_result_from_frame(response, response["id"])

    async def publish_many(
        self, channel: str, items: Iterable[Any], idempotency_key: str | None = None
    ) -> list[PublishResult | LastmileError]:
        """Publishes JSON values in order, in batches that the gateway accepts. The result holds an error for each value
        that the channel refused. Raises `TypeError` for `bytes`, which must be published one by one.

        Retries with the same `idempotency_key` and the same values publish each value once. If a later batch fails, the
        error is raised, and earlier ones are published."""
        lines = [to_json(item).encode() for item in items]
        key = idempotency_key or str(uuid.uuid4())
        results: list[PublishResult | LastmileError] = []
        for number, batch in enumerate(_batches(lines)):
            results += await self._publish_batch(channel, batch, f"{key}/{number}" if number else key)
        return results

    async def _publish_batch(
        self, channel: str, lines: list[bytes], idempotency_key: str
    ) -> list[PublishResult | LastmileError]:
        try:
            responses = await self._post(channel, b"\n".join(lines), "application/x-ndjson", idempotency_key)
        except LastmileError as error:
            if error.code != "message_too_large" or len(lines) < 2:
                raise
            # The gateway's limits are lower than the default ones.
            middle = len(lines) // 2
            first = await self._publish_batch(channel, lines[:middle], f"{idempotency_key}/a")
            return first + await self._publish_batch(channel, lines[middle:], f"{idempotency_key}/b")
        return [_outcome(response) for response in responses]

    async def send(self, channel: str, data: Any, *, retry: bool = False) -> Receipt:
        """Publishes over the WebSocket. Returns as soon as the window and the network's buffers have room; `await` the
        receipt for the position of the publication.

        If the connection is lost before the answer, the receipt raises `connection_lost`: the outcome is unknown. With
        `retry`, the publication is sent again by a request and may then be published twice."""
        return await self._stream.send(channel, data, retry)

    async def flush(self) -> None:
        """Waits until all publications have an answer. Raises the first error of a receipt that was not awaited."""
        await self._stream.flush()

    def replies(self) -> Replies:
        """Replies of subscribers, on channels with replies. Connects if necessary."""
        return self._stream.replies()

    def watch(self, channel: str) -> Watch:
        """Presence events of a channel."""
        return self._stream.watch(channel)

    async def create_channel(self, channel: str, **limits: int) -> Frame:
        """Creates a channel if it does not exist. The limits `max_messages`, `max_data_bytes`, `max_message_bytes`,
        `max_connections` and `lifespan_secs` lower the configured ones. Raises `channel_exists` if the channel has
        other limits."""
        response: Frame = await self._http.request("PUT", channel_path(channel), to_json(limits).encode())
        return response

    async def describe_channel(self, channel: str) -> Frame:
        """State, limits and counts of a channel."""
        response: Frame = await self._http.request("GET", channel_path(channel))
        return response

    async def close_channel(self, channel: str) -> None:
        """Closes a channel; its subscribers receive `channel_closed`."""
        await self._http.request("DELETE", channel_path(channel))

    async def close(self) -> None:
        """Closes the connection immediately. To wait for answers, call `flush` first or use `async with`."""
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


def _batches(lines: list[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for line in lines:
        if batch and (len(batch) == _MAX_BATCH_MESSAGES or size + len(line) + 1 > _MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line) + 1
    if batch:
        yield batch


def _outcome(response: Frame) -> PublishResult | LastmileError:
    if "offset" in response:
        return publish_result_from_frame(response, response["id"])
    return error_from_problem(int(response.get("status", 500)), to_json(response).encode(), None)
