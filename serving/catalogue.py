"""The titles that can be shown, as one table by slot, from the topic `catalog`.

A title's slot is its own for as long as the table lives, also after it was removed: what viewers
have watched keeps its facts, and comes back to the same place if it returns. Slots behind the last
title are room for titles to come. Matrices over the catalogue have a row for each slot, free ones
included, so that a new title needs none of them to be made anew.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from features.certification import age_of
from features.codec import WireError, decode_catalog_item
from features.compiled import Rows
from features.content import N_CONTENT, content_vector
from features.events import CatalogItem
from features.id_map import ABSENT, IdMap
from features.ids import id_hash
from features.log import LogConfig, read_to_end
from features.titles import FACTS, facts_of, short_hash

FOR_GOOD: Final = np.iinfo(np.int64).max  # also: the moment from which a removed title is available
EVERYWHERE: Final = 0  # the set of regions of a title without any
MOST_REGION_SETS: Final = 65_536
LEAST_ROOM: Final = 4_096

log = structlog.get_logger(__name__)


class TableError(ValueError):
    """A title that the table cannot take; the message says why."""


@dataclass(slots=True, eq=False)
class CatalogueTable:
    """Titles by slot; at first in ascending order of their 64-bit ids, later ones behind.

    `len(table)` is the number of slots. The first `n_used` of them have been given to titles; those
    of removed titles and free ones are available from FOR_GOOD on, which never comes. Changed only
    between requests.

    >>> table = CatalogueTable.of([CatalogItem("tt1", "Heat", 1995, ("Crime",))])
    >>> table.titles[table.slot_of("tt1")], table.slot_of("tt2")
    ('Heat', None)
    """

    ids: NDArray[np.uint64]  # (n_slots,); 0: free
    facts: Rows  # (n_slots,) FACTS, as the flow puts them into events
    years: NDArray[np.int16]  # (n_slots,) of the facts; 0: unknown
    genres: NDArray[np.uint32]  # (n_slots,) masks of the facts
    available_from_ms: NDArray[np.int64]  # (n_slots,) since 1970 UTC; 0: always was
    available_until_ms: NDArray[np.int64]  # (n_slots,) since 1970 UTC; FOR_GOOD: no end
    ages: NDArray[np.uint8]  # (n_slots,) years from which a title is for, or UNKNOWN_AGE
    categories: NDArray[np.uint32]  # (n_slots,) short_hash of the category; 0: none
    languages: NDArray[np.uint32]  # (n_slots,) short_hash, of the facts; 0: unknown
    region_sets: NDArray[np.uint16]  # (n_slots,) numbers of `regions_of_set`; EVERYWHERE
    contents: NDArray[np.float32]  # (n_slots, N_CONTENT) content vectors
    slots: IdMap = field(repr=False)
    item_ids: list[str] = field(default_factory=list)  # (n_used,)
    titles: list[str] = field(default_factory=list)  # (n_used,)
    regions_of_set: list[frozenset[str]] = field(default_factory=lambda: [frozenset()])
    n_removed: int = 0

    @classmethod
    def empty(cls, n_slots: int) -> "CatalogueTable":
        """A table of free slots."""
        return cls(
            ids=np.zeros(n_slots, np.uint64),
            facts=np.zeros(n_slots, FACTS),
            years=np.zeros(n_slots, np.int16),
            genres=np.zeros(n_slots, np.uint32),
            available_from_ms=np.full(n_slots, FOR_GOOD, np.int64),
            available_until_ms=np.full(n_slots, FOR_GOOD, np.int64),
            ages=np.zeros(n_slots, np.uint8),
            categories=np.zeros(n_slots, np.uint32),
            languages=np.zeros(n_slots, np.uint32),
            region_sets=np.zeros(n_slots, np.uint16),
            contents=np.zeros((n_slots, N_CONTENT), np.float32),
            slots=IdMap(max(n_slots, 1)),
        )

    @classmethod
    def of(cls, items: Iterable[CatalogItem], room: int = 0) -> "CatalogueTable":
        """The table of titles; of several with one id the last counts. O(n log n).

        Behind them are `room` free slots.
        """
        by_id = {id_hash(item.item_id): item for item in items}
        table = cls.empty(len(by_id) + room)
        for id_ in sorted(by_id):
            table.put(by_id[id_])
        return table

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_used(self) -> int:
        """Slots that have been given to titles."""
        return len(self.item_ids)

    @property
    def n_titles(self) -> int:
        """Titles that have not been removed."""
        return self.n_used - self.n_removed

    @property
    def has_room(self) -> bool:
        """Whether a new title would find a slot."""
        return self.n_used < len(self)

    def slot_of(self, item_id: str) -> int | None:
        """Slot of a title, None where there is no such title, or none any more."""
        slot = self._slot(item_id)
        return None if slot == ABSENT or self.is_removed(slot) else slot

    def slots_of(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """`(n,) int64` slots of 64-bit ids, of removed titles too; -1 where there was none ever."""
        return self.slots.find(ids)

    def is_removed(self, slot: int) -> bool:
        """Whether the title of a slot has been removed, or the slot is free."""
        return bool(self.available_from_ms[slot] == FOR_GOOD)

    def put(self, item: CatalogItem) -> int:
        """Takes a title in, or its new description; its slot.

        Raises TableError where there is no room for it.
        """
        region_set = self._region_set(item.regions)
        slot = self._slot(item.item_id)
        if slot == ABSENT:
            slot = self._take_slot(item.item_id)
        elif self.is_removed(slot):
            self.n_removed -= 1
        self.facts[slot : slot + 1] = facts_of(item)
        for column, name in (
            (self.years, "year"),
            (self.genres, "genres"),
            (self.languages, "language"),
        ):
            column[slot] = self.facts[name][slot]
        self.ages[slot] = age_of(item.certification)
        self.categories[slot] = short_hash(item.category)
        self.region_sets[slot] = region_set
        self.contents[slot] = content_vector(item)
        self.titles[slot] = item.title
        self.available_from_ms[slot] = min(item.available_from_ms, FOR_GOOD - 1)
        self.available_until_ms[slot] = item.available_until_ms or FOR_GOOD
        return slot

    def remove(self, item_id: str) -> int | None:
        """Takes a title out; the slot that it keeps, None where there is no such title."""
        slot = self.slot_of(item_id)
        if slot is not None:
            self.available_from_ms[slot] = FOR_GOOD
            self.n_removed += 1
        return slot

    def _slot(self, item_id: str) -> int:
        return int(self.slots.find(np.array([id_hash(item_id)], np.uint64))[0])

    def _take_slot(self, item_id: str) -> int:
        if not self.has_room:
            raise TableError(f"a table of {len(self)} slots has no room for {item_id!r}")
        slot, id_ = self.n_used, np.array([id_hash(item_id)], np.uint64)
        self.slots.insert(id_, np.array([slot]))
        self.ids[slot] = id_[0]
        self.item_ids.append(item_id)
        self.titles.append("")
        return slot

    def _region_set(self, regions: tuple[str, ...]) -> int:
        """Number of a set of regions, in upper case; a new one is added. O(different sets)."""
        if not regions:
            return EVERYWHERE
        found = frozenset(region.upper() for region in regions)
        if found not in self.regions_of_set:
            if len(self.regions_of_set) == MOST_REGION_SETS:
                raise TableError(f"regions must be one of {MOST_REGION_SETS} sets; got another")
            self.regions_of_set.append(found)
        return self.regions_of_set.index(found)


@dataclass(slots=True)
class Catalogue:
    """Reads the topic `catalog`: the last word on each title counts, a removed title is gone."""

    config: LogConfig
    topic: str
    broken: int = 0  # records of the last reading that are no title

    def read(self) -> CatalogueTable:
        """The titles as the log has them now. Raises LogError or KafkaException."""
        titles: dict[str, CatalogItem] = {}
        self.broken = 0
        for record in read_to_end(self.config, self.topic):
            self._take(record.key(), record.value(), titles)
        log.info("catalogue_read", titles=len(titles), broken=self.broken)
        return CatalogueTable.of(titles.values())

    def _take(self, key: bytes | None, value: bytes | None, titles: dict[str, CatalogItem]) -> None:
        if not value:
            titles.pop((key or b"").decode(errors="replace"), None)
            return
        try:
            item = decode_catalog_item(value)
        except WireError as error:
            self.broken += 1
            log.warning("bad_catalog_record", reason=str(error))
            return
        if item.removed:
            titles.pop(item.item_id, None)
        else:
            titles[item.item_id] = item
