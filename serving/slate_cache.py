"""Slates that were made a moment ago, as bytes, under what was asked.

Bounded in number and in bytes; the one that was not asked for longest gives way. Whether a slate of
a viewer still holds is not for the cache to say: see serving/repeats.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.row_reader import RowPosition
from serving import metrics
from serving.slate import Query

MAX_NAMED: Final = 64  # titles named in a query; with more it is hardly asked twice
OVERHEAD_BYTES: Final = 1_000  # of an entry and its key, beside the two texts

Key = Hashable
Ids = NDArray[np.uint64]
NO_IDS: Final[Ids] = np.empty(0, np.uint64)


@dataclass(slots=True)
class KeptSlate:
    """A slate as it is shown and recorded, and what it was made from."""

    query: Query
    position: RowPosition | None  # of the viewer's row; None: of no viewer
    made_s: float
    answer: bytes  # the fields of a RecommendResponse but for those of the call
    decision: bytes  # the fields of an Impression, likewise
    asked_s: float
    shown: Ids  # (n,) uint64: its titles, where another page may follow; else none

    @property
    def size(self) -> int:
        """Bytes that it takes, nearly."""
        return len(self.answer) + len(self.decision) + self.shown.nbytes + OVERHEAD_BYTES


class SlateCache:
    """Slates by key, none older than `ttl_s`. For one event loop, but for `invalidate`."""

    def __init__(
        self,
        ttl_s: float,
        *,
        max_slates: int = 20_000,
        max_bytes: int = 128 << 20,
        monotonic_s: Callable[[], float] = time.monotonic,
        world: Callable[[], Hashable] = lambda: None,
    ) -> None:
        """`world`: of what slates are made; one that was made of another does not hold."""
        self._world = world
        self.ttl_s = ttl_s
        self._max_slates = max_slates
        self._max_bytes = max_bytes
        self._monotonic_s = monotonic_s
        self._kept: OrderedDict[Key, KeptSlate] = OrderedDict()
        self._of_nobody: dict[Key, None] = {}  # a set in order: keys of slates of no viewer
        self._generation = 0
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def key_of(self, query: Query, *, is_anonymous: bool = False) -> Key | None:
        """Under what a slate is kept; None for queries whose slates are not.

        What is asked for debugging, further pages of a slate, and queries that name many titles
        are answered anew each time. Session and request id are no part of the key.
        """
        q = query
        named = len(q.exclude_item_ids) + len(q.candidate_item_ids)
        if q.debug or q.shown or q.page_number or named > MAX_NAMED or self.ttl_s <= 0:
            return None
        viewer = None if is_anonymous else (q.user_id, q.profile_id)
        return (
            self._generation, self._world(), viewer, q.page, q.device, q.region, q.count, q.genres,
            q.filters, q.exclude_item_ids, q.item_id, q.candidate_item_ids, q.serendipity,
        )  # fmt: skip

    def get(self, key: Key) -> KeptSlate | None:
        """The slate under a key, None where there is none or it is too old."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        now_s = self._monotonic_s()
        if now_s - kept.made_s >= self.ttl_s:
            self._drop(key, "age")
            return None
        kept.asked_s = now_s
        self._kept.move_to_end(key)
        return kept

    def put(
        self,
        key: Key,
        query: Query,
        position: RowPosition | None,
        answer: bytes,
        decision: bytes,
        shown: Ids = NO_IDS,
    ) -> None:
        """Keeps a slate; others give way where it is too much."""
        now_s = self._monotonic_s()
        before = self._kept.pop(key, None)
        self._of_nobody.pop(key, None)
        if before is not None:
            self.n_bytes -= before.size
        kept = KeptSlate(
            query, position, now_s, answer, decision,
            now_s if before is None else before.asked_s, shown,
        )  # fmt: skip
        self._kept[key] = kept
        if position is None:
            self._of_nobody[key] = None
        self.n_bytes += kept.size
        while len(self._kept) > self._max_slates or self.n_bytes > self._max_bytes:
            self._drop(next(iter(self._kept)), "room")
        self._tell()

    def drop(self, key: Key) -> None:
        """Forgets a slate that does not hold any more."""
        self._drop(key, "moved")

    def age_ms(self, kept: KeptSlate) -> int:
        """Since a slate was made."""
        return max(round(1_000 * (self._monotonic_s() - kept.made_s)), 0)

    def due(self, share: float, asked_within_s: float, most: int) -> list[tuple[Key, KeptSlate]]:
        """Slates of no viewer that were asked for lately and are older than a share of their time.

        At most so many; of an older generation none. O(slates of no viewer).
        """
        now_s = self._monotonic_s()
        found = []
        for key in list(self._of_nobody):
            kept = self._kept[key]
            if now_s - kept.asked_s > asked_within_s:
                continue
            if self.key_of(kept.query, is_anonymous=True) != key:
                continue
            if now_s - kept.made_s >= share * self.ttl_s:
                found.append((key, kept))
        return found[:most]

    def invalidate(self) -> None:
        """None of the slates holds any more: other rules, for example.

        To be called from any thread, once what has changed is in force.
        """
        self._generation += 1

    def _drop(self, key: Key, why: str) -> None:
        kept = self._kept.pop(key, None)
        self._of_nobody.pop(key, None)
        if kept is not None:
            self.n_bytes -= kept.size
            metrics.CACHE_EVICTIONS[why].inc()
            self._tell()

    def _tell(self) -> None:
        metrics.CACHE_SLATES.set(len(self._kept))
        metrics.CACHE_BYTES.set(self.n_bytes)


def of_nobody(query: Query) -> Query:
    """What is asked, apart from who asks.

    >>> of_nobody(Query("ann", session_id="s1", count=7)) == Query("", count=7)
    True
    """
    return replace(
        query, user_id="", profile_id="", session_id="", request_id="", after=None, wait_ms=100
    )
