"""Exponential backoff with full jitter, so that clients do not reconnect in one wave."""

from __future__ import annotations

import random


class Backoff:
    def __init__(self, base: float = 0.5, cap: float = 30.0) -> None:
        """`base` and `cap` are in seconds."""
        self._base = base
        self._cap = cap
        self._attempts = 0

    def next(self, wait: float = 0.0) -> float:
        """Seconds until the next attempt. `wait`, requested by the gateway, is added to the backoff."""
        ceiling = min(self._cap, self._base * 2.0 ** min(self._attempts, 30))
        self._attempts += 1
        return wait + random.random() * ceiling

    def reset(self) -> None:
        self._attempts = 0
