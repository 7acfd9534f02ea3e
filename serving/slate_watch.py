"""What slates are like, worked out beside the answers: how popular, how varied over an hour.

A request leaves its titles' ids here as the array that it has anyway, after the answer. A pass each
second looks them up in the catalogue's counts, all slates together.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features import item_row
from features.id_map import ABSENT
from features.popularity import popularity_of
from serving import metrics

MOST_SLATES: Final = 4_096  # between two passes; older ones are not looked at then
POPULARITY_EVERY_S: Final = 60.0
HOUR_EVERY_S: Final = 10.0
BUCKET_S: Final = 600.0
N_BUCKETS: Final = 6

_TOTAL = item_row.NAMES.index("item_engaged_total")

Ids = NDArray[np.uint64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SlateFigures:
    """Of each slate, `(n,)`."""

    novelty_bits: Floats  # mean of -log2 of the titles' shares in all engagement
    long_tail_share: Floats  # of titles outside the head that has 80 % of all engagement


@dataclass(slots=True)
class TitleShares:
    """How popular each title was at a moment, by slot."""

    bits: Floats  # -log2 of its share in all engagement; each title has one action more than told
    is_long_tail: NDArray[np.bool_]

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> "TitleShares":
        """From the mirror's matrix. O(n log n), some 10 ms for 50,000 titles."""
        engaged = values[:, _TOTAL].astype(np.float64) + 1.0
        return cls(np.log2(engaged.sum() / engaged), popularity_of(values).is_long_tail)


def figures_of(slates: list[NDArray[np.int64]], shares: TitleShares) -> SlateFigures:
    """Figures of slates with at least one title each, given as slots of titles. O(titles).

    >>> shares = TitleShares(np.array([1.0, 3.0]), np.array([False, True]))
    >>> figures_of([np.array([0, 1]), np.array([1])], shares).novelty_bits.tolist()
    [2.0, 3.0]
    """
    slots = np.concatenate(slates)
    sizes = np.array([len(slate) for slate in slates])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return SlateFigures(
        np.add.reduceat(shares.bits[slots], starts) / sizes,
        np.add.reduceat(shares.is_long_tail[slots].astype(np.float64), starts) / sizes,
    )


def gini(counts: NDArray[np.int64]) -> float:
    """Inequality of positive counts: 0 where all are equal, near 1 where one has nearly all.

    >>> gini(np.array([5, 5, 5, 5])), gini(np.array([97, 1, 1, 1]))
    (0.0, 0.72)
    """
    n = len(counts)
    if not n:
        return 0.0
    rising = np.sort(counts)
    return float(2 * (np.arange(1, n + 1) @ rising) / (n * rising.sum()) - (n + 1) / n)


@dataclass(slots=True)
class ServedTitles:
    """How often each title was served in the last hour, by slot; moves on every ten minutes."""

    _buckets: deque[NDArray[np.int32]] = field(default_factory=lambda: deque(maxlen=N_BUCKETS))
    _began_s: float = float("-inf")

    def add(self, slots: NDArray[np.int64], n_slots: int, now_s: float) -> None:
        """Counts titles of a catalogue with so many slots."""
        if now_s - self._began_s >= BUCKET_S:
            self._began_s = now_s
            self._buckets.append(np.zeros(n_slots, np.int32))
        if len(self._buckets[-1]) < n_slots:
            self._buckets[-1] = _longer(self._buckets[-1], n_slots)
        self._buckets[-1] += np.bincount(slots, minlength=n_slots).astype(np.int32)

    def counts(self) -> NDArray[np.int64]:
        """Of the titles that were served at all."""
        n_slots = max((len(bucket) for bucket in self._buckets), default=0)
        total = np.zeros(n_slots, np.int64)
        for bucket in self._buckets:
            total[: len(bucket)] += bucket
        return total[total > 0]


def _longer(counts: NDArray[np.int32], n: int) -> NDArray[np.int32]:
    return np.concatenate([counts, np.zeros(n - len(counts), np.int32)])


class SlateWatch:
    """Takes slates from the event loop, and tells of them from a pass of another thread."""

    def __init__(
        self,
        slots_of: Callable[[Ids], NDArray[np.int64]],
        values: Callable[[], NDArray[np.float32]],
    ) -> None:
        """`slots_of`: of the catalogue, -1 for none. `values`: of its titles, by slot."""
        self._slots_of = slots_of
        self._values = values
        self._served: deque[Ids] = deque(maxlen=MOST_SLATES)
        self._shares: TitleShares | None = None
        self._shares_s = self._hour_s = float("-inf")
        self._titles = ServedTitles()

    def add(self, shown: Ids) -> None:
        """A slate was served, a moment ago. 0.1 us."""
        self._served.append(shown)

    def step(self, now_s: float) -> None:
        """Looks at all slates since the last call. For one thread."""
        slates = [self._served.popleft() for _ in range(len(self._served))]
        slots = [self._known(shown) for shown in slates]
        slots = [found for found in slots if len(found)]
        if slots:
            self._look_at(slots, now_s)
        if now_s - self._hour_s >= HOUR_EVERY_S:
            self._hour_s = now_s
            counts = self._titles.counts()
            metrics.SLATE_COVERAGE.set(len(counts))
            metrics.SLATE_GINI.set(gini(counts))

    def _known(self, shown: Ids) -> NDArray[np.int64]:
        slots = self._slots_of(shown)
        known: NDArray[np.int64] = slots[slots != ABSENT]
        return known

    def _look_at(self, slates: list[NDArray[np.int64]], now_s: float) -> None:
        values = self._values()
        shares = self._shares_at(values, now_s)
        n_slots = len(shares.bits)
        slates = [found for found in slates if found.max() < n_slots]  # it has grown meanwhile
        if not slates:
            return
        figures = figures_of(slates, shares)
        for novelty_bits in figures.novelty_bits.tolist():
            metrics.SLATE_NOVELTY.observe(novelty_bits)
        for share in figures.long_tail_share.tolist():
            metrics.SLATE_LONG_TAIL.observe(share)
        self._titles.add(np.concatenate(slates), n_slots, now_s)

    def _shares_at(self, values: NDArray[np.float32], now_s: float) -> TitleShares:
        is_old = now_s - self._shares_s >= POPULARITY_EVERY_S
        if self._shares is None or is_old or len(self._shares.bits) < len(values):
            self._shares, self._shares_s = TitleShares.of(values), now_s
        return self._shares
