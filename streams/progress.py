"""How far the features flow has come: what of the log can be read in the store by now.

The flow's steps tell it, in one thread; whoever measures reads it from another. Batches pass the
steps in their order, so the place where a batch ends waits in line beside it.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

Ends = Mapping[int, int]  # offset behind the last record of each partition

NOTHING_READ: Final[Ends] = {}


class Progress:
    """Where batches end, from the reader to the store; and the time that was worked on them."""

    def __init__(self, perf_s: Callable[[], float] = time.perf_counter) -> None:
        self.applied: Ends = NOTHING_READ  # rows of what lies before can be read in the store
        self._read: deque[Ends] = deque()  # batches on their way to the decoder
        self._decoded: deque[Ends] = deque()  # and from there to the shard of viewers
        self._perf_s = perf_s
        self._worked_s = 0.0

    def begin(self, starts: Ends) -> None:
        """The reader goes on from here."""
        self.applied = dict(starts)

    def read(self, ends: Ends) -> None:
        """A batch was read; `ends` are of all partitions of the reader."""
        self._read.append(dict(ends))

    def decoded(self, *, has_events: bool) -> None:
        """The oldest batch that was read is decoded; without events nobody works on it further."""
        if not self._read:
            return
        ends = self._read.popleft()
        if has_events:
            self._decoded.append(ends)
        elif self._decoded:
            self._decoded[-1] = ends
        else:
            self.applied = ends

    def worked_off(self, n_batches: int) -> Ends:
        """Where the oldest decoded batches end, `n_batches` of them: they are in the flow's rows.

        Nothing where no reader has told of them.
        """
        ends = NOTHING_READ
        for _ in range(min(n_batches, len(self._decoded))):
            ends = self._decoded.popleft()
        return ends

    def stored(self, ends: Ends) -> None:
        """All before `ends` can be read in the store."""
        if ends:
            self.applied = ends

    def work_since(self, begun_s: float) -> None:
        """Work has been done since `begun_s` of `perf_s`."""
        self._worked_s += self._perf_s() - begun_s

    def take_work_s(self) -> float:
        """Seconds worked since the last call."""
        worked_s, self._worked_s = self._worked_s, 0.0
        return worked_s
