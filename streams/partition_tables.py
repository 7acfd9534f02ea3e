"""The rows that one partition of the log feeds: co-visitation, segments, global rates.

A partition has rows of its own in these tables, so the worker that owns the partition's viewers
owns them too, and each row takes its events in a total order.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from features import covisitation, global_rates, segment_popularity
from features.compiled import Rows
from features.covisitation import COVISIT, MOST_COVISITS
from features.item_row import MAX_PARTITIONS
from features.partition_rows import apply_viewers
from features.records import taken
from features.row_cache import RowCache
from features.segment_popularity import MOST_TOUCHED
from features.store import COVISITATIONS, GLOBALS, SEGMENTS, Table
from features.user_row import APPLIED
from features.vocabulary import EventType

Changes = tuple[RowCache, NDArray[np.int64]]  # slots whose rows changed


class PartitionTables:
    """Applies events to viewers' rows, and what follows from them to the rows of partitions.

    An event counts here only when its viewer's row takes it in anew. One that the viewer's row has
    included before is in these rows already, because they are stored before it; one that is taken
    in again after a crash is skipped by the position of each row.
    """

    def __init__(self, cache_of: Callable[[Table], RowCache]) -> None:
        self._caches = {
            table.letter: cache_of(table) for table in (COVISITATIONS, SEGMENTS, GLOBALS)
        }
        self._covisits: Rows = np.zeros(0, COVISIT)

    def apply(
        self,
        viewers: Rows,
        slots: NDArray[np.int64],
        events: Rows,
        effects: NDArray[np.uint8],
    ) -> list[tuple[Table, Rows]]:
        """Takes events into `viewers[slots]`, filling `effects`, and into the tables.

        Returns the changed rows of each table, to be stored before those of viewers.
        """
        if len(self._covisits) < MOST_COVISITS * len(events):
            self._covisits = np.zeros(MOST_COVISITS * len(events), COVISIT)
        n_partners = np.empty(len(events), np.uint8)
        count = apply_viewers(viewers, slots, events, effects, self._covisits, n_partners)
        are_new = (effects >= APPLIED) & (events["type"] != EventType.ERASE)
        changes = (
            self._covisit(self._covisits[:count]),
            self._follow_segments(events, are_new),
            self._count(events, are_new, n_partners),
        )
        return [
            (cache.store.table, taken(cache.rows, changed))
            for cache, changed in changes
            if len(changed)
        ]

    def _covisit(self, covisits: Rows) -> Changes:
        cache = self._caches[COVISITATIONS.letter]
        slots = cache.slots_of(np.ascontiguousarray(covisits["row"]))
        effects = np.empty(len(covisits), np.uint8)
        covisitation.apply_all(cache.rows, slots, covisits, effects)
        return cache, cache.distinct(slots, effects != 0)

    def _follow_segments(self, events: Rows, are_new: NDArray[np.bool_]) -> Changes:
        cache = self._caches[SEGMENTS.letter]
        room = MOST_TOUCHED * len(events)
        ids, sources = np.empty(room, np.uint64), np.empty(room, np.int64)
        regions = np.empty(room, np.uint32)
        count = segment_popularity.segments_of(events, are_new, ids, sources, regions)
        slots = cache.slots_of(ids[:count])
        effects = np.empty(count, np.uint8)
        segment_popularity.apply_all(cache.rows, slots, events, sources, regions, effects)
        return cache, cache.distinct(slots, effects != 0)

    def _count(
        self, events: Rows, are_new: NDArray[np.bool_], n_partners: NDArray[np.uint8]
    ) -> Changes:
        cache = self._caches[GLOBALS.letter]
        present = np.empty(MAX_PARTITIONS, np.int64)
        present = present[: global_rates.partitions_of(events, present)]
        ids = np.array([global_rates.row_id(p) for p in present.tolist()], np.uint64)
        slots = np.zeros(MAX_PARTITIONS, np.int64)  # by partition
        slots[present] = cache.slots_of(ids)
        changed = np.zeros(MAX_PARTITIONS, np.bool_)
        global_rates.apply_all(cache.rows, slots, events, are_new, n_partners, changed)
        return cache, slots[changed]

    def next_epoch(self) -> None:
        """Tells the caches that an epoch has ended."""
        for cache in self._caches.values():
            cache.next_epoch()

    def caches(self) -> list[RowCache]:
        """One for each table."""
        return list(self._caches.values())
