"""Something has changed: detectors on the model's loss and on what comes in, by segment.

Each detector is River's Page-Hinkley test (E. S. Page, 1954) over means of 64 outcomes or more,
measured in deviations of its own first 32 means. A change of half a deviation is tolerated; 20
deviations beyond that, added up, are a drift. Then the detector starts anew: the new level becomes
the usual one. Three things are watched in every segment:

    log_loss    of the served model; only a rise counts
    label_rate  share of outcomes with a click
    share       of the outcomes that lie in the segment, over 256 outcomes

Page-Hinkley and not ADWIN: its state is a few numbers, which travel in versions and are restored
bit for bit; the buckets of River's ADWIN lie in compiled code and cannot be read.

The response to a rise of loss is a faster learning rate for a while. Apart from drift, the plain
rate of a title is served for as long as the model's loss of late is worse than that rate's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray
from river import drift, stats

from features.compiled import compiled
from features.model_snapshot import Arrays
from features.outcomes import Drift
from online_models.segments import N_SEGMENTS, SEGMENTS, Segments
from online_models.state import checked

BATCH: Final = 64  # outcomes of a segment behind one mean, at least
SHARE_BATCH: Final = 256  # outcomes of all segments behind one share
WARM_UP: Final = 32  # means that tell what is usual
TOLERATED: Final = 0.5  # deviations
THRESHOLD: Final = 20.0  # deviations
N_RECENT: Final = 8  # means that tell what it has changed to
KINDS: Final = ("log_loss", "label_rate", "share")
LOSS, LABELS, SHARE = range(3)

Floats = NDArray[np.float64]


class Detector:
    """Watches one number. State: `(N_STATE,)` float64.

    >>> detector = Detector()
    >>> any(detector.update(x % 2) for x in range(200))
    False
    >>> next(n for n in range(200) if detector.update(4.0))
    3
    """

    N_STATE: Final = 10 + N_RECENT

    def __init__(self, mode: str = "both") -> None:
        self._mode = mode
        self._begin()

    def _begin(self) -> None:
        self._test = drift.PageHinkley(
            min_instances=1, delta=TOLERATED, threshold=THRESHOLD, alpha=1.0, mode=self._mode
        )
        self._n, self._mean, self._squares = 0.0, 0.0, 0.0  # of all, all, the warm-up
        self._usual = 0.0
        self._recent = np.zeros(N_RECENT)

    def update(self, value: float) -> bool:
        """Takes in the next value; whether there is a drift. It then has to be `reset`."""
        self._n += 1.0
        distance = value - self._mean
        self._mean += distance / self._n
        self._recent[int(self._n) % N_RECENT] = value
        if self._n <= WARM_UP:
            self._squares += distance * (value - self._mean)
            self._usual = self._mean
            return False
        deviation = max((self._squares / (WARM_UP - 1)) ** 0.5, 1e-9 + 1e-3 * abs(self._usual))
        self._test.update((value - self._usual) / deviation)
        return bool(self._test.drift_detected)

    def before_and_after(self) -> tuple[float, float]:
        """The mean of all values but the last eight, and the mean of these."""
        after = float(self._recent.sum())
        earlier = max(self._n - N_RECENT, 1.0)
        return (self._mean * self._n - after) / earlier, after / N_RECENT

    def reset(self) -> None:
        """Starts anew, warm-up and all."""
        self._begin()

    def state(self) -> Floats:
        """All that it goes on from."""
        test = self._test
        began = test._x_mean.n > 0  # River has no public way in or out
        lowest, highest = (test._min_increase, test._max_decrease) if began else (0.0, 0.0)
        sums = (test._sum_increase, test._sum_decrease, lowest, highest)
        own = (self._n, self._mean, self._squares, self._usual)
        return np.array([*own, test._x_mean.n, test._x_mean.get(), *sums, *self._recent])

    def load(self, state: Floats) -> None:
        """The state of `state()`, bit for bit."""
        self._begin()
        self._n, self._mean, self._squares, self._usual = state[:4].tolist()
        n, mean, *sums = state[4:10].tolist()
        self._recent = state[10:].copy()
        test = self._test
        if n > 0:
            test._x_mean = stats.Mean()
            test._x_mean.n, test._x_mean._mean = n, mean
            test._sum_increase, test._sum_decrease, test._min_increase, test._max_decrease = sums


class DriftMonitor:
    """A detector for each kind and segment, and the sums that make up their next values."""

    def __init__(self) -> None:
        self._detectors = [
            [Detector("up" if kind == LOSS else "both") for _ in SEGMENTS]
            for kind in range(len(KINDS))
        ]
        self._sums = np.zeros((3, N_SEGMENTS))  # outcomes, loss, clicks since the last mean
        self._shown = np.zeros(N_SEGMENTS)  # outcomes since the last share; all of them first

    def add(self, losses: Floats, labels: NDArray[np.bool_], segments: Segments) -> None:
        """Takes in outcomes in order, each with the served model's loss and its segments."""
        _add(self._sums, self._shown, losses, labels, segments)

    def check(self, offset: int) -> list[Drift]:
        """What is found to have changed. To be called at fixed counts of outcomes."""
        return [*self._check_means(offset), *self._check_shares(offset)]

    def _check_means(self, offset: int) -> Iterator[Drift]:
        for k in np.flatnonzero(self._sums[0] >= BATCH).tolist():
            n, loss, clicks = self._sums[:, k].tolist()
            self._sums[:, k] = 0.0
            yield from self._update(LOSS, k, loss / n, offset)
            yield from self._update(LABELS, k, clicks / n, offset)

    def _check_shares(self, offset: int) -> Iterator[Drift]:
        n = float(self._shown[0])
        if n < SHARE_BATCH:
            return
        shares = (self._shown / n).tolist()
        self._shown[:] = 0.0
        for k in range(1, N_SEGMENTS):
            yield from self._update(SHARE, k, shares[k], offset)

    def _update(self, kind: int, k: int, value: float, offset: int) -> Iterator[Drift]:
        detector = self._detectors[kind][k]
        if detector.update(value):
            before, after = detector.before_and_after()
            yield Drift(KINDS[kind], SEGMENTS[k], offset, before, after)
            detector.reset()

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """`detectors` `(n_kinds, n_segments, N_STATE)`, and the sums."""
        states = [[detector.state() for detector in row] for row in self._detectors]
        return {
            "detectors": np.array(states),
            "sums": self._sums.copy(),
            "shown": self._shown.copy(),
        }

    def restore(self, arrays: Arrays) -> None:
        """The state of `arrays()`, bit for bit. Raises SnapshotError."""
        shape = (len(KINDS), N_SEGMENTS, Detector.N_STATE)
        states = cast(Floats, checked(arrays, "detectors", shape))
        sums = cast(Floats, checked(arrays, "sums", (3, N_SEGMENTS)))
        shown = cast(Floats, checked(arrays, "shown", (N_SEGMENTS,)))
        for row, found in zip(self._detectors, states, strict=True):
            for detector, state in zip(row, found, strict=True):
                detector.load(state)
        self._sums, self._shown = sums, shown


