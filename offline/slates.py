"""What slates are like beside being right: breadth, novelty, diversity, calibration. Pure.

Slates are `(n_slates, n_places)` slots of titles, NOBODY in places that stayed empty. Popularity is
that of the training events, so that no measure changes with the slates it is taken of.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from features.vocabulary import N_GENRES

NOBODY: Final = -1
HEAD_SHARE: Final = 0.8  # of all events: the titles that make it up are the head, others the tail
CALIBRATION_MIX: Final = 0.01  # of the viewer's own genres in those of a slate

Slots = NDArray[np.int64]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SlateMetrics:
    """Means over slates; see the functions of the same names."""

    catalogue_coverage: float
    long_tail_share: float
    novelty_bits: float
    intra_list_diversity: float
    gini: float
    genre_calibration_kl: float

    @classmethod
    def of(
        cls, slates: Slots, histories: Slots, genres: NDArray[np.uint32], counts: Slots
    ) -> "SlateMetrics":
        """Of slates and the titles of their viewers before, `(n_slates, n_titles)`.

        By slot: `genres` masks, `counts` viewers of a title in the training events.
        """
        return cls(
            catalogue_coverage(slates, len(genres)),
            long_tail_share(slates, counts),
            novelty_bits(slates, counts),
            intra_list_diversity(slates, genres),
            gini(np.bincount(slates[slates >= 0], minlength=len(genres))),
            genre_calibration_kl(slates, histories, genres),
        )


def catalogue_coverage(slates: Slots, n_items: int) -> float:
    """Share of the catalogue's titles that stand in some slate.

    >>> catalogue_coverage(np.array([[0, 1], [1, NOBODY]]), 4)
    0.5
    """
    return len(np.unique(slates[slates >= 0])) / max(n_items, 1)


def long_tail_share(slates: Slots, counts: Slots) -> float:
    """Share of places with a title outside the head that has 80 % of all events.

    >>> long_tail_share(np.array([[0, 1], [2, 2]]), np.array([80, 15, 5]))
    0.75
    """
    order = np.argsort(-counts, kind="stable")
    above = np.cumsum(counts[order]) - counts[order]
    is_tail = np.ones(len(counts), np.bool_)
    is_tail[order[above < HEAD_SHARE * counts.sum()]] = False
    return _mean(is_tail[slates[slates >= 0]])


def novelty_bits(slates: Slots, counts: Slots) -> float:
    """Mean self-information of the titles shown: -log2 of their share of all events.

    S. Vargas, P. Castells: Rank and Relevance in Novelty and Diversity Metrics, RecSys 2011. A
    title without events counts as if it had one.

    >>> novelty_bits(np.array([[0, 1]]), np.array([2, 1, 1]))
    1.5
    """
    share = np.maximum(counts, 1) / max(int(counts.sum()), 1)
    return _mean(-np.log2(share)[slates[slates >= 0]])


def gini(exposure: Slots) -> float:
    """How unevenly titles are shown: 0 where all are shown alike, near 1 where one has it all.

    >>> gini(np.array([1, 1, 1, 1])), gini(np.array([0, 0, 0, 4]))
    (0.0, 0.75)
    """
    n, total = len(exposure), int(exposure.sum())
    if total == 0:
        return 0.0
    places = 2 * np.arange(1, n + 1) - n - 1
    return float((places * np.sort(exposure)).sum() / (n * total))


def intra_list_diversity(slates: Slots, genres: NDArray[np.uint32]) -> float:
    """Mean over slates of the mean Jaccard distance of genres between two titles of a slate.

    Titles without genres are left out.

    >>> intra_list_diversity(np.array([[0, 1, 2]]), np.array([1, 1, 2], np.uint32))
    0.6666666666666666
    """
    distances = _distances(slates, genres)
    return _mean(distances[~np.isnan(distances)])


def genre_calibration_kl(slates: Slots, histories: Slots, genres: NDArray[np.uint32]) -> float:
    """Mean divergence of a slate's genres from the viewer's: 0 where shares agree; in nats.

    H. Steck: Calibrated Recommendations, RecSys 2018: KL(p || q'), where a title spreads one over
    its genres, p is their mean over the viewer's titles, q over the slate, q' = .99 q + .01 p.

    >>> genre_calibration_kl(np.array([[0, 1]]), np.array([[1, 0]]), np.array([1, 2], np.uint32))
    0.0
    """
    spread = ((genres[:, np.newaxis] >> np.arange(N_GENRES, dtype=np.uint32)) & 1).astype(float)
    spread /= np.maximum(spread.sum(axis=1, keepdims=True), 1.0)
    divergences = [
        _divergence(_mean_of(spread, history), _mean_of(spread, slate))
        for slate, history in zip(slates, histories, strict=True)
    ]
    return _mean(np.array([found for found in divergences if found is not None]))


def _mean_of(spread: Doubles, slots: Slots) -> Doubles:
    """Shares of genres over some titles; all zero where none has a genre."""
    total: Doubles = spread[slots[slots >= 0]].sum(axis=0)
    return total / max(float(total.sum()), 1e-12)


def _divergence(wanted: Doubles, shown: Doubles) -> float | None:
    if wanted.sum() == 0.0 or shown.sum() == 0.0:
        return None
    mixed = (1 - CALIBRATION_MIX) * shown + CALIBRATION_MIX * wanted
    some = wanted > 0
    return float((wanted[some] * np.log(wanted[some] / mixed[some])).sum())


def _mean(values: NDArray[np.floating] | NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else 0.0


@compiled
def _distances(slates: Slots, genres: NDArray[np.uint32]) -> Doubles:
    """`(n_slates,)` mean distance of pairs; NaN where a slate has no two titles with genres."""
    found = np.full(len(slates), np.nan)
    for i in range(len(slates)):
        total, n = 0.0, 0
        for a in range(slates.shape[1]):
            for b in range(a):
                if slates[i, a] < 0 or slates[i, b] < 0:
                    continue
                left, right = np.int64(genres[slates[i, a]]), np.int64(genres[slates[i, b]])
                if left != 0 and right != 0:
                    total += 1.0 - _bits(int(left & right)) / _bits(int(left | right))
                    n += 1
        if n > 0:
            found[i] = total / n
    return found


@compiled
def _bits(mask: int) -> int:
    n = 0
    while mask != 0:
        mask &= mask - 1
        n += 1
    return n
