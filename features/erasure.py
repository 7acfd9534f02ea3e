"""Erasing a viewer: the event that asks for it, and the ledger that remembers it.

The event lies in `interactions` among the viewer's others, so that every flow empties the row at
the same place. The ledger keeps that place for as long as the log may be read again: what lies
before it is flagged ERASED, and no row learns from it a second time. `features.user_row` has the
row's side.
"""

import uuid
from dataclasses import dataclass

import numpy as np

from features.compiled import Rows
from features.events import ERASED, Interaction
from features.vocabulary import EventType


@dataclass(frozen=True, slots=True)
class Erasure:
    """That a viewer was erased by the event at `offset` of `partition`."""

    viewer: int  # 64-bit id
    partition: int
    offset: int
    erased_at_ms: int

    @property
    def key(self) -> bytes:
        """Key in the ledger's topic.

        >>> Erasure(255, 0, 7, 0).key
        b'00000000000000ff'
        """
        return b"%016x" % self.viewer


def erase_event(user_id: str, profile_id: str, at_ms: int) -> Interaction:
    """The event by which a viewer is forgotten."""
    return Interaction(uuid.uuid4().hex, user_id, "", EventType.ERASE, at_ms, profile_id=profile_id)


class ErasureLedger:
    """The last erasure of each viewer who ever was erased."""

    def __init__(self) -> None:
        self._erasures: dict[int, Erasure] = {}
        self._is_sorted = True
        self._viewers = np.empty(0, np.uint64)
        self._partitions = np.empty(0, np.int64)
        self._offsets = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._erasures)

    def put(self, erasure: Erasure) -> None:
        """Notes an erasure; of several of one viewer in a partition the last one counts."""
        known = self._erasures.get(erasure.viewer)
        is_older = known is not None and known.partition == erasure.partition
        if is_older and known is not None and known.offset >= erasure.offset:
            return
        self._erasures[erasure.viewer] = erasure
        self._is_sorted = False

    def knows(self, erasure: Erasure) -> bool:
        """Whether this erasure, or a later one of the same viewer, is noted."""
        known = self._erasures.get(erasure.viewer)
        return (
            known is not None
            and known.partition == erasure.partition
            and known.offset >= erasure.offset
        )

    def flag(self, events: Rows) -> None:
        """Flags events, `(n,) EVENT`, that lie before the erasure of their viewer. O(n log len)."""
        if not self._erasures or not len(events):
            return
        self._sort()
        places = np.searchsorted(self._viewers, events["user"])
        places = np.minimum(places, len(self._viewers) - 1)
        is_before = (
            (self._viewers[places] == events["user"])
            & (self._partitions[places] == events["partition"])
            & (events["offset"] < self._offsets[places])
        )
        events["flags"] |= np.where(is_before, np.uint8(ERASED), np.uint8(0))

    def _sort(self) -> None:
        if self._is_sorted:
            return
        ordered = sorted(self._erasures.values(), key=lambda erasure: erasure.viewer)
        self._viewers = np.array([erasure.viewer for erasure in ordered], np.uint64)
        self._partitions = np.array([erasure.partition for erasure in ordered], np.int64)
        self._offsets = np.array([erasure.offset for erasure in ordered], np.int64)
        self._is_sorted = True


def erasures_in(events: Rows) -> list[Erasure]:
    """The erasures among events, `(n,) EVENT`."""
    return [
        Erasure(int(e["user"]), int(e["partition"]), int(e["offset"]), int(e["logged_at_ms"]))
        for e in events[events["type"] == EventType.ERASE]
    ]
