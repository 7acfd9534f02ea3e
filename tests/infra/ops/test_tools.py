"""The tools of those on call, against a real log and a real store."""

import io
import threading
from dataclasses import replace

import pytest
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console

from features import user_row
from features.codec import encode_catalog_item, encode_interaction
from features.events import BadRecord, CatalogItem, Interaction
from features.ids import id_hash, key_hash, viewer_hash
from features.log import LogWriter, read_to_end
from features.redis_store import RedisLink, RedisRowStore
from features.store import USERS
from features.vocabulary import EventType
from infra import topics
from infra.ops import dead_letters, doctor, lag, tail, topic_plan, viewer
from infra.settings import Settings
from streams.dead_letters import dead_letter
from tests.clock import START_MS
from tests.features.examples import event, user_after
from tests.flows import wait_until

CLICK = Interaction("e1", "ann", "tt1", EventType.CLICK, occurred_at_ms=START_MS)


@pytest.fixture
def settings(broker, redis_url, topic_prefix, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_KAFKA__BOOTSTRAP", broker)
    monkeypatch.setenv("HEADRACE_KAFKA__PREFIX", topic_prefix)
    monkeypatch.setenv("HEADRACE_REDIS__URL", redis_url)
    monkeypatch.setenv("HEADRACE_STREAM__GROUP", f"{topic_prefix}features")
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    found = Settings()
    topics.ensure_topics({"bootstrap.servers": broker}, topics.topics(topic_prefix))
    return found


@pytest.fixture
def send(settings):
    writer = LogWriter(settings.kafka.log_config())

    def append(topic, key, value, **how):
        writer.append(settings.kafka.prefix + topic, key, value, **how)
        writer.flush()

    return append


def commit(settings, topic, offsets):
    consumer = Consumer(settings.kafka.log_config().consumer(settings.stream.group))
    name = settings.kafka.prefix + topic
    consumer.commit(
        offsets=[TopicPartition(name, p, at) for p, at in offsets.items()], asynchronous=False
    )
    consumer.close()


def test_lag_is_the_records_behind_what_was_committed(settings, send):
    for number in range(5):
        send(topics.INTERACTIONS, b"ann", encode_interaction(replace(CLICK, event_id=str(number))),
             partition=2)  # fmt: skip
    commit(settings, topics.INTERACTIONS, {0: 0, 1: 0, 2: 3, 3: 0})
    found = lag.lag_of(settings.kafka.log_config(), lag.flows_of(settings))
    of_features = {one.partition: one for one in found if one.flow == "features"}
    assert {p: one.lag for p, one in of_features.items()} == {0: 0, 1: 0, 2: 2, 3: 0}
    assert (of_features[2].end, of_features[2].committed) == (5, 3)
    assert of_features[2].seconds > 0
    assert of_features[0].seconds == 0
    assert all(one.is_unknown for one in found if one.flow == "attribution")
    text = io.StringIO()
    Console(file=text, width=160).print(lag.table_of(found, 1, 2))
    assert "unknown" in text.getvalue()


def test_tail_shows_the_newest_records_decoded_and_names_what_is_none(settings, send):
    for number in range(4):
        who = f"viewer{number}"
        send(topics.INTERACTIONS, who.encode(), encode_interaction(replace(CLICK, user_id=who)),
             partition=number)  # fmt: skip
    send(topics.INTERACTIONS, b"eve", b"\xff nonsense", partition=3)
    log, prefix = settings.kafka.log_config(), settings.kafka.prefix
    found = tail.newest(log, prefix + topics.INTERACTIONS, 3, prefix)
    assert [record["key"] for record in found] == ["viewer2", "viewer3", "eve"]
    assert found[0]["value"]["type"] == "click"
    assert "undecodable" in found[2]
    assert "viewer2" in tail.line_of(found[0])
    assert found[2]["bytes"].startswith("ff 20")
    assert "ff 20" in tail.line_of(found[2])


def test_tail_follows_what_comes(settings, send):
    log, prefix = settings.kafka.log_config(), settings.kafka.prefix
    stop, seen = threading.Event(), []

    def look():
        for record in tail.follow(log, prefix + topics.CATALOG, stop, prefix):
            seen.append(record["value"]["title"])
            stop.set()

    thread = threading.Thread(target=look)
    thread.start()
    number = 0
    while not stop.wait(0.2) and number < 100:  # it looks from its own beginning on
        send(topics.CATALOG, b"tt1", encode_catalog_item(CatalogItem("tt1", "Heat")))
        number += 1
    thread.join()
    assert seen == ["Heat"]


def put_letters(settings, send):
    log_topic = f"{settings.kafka.prefix}{topics.INTERACTIONS}"
    mended = encode_interaction(CLICK)
    letters = [
        ("interaction.rating must be within 0..10; got 42", mended, 7),
        ("interaction.rating must be within 0..10; got 17", mended, 9),
        ("not a protobuf message", b"\x00\x01nonsense", 11),
    ]
    for reason, value, place in letters:
        record = dead_letter(BadRecord(reason, log_topic, 1, place, b"ann", value), "")
        send(topics.DEAD_LETTERS, record.key, record.value, headers=record.headers)


def test_dead_letters_are_listed_by_kind_and_shown_with_their_bytes(settings, send):
    put_letters(settings, send)
    log, prefix = settings.kafka.log_config(), settings.kafka.prefix
    found = dead_letters.read(log, prefix)
    assert [letter.place for letter in found] == [7, 9, 11]
    assert len({letter.kind for letter in found}) == 2
    text = io.StringIO()
    Console(file=text, width=200).print(dead_letters.by_kind(found))
    assert "must be within" in text.getvalue()
    assert "00 01 6e 6f 6e" in dead_letters.hexdump(found[2].value)
    assert dead_letters.read(log, prefix, dead_letters.Choice(reason="rating")) == found[:2]
    assert dead_letters.read(log, prefix, dead_letters.Choice(producer="bob")) == []
    assert dead_letters.read(log, prefix, dead_letters.Choice(to_ms=1)) == []


def test_a_redrive_sends_each_once_and_a_dry_run_nothing(settings, send):
    put_letters(settings, send)
    log, prefix = settings.kafka.log_config(), settings.kafka.prefix
    chosen = dead_letters.read(log, prefix, dead_letters.Choice(reason="rating"))
    dry = dead_letters.redrive(log, prefix, chosen, dry_run=True)
    assert (dry.sent, dry.is_dry) == (2, True)
    assert not list(read_to_end(log, prefix + topics.INTERACTIONS))
    first = dead_letters.redrive(log, prefix, chosen, dry_run=False)
    second = dead_letters.redrive(log, prefix, dead_letters.read(log, prefix), dry_run=False)
    assert (first.sent, first.known) == (2, 0)
    assert (second.sent, second.known) == (1, 2)
    sent = list(read_to_end(log, prefix + topics.INTERACTIONS))
    assert len(sent) == 3
    assert {dict(record.headers())["headrace-redriven"] for record in sent} == {b"0", b"1", b"2"}
    assert {record.partition() for record in sent} == {key_hash("ann") % 4}


def test_the_plan_names_what_is_missing_and_applying_it_leaves_nothing(settings):
    other = settings.kafka.model_copy(update={"prefix": f"{settings.kafka.prefix}more-"})
    plan = topic_plan.plan_of(other)
    assert {change.what for change in plan} == {topic_plan.CREATE}
    assert topic_plan.apply(other, plan) == []
    assert topic_plan.plan_of(other) == []


def test_another_number_of_partitions_is_told_and_left_as_it_is(settings):
    other = settings.kafka.model_copy(update={"partitions": 8})
    plan = topic_plan.plan_of(other)
    assert {(change.what, change.found, change.wanted) for change in plan} == {
        (topic_plan.PARTITIONS, "4", "8")
    }
    assert topic_plan.apply(other, plan) == plan


def test_a_setting_that_differs_is_put_right_on_apache_kafka(apache_kafka, topic_prefix):
    kafka = Settings().kafka.model_copy(
        update={"bootstrap": apache_kafka.bootstrap, "prefix": topic_prefix}
    )
    wanted = topics.topics(topic_prefix)
    short = [replace(topic, retention_ms=60_000) if topic.name.endswith("outcomes") else topic
             for topic in wanted]  # fmt: skip
    topics.ensure_topics({"bootstrap.servers": apache_kafka.bootstrap}, short)
    plan = topic_plan.plan_of(kafka)
    assert [(change.what, change.found) for change in plan] == [("retention.ms", "60000")]
    assert topic_plan.apply(kafka, plan) == []
    wait_until(lambda: topic_plan.plan_of(kafka) == [])  # the controller knows before the broker


def test_a_viewer_is_shown_as_the_row_has_them(settings, send):
    send(topics.CATALOG, b"tt1", encode_catalog_item(CatalogItem("tt1", "Heat")))
    row = user_after(event(type=EventType.PLAY, item=id_hash("tt1")))
    row["id"] = viewer_hash("ann", "")
    redis = settings.redis.config()
    link = RedisLink(redis)
    RedisRowStore(link, USERS, redis).write(row)
    link.close()
    found = viewer.viewer_of(settings, "ann", now_ms=START_MS + 1)
    assert (found.partition, found.offset) == (0, 0)
    assert [(title.title, title.item_id) for title in found.titles] == [("Heat", "tt1")]
    assert found.features
    assert set(found.features) <= set(user_row.NAMES)
    text = io.StringIO()
    viewer.show(found, Console(file=text, width=140))
    assert "Heat" in text.getvalue()
    nobody = viewer.viewer_of(settings, "bob", now_ms=START_MS + 1)
    assert (nobody.partition, nobody.titles) == (-1, ())
    assert nobody.as_dict()["titles"] == []


def test_a_healthy_site_is_well_and_each_fault_has_a_remedy(settings):
    found = doctor.examine(settings)
    assert doctor.is_well(found)
    by_name = {finding.what: finding for finding in found}
    assert by_name["broker"].grade == by_name["redis"].grade == doctor.Grade.GOOD
    assert by_name["topics"].grade == doctor.Grade.GOOD
    away = settings.model_copy(
        update={
            "redis": settings.redis.model_copy(update={"url": "redis://127.0.0.1:1/0"}),
            "kafka": settings.kafka.model_copy(update={"prefix": "other-"}),
        }
    )
    ill = {finding.what: finding for finding in doctor.examine(away)}
    assert not doctor.is_well(list(ill.values()))
    assert ill["redis"].grade == ill["topics"].grade == doctor.Grade.BAD
    assert "headrace topics create" in ill["topics"].remedy
    assert all(finding.remedy for finding in ill.values() if finding.grade != doctor.Grade.GOOD)


def test_a_broken_bundle_is_found(settings, tmp_path):
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "current").write_text("no-such-version")
    by_name = {finding.what: finding for finding in doctor.examine(settings)}
    assert by_name["bundle"].grade == doctor.Grade.BAD
