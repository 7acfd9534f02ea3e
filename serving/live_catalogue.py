"""Keeps the server's catalogue current from the topic `catalog`, without a restart.

Records are read, and what costs time is worked out, on a thread of its own; the table is changed in
the event loop, a few titles at a time, so nothing changes during a request. Where the room for new
titles is used up a bigger table, and all that hangs on it, is made beside the old one and put in
its place between two requests.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Final

import structlog
from confluent_kafka import Message

from features.clock import Clock
from features.codec import WireError
from features.content import content_vector
from features.log import LogConfig
from serving import metrics
from serving.catalogue import (
    LEAST_ROOM,
    NEVER,
    Catalogue,
    CatalogueTable,
    Change,
    TableError,
    change_of,
)
from serving.shelf import Shelf
from serving.tail import Tail

BATCH: Final = 50  # titles changed between two requests: about 1 ms
WAIT_S: Final = 0.05
NO_CHANGE_YET: Final = -1.0

log = structlog.get_logger(__name__)

Call = Callable[[Callable[[], None]], "Future[None]"]  # runs a function between two requests


@dataclass(slots=True)
class ChangeCounts:
    """What was met since the server started."""

    applied: int = 0
    broken: int = 0  # records that are no title, or that the table cannot take
    grown: int = 0  # times that a bigger table was made


@dataclass(frozen=True, slots=True)
class _Served:
    """Where changes go, and how."""

    shelf: Shelf
    call: Call


def room_for(n_titles: int) -> int:
    """Free slots behind so many titles.

    >>> room_for(0), room_for(100_000)
    (4096, 25000)
    """
    return max(LEAST_ROOM, n_titles // 4)


class LiveCatalogue:
    """Reads the catalogue, then follows it on a thread of its own."""

    def __init__(
        self,
        config: LogConfig,
        topic: str,
        clock: Clock,
        room_for: Callable[[int], int] = room_for,
    ) -> None:
        """`clock` is the wall clock: delays are told by it."""
        self._room_for = room_for
        self.counts = ChangeCounts()
        self._catalogue = Catalogue(config, topic)
        self._clock = clock
        self._tail = Tail(config, topic, "catalogue", self._read, self._take)
        self._read_changes: dict[str, Change] | None = None
        self._served: _Served | None = None
        self._changed_s: float | None = None

    def read(self) -> CatalogueTable:
        """The table as the log has it now, with room. Raises LogError or KafkaException."""
        self._tail.begin()
        found = self._read_changes or {}
        self._read_changes = None
        self._count_broken(self._catalogue.broken)
        items = (change.item for change in found.values() if change.item is not None)
        added_ms = {change.item_id: change.at_ms for change in found.values()}
        return CatalogueTable.of(items, added_ms, self._room_for(len(found)))

    def follow(self, shelf: Shelf, call: Call) -> None:
        """Brings to the shelf what has come since `read`, and goes on; `call` as its type says."""
        self._served = _Served(shelf, call)
        metrics.CATALOGUE_TITLES.set_function(lambda: shelf.table.n_titles)
        metrics.CATALOGUE_AGE.set_function(self._age_s)
        self._tail.follow()

    def stop(self) -> None:
        """Ends the thread; it takes as long as one look at the log."""
        self._tail.stop()

    def is_alive(self) -> bool:
        """Whether the catalogue is being followed."""
        return self._tail.is_alive()

    def _age_s(self) -> float:
        return NO_CHANGE_YET if self._changed_s is None else time.monotonic() - self._changed_s

    def _read(self) -> None:
        """The whole topic: at first for `read`, later because another log is there."""
        found = self._catalogue.changes()
        if self._served is None:
            self._read_changes = found
            return
        table = self._served.shelf.table
        gone = (
            id_ for id_ in table.item_ids if id_ not in found and table.slot_of(id_) is not None
        )
        self._apply(self._served, [*found.values(), *(Change(id_, None, NEVER) for id_ in gone)])

    def _take(self, messages: list[Message]) -> None:
        if self._served is not None:
            self._apply(self._served, self._changes_of(messages))

    def _changes_of(self, messages: Iterable[Message]) -> Iterator[Change]:
        """What messages say; one that is no title is counted and left behind."""
        for message in messages:
            try:
                yield change_of(message)
            except WireError as error:
                log.warning("bad_catalog_record", reason=str(error), offset=message.offset())
                self._count_broken(1)

    def _apply(self, served: _Served, changes: Iterable[Change]) -> None:
        """Brings changes to the shelf, some at a time, waiting for each part."""
        prepared, shelf = map(_with_content, changes), served.shelf
        while not self._tail.is_stopping() and (part := list(islice(prepared, BATCH))):
            self._make_room(served, sum(change.item is not None for change in part))
            slots: list[int] = []
            self._do(served, partial(self._change, shelf, part, slots))
            if afterwards := shelf.settle(slots):
                self._do(served, afterwards)
            self._note(part)

    def _make_room(self, served: _Served, n: int) -> None:
        """Sees to it that `n` titles find room."""
        table = served.shelf.table
        if n > table.room:
            self._do(served, served.shelf.prepare(max(self._room_for(table.n_used), n)))
            self.counts.grown += 1
            log.info("catalogue_grown", slots=len(served.shelf.table))

    def _do(self, served: _Served, function: Callable[[], None]) -> None:
        """Runs a function between requests and waits for it; no longer when it is time to stop."""
        future = served.call(function)
        while not wait([future], WAIT_S).done:
            if self._tail.is_stopping():
                return
        future.result()

    def _change(self, shelf: Shelf, part: Iterable[Change], slots: list[int]) -> None:
        """Between requests: takes titles in and out. Fills `slots` with those of the first."""
        for change in part:
            if change.item is None:
                shelf.table.remove(change.item_id)
                continue
            try:
                slots.append(shelf.table.put(change.item, change.at_ms, change.content))
            except TableError as error:
                log.warning("catalog_record_refused", reason=str(error))
                self._count_broken(1)

    def _note(self, part: list[Change]) -> None:
        self._changed_s = time.monotonic()
        self.counts.applied += len(part)
        metrics.CATALOGUE_CHANGES.inc(len(part))
        now_ms = self._clock.now_ms()
        for change in part:
            if change.at_ms != NEVER:
                metrics.CATALOGUE_DELAY.observe(max(now_ms - change.at_ms, 0) / 1_000)

    def _count_broken(self, n: int) -> None:
        self.counts.broken += n
        metrics.CATALOGUE_BROKEN.inc(n)


def between_requests(loop: asyncio.AbstractEventLoop) -> Call:
    """Runs functions in the event loop of the server, where a request is one step."""

    def call(function: Callable[[], None]) -> "Future[None]":
        future: Future[None] = Future()

        def run() -> None:
            try:
                function()
            except BaseException as error:
                future.set_exception(error)
                raise
            future.set_result(None)

        loop.call_soon_threadsafe(run)
        return future

    return call


def _with_content(change: Change) -> Change:
    if change.item is None:
        return change
    return replace(change, content=content_vector(change.item))
