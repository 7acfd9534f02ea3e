"""Two topics as one log: the order of records, what is known of the time, and starting again."""

import dataclasses

import numpy as np
import pytest
from confluent_kafka import Consumer, TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from features.log import LogConfig, LogError, LogWriter, end_offsets
from infra import topics
from streams import merged_log
from streams.attribution import KnownOutcomes, key_of
from streams.merged_log import (
    ALLOWANCE_MS,
    HOLD_S,
    MAX_HOLD_S,
    NEVER_MS,
    Checkpoints,
    MergedReader,
    MergeParts,
    Note,
    PartitionMerge,
    Progress,
    Side,
    Start,
    read_starts,
)
from streams.open_slates import Attribution, AttributionRules
from tests.slates import END_OF_TIME_MS, HORIZON_MS, outcomes_of, random_logs, records

RULES = AttributionRules(horizon_ms=HORIZON_MS)


def merge_of(strict_ends=(0, 0), quiet_ends=(0, 0), quiet_until_ms=NEVER_MS, starts=(0, 0)):
    sides = tuple(
        Side(quiet_end=quiet_ends[s], read=starts[s], released=starts[s], strict_end=strict_ends[s])
        for s in (0, 1)
    )
    return PartitionMerge(0, sides, quiet_until_ms)


def arrive(merge, side, *times_ms, now_s=0.0):
    for record in records([(at_ms, b"x") for at_ms in times_ms]):
        merge.add(side, record, now_s)


def taken(merge, now_s=0.0, *, has_more=False):
    batch = merge.take(now_s, lambda _: has_more)
    if batch is None:
        return None
    return [r.at_ms for r in batch.first], [r.at_ms for r in batch.second]


def test_records_are_handed_on_in_the_order_of_their_time():
    merge = merge_of()
    arrive(merge, 0, 1, 5, 9)
    arrive(merge, 1, 2, 5, 6)
    assert taken(merge) == ([1, 5], [2, 5, 6])  # 9 waits: an interaction of 7 may come
    arrive(merge, 1, 8, 12)
    assert taken(merge) == ([9], [8])


def test_a_record_waits_briefly_for_a_topic_at_its_end_and_longer_for_one_that_has_more():
    merge = merge_of()
    arrive(merge, 1, 5)
    assert taken(merge, HOLD_S / 2) is None
    assert taken(merge, HOLD_S, has_more=True) is None
    assert taken(merge, HOLD_S) == ([], [5])
    arrive(merge, 1, 6, now_s=10.0)
    assert taken(merge, 10.0 + MAX_HOLD_S, has_more=True) == ([], [6])


def test_what_the_log_held_at_the_start_is_waited_for_however_long_it_takes():
    merge = merge_of(strict_ends=(1, 0))
    arrive(merge, 1, 5)
    assert taken(merge, 1e6) is None
    arrive(merge, 0, 3)
    assert taken(merge, 1e6) == ([3], [5])


def test_a_proof_of_the_end_lets_time_pass():
    merge = merge_of()
    merge.sides[0].proven_ms = merge.sides[1].proven_ms = 7_000
    batch = merge.take(0.0, lambda _: False)
    assert (batch.first, batch.second, batch.until_ms) == ([], [], 7_000)
    assert merge.take(0.0, lambda _: False) is None
    arrive(merge, 1, 9_000)
    merge.sides[0].proven_ms = 8_500
    assert merge.take(0.0, lambda _: False).until_ms == 8_500
    assert merge.progress == Progress((0, 0), 8_500, NEVER_MS)


def test_what_is_quiet_is_told_so_and_comes_first():
    merge = merge_of(strict_ends=(2, 2), quiet_ends=(1, 2), quiet_until_ms=50)
    arrive(merge, 0, 1, 60)
    arrive(merge, 1, 2)
    batches = [merge.take(0.0, lambda _: False)]
    assert merge.take(0.0, lambda _: False) is None  # the last of the quiet ones is on its way
    arrive_at_offset(merge, 1, 1, 40)
    batches += [merge.take(10.0, lambda _: False) for _ in range(3)]
    assert [(b.is_quiet, len(b.first), len(b.second), b.until_ms) for b in batches] == [
        (True, 1, 1, 2), (True, 0, 1, 40), (True, 0, 0, 50), (False, 1, 0, 50),
    ]  # fmt: skip


