"""The rows a worker holds: one structured array, loaded on first touch, the coldest given back."""

import numpy as np
from numpy.typing import NDArray

from features.compiled import Rows, compiled
from features.id_map import ABSENT, IdMap
from features.records import put, taken
from features.store import RowStore

SETTLED_EPOCHS = 2  # an epoch's rows are in the store once the epoch after it has begun


class RowCache:
    """At most `capacity` rows of one table in memory; `slots_of` brings in what is missing.

    Memory is `capacity` x row size at most, and only touched pages of it are taken. Rows touched in
    the current epoch or the one before are never given back: their last write may be on its way.
    """

    def __init__(self, store: RowStore, capacity: int) -> None:
        self.store = store
        self.rows: Rows = np.zeros(capacity, store.table.dtype)
        self._map = IdMap(capacity)
        self._touched = np.zeros(capacity, np.int64)  # epoch of the last touch
        self._epoch = SETTLED_EPOCHS
        self._used = 0
        self._hand = 0
        self._is_loaded = np.zeros(capacity, np.bool_)  # since the last take_loaded()
        self._stamps = np.zeros(capacity, np.int64)  # of the last call of distinct()
        self._stamp = 0
        self.lookups = 0
        self.loads = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._map)

    def slots_of(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """`(n,) int64` slots in `rows` of ids, read from the store where not yet here."""
        self.lookups += len(ids)
        slots = self._map.find(ids)
        missing = slots == ABSENT
        if missing.any():
            self._touched[slots[~missing]] = self._epoch
            self._load(np.unique(ids[missing]))
            slots = self._map.find(ids)
        self._touched[slots] = self._epoch
        return slots

    def distinct(
        self, slots: NDArray[np.int64], are_wanted: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """The wanted ones of `slots`, each once, in the order of their first place. O(n)."""
        self._stamp += 1
        out = np.empty(len(slots), np.int64)
        return out[: first_of_each(slots, are_wanted, self._stamps, self._stamp, out)]

    def take_loaded(self) -> NDArray[np.int64]:
        """Slots that got another row since the last call. O(capacity / 8)."""
        loaded = np.flatnonzero(self._is_loaded)
        self._is_loaded[loaded] = False
        return loaded

    def next_epoch(self) -> None:
        """Tells that everything of the epoch before last has reached the store."""
        self._epoch += 1

    def resident(self) -> Rows:
        """A copy of every row held."""
        slots = np.arange(self._used)
        return taken(self.rows, slots[self.rows["id"][: self._used] != 0])

    def _load(self, ids: NDArray[np.uint64]) -> None:
        rows, _ = self.store.read(ids)
        slots = self._free_slots(len(ids))
        put(self.rows, slots, rows)
        self._touched[slots] = self._epoch
        self._map.insert(ids, slots)
        self._is_loaded[slots] = True
        self.loads += len(ids)

    def _free_slots(self, count: int) -> NDArray[np.int64]:
        fresh = min(count, len(self.rows) - self._used)
        slots = np.arange(self._used, self._used + fresh)
        self._used += fresh
        if fresh == count:
            return slots
        evicted = np.empty(count - fresh, np.int64)
        settled = self._epoch - SETTLED_EPOCHS
        found, self._hand = coldest(self._touched, self._hand, settled, evicted)
        if found < len(evicted):
            raise MemoryError(
                f"{len(self.rows)} rows of table {self.store.table.letter!r} are too few: "
                "more were touched within two epochs; raise the row capacity"
            )
        self._map.remove(self.rows["id"][evicted])
        self.evictions += len(evicted)
        return np.concatenate([slots, evicted])


@compiled
def first_of_each(
    slots: NDArray[np.int64],
    are_wanted: NDArray[np.bool_],
    stamps: NDArray[np.int64],
    stamp: int,
    out: NDArray[np.int64],
) -> int:
    """Wanted slots that do not carry `stamp` yet into `out`, stamping them; how many."""
    n = 0
    for i in range(len(slots)):
        if are_wanted[i] and stamps[slots[i]] != stamp:
            stamps[slots[i]] = stamp
            out[n] = slots[i]
            n += 1
    return n


@compiled
def coldest(
    touched: NDArray[np.int64], hand: int, settled: int, out: NDArray[np.int64]
) -> tuple[int, int]:
    """Slots last touched in or before epoch `settled`, from `hand` on; how many, and the new hand.

    The clock algorithm with epochs for reference bits; a slot taken is marked with -1.
    """
    found = 0
    for _ in range(len(touched)):
        if found == len(out):
            break
        if 0 <= touched[hand] <= settled:
            out[found] = hand
            found += 1
            touched[hand] = -1
        hand = (hand + 1) % len(touched)
    return found, hand
