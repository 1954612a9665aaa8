"""The error type of the package."""

from __future__ import annotations


class LastmileError(Exception):
    """A refusal, a close or a failed connection.

    `code` is a name of the protocol's tables (`forbidden`, `channel_closed`) or one of the client's own codes:
    `connection_lost`, `closed`, `token`, `rate_limited`, `already_subscribed`. `status` is the HTTP status or the
    WebSocket close code, if any."""

    def __init__(
        self,
        code: str,
        message: str | None = None,
        temporary: bool = False,
        *,
        status: int | None = None,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(f"{code}: {message}" if message and message != code else code)
        self.code = code
        self.message = message or code
        #: Whether a retry may succeed.
        self.temporary = temporary
        self.status = status
        #: Seconds to wait before a retry, as requested by the gateway.
        self.retry_after = retry_after


def connection_lost(message: str = "connection lost") -> LastmileError:
    """A connection that ended without a reason from the gateway."""
    return LastmileError("connection_lost", message, True)


def closed() -> LastmileError:
    return LastmileError("closed", "closed by the application")