def arrive_at_offset(merge, side, offset, at_ms):
    record = records([(0, b"")] * offset + [(at_ms, b"x")])[offset]
    merge.add(side, record, 0.0)


@pytest.mark.parametrize("text", [None, "", "{}", "null", "[1]", '{"from": "x"}', "by hand"])
def test_a_note_that_is_not_ours_is_none(text):
    assert Note.read(text) is None


def test_checkpoints_go_back_far_enough_and_no_further():
    checkpoints = Checkpoints((3, 4), memory_ms=1_000)
    assert checkpoints.before(Progress((9, 9), 500, 500)) == (3, 4)
    for at_ms in range(0, 5_000, 100):
        checkpoints.add(Progress((10 + at_ms, 20 + at_ms), at_ms, at_ms))
    assert checkpoints.before(Progress((9_999, 9_999), 4_950, 4_990)) == (3_910, 3_920)


class Crash(Exception):  # noqa: N818 (no error of the code under test)
    """The process is gone."""


class SimulatedLog:
    """One partition of both topics and the log of learning, as time goes by; processes crash."""

    def __init__(self, rng):
        slates, interactions = random_logs(rng, 25)
        self.rng = rng
        self.topics = (records(slates), records(interactions))
        self.now_ms = 0
        self.outcomes = []
        self.commit = Start((0, 0), (0, 0), NEVER_MS, 0)

    def ends(self):
        return tuple(sum(r.at_ms <= self.now_ms for r in topic) for topic in self.topics)

    def run(self, steps, *, may_crash):
        """One process from its start; ends by a crash, or when steps are over."""
        merge = merge_of(self.ends(), self.commit.quiet_ends, self.commit.until_ms,
                         self.commit.offsets)  # fmt: skip
        checkpoints = Checkpoints(self.commit.offsets, RULES.memory_ms)
        attribution, ended = Attribution(RULES), None
        written = list(enumerate(self.outcomes))[self.commit.written :]
        known = KnownOutcomes((key_of(o), at, o.decided_at_ms) for at, o in written)
        for _ in range(steps):
            self.now_ms += int(self.rng.integers(0, 600))
            self._deliver(merge)
            batch = merge.take(self.now_ms / 1e3, self._has_more(merge))
            if batch is not None:
                self._write(attribution, known, batch, may_crash=may_crash)
            if self.rng.random() < 0.2 and not merge.is_quiet:
                if ended is not None:
                    self._commit(checkpoints, *ended)
                ended = merge.progress, known.first_offset(len(self.outcomes))
                checkpoints.add(merge.progress)
            if may_crash and self.rng.random() < 0.05:
                raise Crash

    def _deliver(self, merge):
        for side, (topic, end) in enumerate(zip(self.topics, self.ends(), strict=True)):
            mine = merge.sides[side]
            # What is in the log arrives before the patience of its counterpart ends.
            is_due = mine.read < end and topic[mine.read].at_ms < self.now_ms - 1_200
            arriving = topic[mine.read : end] if is_due or self.rng.random() < 0.7 else []
            for record in arriving:
                merge.add(side, record, self.now_ms / 1e3)
            if mine.read == end and not mine.waiting and self.rng.random() < 0.5:
                mine.proven_ms = max(mine.proven_ms, self.now_ms - ALLOWANCE_MS)

    def _has_more(self, merge):
        ends = self.ends()
        return lambda side: merge.sides[side].read < ends[side]

    def _write(self, attribution, known, batch, *, may_crash):
        for outcome in attribution.take(batch.first, batch.second, batch.until_ms):
            if not batch.is_quiet and not known.takes_out(outcome):
                self.outcomes.append(outcome)
                if may_crash and self.rng.random() < 0.02:
                    raise Crash

    def _commit(self, checkpoints, progress, written):
        self.commit = Start(
            checkpoints.before(progress), progress.offsets, progress.until_ms, written
        )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**9))
