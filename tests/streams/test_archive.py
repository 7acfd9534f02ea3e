"""Every record of the log lies in the lake once, as it was, whatever happens to the archive."""

import json
import resource
import threading
import time

import psutil
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Consumer, TopicPartition
from headrace.v1 import events_pb2

from features import lake
from features.codec import encode_erasure, encode_interaction, encode_interaction_json
from features.erasure import Erasure
from features.events import Interaction
from features.history import ledger_of
from features.lake import LakeError, LogIdentity
from features.log import CONTENT_TYPE, JSON_TYPE, LogConfig
from features.vocabulary import EventType
from streams.archive import IMPRESSION_COLUMNS, LakeWriter, rows_of
from tests.archives import ArchiveSite
from tests.clock import START_MS
from tests.flows import random_interactions, wait_until

DAY_MS = 86_400_000


@pytest.fixture
def site(any_broker, topic_prefix, tmp_path):
    return ArchiveSite(LogConfig(any_broker), topic_prefix, tmp_path)


@pytest.fixture
def small_site(broker, topic_prefix, tmp_path):
    return ArchiveSite(LogConfig(broker), topic_prefix, tmp_path)


def impression(request_id, n_slots):
    slots = [
        events_pb2.SlateSlot(
            item_id=f"i{k}", source="week", arm="ranker", propensity=1.0, score=0.5 - k,
            cause_item_id="i9", features=[k, 0.25],
        )
        for k in range(n_slots)
    ]  # fmt: skip
    return events_pb2.Impression(
        request_id=request_id, user_id="ann", profile_id="kids", served_at_ms=START_MS, slots=slots,
        bundle_version="b1", feature_version="f1", degraded=["redis"], n_candidates=7,
        included=[events_pb2.Position(topic="interactions", partition=3, offset=41)],
    ).SerializeToString()  # fmt: skip


def send_everything(site, rng, n, tag=""):
    """Events as protobuf and JSON, nonsense, records without key or value, and slates."""
    topic = site.topic("interactions")
    for k, event in enumerate(random_interactions(rng, n, START_MS, tag=f"e{tag}-")):
        key, headers = event.user_id.encode(), ()
        value = encode_interaction(event)
        if k % 10 == 3:
            value, headers = encode_interaction_json(event), [(CONTENT_TYPE, JSON_TYPE)]
        if k % 50 == 7:
            value, headers = b"\x00nonsense", [("trace", b"\xff\x00"), ("trace", b"")]
        if k % 200 == 11:
            key = None
        if k % 200 == 12:
            value = None
        site.writer.append(topic, key, value, headers=headers)
        if k % 7 == 0:
            slate = impression(f"r{tag}{k}", k % 4)
            site.writer.append(site.topic("impressions"), b"ann", slate)
        if k % 100 == 0:
            site.writer.append(site.topic("catalog"), f"i{k}".encode(), b"title")
    site.writer.flush()


def assert_lake_is_the_log(site):
    for table in (lake.INTERACTIONS, lake.CATALOG):
        assert site.archived(table) == site.logged(table)
    slates = lake.table_of(site.lake, lake.IMPRESSIONS, ["partition", "offset", "slot"]).to_pylist()
    expected = [
        {"partition": partition, "offset": offset, "slot": slot}
        for partition, offset, _, _, value, _ in site.logged(lake.IMPRESSIONS)
        for slot in range(len(events_pb2.Impression.FromString(value).slots)) or [None]
    ]
    assert slates == expected


@pytest.mark.slow
def test_every_record_is_in_the_lake_once_after_kills_under_load(site, rng):
    delays_s = rng.uniform(0.05, 1.0, 5)
    done = threading.Event()

    def send_slowly():
        for round_ in range(20):
            send_everything(site, rng, 200, str(round_))
            time.sleep(0.05)  # a load, spread over the kills
        done.set()

    sender = threading.Thread(target=send_slowly)
    sender.start()
    with site.process() as process:
        for delay_s in delays_s:
            time.sleep(delay_s)  # the kill point itself, not a wait for something
            process.restart()
        sender.join()
        assert done.is_set()
        for table in (lake.INTERACTIONS, lake.IMPRESSIONS, lake.CATALOG):
            site.wait_until_archived(table)
    assert_lake_is_the_log(site)
    assert list(site.lake.rglob("*.tmp")) == []
    assert len(lake.files_of(site.lake, lake.INTERACTIONS)) > 4


