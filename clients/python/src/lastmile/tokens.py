"""The application's token, kept until it nears its end or the gateway refuses it."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Union

from .errors import LastmileError
from .protocol import UNAUTHENTICATED

#: A token, or a function that fetches one. The client keeps the token until it nears its end or is refused, and calls the
#: function again then. A plain function is called in a thread, so it may block.
TokenSource = Union[str, Callable[[], Union[str, Awaitable[str]]]]

#: Refusals of new tokens in a row before the client gives up: a token service may answer nonsense for a moment.
_MAX_REFUSALS = 3


class Tokens:
    def __init__(self, source: TokenSource | None, timeout: float) -> None:
        self._source = source
        self._timeout = timeout
        self._cached: str | None = None
        self._fetched_at = 0.0
        self._was_cached = False
        self._refusals = 0

    @property
    def can_refresh(self) -> bool:
        return callable(self._source)

    async def get(self) -> str | None:
        """The token for the next connection."""
        self._was_cached = self._is_usable()
        return self._cached if self._was_cached else await self.fetch()

    async def fetch(self) -> str | None:
        """A new token of the application. Raises a temporary error `token`, or the `LastmileError` that the application
        raised."""
        source = self._source
        if not callable(source):
            return _validated(source)
        try:
            token = _validated(await asyncio.wait_for(_call(source), self._timeout))
        except LastmileError:
            raise
        except asyncio.TimeoutError:
            raise LastmileError("token", "the application's token function did not answer", True) from None
        except Exception as error:
            raise LastmileError("token", f"{type(error).__name__} in the application's token function", True) from error
        self._cached, self._fetched_at = token, time.time()
        return token

    def on_accepted(self) -> None:
        self._refusals = 0

    def on_refused(self) -> Literal["now", "later", "never"]:
        """When to try another token: at once, after the backoff, or never."""
        if not self.can_refresh:
            return "never"
        self.drop()
        if self._was_cached:
            return "now"
        self._refusals += 1
        return "later" if self._refusals < _MAX_REFUSALS else "never"

    def drop(self) -> None:
        self._cached = None

    def _is_usable(self) -> bool:
        """Not in the last tenth of its time, at most the last minute. A token without a readable end is kept."""
        if self._cached is None:
            return False
        end = _expiry(self._cached)
        return end is None or time.time() < end - min(60.0, (end - self._fetched_at) / 10)


async def _call(source: Callable[[], Any]) -> Any:
    if inspect.iscoroutinefunction(source):
        return await source()
    token = await asyncio.to_thread(source)
    return await token if inspect.isawaitable(token) else token


def _validated(token: Any) -> str | None:
    """Refuses values that cannot be a JWT, which consists of base64url and dots, with the code that the gateway would use."""
    if token is not None and not (isinstance(token, str) and token.isascii()):
        raise LastmileError("token", "not a JWT", status=UNAUTHENTICATED)
    return token


def _expiry(token: str) -> float | None:
    """`exp` of a JWT, unverified: the gateway verifies it."""
    try:
        payload = token.split(".")[1]
        end = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"]
    except (ValueError, LookupError, TypeError):
        return None
    return float(end) if isinstance(end, (int, float)) else None