def test_crashes_at_any_point_leave_each_outcome_once(seed):
    world = SimulatedLog(np.random.default_rng(seed))
    for _ in range(12):
        try:
            world.run(60, may_crash=True)
        except Crash:
            continue
    world.now_ms = END_OF_TIME_MS >> 1
    world.run(200, may_crash=False)
    expected = outcomes_of(*world.topics, RULES)
    assert sorted(map(repr, world.outcomes)) == sorted(map(repr, expected))


@pytest.fixture
def merge_parts(any_broker, topic_prefix):
    wanted = tuple(topics.Topic(topic_prefix + name, 1) for name in ("a", "b"))
    config = LogConfig(any_broker)
    topics.ensure_topics({"bootstrap.servers": any_broker}, wanted)
    return parts_of(config, (wanted[0].name, wanted[1].name), topic_prefix + "group")


def parts_of(config, names, group, memory_ms=1_000):
    starts = read_starts(config, group, names, [0])
    return MergeParts(config, names, group, starts, memory_ms, lambda: 5, merged_log.Event())


def test_a_topic_that_runs_far_ahead_is_paused_and_everything_still_comes(merge_parts, monkeypatch):
    monkeypatch.setattr(merged_log, "MAX_QUEUED", 50)
    monkeypatch.setattr(merged_log, "RESUME_AT", 10)
    monkeypatch.setattr(merged_log, "MAX_BATCH", 40)
    first, second = merge_parts.topics
    writer = LogWriter(merge_parts.log)
    for k in range(3_000):
        writer.append(second, b"k", b"%d" % k)
    writer.flush()
    for k in range(10):
        writer.append(first, b"k", b"%d" % k)
    writer.flush()
    reader = MergedReader(merge_parts)
    came = ([], [])
    while len(came[0]) < 10 or len(came[1]) < 3_000:
        for batch in reader.next_batch():
            for values, side in zip(came, (batch.first, batch.second), strict=True):
                values.extend(int(record.value()) for record in side)
    reader.close()
    assert came == (list(range(10)), list(range(3_000)))


def test_commits_say_where_to_go_on_and_where_the_broker_keeps_notes_where_to_begin(merge_parts):
    parts = merge_parts
    writer = LogWriter(parts.log)
    for k in range(10):
        writer.append(parts.topics[k % 2], b"k", b"%d" % k)
    writer.flush()
    reader = MergedReader(parts)
    n = 0
    while n < 10:
        n += sum(len(batch.first) + len(batch.second) for batch in reader.next_batch())
    parts.stop.set()
    with pytest.raises(StopIteration):
        reader.next_batch()
    reader.close()
    consumer = Consumer(parts.log.consumer(parts.group))
    found = consumer.committed([TopicPartition(t, 0) for t in parts.topics], timeout=10)
    consumer.close()
    assert [place.offset for place in found] == [5, 5]
    (start,) = parts_of(parts.log, parts.topics, parts.group).starts.values()
    keeps_notes = Note.read(found[0].metadata) is not None
    assert start.offsets == (0, 0)
    assert start.quiet_ends == ((5, 5) if keeps_notes else (0, 0))
    assert start.written == (5 if keeps_notes else 0)
    assert end_offsets(parts.log, parts.topics[0], [0]) == {0: 5}


def test_a_log_that_is_shorter_than_what_was_committed_is_refused(merge_parts):
    starts = {0: Start((0, 0), (0, 7), 0, 0)}
    with pytest.raises(LogError, match="ends at 0, before the offset 7"):
        MergedReader(dataclasses.replace(merge_parts, starts=starts))
