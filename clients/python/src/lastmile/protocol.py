"""The words of the protocol: what is sent and got, and how connections end."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Literal

from .errors import LastmileError

#: A frame of the gateway. Members depend on `type`; unknown types are passed over.
Frame = dict[str, Any]

SUBPROTOCOL = "lastmile.v1"
TOKEN_EXPIRED = 4003


@dataclass(frozen=True)
class Position:
    """Where a publication stands. Offsets of a channel rise by one within an epoch; a new epoch means lost history."""

    epoch: str
    offset: int


@dataclass(frozen=True)
class PublishResult:
    """What a publisher is told of its publication."""

    channel: str
    message_id: str
    epoch: str
    offset: int


#: The former name of `PublishResult`.
Place = PublishResult


@dataclass(frozen=True)
class Gap:
    """Publications that this listener does not get: gone by in the gateway, left out for a slow reader, or dropped here
    because the iterator was slow. `after` is the last one before, as far as it is known."""

    reason: Literal["history_lost", "skipped", "overflow"]
    after: Position


@dataclass(frozen=True)
class Publication:
    """One item of a channel."""

    channel: str
    message_id: str
    epoch: str
    offset: int
    #: RFC 3339 with milliseconds.
    time: str
    publisher: str
    #: The publisher's JSON, a string for text, `bytes` for anything else.
    data: Any
    #: What is missing just before this one.
    gap: Gap | None = None

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.offset)


@dataclass(frozen=True)
class Principal:
    """A subscriber as its issuer names it."""

    issuer: str
    subject: str


@dataclass(frozen=True)
class ChannelEvent:
    """Who comes and goes on a channel. `watching` is the first one, and the first one after each reconnection; `counted`
    tells another number where it is not known who came or went."""

    channel: str
    event: str
    #: Subscribers after it, on all nodes.
    connections: int
    connection: str | None = None
    principal: Principal | None = None
    #: Why the channel ended.
    reason: str | None = None
    #: Events before this one that were left out.
    missed: int = 0


def is_final(code: int) -> bool:
    """Whether a close code says not to come back."""
    return 4500 <= code < 5000


def encode(data: Any) -> dict[str, Any]:
    """The members of a frame that carry `data`."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return {"data": base64.b64encode(data).decode(), "encoding": "base64"}
    return {"data": data}


def to_json(value: Any) -> str:
    """One line. `ValueError` or `TypeError` for what JSON cannot say."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    text.encode()  # Half a surrogate pair cannot be sent.
    return text


def parse(text: str | bytes) -> Frame | None:
    """What a text holds if it is a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def publication_from_frame(frame: Frame, gap: Gap | None) -> Publication:
    data = frame.get("data")
    if frame.get("encoding") == "base64":
        try:
            data = base64.b64decode(data or "", validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise LastmileError("malformed", "the gateway's base64 cannot be read") from None
    return Publication(
        frame["channel"], frame["message_id"], frame["epoch"], frame["offset"], frame["time"], frame["publisher"], data, gap
    )


def publish_result_from_frame(frame: Frame, message_id: str) -> PublishResult:
    return PublishResult(frame["channel"], message_id, frame["epoch"], frame["offset"])


def principal_from_json(value: Any) -> Principal | None:
    return Principal(value["issuer"], value["subject"]) if isinstance(value, dict) else None


def error_from_frame(frame: Frame) -> LastmileError:
    """The error that an `error` frame stands for."""
    return LastmileError(str(frame.get("code")), frame.get("message"), frame.get("temporary") is True)


def error_from_close(code: int, reason: str) -> LastmileError:
    """The error that the end of a connection or a channel stands for."""
    known = reason if reason and 4000 <= code < 5000 else "connection_lost"
    return LastmileError(known, reason or f"closed with {code}", not is_final(code), status=code)


def error_from_problem(status: int, body: bytes, retry_after: str | None) -> LastmileError:
    """The error that an HTTP answer stands for, a problem (RFC 9457) or that of a proxy in between."""
    problem = parse(body) or {}
    code = str(problem.get("type", "")).rsplit("/", 1)[-1].replace("-", "_") or f"http_{status}"
    message = problem.get("detail") or problem.get("title") or f"HTTP status {status}"
    wait = float(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else 0.0
    return LastmileError(code, str(message), status in (408, 425, 429) or status >= 500, status=status, retry_after=wait)
