"""The one type of error: why something ended or was refused."""

from __future__ import annotations


class LastmileError(Exception):
    """`code` is a name of the protocol's tables (`forbidden`, `channel_closed`), or the client's own: `connection_lost`,
    `closed`, `token`, `rate_limited`, `already_subscribed`. `status` is the HTTP status or the close code, if any."""

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
        #: Whether the same may work later.
        self.temporary = temporary
        self.status = status
        #: Seconds that the gateway asks to wait.
        self.retry_after = retry_after


def connection_lost(message: str = "the connection broke") -> LastmileError:
    """No word of the gateway on why."""
    return LastmileError("connection_lost", message, True)


def closed() -> LastmileError:
    return LastmileError("closed", "it was closed here")
