"""Short histories of figures for small plots: bounded, thinned to a fixed number of places."""

import math
from collections import deque
from typing import Final

WINDOW_S: Final = 900.0
PLACES: Final = 60  # of a plot
MAX_TRAILS: Final = 512
MAX_POINTS: Final = 1_800


class Trails:
    """The last fifteen minutes of named figures."""

    def __init__(self, window_s: float = WINDOW_S, places: int = PLACES) -> None:
        self._window_s = window_s
        self._places = places
        self._points: dict[str, deque[tuple[float, float]]] = {}

    def add(self, name: str, now_s: float, value: float) -> None:
        """One more point of a figure; no number is none. New names beyond MAX_TRAILS are left."""
        if not math.isfinite(value):
            return
        known = self._points.get(name)
        if known is None:
            if len(self._points) >= MAX_TRAILS:
                return
            known = self._points[name] = deque(maxlen=MAX_POINTS)
        known.append((now_s, value))
        while known and known[0][0] < now_s - self._window_s:
            known.popleft()

    def plot(self, name: str, now_s: float) -> list[float | None]:
        """The largest value of each of the places, oldest first; None where there is none.

        >>> trails = Trails(window_s=4, places=2)
        >>> for at_s, value in ((1, 5.0), (3, 1.0), (3.5, 2.0)):
        ...     trails.add("lag", at_s, value)
        >>> trails.plot("lag", 4.0)
        [5.0, 2.0]
        """
        found: list[float | None] = [None] * self._places
        for at_s, value in self._points.get(name, ()):
            place = int((at_s - (now_s - self._window_s)) / self._window_s * self._places)
            if 0 <= place <= self._places:
                place = min(place, self._places - 1)
                before = found[place]
                found[place] = value if before is None else max(before, value)
        return found
