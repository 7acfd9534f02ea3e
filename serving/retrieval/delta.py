"""Titles that came after the bundle: a few vectors, searched one by one, changed while they are.

One thread writes, any number search, and none of them waits. A searcher takes `_published` once: a
matrix, the catalogue slots of its rows and how many rows count. The writer fills a row and then
publishes the longer count; what it takes out it marks in the slots. A matrix that is full of marks
is copied into a new one and published as a whole, so nothing that a searcher holds is overwritten.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

CAPACITY: Final = 4_096  # titles; 64 factors of them are searched in about 40 us
GONE: Final = -1

Floats = NDArray[np.float32]
Slots = NDArray[np.int64]


class _Published(NamedTuple):
    """Rows `0..n` are in use; a slot that is GONE has been taken out."""

    vectors: Floats  # (capacity, n_factors)
    slots: Slots  # (capacity,)
    n: int


class DeltaIndex:
    """Vectors of at most `capacity` titles by catalogue slot; if it is full, the oldest gives way.

    >>> delta = DeltaIndex(2, capacity=8)
    >>> delta.add(7, np.array([1, 0], np.float32))
    >>> delta.search(np.array([2, 0], np.float32), 5)
    (array([7]), array([2.], dtype=float32))
    """

    def __init__(self, n_factors: int, capacity: int = CAPACITY) -> None:
        if capacity < 1:
            raise ValueError(f"a delta must have room for at least 1 title; got {capacity}")
        self.capacity = capacity
        self.n_displaced = 0  # titles that gave way: so many are not found until the next bundle
        self._rows: dict[int, int] = {}  # by slot, oldest first; the writer's alone
        self._published = self._empty(n_factors)

    def __len__(self) -> int:
        """How many titles are in it."""
        return len(self._rows)

    def add(self, slot: int, vector: Floats) -> None:
        """Takes a title in, or its changed vector `(n_factors,)`. Amortised O(n_factors)."""
        if slot < 0:
            raise ValueError(f"a catalogue slot must be at least 0; got {slot}")
        self.remove(slot)
        if len(self._rows) == self.capacity:
            self.remove(next(iter(self._rows)))
            self.n_displaced += 1
        if self._published.n == len(self._published.slots):
            self._tidy()
        vectors, slots, n = self._published
        vectors[n], slots[n] = vector, slot
        self._rows[slot] = n
        self._published = _Published(vectors, slots, n + 1)

    def remove(self, slot: int) -> None:
        """Takes a title out; nothing happens if it is not in."""
        row = self._rows.pop(slot, None)
        if row is not None:
            self._published.slots[row] = GONE

    def search(self, vector: Floats, n: int) -> tuple[Slots, Floats]:
        """Slots of the at most `n` titles with the largest products, largest first, and these."""
        vectors, slots, n_rows = self._published
        products = vectors[:n_rows] @ vector
        found = slots[:n_rows].copy()
        kept = found != GONE
        return _best(found[kept], products[kept], n)

    def merge(self, vector: Floats, slots: Slots, scores: Floats, n: int) -> tuple[Slots, Floats]:
        """The best `n` of what an index found and of these titles, each once, largest first.

        Where both have a title, the vector in here counts: it is the newer one.
        """
        newer, products = self.search(vector, n)
        if not len(newer):
            return slots[:n], scores[:n]
        kept = ~np.isin(slots, newer)
        return _best(
            np.concatenate([newer, slots[kept]]), np.concatenate([products, scores[kept]]), n
        )

    def _empty(self, n_factors: int) -> _Published:
        """Room for twice the capacity, so that tidying up is rare."""
        rows = 2 * self.capacity
        return _Published(np.zeros((rows, n_factors), np.float32), np.full(rows, GONE), 0)

    def _tidy(self) -> None:
        """Copies what is in use to the front of a new matrix."""
        old = self._published
        new = self._empty(old.vectors.shape[1])
        rows = np.fromiter(self._rows.values(), np.int64, len(self._rows))
        new.vectors[: len(rows)], new.slots[: len(rows)] = old.vectors[rows], old.slots[rows]
        self._rows = {slot: row for row, slot in enumerate(self._rows)}
        self._published = new._replace(n=len(rows))


def _best(slots: Slots, scores: Floats, n: int) -> tuple[Slots, Floats]:
    order = np.argsort(-scores, kind="stable")[: max(n, 0)]
    return slots[order], scores[order]
