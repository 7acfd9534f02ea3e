"""Rows built anew: when asked for, from the archive, from a dataset, after a viewer was erased."""

import json
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from confluent_kafka import TopicPartition

from features import lake
from features.codec import encode_erasure, encode_interaction
from features.erasure import Erasure, erase_event
from features.events import EVENT, NO_SLOT, CatalogItem
from features.ids import id_hashes, key_hash, viewer_hash
from features.lake import LakeRecord, LogIdentity
from features.log import LogConfig, read_to_end
from features.redis_config import RedisConfig
from features.store import ITEMS, USERS
from features.vocabulary import EventType
from infra.backfill import backfill_archive, backfill_dataset
from infra.history import BackfillError
from offline.datasets import EVERYTHING, EventColumns, Selection
from streams.lease import LeaseError
from tests.faults.load import load
from tests.flows import FeaturesSite, random_interactions, wait_until
from tests.oracle import clean_replay, differences, stored

START_MS = time.time_ns() // 1_000_000 - 10**8


@pytest.fixture
def site(broker, redis_url, topic_prefix, tmp_path):
    return FeaturesSite(
        LogConfig(broker), RedisConfig(redis_url, prefix=topic_prefix), topic_prefix, tmp_path
    )


@pytest.fixture
def headrace(site):
    """Runs a command of Headrace over the site."""

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "infra.cli", *words],
            env={**os.environ, **site.environment()},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    return run


def generation(site):
    with redis.Redis.from_url(site.redis.url) as client:
        return json.loads(client.get(f"{site.prefix}:rows") or b"{}").get("generation")


def test_a_rebuild_makes_all_rows_anew_under_load(site, headrace, rng):
    site.send(random_interactions(rng, 1_000, START_MS))
    with site.running() as process:
        site.wait_until_applied()
        pid, before = process.pid, generation(site)
        stray = f"{site.prefix}:u:{77:016x}"
        with redis.Redis.from_url(site.redis.url) as client, load(site, rng):
            client.set(stray, USERS.empty.tobytes())
            client.set(f"{site.prefix}:u:other", b"not a row of ours")
            done = headrace("rebuild", "--json")
            assert done.returncode == 0, done.stderr
            assert client.get(stray) is None
            assert client.get(f"{site.prefix}:u:other") is not None
        summary = json.loads(done.stdout)
        assert summary["is_done"]
        assert summary["events"] >= 1_000
        assert generation(site) != before
        site.wait_until_applied()
        assert site.wrong_rows() == []
        assert process.pid == pid


def test_a_rebuild_that_nobody_can_do_is_done_at_the_next_start(site, headrace, rng):
    site.send(random_interactions(rng, 300, START_MS))
    with site.running() as process:
        site.wait_until_applied()
        process.stop()
        before = generation(site)
        asked = headrace("rebuild")
        assert asked.returncode == 3
        assert "at its next start" in asked.stdout
        assert generation(site) == before
        process.start()
        wait_until(lambda: generation(site) != before)
        site.wait_until_applied()
        assert site.wrong_rows() == []


def archive(site, folder, stop):
    """Writes the first part of each partition as the archive has it: up to before `stop[p]`."""
    days = {}
    for record in read_to_end(site.log, site.topic("interactions")):
        if record.offset() < stop[record.partition()]:
            day = datetime.fromtimestamp(record.timestamp()[1] / 1_000, UTC).date().isoformat()
            days.setdefault(day, []).append(record)
    headers = pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))
    for day, records in days.items():
        target = folder / "interactions" / f"day={day}"
        target.mkdir(parents=True)
        for part in range(2):  # two files that overlap in partitions
            mine = records[part::2] + records[:5]  # and some records twice
            table = pa.table(
                {
                    "partition": pa.array([r.partition() for r in mine], pa.int16()),
                    "offset": pa.array([r.offset() for r in mine], pa.int64()),
                    "logged_at_ms": pa.array([r.timestamp()[1] for r in mine], pa.int64()),
                    "key": pa.array([r.key() for r in mine], pa.binary()),
                    "value": pa.array([r.value() for r in mine], pa.binary()),
                    "headers": pa.array([[] for _ in mine], headers),
                }
            )
            pq.write_table(table, target / f"{part}.parquet")


