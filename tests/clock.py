"""A clock that stands still until a test moves it."""

from dataclasses import dataclass

START_MS = 1_700_000_000_000


@dataclass
class FakeClock:
    """Milliseconds since 1970, as the clocks that the product is given."""

    time_ms: int = START_MS

    def now_ms(self) -> int:
        """The time it was set to."""
        return self.time_ms

    def set_ms(self, time_ms: int) -> None:
        """Make it this time, earlier or later."""
        self.time_ms = time_ms

    def advance_ms(self, duration_ms: int) -> None:
        """Let this much time pass."""
        self.time_ms += duration_ms
