"""A map from 64-bit ids to slots, compiled: open addressing with linear probing.

Python's dict costs a boxed integer for every event; this costs about 20 ns a look-up. Removal
shifts the entries behind it back, so that probes stay short (Knuth, TAOCP 6.4, algorithm R).
"""

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled

ABSENT = -1


class IdMap:
    """Ids to slots, for at most `capacity` ids. Zero is no id."""

    def __init__(self, capacity: int) -> None:
        size = 16
        while size < 2 * capacity:
            size *= 2
        self.capacity = capacity
        self._keys = np.zeros(size, np.uint64)
        self._slots = np.zeros(size, np.int64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def find(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """`(n,) int64` slots of ids, ABSENT where an id is not in the map. O(n)."""
        slots = np.empty(len(ids), np.int64)
        find_all(self._keys, self._slots, ids, slots)
        return slots

    def ids(self) -> NDArray[np.uint64]:
        """`(n,) uint64` ids in the map, in no particular order."""
        ids: NDArray[np.uint64] = self._keys[self._keys != 0]
        return ids

    def insert(self, ids: NDArray[np.uint64], slots: NDArray[np.int64]) -> None:
        """Puts distinct ids, none of them in the map, at slots."""
        if self._count + len(ids) > self.capacity:
            raise OverflowError(
                f"an id map for {self.capacity} ids cannot hold {self._count + len(ids)}"
            )
        insert_all(self._keys, self._slots, ids, slots)
        self._count += len(ids)

    def remove(self, ids: NDArray[np.uint64]) -> None:
        """Takes ids out that are in the map."""
        remove_all(self._keys, self._slots, ids)
        self._count -= len(ids)


@compiled
def place_of(keys: NDArray[np.uint64], id_: np.uint64) -> np.uint64:
    """Where an id stands, or the free place where it would."""
    mask = np.uint64(len(keys) - 1)
    place = id_ & mask
    while keys[place] != 0 and keys[place] != id_:
        place = (place + np.uint64(1)) & mask
    return place


@compiled
def find_all(
    keys: NDArray[np.uint64],
    slots: NDArray[np.int64],
    ids: NDArray[np.uint64],
    out: NDArray[np.int64],
) -> None:
    """Slots of `ids` into `out`; ABSENT where there is none."""
    for i in range(len(ids)):
        place = place_of(keys, ids[i])
        out[i] = slots[place] if keys[place] != 0 and ids[i] != 0 else ABSENT


@compiled
def insert_all(
    keys: NDArray[np.uint64],
    slots: NDArray[np.int64],
    ids: NDArray[np.uint64],
    values: NDArray[np.int64],
) -> None:
    """Puts `ids` at `values`; there must be room."""
    for i in range(len(ids)):
        place = place_of(keys, ids[i])
        keys[place] = ids[i]
        slots[place] = values[i]


@compiled
def remove_all(keys: NDArray[np.uint64], slots: NDArray[np.int64], ids: NDArray[np.uint64]) -> None:
    """Takes `ids` out, closing each gap."""
    mask = np.uint64(len(keys) - 1)
    one = np.uint64(1)
    for i in range(len(ids)):
        gap = place_of(keys, ids[i])
        if keys[gap] == 0:
            continue
        place = gap
        while True:
            place = (place + one) & mask
            if keys[place] == 0:
                break
            home = keys[place] & mask
            if ((place - home) & mask) >= ((place - gap) & mask):
                keys[gap] = keys[place]
                slots[gap] = slots[place]
                gap = place
        keys[gap] = 0
