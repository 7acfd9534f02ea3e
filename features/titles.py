"""What the catalogue says of titles, where events need it: genres and year by item id."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from features.compiled import Rows
from features.events import CatalogItem
from features.id_map import ABSENT, IdMap
from features.ids import id_hash
from features.vocabulary import genre_mask

INITIAL_CAPACITY = 4_096


class TitleFacts:
    """Genres and year of every title, looked up for a whole batch of events at once."""

    def __init__(self, items: Iterable[CatalogItem] = ()) -> None:
        self._map = IdMap(INITIAL_CAPACITY)
        self._genres = np.zeros(INITIAL_CAPACITY, np.uint32)
        self._years = np.zeros(INITIAL_CAPACITY, np.int16)
        for item in items:
            self.put(item)

    def __len__(self) -> int:
        return len(self._map)

    def put(self, item: CatalogItem) -> None:
        """Takes a title in, or its changed description. A removed title keeps its facts."""
        if item.removed:
            return
        ids = np.array([id_hash(item.item_id)], np.uint64)
        slot = int(self._map.find(ids)[0])
        if slot == ABSENT:
            slot = len(self._map)
            if slot == self._map.capacity:
                self._grow()
            self._map.insert(ids, np.array([slot]))
        self._genres[slot] = genre_mask(item.genres)
        self._years[slot] = min(max(item.year, 0), 9_999)

    def enrich(self, events: Rows) -> None:
        """Fills `genres` and `year` of events; an unknown title leaves them zero."""
        slots = self._map.find(np.ascontiguousarray(events["item"]))
        known = slots != ABSENT
        events["genres"] = np.where(known, self._genres[slots], 0)
        events["year"] = np.where(known, self._years[slots], 0)

    def _grow(self) -> None:
        ids = self.ids()
        bigger = IdMap(2 * self._map.capacity)
        bigger.insert(ids, self._map.find(ids))
        self._map = bigger
        self._genres = np.concatenate([self._genres, np.zeros_like(self._genres)])
        self._years = np.concatenate([self._years, np.zeros_like(self._years)])

    def ids(self) -> NDArray[np.uint64]:
        """`(n_titles,) uint64` ids, in no particular order."""
        return self._map.ids()