def test_archive_and_live_log_together_make_the_rows_of_the_whole_log(site, rng, tmp_path):
    site.send(random_interactions(rng, 2_000, START_MS))
    site.writer.append(site.topic("interactions"), b"u1", b"nonsense")
    site.writer.flush()
    stop = {0: 300, 1: 200, 2: 250, 3: 100}
    archive(site, tmp_path / "lake", stop)
    done = backfill_archive(site.settings(), tmp_path / "lake", None, lambda *_: None)
    assert done.handover == stop
    assert done.events == sum(stop.values())
    assert site.committed() == stop
    with site.running() as process:
        site.wait_until_applied()
        assert site.wrong_rows() == []
        with pytest.raises(LeaseError, match=f"process {process.pid} "):
            backfill_archive(site.settings(), tmp_path / "lake", None, lambda *_: None)
    with pytest.raises(BackfillError, match="--replace deletes them"):
        backfill_archive(site.settings(), tmp_path / "lake", None, lambda *_: None)


def test_a_viewer_whom_the_archive_knows_as_erased_does_not_come_back(site, rng, tmp_path):
    """Though the log's own ledger has lost the entry."""
    site.send(random_interactions(rng, 1_000, START_MS, n_users=20))
    folder, stop = tmp_path / "lake", dict.fromkeys(range(4), 100)
    archive(site, folder, stop)
    lake.claim(folder, LogIdentity("c", {}, {lake.INTERACTIONS: 4, lake.ERASURES: 1}))
    partition = key_hash("u3") % 4
    erasure = Erasure(viewer_hash("u3"), partition, stop[partition], START_MS)
    entry = LakeRecord(lake.ERASURES, 0, 0, START_MS, erasure.key, encode_erasure(erasure), [])
    rows = pa.table(lake.raw_columns([entry]), pa.schema(lake.RAW))
    lake.write_file(folder / lake.ERASURES / "day=2023-11-14", 0, 0, 0, rows)
    backfill_archive(site.settings(), folder, None, lambda *_: None)
    ids = np.array([viewer_hash("u3"), viewer_hash("u4")], np.uint64)
    erased, other = stored(site.redis, USERS, ids)[:, None]
    assert erased["offset"] >= 0
    assert learned(erased) == []
    assert learned(other)


def test_an_archive_with_a_hole_is_refused(site, rng, tmp_path):
    site.send(random_interactions(rng, 400, START_MS))
    archive(site, tmp_path / "lake", dict.fromkeys(range(4), 50))
    for path in (tmp_path / "lake").rglob("1.parquet"):
        path.unlink()
    with pytest.raises(BackfillError, match=r"archive lacks offset \d+ of partition 0"):
        backfill_archive(site.settings(), tmp_path / "lake", None, lambda *_: None)


class SmallDataset:
    """A few hundred events from before the log, of viewers and titles that the log knows too."""

    name = "small"

    def __init__(self, items: list[CatalogItem], rng: np.random.Generator) -> None:
        n = 800
        self._items = items
        self._events = EventColumns(
            user_ids=[f"u{k}" for k in range(60)],
            item_ids=[item.item_id for item in items],
            user=rng.integers(0, 60, n).astype(np.int32),
            item=rng.integers(0, len(items), n).astype(np.int32),
            type=rng.choice([EventType.CLICK, EventType.COMPLETE], n).astype(np.uint8),
            at_ms=np.arange(n) * 1_000 + START_MS - 10**9,
            source_time=np.arange(n),
            rating=np.full(n, -1.0, np.float32),
            watch_position_s=np.zeros(n, np.float32),
            watch_duration_s=np.zeros(n, np.float32),
        )

    def columns(self, selection: Selection = EVERYTHING) -> EventColumns:
        return self._events.select(selection)

    def interactions(self, selection: Selection = EVERYTHING):
        return self.columns(selection).interactions()

    def catalogue(self) -> list[CatalogItem]:
        return self._items


