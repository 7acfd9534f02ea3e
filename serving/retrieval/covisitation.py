"""What viewers of the same titles went on to: neighbours of what this viewer touched last."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.bundle_format import ItemModels
from features.compiled import compiled
from features.ranking import COVISITATION, COVISITATION_RELATIVE
from serving.retrieval.base import NO_CAUSE, Floats, Slots

N_TITLES = 16  # of a viewer, the last ones
STEP_WEIGHT = 0.9  # of a title against that of the one after it
PRIOR = 5.0  # events added to a title's own, so that few say little

# Columns of a title's sums; the first four are scores, in the order of `features.ranking`.
_SHARE, _COSINE, _LAST, _TITLES, _LARGEST = range(5)
_N_SUMS = 5


class Covisitation:
    """Neighbours of titles by catalogue slot, and the sums of one request over them."""

    def __init__(self, models: ItemModels, slots: NDArray[np.int64], n_items: int) -> None:
        """`slots`, `(len(models),)`: catalogue slots of the models' rows, -1 for none."""
        known = slots >= 0
        rows = np.where(models.neighbours >= 0, models.neighbours, 0)
        neighbours = np.where(models.neighbours >= 0, slots[rows], -1)
        own = models.support[:, np.newaxis] + PRIOR
        cosines = models.weights / np.sqrt(own * (models.support[rows] + PRIOR))
        shape = (n_items, models.neighbours.shape[1])
        self._neighbours: Slots = np.full(shape, -1, np.int32)
        self._shares: Floats = np.zeros(shape, np.float32)
        self._cosines: Floats = np.zeros(shape, np.float32)
        self._neighbours[slots[known]] = neighbours[known]
        self._shares[slots[known]] = (models.weights / own)[known]
        self._cosines[slots[known]] = cosines[known]
        self._sums: Floats = np.zeros((n_items, _N_SUMS), np.float32)
        self._causes: Slots = np.full(n_items, NO_CAUSE, np.int32)
        self._touched: Slots = np.zeros(N_TITLES * shape[1], np.int32)
        self._n_touched = 0
        self._largest = 0.0  # share of any title of the request

    def gather(self, history: NDArray[np.int64]) -> None:
        """Sums over the neighbours of a viewer's titles (slots, newest first, -1: unknown)."""
        self._n_touched = _gather(
            history, self._neighbours, self._shares, self._cosines,
            self._sums, self._causes, self._touched,
        )  # fmt: skip
        shares = self._sums[self._touched[: self._n_touched], _SHARE]
        self._largest = float(shares.max(initial=0.0))

    def by_share(self, n: int | None = None) -> Slots:
        """Slots of what was found, most likely first; the first `n`, or all."""
        return self._ordered(_SHARE, n)

    def by_cosine(self, n: int | None = None) -> Slots:
        """Slots of what was found, most particular to these titles first; the first `n`, or all."""
        return self._ordered(_COSINE, n)

    def describe(self, slots: Slots, scores: Floats, causes: Slots) -> None:
        """Writes the scores of candidates, and for each the title that led most to it."""
        _describe(slots, self._sums, self._causes, self._largest, scores, causes)

    def clear(self) -> None:
        """Forgets the request. O(titles found)."""
        touched = self._touched[: self._n_touched]
        self._sums[touched] = 0.0
        self._causes[touched] = NO_CAUSE
        self._n_touched = 0

    def neighbours_of(self, slot: int) -> tuple[Slots, Floats]:
        """Neighbours of one title and their cosines, largest first."""
        known = self._neighbours[slot] >= 0
        order = np.argsort(-self._cosines[slot][known], kind="stable")
        return self._neighbours[slot][known][order], self._cosines[slot][known][order]

    def _ordered(self, column: int, n: int | None) -> Slots:
        touched = self._touched[: self._n_touched]
        if n is not None and n < len(touched):
            touched = touched[np.argpartition(-self._sums[touched, column], n)[:n]]
        ordered: Slots = touched[np.argsort(-self._sums[touched, column], kind="stable")]
        return ordered


@compiled
def _gather(
    history: NDArray[Any],
    neighbours: Slots,
    shares: Floats,
    cosines: Floats,
    sums: Floats,
    causes: Slots,
    touched: Slots,
) -> int:
    n_touched, weight, n_titles = 0, 1.0, 0
    for title in history:
        if title < 0:
            continue
        if n_titles == N_TITLES:
            break
        for k in range(neighbours.shape[1]):
            slot = neighbours[title, k]
            if slot < 0:
                continue
            if sums[slot, _TITLES] == 0.0:
                touched[n_touched] = slot
                n_touched += 1
            share = weight * shares[title, k]
            sums[slot, _SHARE] += share
            sums[slot, _COSINE] += weight * cosines[title, k]
            sums[slot, _TITLES] += 1.0
            if n_titles == 0:
                sums[slot, _LAST] = share
            if share > sums[slot, _LARGEST]:
                sums[slot, _LARGEST] = share
                causes[slot] = title
        n_titles += 1
        weight *= STEP_WEIGHT
    return n_touched


@compiled
def _describe(
    slots: Slots, sums: Floats, found: Slots, largest: float, scores: Floats, causes: Slots
) -> None:
    for i in range(len(slots)):
        share = sums[slots[i], _SHARE]
        scores[i, COVISITATION_RELATIVE] = share / largest if share > 0.0 else 0.0
        for k in range(_LARGEST):
            scores[i, COVISITATION + k] = sums[slots[i], k]
        causes[i] = found[slots[i]]
