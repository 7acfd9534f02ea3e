"""Clocks, passed in wherever time matters."""

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time."""

    def now_ms(self) -> int:
        """Milliseconds since 1970 UTC."""


class WallClock:
    """The time of this machine."""

    def now_ms(self) -> int:
        """Milliseconds since 1970 UTC."""
        return time.time_ns() // 1_000_000


class StreamClock:
    """The time of the events: it stands where the stream stands, and never goes back.

    For stacks that replay history as if it were now.
    """

    def __init__(self) -> None:
        self._now_ms = 0

    def now_ms(self) -> int:
        """The newest time it was told, milliseconds since 1970 UTC."""
        return self._now_ms

    def advance(self, to_ms: int) -> None:
        """Moves to `to_ms`, if that is later."""
        self._now_ms = max(self._now_ms, to_ms)