def history_of(site, dataset):
    """The dataset's events as a log before the log would hold them."""
    interactions = list(dataset.interactions())
    events = np.zeros(len(interactions), EVENT)
    for event, interaction in zip(events, interactions, strict=True):
        event["user"] = viewer_hash(interaction.user_id)
        event["key_hash"] = key_hash(interaction.user_id)
        event["type"], event["at_ms"] = interaction.type, interaction.occurred_at_ms
        event["rating"], event["slot"] = -1.0, NO_SLOT
    events["item"] = id_hashes(i.item_id for i in interactions)
    events["event"] = id_hashes(i.event_id for i in interactions)
    events["logged_at_ms"] = events["at_ms"]
    events["partition"] = events["key_hash"] % 4
    events["offset"] = np.arange(len(events))
    site.titles().enrich(events)
    return events


def test_dataset_and_live_log_together_make_the_rows_of_both(site, rng):
    dataset = SmallDataset(site.items, rng)
    done = backfill_dataset(site.settings(), dataset, EVERYTHING, lambda *_: None)
    assert done.handover == dict.fromkeys(range(4), 0)
    site.send(random_interactions(rng, 1_000, START_MS))
    with site.running():
        site.wait_until_applied()
        history = history_of(site, dataset)
        expected = clean_replay(
            site.log, site.topic("interactions"), site.titles(), history=history
        )
        for table in (USERS, ITEMS):
            rows = expected[table.letter]
            assert differences(rows, stored(site.redis, table, rows["id"])) == []


def learned(row):
    """What a viewer's row knows beside its place in the log and whom it is of."""
    return differences(row, fresh(row))


def fresh(row):
    empty = USERS.empty.copy()
    for name in ("id", "partition", "offset", "logged_at_ms", "next_remembered"):
        empty[name] = row[name]
    empty["remembered_events"] = row["remembered_events"]
    return empty


def test_an_erased_viewer_stays_forgotten_while_all_rows_are_built_anew(site, headrace, rng):
    viewer = np.array([viewer_hash("u3")], np.uint64)
    site.send(random_interactions(rng, 2_000, START_MS, n_users=20))
    with site.running():
        site.wait_until_applied()
        assert learned(stored(site.redis, USERS, viewer))
        with load(site, rng):
            erased = headrace("user", "erase", "u3")
            assert erased.returncode == 0, erased.stderr
        site.wait_until_applied()
        assert site.wrong_rows() == []  # with what came after the erasure, if anything did
        assert headrace("user", "erase", "u3").returncode == 0
        site.wait_until_applied()
        assert learned(stored(site.redis, USERS, viewer)) == []

        is_over, seen = threading.Event(), []

        def watch() -> None:
            while not is_over.is_set():
                seen.extend(learned(stored(site.redis, USERS, viewer)))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assert headrace("rebuild").returncode == 0
        finally:
            is_over.set()
            watcher.join()
        assert seen == []
        assert site.wrong_rows(are_rebuilt=True) == []


def test_an_erasure_without_its_entry_in_the_ledger_gets_one(site, rng):
    site.send(random_interactions(rng, 200, START_MS))
    event = erase_event("u4", "", START_MS)
    site.send([event])
    (end,) = [
        (r.partition(), r.offset())
        for r in read_to_end(site.log, site.topic("interactions"))
        if r.value() == encode_interaction(event)
    ]
    with site.running():
        site.wait_until_applied()
        entries = list(read_to_end(site.log, site.topic("erasures")))
    assert [entry.key() for entry in entries] == [b"%016x" % viewer_hash("u4")]
    assert TopicPartition("", *end).partition == key_hash("u4") % 4
