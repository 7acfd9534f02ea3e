"""Titles that are like a title: the nearest by content vector, worked out once for each title.

A look at every title costs half a millisecond at 21,000 titles, so nobody waits for it where a
keeper does it beside requests: a request is answered from what is there, and asks for the rest.
New titles find their way into the lists of those that they are like, so they are offered at once.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from serving.catalogue import FOR_GOOD, CatalogueTable
from serving.retrieval.base import Floats, Slots

N_ALIKE: Final = 24
LEAST_PRODUCT: Final = 0.3  # titles that share less are not alike
AT_ONCE_SLOTS: Final = 65_536  # above, a look at every title costs too much for a request
MOST_WANTED: Final = 4_096

_NOBODY: Final = np.zeros(0, np.int32)


class ContentNeighbours:
    """By slot the titles that are most alike, most alike first."""

    def __init__(self, table: CatalogueTable) -> None:
        n = len(table)
        self.wake: Callable[[], None] | None = None  # of who works out what is wanted
        self._table = table
        self._neighbours: Slots = np.full((n, N_ALIKE), -1, np.int32)
        self._products: Floats = np.zeros((n, N_ALIKE), np.float32)
        self._counts = np.full(n, -1, np.int64)  # -1: not worked out
        self._wanted: deque[int] = deque(maxlen=MOST_WANTED)

    def over(self, table: CatalogueTable) -> "ContentNeighbours":
        """Those of a bigger table with the same titles in the same slots. O(slots)."""
        bigger = ContentNeighbours(table)
        n = len(self._counts)
        bigger.wake, bigger._wanted = self.wake, self._wanted
        bigger._neighbours[:n], bigger._products[:n] = self._neighbours, self._products
        bigger._counts[:n] = self._counts
        return bigger

    def of(self, slot: int, *, at_once: bool = False) -> Slots:
        """Slots of the titles that are most like one, `(n,)`, at most N_ALIKE.

        Where somebody works them out beside, and this title's are not there yet, there are none the
        first time, unless they are asked for `at_once` and the catalogue is small enough.
        """
        if self._counts[slot] < 0:
            if self.wake is not None and not (at_once and self._table.n_used <= AT_ONCE_SLOTS):
                self._wanted.append(slot)
                self.wake()
                return _NOBODY
            self._work_out(slot)
        return self._neighbours[slot, : max(self._counts[slot], 0)]

    def is_known(self, slot: int) -> bool:
        """Whether those of a title have been worked out."""
        return bool(self._counts[slot] >= 0)

    def work_out_wanted(self) -> int:
        """Works out what was asked for; how many titles' that was. For one thread, beside."""
        n = 0
        while self._wanted:
            slot = self._wanted.popleft()
            if self._counts[slot] < 0:
                self._work_out(slot)
                n += 1
        return n

    def warm_up(self) -> None:
        """Has compiled what the first title that changes would wait for."""
        nothing = np.zeros(0, np.float32)
        insert(0, nothing, self._neighbours, self._products, self._counts)

    def changed(self, slots: Iterable[int]) -> None:
        """Takes new titles, or new descriptions, into the lists of what they are like.

        O(titles) for each; in a catalogue of more than AT_ONCE_SLOTS only lists that are made later
        know of them. For one thread, beside.
        """
        for slot in slots:
            self._counts[slot] = -1
            n = self._table.n_used
            if n > AT_ONCE_SLOTS:
                continue
            products = self._products_of(slot, n)
            insert(slot, products, self._neighbours, self._products, self._counts)

    def _products_of(self, slot: int, n: int) -> Floats:
        contents = self._table.contents
        products: Floats = contents[:n] @ contents[slot]
        products[slot] = -1.0
        products[self._table.available_from_ms[:n] == FOR_GOOD] = -1.0
        return products

    def _work_out(self, slot: int) -> None:
        products = self._products_of(slot, self._table.n_used)
        most = min(N_ALIKE, len(products))
        best = np.argpartition(-products, most - 1)[:most]
        best = best[np.argsort(-products[best], kind="stable")]
        best = best[products[best] >= LEAST_PRODUCT]
        self._neighbours[slot, : len(best)] = best
        self._products[slot, : len(best)] = products[best]
        self._counts[slot] = len(best)


@compiled
def insert(
    slot: int,
    products: Floats,
    neighbours: Slots,
    kept: Floats,
    counts: NDArray[np.int64],
) -> None:
    """Puts a title into the lists of those that it is like, `products` says how much. O(titles)."""
    for other in range(len(products)):
        n, product = counts[other], products[other]
        if n < 0 or product < LEAST_PRODUCT:
            continue
        place = n
        for k in range(n):
            if neighbours[other, k] == slot:
                place = -1
                break
        if place < 0 or (n == N_ALIKE and kept[other, n - 1] >= product):
            continue
        place = min(n, N_ALIKE - 1)
        while place > 0 and kept[other, place - 1] < product:
            neighbours[other, place] = neighbours[other, place - 1]
            kept[other, place] = kept[other, place - 1]
            place -= 1
        neighbours[other, place], kept[other, place] = slot, product
        counts[other] = min(n + 1, N_ALIKE)