@pytest.mark.slow
def test_files_alone_say_where_a_restart_goes_on(small_site, rng):
    site = small_site
    send_everything(site, rng, 1_000)
    with site.process() as process:
        site.wait_until_archived(lake.INTERACTIONS)
        wait_until(lambda: sum(committed(site).values()) >= 1_000)  # for Kafka's own tools
        process.stop()
        forget = [TopicPartition(site.topic("interactions"), p, 0) for p in range(4)]
        commit(site, forget)
        send_everything(site, rng, 300, "later")
        process.start()
        site.wait_until_archived(lake.INTERACTIONS)
        site.wait_until_archived(lake.IMPRESSIONS)
    assert_lake_is_the_log(site)


def test_stopping_writes_what_waits(small_site, rng):
    small_site.flush_s = 3_000
    send_everything(small_site, rng, 300)
    with small_site.process() as process:
        wait_until(lambda: small_site.n_waiting() == n_logged(small_site))
        assert lake.files_of(small_site.lake, lake.INTERACTIONS) == []
        process.stop()
    assert_lake_is_the_log(small_site)


@pytest.mark.slow
def test_a_disk_that_is_full_ends_the_archive_with_one_clear_line_and_loses_nothing(
    small_site, rng
):
    site = small_site
    with site.process() as process:
        _, most = psutil.Process(process.pid).rlimit(resource.RLIMIT_FSIZE)
        psutil.Process(process.pid).rlimit(resource.RLIMIT_FSIZE, (12_000, most))
        send_everything(site, rng, 3_000)
        assert process.wait(60) == 1
        text = process.log_path.read_text()
        assert "cannot be written" in text
        assert "Traceback" not in text
        process.start()
        for table in (lake.INTERACTIONS, lake.IMPRESSIONS, lake.CATALOG):
            site.wait_until_archived(table)
    assert_lake_is_the_log(site)


def test_a_folder_that_cannot_be_written_is_named(small_site):
    small_site.lake.parent.mkdir(exist_ok=True)
    small_site.lake.write_text("a file")
    answer = small_site.run_to_its_end()
    assert answer.returncode == 1
    assert f"{small_site.lake} cannot be written" in answer.stderr.replace("\n", "")


def test_a_second_archive_of_one_lake_is_refused(small_site):
    with small_site.process():
        answer = small_site.run_to_its_end()
    assert answer.returncode == 1
    assert "another archive writes to" in answer.stderr


def test_a_lake_of_another_log_is_refused(small_site):
    other = LogIdentity("another", {"interactions": "interactions"}, {"interactions": 4})
    lake.claim(small_site.lake, other)
    answer = small_site.run_to_its_end()
    assert answer.returncode == 1
    assert "holds another log: cluster another" in answer.stderr


class Given:
    """A record as the log's client gives it."""

    def __init__(self, offset, value, at_ms=START_MS, topic="interactions"):
        self._said = offset, value, at_ms, topic

    def __len__(self):
        return len(self._said[1] or b"")

    def topic(self):
        return self._said[3]

    def partition(self):
        return 2

    def offset(self):
        return self._said[0]

    def key(self):
        return b"ann"

    def value(self):
        return self._said[1]

    def headers(self):
        return None

    def timestamp(self):
        return 2, self._said[2]


@pytest.fixture
def writer(tmp_path):
    tables = {"interactions": lake.INTERACTIONS, "impressions": lake.IMPRESSIONS}
    return LakeWriter(tmp_path, tables, flush_s=3_000, rows_per_file=10)


def names(folder, table=lake.INTERACTIONS):
    return [f"{file.path.parent.name}/{file.path.name}" for file in lake.files_of(folder, table)]


def test_a_file_holds_one_day_and_a_limited_number_of_records(writer, tmp_path):
    midnight = (START_MS // DAY_MS + 1) * DAY_MS
    writer.take([[Given(k, b"x", midnight - 3 + k) for k in range(12)]])
    assert [name.split("/")[1] for name in names(tmp_path)] == ["2-0-2.parquet", "2-3-9.parquet"]
    writer.flush()
    assert [name.split("/")[1] for name in names(tmp_path)][2:] == ["2-10-11.parquet"]
    days = [name.split("/")[0] for name in names(tmp_path)]
    assert days[0] < days[1] == days[2]
    assert writer.durable == {("interactions", 2): 12}


def test_a_record_waits_no_longer_than_the_setting_says(tmp_path):
    now_s = [0.0]
    writer = LakeWriter(
        tmp_path, {"interactions": lake.INTERACTIONS}, flush_s=60, rows_per_file=1_000,
        monotonic_s=lambda: now_s[0],
    )  # fmt: skip
    writer.take([[Given(0, b"x")]])
    now_s[0] = 59.0
    writer.take([[Given(1, b"x")]])
    assert names(tmp_path) == []
    now_s[0] = 60.0
    writer.flush_if_due()
    assert [name.split("/")[1] for name in names(tmp_path)] == ["2-0-1.parquet"]


def test_what_waits_is_bounded_in_bytes(writer, tmp_path, monkeypatch):
    monkeypatch.setattr("streams.archive.MAX_WAITING_BYTES", 5_000)
    writer.take([[Given(0, b"x" * 5_000)]])
    assert len(names(tmp_path)) == 1


def test_a_gap_in_the_offsets_of_a_compacted_topic_stays_a_gap(writer, tmp_path):
    writer.take([[Given(3, b"x"), Given(9, b"x")]])
    writer.flush()
    assert lake.next_offsets(tmp_path, lake.INTERACTIONS) == {2: 10}


def test_columns_for_people_stand_beside_the_raw_ones():
    event = Interaction("e1", "ann", "tt1", EventType.RATE, START_MS, rating=7.5, slot=3)
    rows = rows_of(
        lake.INTERACTIONS, [Given(5, encode_interaction(event)), Given(6, b"\xff"), Given(7, None)]
    ).to_pylist()
    assert (rows[0]["event_id"], rows[0]["type"]) == ("e1", "rate")
    assert rows[0]["rating"] == 7.5
    assert rows[0]["slot"] == 3
    assert rows[0]["device"] == "unspecified"
    for row, value in zip(rows[1:], (b"\xff", None), strict=True):
        assert row["value"] == value
        assert row["event_id"] is None
        assert row["type"] is None


def test_values_beyond_what_an_event_may_have_stop_nothing():
    strange = [
        events_pb2.Interaction(
            type=kind, slot=2**32 - 1, rating=float("nan"), occurred_at_ms=-(2**63),
            context=events_pb2.Context(device=77, page=-5),
        ).SerializeToString()
        for kind in range(90, 400)
    ]  # fmt: skip
    rows = rows_of(lake.INTERACTIONS, [Given(k, value) for k, value in enumerate(strange)])
    assert rows["type"].to_pylist() == [str(kind) for kind in range(90, 400)]
    assert rows["slot"][0].as_py() == 2**32 - 1
    assert (rows["device"][0].as_py(), rows["page"][0].as_py()) == ("77", "-5")
    slate = events_pb2.Impression(
        served_at_ms=2**63 - 1, n_candidates=2**32 - 1, context=events_pb2.Context(device=99),
        included=[events_pb2.Position(partition=2**31 - 1, offset=2**63 - 1)],
    ).SerializeToString()  # fmt: skip
    (row,) = rows_of(lake.IMPRESSIONS, [Given(0, slate)]).drop(["event_timestamp"]).to_pylist()
    assert (row["served_at_ms"], row["device"]) == (2**63 - 1, "99")


def test_an_impression_becomes_a_row_for_each_slot():
    rows = rows_of(lake.IMPRESSIONS, [Given(5, impression("r1", 2)), Given(6, impression("r2", 0))])
    first, second, empty = rows.to_pylist()
    assert (first["slot"], second["slot"], empty["slot"]) == (0, 1, None)
    assert second["features"] == [1.0, 0.25]
    assert (second["item_id"], second["score"], second["cause_item_id"]) == ("i1", -0.5, "i9")
    assert first["event_timestamp"].timestamp() * 1_000 == first["served_at_ms"] == START_MS
    assert (first["included_partition"], first["included_offset"]) == (3, 41)
    assert (first["profile_id"], first["bundle_version"]) == ("kids", "b1")
    assert first["degraded"] == ["redis"]
    assert empty["request_id"] == "r2"


def test_a_record_that_is_no_impression_keeps_its_bytes():
    (row,) = rows_of(lake.IMPRESSIONS, [Given(5, b"\xff\xff")]).to_pylist()
    assert row["undecodable"] == b"\xff\xff"
    assert {name for name, value in row.items() if value is not None} == {
        "partition", "offset", "logged_at_ms", "undecodable",
    }  # fmt: skip
    assert set(row) == {name for name, _ in IMPRESSION_COLUMNS}


def test_files_that_hold_the_same_record_are_refused(writer, tmp_path):
    writer.take([[Given(k, b"x") for k in range(5)]])
    writer.flush()
    (file,) = lake.files_of(tmp_path, lake.INTERACTIONS)
    file.path.with_name("2-4-6.parquet").write_bytes(file.path.read_bytes())
    with pytest.raises(LakeError, match="must not hold the same records"):
        lake.files_of(tmp_path, lake.INTERACTIONS)


def test_a_file_that_is_no_parquet_file_is_named(writer, tmp_path):
    writer.take([[Given(0, b"x")]])
    writer.flush()
    (file,) = lake.files_of(tmp_path, lake.INTERACTIONS)
    file.path.write_bytes(b"nonsense")
    with pytest.raises(LakeError, match=r"2-0-0.parquet cannot be read"):
        list(lake.read_records(tmp_path, lake.INTERACTIONS, 2))


def test_reading_begins_at_an_offset_and_goes_in_batches(writer, tmp_path):
    writer.take([[Given(k, b"%d" % k) for k in range(25)]])
    writer.flush()
    batches = lake.read_records(tmp_path, lake.INTERACTIONS, 2, start=8, batch_rows=4)
    offsets = [[record.offset() for record in batch] for batch in batches]
    assert [offset for batch in offsets for offset in batch] == list(range(8, 25))
    assert max(map(len, offsets)) == 4


def test_a_lake_says_which_log_it_holds(small_site, rng):
    send_everything(small_site, rng, 50)
    with small_site.process():
        small_site.wait_until_archived(lake.INTERACTIONS)
    identity = lake.identity_of(small_site.lake)
    assert identity.partitions == {
        "interactions": 4, "impressions": 4, "outcomes": 1, "catalog": 1, "erasures": 1,
    }  # fmt: skip
    assert identity.topics["interactions"] == small_site.topic("interactions")
    assert json.loads((small_site.lake / "log.json").read_text())["cluster_id"]
    file = lake.files_of(small_site.lake, lake.INTERACTIONS)[0]
    assert pq.read_metadata(file.path).num_rows > 0


def test_the_lake_knows_who_was_erased(small_site):
    erasure = Erasure(77, 3, 41, START_MS)
    small_site.writer.append(small_site.topic("erasures"), erasure.key, encode_erasure(erasure))
    small_site.writer.append(small_site.topic("erasures"), b"nonsense", b"x")
    small_site.writer.flush()
    with small_site.process():
        small_site.wait_until_archived(lake.ERASURES)
    ledger = ledger_of(small_site.lake)
    assert ledger.knows(erasure)
    assert len(ledger) == 1


def test_a_lake_from_before_a_table_gets_it_and_keeps_what_it_is(tmp_path):
    before = LogIdentity("c", {"catalog": "x-catalog"}, {"catalog": 1})
    after = LogIdentity("c", {**before.topics, "erasures": "x-e"}, {"catalog": 1, "erasures": 1})
    lake.claim(tmp_path, before)
    lake.claim(tmp_path, after)
    assert lake.identity_of(tmp_path) == after
    other = LogIdentity("c", {**after.topics, "catalog": "y-catalog"}, after.partitions)
    with pytest.raises(LakeError, match="holds another log"):
        lake.claim(tmp_path, other)


def n_logged(site):
    tables = (lake.INTERACTIONS, lake.IMPRESSIONS, lake.CATALOG)
    return sum(len(site.logged(table)) for table in tables)


def committed(site):
    consumer = Consumer(site.log.consumer(f"{site.prefix}archive"))
    try:
        topic = site.topic("interactions")
        found = consumer.committed([TopicPartition(topic, p) for p in range(4)], timeout=10)
        return {place.partition: max(place.offset, 0) for place in found}
    finally:
        consumer.close()


def commit(site, offsets):
    consumer = Consumer(site.log.consumer(f"{site.prefix}archive"))
    consumer.commit(offsets=offsets, asynchronous=False)
    consumer.close()
