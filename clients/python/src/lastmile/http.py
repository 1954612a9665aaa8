"""Signed HTTP requests over a pool of keep-alive connections, retried on temporary errors."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .backoff import Backoff
from .errors import LastmileError, closed, connection_lost
from .keys import SigningKey
from .protocol import error_from_problem
from .signing import sign
from .url import Address

#: Further requests wait for a free thread.
_MAX_CONCURRENT_REQUESTS = 8
#: Below the gateway's `limits.handshake_secs`, after which it closes idle connections.
_MAX_IDLE_SECS = 4.0
_MAX_RESPONSE_BYTES = 64 * 2**20


class Http:
    def __init__(
        self, address: Address, key: SigningKey, tls: ssl.SSLContext | None, timeout: float, retry_secs: float
    ) -> None:
        self._address = address
        self._key = key
        self._tls = tls
        self._timeout = timeout
        self._retry_secs = retry_secs
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []
        self._threads = ThreadPoolExecutor(_MAX_CONCURRENT_REQUESTS, "lastmile-http")
        self._is_closed = False

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> Any:
        """The decoded JSON response, or `None` if it is empty. Retried for `retry_secs`, so the request must be
        idempotent."""
        backoff = Backoff()
        deadline = time.monotonic() + self._retry_secs
        while True:
            if self._is_closed:
                raise closed()
            try:
                return await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._attempt, method, path, body, content_type, headers or {}
                )
            except LastmileError as error:
                wait = backoff.next(error.retry_after)
                if not error.temporary or time.monotonic() + wait > deadline:
                    raise
            await asyncio.sleep(wait)

    def close(self) -> None:
        self._is_closed = True
        self._threads.shutdown(wait=False)
        while self._idle:
            self._idle.pop()[1].close()

    def _attempt(self, method: str, path: str, body: bytes | None, content_type: str, more: dict[str, str]) -> Any:
        """Sends the request once, in a worker thread."""
        connection = self._connection()
        path = self._address.base_path + path
        signed = sign(self._key, method, self._address.authority, path, content_type=content_type, body=body)
        try:
            connection.request(method, path, body, {"Host": self._address.authority, **signed, **more})
            response = connection.getresponse()
            content = response.read(_MAX_RESPONSE_BYTES)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise connection_lost(f"{type(error).__name__}: {error}") from error
        if response.isclosed() and not response.will_close and not self._is_closed:
            self._idle.append((time.monotonic(), connection))
        else:
            connection.close()
        if not 200 <= response.status < 300:
            raise error_from_problem(response.status, content, response.getheader("retry-after"))
        try:
            return json.loads(content) if content else None
        except ValueError:
            raise LastmileError("malformed", "response is not JSON", status=response.status) from None

    def _connection(self) -> http.client.HTTPConnection:
        while self._idle:
            try:
                since, connection = self._idle.pop()
            except IndexError:  # Another thread took the last connection.
                break
            if time.monotonic() - since < _MAX_IDLE_SECS:
                return connection
            connection.close()
        host, port, timeout = self._address.host, self._address.port, self._timeout
        if not self._address.secure:
            return http.client.HTTPConnection(host, port, timeout=timeout)
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=self._tls)
