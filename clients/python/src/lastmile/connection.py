"""A WebSocket connection to a gateway, opened on demand and reconnected with backoff until a final close."""

from __future__ import annotations

import asyncio
import itertools
import logging
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Literal

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.typing import Subprotocol

from .backoff import Backoff
from .errors import LastmileError, closed, connection_lost
from .protocol import (
    SUBPROTOCOL,
    TOKEN_EXPIRED,
    Frame,
    error_from_close,
    error_from_frame,
    error_from_problem,
    is_final,
    parse,
    to_json,
)
from .url import Address

State = Literal["idle", "connecting", "connected", "waiting", "failed", "closed"]

log = logging.getLogger("lastmile")

#: Commands that may wait for a response.
_MAX_PENDING = 1000
_MAX_FRAME_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Timing:
    """Timeouts and intervals, all in seconds."""

    #: Time for the token function, and to open a connection and receive `welcome`.
    open: float = 10.0
    #: The backoff is reset once a connection has been up for this long.
    stable: float = 5.0
    #: Time between two pings, and time to wait for a pong.
    ping: float = 20.0
    pong: float = 10.0
    #: The first and the longest backoff. The actual wait is a random part of it.
    backoff: float = 0.5
    backoff_max: float = 30.0


class Connection(ABC):
    """Runs in one event loop. A subclass supplies the first frame and handles the received ones."""

    def __init__(self, address: Address, path: str, tls: ssl.SSLContext | None, timing: Timing) -> None:
        self.state: State = "idle"
        #: The reason for which the last connection ended.
        self.error: LastmileError | None = None
        self._url = address.websocket(path)
        self._tls = tls if address.secure else None
        self._timing = timing
        self._backoff = Backoff(timing.backoff, timing.backoff_max)
        self._socket: ClientConnection | None = None
        self._runner: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._state_changed = asyncio.Event()
        self._waiting_tasks = 0
        #: By id: the future of the caller, and a frame type that is not the final response.
        self._pending: dict[str, tuple[asyncio.Future[Frame], str]] = {}
        self._ids = itertools.count(1)

    # Implemented by subclasses.

    async def _headers(self) -> dict[str, str]:
        """Extra headers of the upgrade request."""
        return {}

    async def _first_frame(self) -> Frame | None:
        """The frame to send before the gateway sends `welcome`."""
        return None

    @abstractmethod
    def _on_welcome(self, frame: Frame) -> None: ...

    @abstractmethod
    def _on_frame(self, frame: Frame) -> None: ...

    async def _on_lost(self) -> None:
        """Called when a connection is lost, before the next one is opened."""

    def _on_finished(self, error: LastmileError) -> None:
        """Called once when no further connection will be opened."""

    def _is_needed(self) -> bool:
        """Whether to reconnect after the connection has ended."""
        return True

    def _reconnect_delay(self, error: LastmileError, was_stable: bool) -> float | None:
        """Seconds until the next connection after `error` ended one; `None` for never. A connection was stable if it had
        its `welcome` for a second."""
        has_close_code = error.status is not None and error.status >= 1000
        if is_final(error.status or 0) if has_close_code else not error.temporary:
            return None
        if was_stable and error.status == TOKEN_EXPIRED:
            return 0.0
        return self._backoff.next(error.retry_after)

    # Used by subclasses.

    def _next_id(self) -> str:
        return str(next(self._ids))

    def _start(self) -> None:
        if self._runner is None or self._runner.done():
            self._runner = asyncio.get_running_loop().create_task(self._run())

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wait_connected(self) -> ClientConnection:
        """Waits for an open connection. Raises an error if none will be opened."""
        self._waiting_tasks += 1
        try:
            while True:
                if self.state in ("failed", "closed"):
                    raise self.error or closed()
                if self._socket is not None:
                    return self._socket
                self._start()
                await self._state_changed.wait()
        finally:
            self._waiting_tasks -= 1

    async def _send(self, socket: ClientConnection, text: str) -> None:
        try:
            await socket.send(text)
        except ConnectionClosed:
            pass  # The read loop fails all pending commands.

    def _send_soon(self, command: Frame) -> None:
        """Sends in the background. Drops the command if there is no connection."""
        if self._socket is not None:
            self._spawn(self._send(self._socket, to_json(command)))

    async def _request(self, command: Frame, skip: str = "", is_silent: bool = False) -> Frame:
        """Sends a command and returns its response, ignoring frames of type `skip`.

        If the connection is lost first, the outcome is unknown, so the command is not sent again. A silent command has
        a response only if it is refused. Responses keep their order, so the pong of a ping sent after the command shows
        that it was accepted."""
        if self._waiting_tasks + len(self._pending) >= _MAX_PENDING:
            raise LastmileError("rate_limited", "too many commands without a response", True)
        commands = [command, {"type": "ping"}] if is_silent else [command]
        numbered = [(self._next_id(), one) for one in commands]
        texts = {command_id: to_json({**one, "id": command_id}) for command_id, one in numbered}
        socket = await self._wait_connected()
        response: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._pending.update(dict.fromkeys(texts, (response, skip)))
        try:
            for text in texts.values():
                await self._send(socket, text)
            return await response
        finally:
            for command_id in texts:
                del self._pending[command_id]

    def _resolve_pending(self, frame: Frame) -> bool:
        """Passes a response to its caller. Returns false if no command has its id."""
        response, skip = self._pending.get(str(frame.get("id")), (None, ""))
        if response is None:
            return False
        if response.done() or frame["type"] == skip:
            return True
        if frame["type"] == "error":
            response.set_exception(error_from_frame(frame))
        else:
            response.set_result(frame)
        return True

    async def _close(self) -> None:
        runner, self._runner = self._runner, None
        self._finish("closed", closed())
        tasks = [task for task in (runner, *self._tasks) if task and task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # The connection loop.

    async def _run(self) -> None:
        while True:
            self._set_state("connecting")
            began = time.monotonic()
            error, was_welcome = await self._run_connection()
            self.error = error
            self._fail_pending(error)
            delay = self._reconnect_delay(error, was_welcome and time.monotonic() - began > 1)
            if delay is None:
                return self._finish("failed", error)
            await self._on_lost()
            if not self._is_needed() and not self._waiting_tasks:
                return self._set_state("idle")
            self._set_state("waiting")
            await asyncio.sleep(delay)

    async def _run_connection(self) -> tuple[LastmileError, bool]:
        """Opens one connection and reads it to its end. Returns the reason, and whether `welcome` was received."""
        try:
            # The application's token function has a timeout of its own.
            headers, first = await self._headers(), await self._first_frame()
            socket, welcome = await asyncio.wait_for(self._open(headers, first), self._timing.open)
        except LastmileError as error:
            return error, False
        except InvalidStatus as error:
            response, body = error.response, bytes(error.response.body or b"")
            return error_from_problem(response.status_code, body, response.headers.get("Retry-After")), False
        except (OSError, asyncio.TimeoutError, WebSocketException) as error:
            return connection_lost(f"{type(error).__name__}: {error}"), False
        stable = asyncio.get_running_loop().call_later(self._timing.stable, self._backoff.reset)
        try:
            self._socket = socket
            self._set_state("connected")
            self._dispatch(self._on_welcome, welcome)
            async for text in socket:
                frame = parse(text)
                if frame is not None:
                    self._dispatch(self._on_frame, frame)
        except ConnectionClosed:
            pass
        finally:
            stable.cancel()
            self._socket = None
            await socket.close()
        return error_from_close(socket.close_code or 1006, socket.close_reason or ""), True

    async def _open(self, headers: dict[str, str], first: Frame | None) -> tuple[ClientConnection, Frame]:
        socket = await _ConnectWithoutRedirects(
            self._url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers=headers,
            # The gateway declines smaller windows: all subscribers get the same compressed frame.
            compression=None,
            extensions=[ClientPerMessageDeflateFactory(True, True, None, None)],
            # The signature covers the gateway's own authority.
            proxy=None,
            open_timeout=None,
            ping_interval=self._timing.ping,
            ping_timeout=self._timing.pong,
            close_timeout=2,
            max_size=_MAX_FRAME_BYTES,
            ssl=self._tls,
        )
        try:
            if first is not None:
                await socket.send(to_json(first))
            while True:
                frame = parse(await socket.recv())
                if frame is not None and frame.get("type") == "welcome":
                    return socket, frame
        except ConnectionClosed:
            raise error_from_close(socket.close_code or 1006, socket.close_reason or "") from None
        except BaseException:
            socket.transport.abort()
            raise

    def _dispatch(self, handle: Any, frame: Frame) -> None:
        try:
            handle(frame)
        except Exception as error:
            # One malformed frame must not end the other subscriptions of this connection.
            log.warning("cannot process frame from gateway: %r", error)

    def _fail_pending(self, error: LastmileError) -> None:
        """Fails all commands that wait for a response over a connection that has ended."""
        why = error if is_final(error.status or 0) else connection_lost("connection lost before the response arrived")
        for response, _ in self._pending.values():
            if not response.done():
                response.set_exception(why)

    def _finish(self, state: State, error: LastmileError) -> None:
        if self.state in ("failed", "closed"):
            return
        self.error = error
        self._fail_pending(error)
        self._set_state(state)
        self._on_finished(error)

    def _set_state(self, state: State) -> None:
        if self.state == "closed":
            return
        self.state = state
        self._state_changed.set()
        self._state_changed = asyncio.Event()


class _ConnectWithoutRedirects(connect):
    """Does not follow redirects: signatures and tokens must not reach another host."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc
