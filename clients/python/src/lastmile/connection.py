"""One WebSocket to a gateway that comes back: opened when it is needed, with backoff, and not after a final end."""

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

#: Commands that may wait for an answer.
_MAX_PENDING = 1000
#: A frame of the gateway may be so large.
_MAX_FRAME_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Timing:
    """All in seconds."""

    #: A connection that carries nothing for so long after it was opened is broken.
    open: float = 10.0
    #: A connection that stayed up for so long is a good one.
    stable: float = 5.0
    #: Between two pings, and from a ping to its pong.
    ping: float = 20.0
    pong: float = 10.0
    #: The first and the longest wait between tries, of which a random part is taken.
    backoff: float = 0.5
    backoff_max: float = 30.0


class Connection(ABC):
    """Lives in one event loop. A subclass says what is sent first and what frames mean."""

    def __init__(self, address: Address, path: str, tls: ssl.SSLContext | None, timing: Timing) -> None:
        self.state: State = "idle"
        #: Why the last connection ended.
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
        #: By id: who waits, and the type of frame that is not yet the answer.
        self._pending: dict[str, tuple[asyncio.Future[Frame], str]] = {}
        self._ids = itertools.count(1)

    # What a subclass says.

    async def _headers(self) -> dict[str, str]:
        """Of the upgrade."""
        return {}

    async def _first_frame(self) -> Frame | None:
        """What is sent before the gateway says `welcome`."""
        return None

    @abstractmethod
    def _on_welcome(self, frame: Frame) -> None: ...

    @abstractmethod
    def _on_frame(self, frame: Frame) -> None: ...

    async def _on_lost(self) -> None:
        """The connection is gone; the next one is opened after this."""

    def _on_finished(self, error: LastmileError) -> None:
        """There will be no other connection."""

    def _is_needed(self) -> bool:
        """Whether a connection that ended is to come back."""
        return True

    def _may_reconnect(self, error: LastmileError) -> bool:
        """Whether the way in which a connection ended allows another one."""
        return not is_final(error.status or 0) if error.status and error.status >= 1000 else error.temporary

    # What a subclass uses.

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
        """The connection, once there is one. An error when there will be none."""
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
            pass  # The reader tells everybody who waits.

    def _send_soon(self, command: Frame) -> None:
        """Sends without waiting, if there is a connection."""
        if self._socket is not None:
            self._spawn(self._send(self._socket, to_json(command)))

    async def _request(self, command: Frame, skip: str = "", is_silent: bool = False) -> Frame:
        """The frame that answers a command, passing over those of type `skip`. If the connection breaks meanwhile nobody
        knows whether it was carried out, so it is not sent again. Of a silent command only a refusal is answered; answers
        keep their order, so the pong of a ping behind it says that there was none."""
        if self._waiting_tasks + len(self._pending) >= _MAX_PENDING:
            raise LastmileError("rate_limited", "too many commands wait for an answer", True)
        commands = [command, {"type": "ping"}] if is_silent else [command]
        numbered = [(self._next_id(), one) for one in commands]
        texts = {number: to_json({**one, "id": number}) for number, one in numbered}
        socket = await self._wait_connected()
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._pending.update(dict.fromkeys(texts, (answer, skip)))
        try:
            for text in texts.values():
                await self._send(socket, text)
            return await answer
        finally:
            for number in texts:
                del self._pending[number]

    def _resolve_pending(self, frame: Frame) -> bool:
        """Gives an answer to who asked."""
        answer, skip = self._pending.get(str(frame.get("id")), (None, ""))
        if answer is None:
            return False
        if answer.done() or frame["type"] == skip:
            return True
        if frame["type"] == "error":
            answer.set_exception(error_from_frame(frame))
        else:
            answer.set_result(frame)
        return True

    async def _close(self) -> None:
        runner, self._runner = self._runner, None
        self._finish("closed", closed())
        tasks = [task for task in (runner, *self._tasks) if task and task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # How it lives.

    async def _run(self) -> None:
        while True:
            self._set_state("connecting")
            began = time.monotonic()
            error, was_welcome = await self._run_connection()
            self.error = error
            self._fail_pending(error)
            if not self._may_reconnect(error):
                return self._finish("failed", error)
            await self._on_lost()
            if not self._is_needed() and not self._waiting_tasks:
                return self._set_state("idle")
            self._set_state("waiting")
            is_expiry = was_welcome and error.status == TOKEN_EXPIRED and time.monotonic() - began > 1
            if not is_expiry:
                await asyncio.sleep(self._backoff.next(error.retry_after))

    async def _run_connection(self) -> tuple[LastmileError, bool]:
        """One connection, from its opening to its end: why it ended, and whether it was welcome."""
        try:
            # What is asked for a token may take its time.
            headers, first = await self._headers(), await self._first_frame()
            socket, welcome = await asyncio.wait_for(self._open(headers, first), self._timing.open)
        except LastmileError as error:
            return error, False
        except InvalidStatus as error:
            answer = error.response
            return error_from_problem(answer.status_code, bytes(answer.body or b""), answer.headers.get("Retry-After")), False
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
            # The gateway declines smaller windows: one compressed frame serves everybody.
            compression=None,
            extensions=[ClientPerMessageDeflateFactory(True, True, None, None)],
            # What is signed names the gateway itself.
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
            # One frame that is not understood must not end all that goes over this connection.
            log.warning("a frame of the gateway cannot be read: %r", error)

    def _fail_pending(self, error: LastmileError) -> None:
        """Nobody gets an answer over a connection that is gone."""
        why = error if is_final(error.status or 0) else connection_lost("the connection broke before the answer came")
        for answer, _ in self._pending.values():
            if not answer.done():
                answer.set_exception(why)

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
    """Never goes elsewhere: neither a signature nor a token is meant for another place."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc
