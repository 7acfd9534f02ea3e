"""How well slates foretell the next title: hit rate, discounted gain, and both over time. Pure."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.windows import DAY_MS

AT: Final = 20  # places of a slate
MISSED: Final = -1


@dataclass(frozen=True, slots=True)
class Quality:
    """Of slates of 20: share with the title watched next, and its discounted gain."""

    hr_20: float
    ndcg_20: float

    @classmethod
    def of(cls, places: NDArray[np.int64]) -> "Quality":
        """From the place of the next title in each slate, from 0, MISSED where it is not there."""
        if not len(places):
            return cls(0.0, 0.0)
        return cls(float((places != MISSED).mean()), float(gains_of(places).mean()))

    def is_ahead_of(self, other: "Quality") -> bool:
        """Whether it is better in both metrics."""
        return self.hr_20 > other.hr_20 and self.ndcg_20 > other.ndcg_20


def gains_of(places: NDArray[np.int64]) -> NDArray[np.float64]:
    """Discounted gain of each slate: 1 for the first place, 0 for MISSED.

    >>> gains_of(np.array([0, 2, MISSED])).tolist()
    [1.0, 0.5, 0.0]
    """
    hit = places != MISSED
    return np.where(hit, 1 / np.log2(np.where(hit, places, 0) + 2), 0.0)


def by_day(values: NDArray[np.float64], at_ms: NDArray[np.int64]) -> dict[int, float]:
    """Mean of `values` on each day (UTC, days since 1970) on which there are any.

    >>> by_day(np.array([1.0, 0.0, 0.5]), np.array([0, 1, DAY_MS]))
    {0: 0.5, 1: 0.5}
    """
    days, which = np.unique(at_ms // DAY_MS, return_inverse=True)
    means = np.bincount(which, values) / np.bincount(which)
    return dict(zip(days.tolist(), means.tolist(), strict=True))
