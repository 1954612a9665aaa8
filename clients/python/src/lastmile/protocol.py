"""Frames of the protocol: encoding, decoding, and the errors that they carry."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Literal

from .errors import LastmileError

#: A JSON frame. Its members depend on `type`; unknown types are ignored.
Frame = dict[str, Any]

SUBPROTOCOL = "lastmile.v1"
TOKEN_EXPIRED = 4003
UNAUTHENTICATED = 4501


@dataclass(frozen=True)
class Position:
    """The position of a publication in its channel. Offsets rise by one within an epoch; a new epoch means that the
    history was lost."""

    epoch: str
    offset: int


@dataclass(frozen=True)
class PublishResult:
    """The gateway's confirmation of a publication: its id and its position."""

    channel: str
    message_id: str
    epoch: str
    offset: int


#: The former name of `PublishResult`.
Place = PublishResult


@dataclass(frozen=True)
class Gap:
    """Publications that this subscription misses.

    `history_lost`: no longer in the gateway's backlog; `skipped`: left out for a slow reader; `overflow`: dropped by the
    client because the iterator was slow. `after` is the position of the last publication before the gap, if known."""

    reason: Literal["history_lost", "skipped", "overflow"]
    after: Position


@dataclass(frozen=True)
class Publication:
    """One publication of a channel."""

    channel: str
    message_id: str
    epoch: str
    offset: int
    #: RFC 3339 with milliseconds.
    time: str
    publisher: str
    #: The publisher's JSON value, a string for text, `bytes` for other content.
    data: Any
    #: Publications missing directly before this one.
    gap: Gap | None = None

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.offset)


@dataclass(frozen=True)
class Principal:
    """The authenticated identity of a subscriber."""

    issuer: str
    subject: str


@dataclass(frozen=True)
class ChannelEvent:
    """A presence event of a channel.

    `watching` is the first event, also after each reconnect. `counted` reports a new number of connections without
    naming the subscriber that joined or left."""

    channel: str
    event: str
    #: Number of subscribers after the event, on all nodes.
    connections: int
    connection: str | None = None
    principal: Principal | None = None
    #: The reason for which the channel ended.
    reason: str | None = None
    #: Number of events dropped before this one.
    missed: int = 0


def is_final(code: int) -> bool:
    """Whether a close code forbids a reconnect."""
    return 4500 <= code < 5000


def encode(data: Any) -> dict[str, Any]:
    """The members of a frame that carry `data`."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return {"data": base64.b64encode(data).decode(), "encoding": "base64"}
    return {"data": data}


def to_json(value: Any) -> str:
    """Encodes on one line. Raises `ValueError` or `TypeError` for values that JSON cannot represent."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    text.encode()  # Refuses lone surrogates.
    return text


def parse(text: str | bytes) -> Frame | None:
    """Decodes a JSON object; `None` for anything else."""
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
            raise LastmileError("malformed", "invalid base64 from gateway") from None
    return Publication(
        frame["channel"], frame["message_id"], frame["epoch"], frame["offset"], frame["time"], frame["publisher"], data, gap
    )


def publish_result_from_frame(frame: Frame, message_id: str) -> PublishResult:
    return PublishResult(frame["channel"], message_id, frame["epoch"], frame["offset"])


def principal_from_json(value: Any) -> Principal | None:
    return Principal(value["issuer"], value["subject"]) if isinstance(value, dict) else None


def error_from_frame(frame: Frame) -> LastmileError:
    """The error in an `error` frame."""
    return LastmileError(str(frame.get("code")), frame.get("message"), frame.get("temporary") is True)


def error_from_close(code: int, reason: str) -> LastmileError:
    """The error for a close code of a connection or a channel."""
    known = reason if reason and 4000 <= code < 5000 else "connection_lost"
    return LastmileError(known, reason or f"closed with {code}", not is_final(code), status=code)


def error_from_problem(status: int, body: bytes, retry_after: str | None) -> LastmileError:
    """The error in an HTTP response: a problem (RFC 9457), or the status that an intermediate proxy sent."""
    problem = parse(body) or {}
    code = str(problem.get("type", "")).rsplit("/", 1)[-1].replace("-", "_") or f"http_{status}"
    message = problem.get("detail") or problem.get("title") or f"HTTP status {status}"
    wait = float(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else 0.0
    temporary = problem.get("temporary")
    if not isinstance(temporary, bool):
        temporary = status in (408, 425, 429) or status >= 500
    return LastmileError(code, str(message), temporary, status=status, retry_after=wait)