@compiled
def _add(
    sums: Floats, shown: Floats, losses: Floats, labels: NDArray[np.bool_], segments: Segments
) -> None:
    """One after the other: sums do not depend on how outcomes come in batches."""
    for i in range(len(losses)):
        for k in segments[i]:
            if k >= 0:
                shown[k] += 1.0
                sums[0, k] += 1.0
                sums[1, k] += losses[i]
                sums[2, k] += 1.0 if labels[i] else 0.0


@dataclass(frozen=True, slots=True)
class ResponseSettings:
    """What is done about a drift."""

    pace: float = 4.0  # of learning, as a multiple
    outcomes: int = 4_096  # for so many, from the drift on
    reach: float = 2_048.0  # outcomes that the losses of late reach back
    margin: float = 0.02  # share of loss that the model may be worse before it is not served


class Response:
    """The pace of learning, and whether the model or the plain rates are served.

    The plain rates are served first: a model has to be better before it is.
    """

    def __init__(self, settings: ResponseSettings | None = None) -> None:
        self._settings = settings or ResponseSettings()
        self._fast = 0  # outcomes that are still learnt faster
        self._losses = np.zeros(2)  # of the model and of the plain rates, of late
        self._weight = 0.0
        self.falls_back = True

    @property
    def pace(self) -> float:
        """The multiple of the usual learning rate."""
        return self._settings.pace if self._fast > 0 else 1.0

    def add(self, model: float, rates: float, n: int) -> None:
        """Sums of log losses of n outcomes: of the model and of the plain rates of titles."""
        self._fast = max(self._fast - n, 0)
        kept = max(1.0 - n / self._settings.reach, 0.0)
        self._losses = kept * self._losses + (model, rates)
        self._weight = kept * self._weight + n
        model_loss, rates_loss = self._losses
        margin = 0.0 if self.falls_back else self._settings.margin
        self.falls_back = bool(model_loss >= rates_loss * (1.0 + margin))

    def on(self, event: Drift) -> None:
        """A rise of loss is answered by learning faster; other changes are told, no more."""
        if event.what == KINDS[LOSS]:
            self._fast = self._settings.outcomes

    def losses(self) -> tuple[float, float]:
        """Mean log loss of late of the model and of the plain rates; NaN before any outcome."""
        if self._weight == 0.0:
            return float("nan"), float("nan")
        model, rates = (self._losses / self._weight).tolist()
        return model, rates

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """`fast`, `losses`, `falls_back`."""
        return {
            "fast": np.array([self._fast], np.int64),
            "losses": np.array([*self._losses, self._weight]),
            "falls_back": np.array([self.falls_back]),
        }

    def restore(self, arrays: Arrays) -> None:
        """The state of `arrays()`, bit for bit. Raises SnapshotError."""
        fast = int(checked(arrays, "fast", (1,), np.int64)[0])
        losses = cast(Floats, checked(arrays, "losses", (3,)))
        falls_back = bool(checked(arrays, "falls_back", (1,), np.bool_)[0])
        self._fast, self._losses, self._weight = fast, losses[:2].copy(), float(losses[2])
        self.falls_back = falls_back
