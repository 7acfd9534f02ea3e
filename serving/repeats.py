"""Answers that are given again, where nothing has happened that could change them.

    a viewer's slate    holds while the viewer's row stands at the place in the log where it stood,
                        which is asked of the store each time: never stale after a click
    nobody's slate      for viewers of whom nothing is known, by what was asked alone; those asked
                        for lately are made anew before they grow old, so that no call waits for it

Every answer is recorded as served, with the chances that its slots had when they were drawn.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog

from features.clock import Clock
from features.compiled import Row
from features.position import Position
from features.row_reader import RowPosition
from serving import metrics, wire
from serving.pages import shown_of
from serving.rules.book import NEVER_MS
from serving.slate import Decision, Query, Recommends, Slate, Viewer
from serving.slate_cache import Ids, KeptSlate, Key, SlateCache, of_nobody
from serving.viewers import ViewerReader

RENEWED_AT: Final = 0.5  # of the time that a slate is kept
ASKED_WITHIN: Final = 10  # such times; what nobody has asked for since is left to age
MAX_RENEWED: Final = 64  # at once

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Again:
    """An answer that holds."""

    given: Callable[[], bytes]  # gives it, and has that recorded
    shown: Ids  # titles after which another page may follow


class Repeats:
    """Looks for an answer that holds, and keeps those that may be given again."""

    def __init__(
        self,
        cache: SlateCache,
        viewers: ViewerReader,
        record: Callable[[Decision], None],
        items_age_ms: Callable[[], int],
        clock: Clock,
        wall: Clock,
        topic: str,
        *,
        edge_after_ms: Callable[[int], int] = lambda _: NEVER_MS,
        has_rules_for: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`edge_after_ms`: when what may be shown changes next; `has_rules_for` an account."""
        self._edge_after_ms = edge_after_ms
        self._has_rules_for = has_rules_for
        self._looked_ms = 0
        self._cache = cache
        self._viewers = viewers
        self._record = record
        self._items_age_ms = items_age_ms
        self._clock = clock
        self._wall = wall
        self._topic = topic

    async def of_viewer(self, query: Query) -> Again | None:
        """The viewer's last answer to this, if nothing has happened to the viewer since.

        One that must include an event is given only if it does.
        """
        self._mind_the_time()
        key = self._cache.key_of(query)
        kept = None if key is None else self._cache.get(key)
        if key is None or kept is None:
            metrics.CACHE_LOOKUPS["miss" if key else "never"].inc()
            return None
        position = await self._viewers.read_position(query)
        if position is None or position != kept.position:
            self._cache.drop(key)
            metrics.CACHE_LOOKUPS["moved"].inc()
            return None
        at = Position(self._topic, position.partition, position.offset)
        if query.after is not None and not query.after.is_included_in(at):
            metrics.CACHE_LOOKUPS["moved"].inc()
            return None
        metrics.CACHE_LOOKUPS["hit"].inc()
        age_ms = max(self._wall.now_ms() - position.logged_at_ms, 0)
        metrics.STATE_AGE.observe(age_ms / 1_000)
        given = partial(self._given, query, kept, Viewer(None), (at,), age_ms)
        return Again(given, kept.shown)

    def of_nobody(self, query: Query, viewer: Viewer) -> Again | None:
        """The slate that whoever is unknown gets to this; but not those of whom a rule speaks."""
        if self._has_rules_for(query.user_id):
            return None
        key = self._cache.key_of(query, is_anonymous=True)
        kept = None if key is None else self._cache.get(key)
        if kept is None:
            return None
        metrics.CACHE_LOOKUPS["anonymous"].inc()
        for reason in viewer.degraded:
            metrics.DEGRADED.labels(reason).inc()
        given = partial(self._given, query, kept, viewer, (), wire.UNKNOWN_VIEWER_MS)
        return Again(given, kept.shown)

    def key_of(self, query: Query, viewer: Viewer) -> Key | None:
        """Where to keep the answer to a query, once it is made; None: nowhere.

        To be asked before it is made: what is invalidated meanwhile is not kept.
        """
        is_unplaced = viewer.row is not None and viewer.row["partition"][0] < 0
        is_of_nobody = viewer.row is None
        if viewer.degraded or is_unplaced:
            return None
        if is_of_nobody and self._has_rules_for(query.user_id):
            return None
        return self._cache.key_of(query, is_anonymous=is_of_nobody)

    def _mind_the_time(self) -> None:
        """Lets go of all slates at the moment at which a rule or a title begins or ends."""
        now_ms = self._clock.now_ms()
        since_ms, until_ms = sorted((self._looked_ms, now_ms))
        self._looked_ms = now_ms
        if since_ms < self._edge_after_ms(since_ms) <= until_ms:
            self._cache.invalidate()

    def keep(
        self, key: Key, decision: Decision, viewer: Viewer, answer: bytes, shown: Ids
    ) -> Decision:
        """Keeps an answer, of which `answer` is what it says of the slate.

        Returns the decision with its slate as it is recorded, since that is written here.
        """
        body = wire.decision_body(decision.slate)
        if viewer.row is None:
            self._cache.put(key, of_nobody(decision.query), None, answer, body, shown)
        else:
            position = _position_of(viewer.row[0])
            self._cache.put(key, decision.query, position, answer, body, shown)
        return replace(decision, body=body)

    async def renew(self, recommender: Recommends) -> None:
        """Makes nobody's slates anew before they grow old; until it is cancelled."""
        ttl_s = self._cache.ttl_s
        while ttl_s > 0:
            await asyncio.sleep(ttl_s / 8)
            for key, kept in self._cache.due(RENEWED_AT, ASKED_WITHIN * ttl_s, MAX_RENEWED):
                self._make(recommender, key, kept.query)
                await asyncio.sleep(0)  # calls that wait come between

    def prepare(self, recommender: Recommends, query: Query) -> None:
        """Makes nobody's slate for a query, before anybody asks."""
        query = of_nobody(query)
        key = self._cache.key_of(query, is_anonymous=True)
        if key is not None:
            self._make(recommender, key, query)

    def _make(self, recommender: Recommends, key: Key, query: Query) -> None:
        try:
            slate = recommender.recommend(query, Viewer(None), self._clock.now_ms())
        except Exception:  # the next call for it meets the same, and tells its client
            log.exception("slate_not_renewed")
            return
        answer, decision = wire.answer_body(slate), wire.decision_body(slate)
        self._cache.put(key, query, None, answer, decision, shown_of(slate))

    def _given(
        self,
        query: Query,
        kept: KeptSlate,
        viewer: Viewer,
        included: tuple[Position, ...],
        state_age_ms: int,
    ) -> bytes:
        """The answer, and its record on its way."""
        missing = Slate((), "", "", 0, viewer.degraded)
        now_ms = self._clock.now_ms()
        decision = Decision(
            query, missing, now_ms, included, kept.decision, is_cached=True, shown=kept.shown
        )
        asyncio.get_running_loop().call_soon(self._record, decision)
        head = wire.answer_head(
            query.request_id,
            included,
            viewer,
            state_age_ms,
            self._items_age_ms(),
            degraded=viewer.degraded,
            cached_age_ms=self._cache.age_ms(kept),
        )
        return head + kept.answer


def _position_of(row: Row) -> RowPosition:
    return RowPosition(int(row["partition"]), int(row["offset"]), int(row["logged_at_ms"]))
