"""The titles that can be shown, as one immutable table built from the topic `catalog`."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from features.codec import WireError, decode_catalog_item
from features.compiled import Rows
from features.events import CatalogItem
from features.id_map import ABSENT, IdMap
from features.ids import id_hash
from features.log import LogConfig, read_to_end
from features.titles import FACTS, facts_of

log = structlog.get_logger(__name__)

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class CatalogueTable:
    """Titles by slot, in ascending order of their 64-bit ids: the same set makes the same table.

    >>> table = CatalogueTable.of([CatalogItem("tt1", "Heat", 1995, ("Crime",))])
    >>> table.titles[table.slot_of("tt1")], table.slot_of("tt2")
    ('Heat', None)
    """

    ids: NDArray[np.uint64]  # (n_items,)
    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    facts: Rows  # (n_items,) FACTS, as the flow puts them into events
    years: NDArray[np.int16]  # (n_items,) of the facts; 0: unknown
    genres: NDArray[np.uint32]  # (n_items,) masks of the facts
    available_from_ms: NDArray[np.int64]  # (n_items,) since 1970 UTC; 0: always was
    slots: IdMap = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, items: Iterable[CatalogItem]) -> "CatalogueTable":
        """The table of titles; of several with one id the last counts. O(n log n)."""
        by_id = {id_hash(item.item_id): item for item in items}
        kept = [by_id[id_] for id_ in sorted(by_id)]
        ids = np.array(sorted(by_id), np.uint64)
        slots = IdMap(max(len(ids), 1))
        slots.insert(ids, np.arange(len(ids)))
        facts = np.zeros(len(kept), FACTS)
        for slot, item in enumerate(kept):
            facts[slot : slot + 1] = facts_of(item)
        return cls(
            ids=_frozen(ids),
            item_ids=tuple(item.item_id for item in kept),
            titles=tuple(item.title for item in kept),
            facts=_frozen(facts),
            years=_frozen(np.ascontiguousarray(facts["year"])),
            genres=_frozen(np.ascontiguousarray(facts["genres"])),
            available_from_ms=_frozen(np.array([i.available_from_ms for i in kept], np.int64)),
            slots=slots,
        )

    def slot_of(self, item_id: str) -> int | None:
        """Slot of a title, None where there is no such title."""
        slot = int(self.slots.find(np.array([id_hash(item_id)], np.uint64))[0])
        return None if slot == ABSENT else slot

    def slots_of(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """`(n,) int64` slots of 64-bit ids, -1 where there is no such title."""
        return self.slots.find(ids)


def _frozen(array: NDArray[T]) -> NDArray[T]:
    array.setflags(write=False)
    return array


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
