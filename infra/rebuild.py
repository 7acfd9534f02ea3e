"""`headrace rebuild`: has the features flow build all rows anew, and shows how far it is."""

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from confluent_kafka import Consumer, KafkaException, TopicPartition

from features.log import LogError, end_offsets
from features.redis_store import RedisLink, packed
from infra.bootstrap import site_of
from infra.settings import Settings
from streams.lease import holder_of
from streams.marker import Marker, marker_key
from streams.preparation import Site, read_marker

LOOK_EVERY_S = 0.1
GIVE_UP_AFTER_S = 5.0
BEGIN_TIMEOUT_S = 120.0
LOG_TIMEOUT_S = 10.0
NOBODY_RUNS = 3  # exit status: asked for, but no features process is there to do it


class RebuildError(Exception):
    """A rebuild did not begin, or did not go on."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What became of the request."""

    is_asked: bool  # false: no rows are marked, so the next start builds them all anyway
    is_done: bool
    has_process: bool
    events: int = 0
    seconds: float = 0.0


Progress = Callable[[int, int], None]  # records read, records in all


def rebuild(settings: Settings, *, wait: bool, progress: Progress) -> Rebuilt:
    """Asks for the rebuild; with `wait` returns when the group has read all the log held then.

    Raises RebuildError when the features process does not take it up, or ends.
    """
    site = site_of(settings)
    link = RedisLink(site.redis, give_up_after_s=GIVE_UP_AFTER_S)
    try:
        asked = ask(site, link)
        has_process = holder_of(site.redis) is not None
        if not (wait and has_process):
            return Rebuilt(asked is not None, is_done=False, has_process=has_process)
        started_s = time.monotonic()
        _await_beginning(site, link, asked)
        events = follow(site, progress)
        return Rebuilt(True, True, True, events, time.monotonic() - started_s)
    finally:
        link.close()


def ask(site: Site, link: RedisLink) -> Marker | None:
    """Writes the request into the marker; the marker as it was, None where there is none."""
    found = read_marker(site.redis, link)
    if found is not None:
        asking = replace(found, request=uuid.uuid4().hex)
        link.run([packed("SET", marker_key(site.redis), asking.encode(), "XX")])
    return found


def _await_beginning(site: Site, link: RedisLink, before: Marker | None) -> None:
    """Returns when rows of another generation have begun."""
    deadline_s = time.monotonic() + BEGIN_TIMEOUT_S
    while time.monotonic() < deadline_s:
        found = read_marker(site.redis, link)
        is_new = found is not None and (before is None or found.generation != before.generation)
        if found is not None and is_new and not found.request:
            return
        _insist_on_process(site)
        time.sleep(LOOK_EVERY_S)
    raise RebuildError(f"the features process has not begun within {BEGIN_TIMEOUT_S:g} s")


def follow(site: Site, progress: Progress) -> int:
    """Returns the number of records read, once the group has committed all that the log holds."""
    consumer = Consumer(site.log.consumer(site.group))
    try:
        partitions = sorted(
            consumer.list_topics(site.topic, LOG_TIMEOUT_S).topics[site.topic].partitions
        )
        starts = {p: _beginning(consumer, site.topic, p) for p in partitions}
        ends = end_offsets(site.log, site.topic, partitions)
        total = sum(max(ends[p] - starts[p], 0) for p in partitions)
        while True:
            at = committed(consumer, site.topic, starts)
            progress(sum(min(at[p], ends[p]) - starts[p] for p in partitions), total)
            if all(at[p] >= ends[p] for p in partitions):
                return total
            _insist_on_process(site)
            time.sleep(LOOK_EVERY_S)
    except KafkaException as error:
        raise LogError(f"{site.topic}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _beginning(consumer: Consumer, topic: str, partition: int) -> int:
    low, _ = consumer.get_watermark_offsets(TopicPartition(topic, partition), LOG_TIMEOUT_S)
    return max(int(low), 0)


def committed(consumer: Consumer, topic: str, starts: Mapping[int, int]) -> dict[int, int]:
    """Offset that the group has committed in each partition, its beginning where there is none."""
    found = consumer.committed([TopicPartition(topic, p) for p in starts], LOG_TIMEOUT_S)
    return {tp.partition: max(tp.offset, starts[tp.partition]) for tp in found}


def _insist_on_process(site: Site) -> None:
    if holder_of(site.redis) is None:
        raise RebuildError(
            "the features process has ended; the rebuild goes on when it is started again"
        )
