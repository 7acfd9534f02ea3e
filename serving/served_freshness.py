"""From an event that this server acknowledged to the first slate of its viewer that includes it."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from features import metrics
from features.position import Position

MOST_WAITING: Final = 10_000  # viewers
GIVEN_UP_S: Final = 600.0  # whoever comes back later came for another reason

Viewer = tuple[str, str]  # account and profile


class ServedFreshness:
    """The oldest event of each viewer that no slate has included yet. For one event loop."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._waiting: dict[Viewer, tuple[Position, float]] = {}  # oldest first
        self._observe = metrics.FRESHNESS_BY_STAGE.labels("served").observe

    def acknowledged(self, viewer: Viewer, position: Position) -> None:
        """The log has an event of a viewer. O(1)."""
        if viewer in self._waiting:
            return
        if len(self._waiting) >= MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[viewer] = position, self._monotonic_s()

    def served(self, viewer: Viewer, included: Sequence[Position]) -> None:
        """A slate went to a viewer, made of these places of the log. O(1)."""
        waiting = self._waiting.get(viewer)
        if waiting is None:
            return
        position, since_s = waiting
        age_s = self._monotonic_s() - since_s
        if age_s > GIVEN_UP_S:
            del self._waiting[viewer]
        elif any(position.is_included_in(at) for at in included):
            del self._waiting[viewer]
            self._observe(age_s)
