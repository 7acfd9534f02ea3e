"""The titles that can be shown, as one table by slot, from the topic `catalog`.

A title's slot is its own for as long as the table lives, also after it was removed: what viewers
have watched keeps its facts, and comes back to the same place if it returns. Slots behind the last
title are room for titles to come. Matrices over the catalogue have a row for each slot, free ones
included, so that a new title needs none of them to be made anew.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Final

import numpy as np
import structlog
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message
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
KEPT_CHANGES: Final = 1_024
N_ARRIVALS: Final = 256  # titles that came last
NEVER: Final = 0
BULK_MS: Final = 3_600_000  # titles that come within this time of each other came together

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
    added_ms: NDArray[np.int64]  # (n_slots,) when the log first had the title; NEVER: unknown
    slots: IdMap = field(repr=False)
    item_ids: list[str] = field(default_factory=list)  # (n_used,)
    titles: list[str] = field(default_factory=list)  # (n_used,)
    regions_of_set: list[frozenset[str]] = field(default_factory=lambda: [frozenset()])
    arrivals: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    # slots of the titles that came last and are known to, at most N_ARRIVALS, the last first
    episodes: dict[int, dict[int, int]] = field(default_factory=dict)
    # by series (as in facts) and episode (season * 1000 + number): slots
    n_removed: int = 0
    n_changes: int = 0  # titles taken in, changed or out since the table was made
    changed: deque[int] = field(default_factory=lambda: deque(maxlen=KEPT_CHANGES), repr=False)

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
            added_ms=np.zeros(n_slots, np.int64),
            slots=IdMap(max(n_slots, 1)),
        )

    @classmethod
    def of(
        cls,
        items: Iterable[CatalogItem],
        added_ms: Mapping[str, int] | None = None,
        room: int = 0,
    ) -> "CatalogueTable":
        """The table of titles; of several with one id the last counts. O(n log n).

        `added_ms` by item id says when the log had them. Behind them are `room` free slots.
        """
        by_id = {id_hash(item.item_id): item for item in items}
        table = cls.empty(len(by_id) + room)
        for id_ in sorted(by_id):
            item = by_id[id_]
            table.put(item, (added_ms or {}).get(item.item_id, NEVER))
        table.n_changes = 0
        table._find_arrivals()
        return table

    def _find_arrivals(self) -> None:
        """Lists what came last; what came together with half of the catalogue is no news."""
        known = np.flatnonzero(self.added_ms)
        if not len(known):
            return
        known = known[self.added_ms[known] > np.median(self.added_ms[known]) + BULK_MS]
        order = np.argsort(-self.added_ms[known], kind="stable")
        self.arrivals = known[order][:N_ARRIVALS].astype(np.int32)

    def grown(self, room: int) -> "CatalogueTable":
        """A copy with `room` more free slots; titles have the slots that they had. O(slots)."""
        bigger = CatalogueTable.empty(len(self) + room)
        for column in fields(self):
            value = getattr(self, column.name)
            if isinstance(value, np.ndarray) and len(value) == len(self):
                getattr(bigger, column.name)[: len(self)] = value
        bigger.slots.insert(self.ids[: self.n_used], np.arange(self.n_used))
        bigger.item_ids, bigger.titles = self.item_ids.copy(), self.titles.copy()
        bigger.regions_of_set = self.regions_of_set.copy()
        bigger.arrivals, bigger.episodes = self.arrivals, self.episodes
        bigger.n_removed, bigger.n_changes = self.n_removed, self.n_changes
        bigger.changed = self.changed.copy()
        return bigger

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
    def room(self) -> int:
        """How many new titles would find a slot."""
        return len(self) - self.n_used

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

    def put(
        self,
        item: CatalogItem,
        added_ms: int = NEVER,
        content: NDArray[np.float32] | None = None,
    ) -> int:
        """Takes a title in, or its new description; its slot.

        `content` is its content vector where that was made before. Raises TableError where there is
        no room for it.
        """
        region_set = self._region_set(item.regions)
        slot = self._slot(item.item_id)
        if slot == ABSENT:
            slot = self._take_slot(item.item_id, added_ms)
        elif self.is_removed(slot):
            self.n_removed -= 1
        self._describe(slot, item)
        self.region_sets[slot] = region_set
        self.contents[slot] = content_vector(item) if content is None else content
        self._note_change(slot)
        return slot

    def _describe(self, slot: int, item: CatalogItem) -> None:
        self._forget_episode(slot)
        self.facts[slot : slot + 1] = facts_of(item)
        fact = self.facts[slot]
        self.years[slot], self.genres[slot] = fact["year"], fact["genres"]
        self.languages[slot] = fact["language"]
        if fact["series"]:
            self.episodes.setdefault(int(fact["series"]), {})[int(fact["episode"])] = slot
        self.ages[slot] = age_of(item.certification)
        self.categories[slot] = short_hash(item.category)
        self.titles[slot] = item.title
        self.available_from_ms[slot] = min(item.available_from_ms, FOR_GOOD - 1)
        self.available_until_ms[slot] = item.available_until_ms or FOR_GOOD

    def _forget_episode(self, slot: int) -> None:
        fact = self.facts[slot]
        episodes = self.episodes.get(int(fact["series"]), {})
        if episodes.get(int(fact["episode"])) == slot:
            del episodes[int(fact["episode"])]

    def remove(self, item_id: str) -> int | None:
        """Takes a title out; the slot that it keeps, None where there is no such title."""
        slot = self.slot_of(item_id)
        if slot is not None:
            self.available_from_ms[slot] = FOR_GOOD
            self._forget_episode(slot)
            self.n_removed += 1
            self._note_change(slot)
        return slot

    def changed_since(self, n_changes: int) -> list[int] | None:
        """Slots of the changes after the first `n_changes`; None: too many to be known."""
        n = self.n_changes - n_changes
        return None if n > len(self.changed) else list(self.changed)[len(self.changed) - n :]

    def _note_change(self, slot: int) -> None:
        self.n_changes += 1
        self.changed.append(slot)

    def _slot(self, item_id: str) -> int:
        return int(self.slots.find(np.array([id_hash(item_id)], np.uint64))[0])

    def _take_slot(self, item_id: str, added_ms: int) -> int:
        if not self.room:
            raise TableError(f"a table of {len(self)} slots has no room for {item_id!r}")
        slot, id_ = self.n_used, np.array([id_hash(item_id)], np.uint64)
        self.slots.insert(id_, np.array([slot]))
        self.ids[slot] = id_[0]
        self.item_ids.append(item_id)
        self.titles.append("")
        self.added_ms[slot] = added_ms
        if added_ms != NEVER:
            newest = np.array([slot], np.int32)
            self.arrivals = np.concatenate([newest, self.arrivals[: N_ARRIVALS - 1]])
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


@dataclass(frozen=True, slots=True)
class Change:
    """What a record of the catalogue says: a title as it is now, or that it is gone."""

    item_id: str
    item: CatalogItem | None  # None: gone
    at_ms: int  # when the log had it; NEVER: unknown
    content: NDArray[np.float32] | None = None  # where it was made already


def change_of(record: Message) -> Change:
    """What a record says. Raises WireError for one that is no title."""
    key, value, (kind, at_ms) = record.key(), record.value(), record.timestamp()
    at_ms = NEVER if kind == TIMESTAMP_NOT_AVAILABLE else at_ms
    if not value:
        return Change((key or b"").decode(errors="replace"), None, at_ms)
    item = decode_catalog_item(value)
    return Change(item.item_id, None if item.removed else item, at_ms)


@dataclass(slots=True)
class Catalogue:
    """Reads the topic `catalog`: the last word on each title counts, a removed title is gone."""

    config: LogConfig
    topic: str
    broken: int = 0  # records of the last reading that are no title

    def read(self) -> CatalogueTable:
        """The titles as the log has them now. Raises LogError or KafkaException."""
        changes = self.changes()
        added_ms = {change.item_id: change.at_ms for change in changes.values()}
        items = (change.item for change in changes.values() if change.item is not None)
        return CatalogueTable.of(items, added_ms)

    def changes(self) -> dict[str, Change]:
        """The last word on each title that the log has; with `read`'s errors."""
        found: dict[str, Change] = {}
        self.broken = 0
        for record in read_to_end(self.config, self.topic):
            try:
                change = change_of(record)
            except WireError as error:
                self.broken += 1
                log.warning("bad_catalog_record", reason=str(error), offset=record.offset())
                continue
            if change.item is None:
                found.pop(change.item_id, None)
            else:
                found[change.item_id] = change
        log.info("catalogue_read", titles=len(found), broken=self.broken)
        return found
