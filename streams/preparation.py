"""Before the flow reads: are the rows in Redis rows of this log? If not, all begins anew.

    delete rows -> group back to the beginning of the log -> new marker

In this order: a crash between two steps leaves a marker that is still missing or still refused, and
the next start begins again.
"""

import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition

from features.log import LogConfig, LogError
from features.redis_config import RedisConfig
from features.redis_store import HEX_DIGITS, RedisLink, packed
from features.store import Table
from streams.marker import (
    LogIdentity,
    Marker,
    RowsLostError,
    identity_of,
    layouts_of,
    marker_key,
)

SCAN_COUNT = 1_000
LOOK_EVERY_S = 0.05
TIMEOUT_S = 30.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Generation:
    """The rows that a flow goes on with, or begins."""

    marker: bytes
    began_empty: bool  # no row was there when it began


@dataclass(frozen=True, slots=True)
class Site:
    """Where rows and log are."""

    redis: RedisConfig
    log: LogConfig
    topic: str
    group: str
    tables: Sequence[Table]


def prepare_store(
    site: Site,
    loss: RowsLostError | None = None,
    *,
    process_index: int = 0,
    give_up: Callable[[], bool] = lambda: False,
) -> Generation:
    """Has the rows under the prefix fit the log, and returns what to expect there.

    `loss` is what ended the flow before in this process. Of the processes of one flow the first
    does the work; the others wait until it is done. Raises LogError, redis.RedisError.
    """
    link = RedisLink(site.redis, give_up=give_up)
    try:
        identity, layouts = identity_of(site.log, site.topic), layouts_of(site.tables)
        if process_index > 0:
            return _await_marker(site, link, identity, layouts, loss, give_up)
        found = read_marker(site.redis, link)
        reason = _objection(found, identity, layouts)
        if found is not None and reason is None and not _is_lost(found, loss):
            return Generation(found.encode(), began_empty=False)
        kept = loss.kept if loss is not None and found is None else frozenset()
        return _begin_anew(site, link, identity, found, reason or "Redis lost them", kept)
    finally:
        link.close()


def read_marker(redis: RedisConfig, link: RedisLink) -> Marker | None:
    """The marker under the prefix."""
    return Marker.decode(link.run([packed("GET", marker_key(redis))])[0])


def _objection(found: Marker | None, identity: LogIdentity, layouts: dict[str, str]) -> str | None:
    if found is None:
        return "no marker says what they are"
    return found.objection(identity, layouts)


def _is_lost(found: Marker, loss: RowsLostError | None) -> bool:
    """Whether these are still the rows that the flow before gave up."""
    return loss is not None and found.generation == loss.generation


def _await_marker(
    site: Site,
    link: RedisLink,
    identity: LogIdentity,
    layouts: dict[str, str],
    loss: RowsLostError | None,
    give_up: Callable[[], bool],
) -> Generation:
    while not give_up():
        found = read_marker(site.redis, link)
        is_fit = found is not None and found.objection(identity, layouts) is None
        if found is not None and is_fit and not _is_lost(found, loss):
            return Generation(found.encode(), began_empty=False)
        time.sleep(LOOK_EVERY_S)
    raise LogError("stopped while the first process was preparing the rows")


def _begin_anew(
    site: Site,
    link: RedisLink,
    identity: LogIdentity,
    found: Marker | None,
    reason: str,
    kept: Collection[str],
) -> Generation:
    """Deletes rows, takes the group back to the beginning, writes a new marker."""
    doomed = [table for table in site.tables if table.letter not in kept]
    n_deleted = delete_rows(site.redis, link, doomed)
    starts = rewind(site.log, site.topic, site.group)
    marker = new_marker(site, identity)
    link.run([packed("SET", marker_key(site.redis), marker.encode())])
    log.warning(
        "rows_begin_anew", reason=reason, rows_deleted=n_deleted, tables_kept=sorted(kept),
        log_begins_at=dict(starts), generation=marker.generation,
    )  # fmt: skip
    if any(starts.values()) or (found is not None and found.history):
        history = found.history if found is not None else ""
        log.warning("rows_lack_what_the_log_no_longer_holds", history=history)
    return Generation(marker.encode(), began_empty=not kept)


def new_marker(site: Site, identity: LogIdentity, history: str = "") -> Marker:
    """A marker of a generation of its own."""
    return Marker(identity, layouts_of(site.tables), uuid.uuid4().hex, history=history)


def delete_rows(redis: RedisConfig, link: RedisLink, tables: Sequence[Table]) -> int:
    """Deletes every row of these tables under the prefix, and nothing else; how many."""
    heads = tuple(redis.key_head(table) for table in tables)
    cursor, n_deleted = b"0", 0
    while True:
        scan = packed("SCAN", cursor, "MATCH", f"{redis.prefix}:?:*", "COUNT", SCAN_COUNT)
        cursor, keys = link.run([scan])[0]
        rows = [k for k in keys if k.startswith(heads) and len(k) == len(heads[0]) + HEX_DIGITS]
        if rows:
            n_deleted += link.run([packed("UNLINK", *rows)])[0]
        if cursor == b"0":
            return n_deleted


def rewind(log_config: LogConfig, topic: str, group: str) -> Mapping[int, int]:
    """Commits for a group that nothing of a topic has been read; where its partitions begin."""
    consumer = Consumer(log_config.consumer(group))
    try:
        partitions = sorted(consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions)
        starts = {
            p: max(consumer.get_watermark_offsets(TopicPartition(topic, p), TIMEOUT_S)[0], 0)
            for p in partitions
        }
        commit(consumer, topic, starts)
        return starts
    except KafkaException as error:
        raise LogError(f"{topic}: {group} cannot be taken back: {error.args[0].str()}") from error
    finally:
        consumer.close()


def commit(consumer: Consumer, topic: str, offsets: Mapping[int, int]) -> None:
    """Commits offsets and waits until the broker has them. Raises LogError."""
    wanted = [TopicPartition(topic, p, at) for p, at in offsets.items()]
    for done in consumer.commit(offsets=wanted, asynchronous=False) or ():
        if done.error is not None:
            raise LogError(f"{topic}/{done.partition}: offset not committed: {done.error.str()}")
