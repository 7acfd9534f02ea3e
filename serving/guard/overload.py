"""How long calls wait before they are begun, and what that asks for.

The delay is judged as CoDel judges that of packets: not by its peaks, which every burst makes, but
by its minimum over an interval. Above the target for a whole interval there is a standing queue,
which does nothing but make everybody wait (K. Nichols, V. Jacobson: Controlling Queue Delay, ACM
Queue 2012). Where CoDel drops packets, answers first become cheaper: fewer candidates, then charts,
and only then refusals.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from serving.guard.refusals import TooManyCallsError

FULL: Final = 0  # everything as it should be
FEWER: Final = 1  # fewer candidates
CHARTS: Final = 2  # charts and cached answers alone
REFUSE: Final = 3  # no answers, but quickly


ATTACK: Final = 0.5  # of calls refused at first, and never more than MOST
STEP_UP: Final = 0.2
STEP_DOWN: Final = 0.1
MOST: Final = 0.75


@dataclass(slots=True)
class LoadLevel:
    """What this process can afford now; whoever answers calls reads `level` at each of them."""

    level: int = FULL  # FULL, FEWER, CHARTS or REFUSE
    refused_share: float = 0.0  # of calls, above zero at REFUSE alone


@dataclass(slots=True)
class DelayControl:
    """Delays in, level out. Pure: times are given, in seconds of any steady clock.

    Judged once an interval, so that one knows what a change has brought before the next. A delay
    that stays beyond the limit, over two measurements at least, has half of the calls refused at
    once, then more; they are let in again slowly. One measurement alone may be a stop of the
    process, which is over. Never are all refused: a refusal costs gRPC nearly what an answer costs
    it, and where more come than can even be refused, somebody should still be answered.
    """

    load: LoadLevel
    target_s: float = 0.02  # a delay that is always there is too long from here on
    limit_s: float = 0.1  # nobody should wait longer than this
    interval_s: float = 0.1
    _seen: deque[tuple[float, float]] = field(default_factory=deque)  # when, delay
    _judged_s: float = -math.inf
    _settled: int = FULL  # the level without refusals
    _n_beyond: int = 0  # measurements in a row beyond the limit, as far as they were judged

    def observe(self, delay_s: float, now_s: float) -> int:
        """Takes a measurement; returns the level from now on. O(measurements of an interval)."""
        if self._judged_s == -math.inf:
            self._judged_s = now_s
        self._seen.append((now_s, delay_s))
        if now_s - self._judged_s >= self.interval_s:
            self._judge([delay_s for at_s, delay_s in self._seen if at_s > self._judged_s])
            self._judged_s = now_s
            self._seen.clear()
        return self.load.level

    def _judge(self, delays_s: list[float]) -> None:
        """The least delay says whether a queue stands, the largest whether there is any."""
        least_s, most_s = min(delays_s), max(delays_s)
        self._n_beyond = self._n_beyond + len(delays_s) if least_s > self.limit_s else 0
        self._share(least_s)
        if least_s > self.target_s:
            self._settled = min(self._settled + 1, CHARTS)
        elif most_s < self.target_s / 2 and not self.load.refused_share:
            self._settled = max(self._settled - 1, FULL)
        self.load.level = REFUSE if self.load.refused_share else self._settled

    def _share(self, least_s: float) -> None:
        """How many are refused: quickly more, slowly fewer, unchanged between target and limit."""
        share = self.load.refused_share
        if self._n_beyond > 1:
            share = min(share + STEP_UP, MOST) if share else ATTACK
        elif least_s < self.target_s:
            share = max(share - STEP_DOWN, 0.0)
        self.load.refused_share = 0.0 if share < STEP_DOWN / 2 else share


class Concurrency:
    """How many calls are being answered, and no more than `limit` of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.running = 0

    def enter(self, retry_after_ms: int) -> None:
        """One more. Raises TooManyCallsError; otherwise `leave` must follow."""
        if self.running >= self._limit:
            raise TooManyCallsError(f"{self._limit} calls are being answered", retry_after_ms)
        self.running += 1

    def leave(self) -> None:
        """One has ended."""
        self.running -= 1
