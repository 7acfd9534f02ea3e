"""What the catalogue says of titles, where events need it: one record of facts by item id."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from features.compiled import Rows, unlocked
from features.events import N_CAST, CatalogItem
from features.id_map import ABSENT, IdMap
from features.ids import id_hash
from features.vocabulary import genre_mask

INITIAL_CAPACITY = 4_096

FACTS = np.dtype(
    [
        ("genres", "u4"),  # mask
        ("language", "u4"),  # hash; 0: unknown
        ("cast", "u4", (N_CAST,)),  # hashes of those named first; 0 behind the last
        ("series", "u4"),  # hash; 0: a film
        ("episode", "u4"),  # season * 1000 + episode
        ("year", "i2"),
        ("runtime_min", "u2"),
    ],
    align=True,
)

MOST_YEAR, MOST_RUNTIME, MOST_SEASON, MOST_EPISODE = 9_999, 65_535, 1_000_000, 999


def short_hash(text: str) -> int:
    """32 bits of the id of a text without regard to case; 0 for an empty one.

    >>> short_hash(""), short_hash("EN") == short_hash("en")
    (0, True)
    """
    return id_hash(text.casefold()) & 0xFFFFFFFF


def facts_of(item: CatalogItem) -> NDArray[np.void]:
    """`(1,) FACTS` of a title; numbers beyond a field's range are brought to its end.

    >>> facts_of(CatalogItem("tt1", year=1995, series_id="s", season=2, episode=7))["episode"]
    array([2007], dtype=uint32)
    """
    facts = np.zeros(1, FACTS)
    facts["genres"] = genre_mask(item.genres)
    facts["language"] = short_hash(item.language)
    cast = [short_hash(name) for name in item.cast[:N_CAST]]
    facts["cast"][0, : len(cast)] = cast
    facts["year"] = _within(item.year, MOST_YEAR)
    facts["runtime_min"] = _within(item.runtime_min, MOST_RUNTIME)
    if item.series_id:
        facts["series"] = short_hash(item.series_id)
        season, episode = _within(item.season, MOST_SEASON), _within(item.episode, MOST_EPISODE)
        facts["episode"] = season * 1_000 + episode
    return facts


def _within(number: int, most: int) -> int:
    return min(max(number, 0), most)


class TitleFacts:
    """The facts of every title, looked up for a whole batch of events at once."""

    def __init__(self, items: Iterable[CatalogItem] = ()) -> None:
        self._map = IdMap(INITIAL_CAPACITY)
        self._facts = np.zeros(INITIAL_CAPACITY, FACTS)
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
        self._facts[slot : slot + 1] = facts_of(item)

    def enrich(self, events: Rows) -> None:
        """Fills what the catalogue says of titles; an unknown title leaves it zero. O(events)."""
        fill_facts(events, self._map.find(np.ascontiguousarray(events["item"])), self._facts)

    def _grow(self) -> None:
        ids = self.ids()
        bigger = IdMap(2 * self._map.capacity)
        bigger.insert(ids, self._map.find(ids))
        self._map = bigger
        self._facts = np.concatenate([self._facts, np.zeros_like(self._facts)])

    def ids(self) -> NDArray[np.uint64]:
        """`(n_titles,) uint64` ids, in no particular order."""
        return self._map.ids()


@unlocked
def fill_facts(events: Rows, slots: NDArray[np.int64], facts: Rows) -> None:
    """Copies `facts[slots]` into events, zeros where a slot is ABSENT."""
    for i in range(len(events)):
        event = events[i]
        known = slots[i] != ABSENT
        fact = facts[slots[i] if known else 0]
        event["genres"] = fact["genres"] if known else 0
        event["language"] = fact["language"] if known else 0
        for k in range(N_CAST):
            event["cast"][k] = fact["cast"][k] if known else 0
        event["series"] = fact["series"] if known else 0
        event["episode"] = fact["episode"] if known else 0
        event["year"] = fact["year"] if known else 0
        event["runtime_min"] = fact["runtime_min"] if known else 0
