"""`headrace backfill`: builds all rows in this process, then leaves the log to the features flow.

    history -> the flow's own shards -> rows, titles before viewers -> offsets -> marker

The marker comes last: if the backfill ends before, the next start of the flow finds none and
builds the rows from the log alone.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from features.clock import WallClock
from features.compiled import Rows
from features.log import LogConfig, end_offsets
from features.redis_store import RedisLink, packed
from features.store import ITEMS, USERS
from infra import topics
from infra.bootstrap import partition_rows, site_of
from infra.history import (
    ArchiveHistory,
    BackfillError,
    DatasetHistory,
    History,
    Places,
    none_missing,
)
from infra.settings import Settings
from offline.datasets import Dataset, Selection
from streams.catalogue import TitleFollower
from streams.erasures import LedgerFollower
from streams.features import FlowParts, ItemShard, RowWrites, Topics, UserShard, drop_shard
from streams.lease import Lease
from streams.marker import identity_of, marker_key
from streams.preparation import Site, commit, delete_rows, new_marker, read_marker
from streams.row_writer import RowWriter

BATCH = 10_000
TIMEOUT_S = 30.0

Progress = Callable[[int, int], None]  # events built, events in all


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What was built, and where the flow goes on."""

    source: str
    events: int
    seconds: float
    handover: Places

    @property
    def events_per_s(self) -> float:
        """How fast it went."""
        return self.events / max(self.seconds, 1e-9)


def backfill_dataset(
    settings: Settings,
    dataset: Dataset,
    selection: Selection,
    progress: Progress,
    *,
    replace: bool = False,
) -> Backfilled:
    """Rows of a dataset, as history from before the log, all of which the flow reads after it.

    Raises BackfillError, LeaseError, LogError.
    """
    site = site_of(settings)
    begins, _ = log_span(site.log, site.topic)
    history = DatasetHistory(dataset, selection, begins, len(begins))
    return _backfill(settings, site, history, progress, replace=replace)


def backfill_archive(
    settings: Settings,
    folder: Path,
    until_ms: int | None,
    progress: Progress,
    *,
    replace: bool = False,
) -> Backfilled:
    """Rows of the log's archive, up to where it ends; the flow goes on at the next record.

    Raises BackfillError, LeaseError, LogError.
    """
    site = site_of(settings)
    begins, ends = log_span(site.log, site.topic)
    follower = TitleFollower(site.log, settings.kafka.prefix + topics.CATALOG)
    follower.close()
    history = ArchiveHistory(folder, until_ms, follower.titles, len(begins))
    history.handover = none_missing(history.handover, len(begins), begins)
    for partition, at in history.handover.items():
        if not begins[partition] <= at <= ends[partition]:
            raise BackfillError(
                f"archive must end where the log goes on: partition {partition} at an offset "
                f"within {begins[partition]}..{ends[partition]}; got {at}"
            )
        if partition not in history.begins and begins[partition] > 0:
            raise BackfillError(f"archive lacks partition {partition}, whose beginning is gone")
    return _backfill(settings, site, history, progress, replace=replace)


def log_span(log: LogConfig, topic: str) -> tuple[Places, Places]:
    """Where the partitions of a topic begin and end. Raises LogError."""
    partitions = range(identity_of(log, topic).partitions)
    consumer = Consumer(log.consumer("headrace-span"))
    try:
        begins = {
            p: max(consumer.get_watermark_offsets(TopicPartition(topic, p), TIMEOUT_S)[0], 0)
            for p in partitions
        }
    finally:
        consumer.close()
    return begins, end_offsets(log, topic, partitions)


def _backfill(
    settings: Settings, site: Site, history: History, progress: Progress, *, replace: bool
) -> Backfilled:
    with Lease(site.redis, "a backfill") as lease:
        link = RedisLink(site.redis)
        try:
            _clear(site, link, replace=replace)
            started_s = time.monotonic()
            _build(settings, site, history, progress, lease.check)
            seconds = time.monotonic() - started_s
            lease.check()
            _hand_over(site, link, history)
        finally:
            link.close()
    return Backfilled(history.name, len(history), seconds, history.handover)


def _clear(site: Site, link: RedisLink, *, replace: bool) -> None:
    """Deletes the marker and every row. Raises BackfillError where they are of use to the flow."""
    if not replace and read_marker(site.redis, link) is not None:
        raise BackfillError(
            f"rows are there already under the prefix {site.redis.prefix}; --replace deletes them"
        )
    link.run([packed("DEL", marker_key(site.redis))])
    delete_rows(site.redis, link, site.tables)


def _build(
    settings: Settings,
    site: Site,
    history: History,
    progress: Progress,
    check: Callable[[], None],
) -> None:
    """Runs the events through the flow's shards and writes what comes out."""
    stream = settings.stream
    follower = LedgerFollower(site.log, settings.kafka.prefix + topics.ERASURES)
    follower.close()
    writer = RowWriter(site.redis)
    parts = FlowParts(
        log=site.log,
        topics=Topics(site.topic, "", ""),
        group=site.group,
        n_partitions=identity_of(site.log, site.topic).partitions,
        titles=history.titles,
        clock=WallClock(),
        user_rows=lambda: writer.cache(USERS, stream.user_rows),
        item_rows=lambda: writer.cache(ITEMS, stream.item_rows),
        partition_rows=partition_rows(settings, writer),
        write_rows=writer.write,
        settle=writer.settle,
        stop=Event(),
    )
    size = min(BATCH, stream.user_rows // 4, stream.item_rows // 4)  # two epochs fit the caches
    users, items = UserShard(parts), ItemShard(parts)
    n_built = 0
    for events in history.batches(size, follower.ledger):
        check()
        writes = _through(users, items, events) if len(events) else []
        for write in writes:
            history.settle(write.rows)
        if writes:
            writer.write(writes)
        users.snapshot()
        items.snapshot()
        n_built += len(events)
        progress(n_built, len(history))
    writer.close()


def _through(users: UserShard, items: ItemShard, events: Rows) -> list[RowWrites]:
    """The rows that a batch of events changes."""
    for_items, _ = users.on_batch([events])
    changes: Any
    changes, _ = items.on_batch([drop_shard(keyed) for keyed in for_items])
    return [change for change in changes if isinstance(change, RowWrites)]


def _hand_over(site: Site, link: RedisLink, history: History) -> None:
    """Commits where the flow is to go on, then says what the rows are."""
    consumer = Consumer(site.log.consumer(site.group))
    try:
        commit(consumer, site.topic, history.handover)
    finally:
        consumer.close()
    marker = new_marker(site, identity_of(site.log, site.topic), history.name)
    link.run([packed("SET", marker_key(site.redis), marker.encode())])
