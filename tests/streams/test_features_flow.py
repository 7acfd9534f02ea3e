"""The features flow as its users see it: what goes into the log, what becomes of it.

One process per broker serves the whole module; each test has viewers and titles of its own.
"""

import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Event

import numpy as np
import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from features import item_row, user_row
from features.codec import encode_catalog_item, encode_interaction, encode_interaction_json
from features.compiled import Row, Rows
from features.events import CatalogItem, Interaction
from features.global_rates import DEFAULT_PRIORS
from features.ids import id_hash, key_hash, viewer_hash
from features.item_updates import decode_update
from features.log import CONTENT_TYPE, JSON_TYPE, Headers, LogConfig, LogWriter, read_to_end
from features.position import Position
from features.redis_config import RedisConfig
from features.store import ITEMS, USERS
from features.vocabulary import EventType
from infra.embedded import ChildServer, EmbeddedRedis
from infra.topics import DEFAULT_PARTITIONS
from streams.dead_letters import MAX_KEY_BYTES, MAX_VALUE_BYTES
from streams.kafka import KafkaReader
from tests.apache_kafka import REPOSITORY
from tests.flows import FeaturesSite, random_interactions, wait_until
from tests.oracle import clean_replay, differences, stored

HOUR_MS = 3_600_000
JSON_HEADERS: Headers = [(CONTENT_TYPE, JSON_TYPE)]
SMOOTHED = ("item_click_rate", "item_completion_rate", "item_like_share", "item_trending")
GROUPS_TOOL = REPOSITORY.parent / "shared" / "kafka" / "tool"


@dataclass
class Running:
    """A site whose features process runs, and what the tests ask of it."""

    site: FeaturesSite
    process: ChildServer
    writer: LogWriter  # takes records that are larger than what our own producers send

    @property
    def interactions(self) -> str:
        return self.site.topic("interactions")

    def write(
        self,
        value: bytes | None,
        key: bytes | None,
        headers: Headers = (),
        partition: int = -1,
    ) -> Position:
        """Writes a raw record; where it lies."""
        found: list[Position | None] = []
        self.writer.append(
            self.interactions,
            key,
            value,
            headers=headers,
            partition=partition,
            delivered=lambda position, _: found.append(position),
        )
        self.writer.flush()
        assert found[0] is not None
        return found[0]

    def apply(self, *sent: Interaction) -> None:
        """Sends interactions and returns when they, and all before them, have had their effect.

        A partition's events take effect in order: those behind them show that they have.
        """
        self.site.send(list(sent))
        behind = {}
        for user_id in MARKERS:
            marker = click(user_id, event_id=f"marker-{time.monotonic_ns()}")
            behind[user_id] = self.write(encode_interaction(marker), user_id.encode()).offset
        wait_until(lambda: all(self.user(name)["offset"] >= at for name, at in behind.items()))

    def user(self, user_id: str) -> Row:
        ids = np.array([viewer_hash(user_id)], np.uint64)
        return stored(self.site.redis, USERS, ids)[0]

    def item(self, item_id: str) -> Row:
        return stored(self.site.redis, ITEMS, np.array([id_hash(item_id)], np.uint64))[0]

    def records_of(self, topic: str, key: bytes) -> list[Message]:
        return [m for m in read_to_end(self.site.log, self.site.topic(topic)) if m.key() == key]


def partition_of(user_id: str) -> int:
    return key_hash(user_id) % DEFAULT_PARTITIONS


# A viewer in each partition.
MARKERS = list({partition_of(name): name for name in (f"marker-{k}" for k in range(40))}.values())


@pytest.fixture(scope="module", params=["embedded", "kafka"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    fixture = {"embedded": "embedded_broker", "kafka": "apache_kafka"}[request.param]
    log = LogConfig(request.getfixturevalue(fixture).bootstrap)
    folder = tmp_path_factory.mktemp("features-flow")
    prefix = f"{folder.name}-{time.time_ns()}-"
    large: dict[str, str | int | float | bool] = {
        "message.max.bytes": 16 << 20,
        "compression.type": "gzip",
    }
    writer = LogWriter(log, **large)
    with EmbeddedRedis() as redis:
        site = FeaturesSite(log, RedisConfig(redis.url, prefix=prefix), prefix, folder)
        with site.running() as process:
            yield Running(site, process, writer)


def user_columns(row: Row, now_ms: int | None = None) -> dict[str, float]:
    out = np.empty(user_row.N_COLUMNS, np.float32)
    user_row.values(row, now_ms or now(), out)
    return dict(zip(user_row.NAMES, out.tolist(), strict=True))


def item_columns(row: Row, now_ms: int | None = None) -> dict[str, float]:
    out = np.empty(item_row.N_COLUMNS, np.float32)
    item_row.values(row, now_ms or now(), DEFAULT_PRIORS, out)
    return dict(zip(item_row.NAMES, out.tolist(), strict=True))


def now() -> int:
    return time.time_ns() // 1_000_000


def click(user_id: str, item_id: str = "i1", **fields: object) -> Interaction:
    """A click a little while ago, with an event id that says whose it is."""
    made = Interaction(f"{user_id}-{item_id}", user_id, item_id, EventType.CLICK, now() - 1_000)
    return replace(made, **fields)  # type: ignore[arg-type]


def wrong_rows(running: Running, user_ids: Sequence[str]) -> list[str]:
    """Where the rows of these viewers differ from a clean replay."""
    expected = clean_replay(running.site.log, running.interactions, running.site.titles())["u"]
    ids = [viewer_hash(user_id) for user_id in user_ids]
    rows = expected[np.isin(expected["id"], np.array(ids, np.uint64))]
    assert len(rows) == len(ids)
    return differences(rows, stored(running.site.redis, USERS, rows["id"]))


# What a producer may send


def test_protobuf_and_json_have_the_same_effect(running):
    sent = [
        click("form"),
        click("form", "i2", type=EventType.RATE, rating=8.5, slot=3, region="DE"),
        click("form", "i3", type=EventType.PROGRESS, watch_position_s=600, watch_duration_s=6_000),
    ]
    forms = {
        "protobuf": lambda event: (encode_interaction(event), ()),
        "json": lambda event: (encode_interaction_json(event), ()),
        "header": lambda event: (b"\n " + encode_interaction_json(event), JSON_HEADERS),
    }
    for form, encode in forms.items():
        for event in sent:
            value, headers = encode(replace(event, user_id=f"form-{form}"))
            running.write(value, f"form-{form}".encode(), headers)
    running.apply()
    rows = [running.user(f"form-{form}") for form in forms]
    for group in ("remembered_events", "activity", "taste", "viewing"):
        assert len({row[group].tobytes() for row in rows}) == 1
    assert user_columns(rows[0])["user_events_total"] == 3


@pytest.mark.parametrize("times", [2, 1_000])
def test_an_event_sent_many_times_takes_effect_once(running, times):
    name = f"again-{times}"
    running.apply(*[click(name, name)] * times)
    assert user_columns(running.user(name))["user_events_total"] == 1
    assert item_columns(running.item(name))["item_engaged_total"] == 1
    assert wrong_rows(running, [name]) == []


def test_events_out_of_order_count_where_they_belong(running, rng):
    at_ms = now()
    ages_h = rng.permutation(48).tolist()
    running.apply(
        *(click("late", f"late-{h}", occurred_at_ms=at_ms - h * HOUR_MS - 1) for h in ages_h)
    )
    columns = user_columns(running.user("late"), at_ms)
    assert columns["user_events_total"] == 48
    assert 21 <= columns["user_clicks_24h"] <= 24  # in buckets of three hours
    assert wrong_rows(running, ["late"]) == []


def test_of_events_of_one_millisecond_the_last_in_the_log_wins(running, rng):
    at_ms = now() - 5_000
    items = [f"i{k}" for k in rng.permutation(20)]
    running.apply(*(click("burst", item, occurred_at_ms=at_ms) for item in items))
    row = running.user("burst")
    assert row["viewing"]["titles"]["item"][:20].tolist() == [id_hash(i) for i in items[::-1]]
    assert user_columns(row)["user_events_total"] == 20
    assert wrong_rows(running, ["burst"]) == []


@pytest.mark.parametrize("time_ms", [0, -1, -(2**62), 2**62, 253_402_300_799_000])
def test_an_absurd_time_counts_as_now_and_the_next_event_still_counts(running, time_ms):
    name = f"absurd-{time_ms}"
    running.apply(click(name, name, occurred_at_ms=time_ms))
    assert user_columns(running.user(name))["user_clicks_1h"] == 1
    running.apply(click(name, "i2"))
    assert user_columns(running.user(name))["user_clicks_1h"] == 2
    assert wrong_rows(running, [name]) == []


def test_an_item_that_the_catalogue_does_not_know_is_accepted(running):
    running.apply(click("stranger", "of-no-catalogue", type=EventType.LIKE))
    assert user_columns(running.user("stranger"))["user_events_total"] == 1
    assert item_columns(running.item("of-no-catalogue"))["item_engaged_total"] == 1


@pytest.mark.parametrize("key", [None, b"", b"of-somebody-else"])
def test_a_record_in_a_wrong_partition_moves_to_its_users_and_counts_once(running, key):
    name = f"moved-{key}"
    home = partition_of(name)
    value = encode_interaction(click(name, name))
    running.write(value, key, [("trace", b"7")], (home + 1) % DEFAULT_PARTITIONS)

    def has_moved() -> bool:
        return bool(running.user(name)["offset"] >= 0)

    wait_until(has_moved)
    running.apply(click(name, name))  # a duplicate, sent as it should be
    row = running.user(name)
    assert row["partition"] == home
    assert user_columns(row)["user_events_total"] == 1
    assert item_columns(running.item(name))["item_engaged_total"] == 1
    copies = [m for m in read_to_end(running.site.log, running.interactions) if m.value() == value]
    moved = [message for message in copies if message.partition() == home and message.headers()]
    assert [(m.key(), m.headers()) for m in moved] == [(key, [("trace", b"7")])]


# What no event is


GOOD = click("poison")
MESSAGE = encode_interaction(GOOD)
BAD_RECORDS: dict[str, tuple[bytes | None, Headers, str]] = {
    "random bytes": (bytes(np.random.default_rng(1).bytes(300)), (), "not a Interaction"),
    "truncated protobuf": (MESSAGE[:-3], (), "not a Interaction as protobuf"),
    "JSON cut short": (encode_interaction_json(GOOD)[:-5], (), "not a Interaction as JSON"),
    "JSON of something else": (b'{"colour": "red"}', (), "not a Interaction as JSON"),
    "JSON that is no object": (b"[1, 2]", JSON_HEADERS, "not a Interaction as JSON"),
    "deep JSON": (b'{"context":' * 30_000 + b"{}", (), "at most 65536 bytes"),
    "deep JSON within the limit": (b'{"context":' * 5_000, (), "not a Interaction as JSON"),
    "unknown type": (encode_interaction(replace(GOOD, type=99)), (), "interaction.type"),  # type: ignore[arg-type]
    "no type": (encode_interaction(replace(GOOD, type=EventType(0))), (), "interaction.type"),
    "rating too high": (encode_interaction(replace(GOOD, rating=42.0)), (), "within 0..10; got 42"),
    "rating not a number": (
        encode_interaction(replace(GOOD, rating=float("nan"))),
        (),
        "interaction.rating must be within 0..10; got nan",
    ),
    "rating missing": (
        encode_interaction(replace(GOOD, type=EventType.RATE)),
        (),
        "interaction.rating is required",
    ),
    "no user": (
        encode_interaction(replace(GOOD, user_id="")),
        (),
        "interaction.user_id is required",
    ),
    "tombstone": (None, (), "got no value"),
    "empty value": (b"", (), "got no value"),
    "invalid UTF-8": (MESSAGE.replace(b"poison", b"poi\xff\xfeo"), (), "not a Interaction"),
    "invalid UTF-8 in JSON": (b'{"event_id": "\xff"}', (), "not a Interaction as JSON"),
    "a megabyte": (bytes(1_040_000), (), "at most 65536 bytes"),
    "a megabyte of noise": (bytes(np.random.default_rng(2).bytes(1_040_000)), (), "at most 65536"),
}


@pytest.fixture(scope="module")
def poisoned(running: Running) -> dict[str, tuple[Position, list[Message]]]:
    """Every bad record, sent: where it lies, and the dead letters under its key."""
    lie_at = {
        name: running.write(value, f"poison {name}".encode(), headers)
        for name, (value, headers, _) in BAD_RECORDS.items()
    }
    running.site.wait_until_applied()
    letters = list(read_to_end(running.site.log, running.site.topic("dead-letters")))
    return {
        name: (position, [m for m in letters if m.key() == f"poison {name}".encode()])
        for name, position in lie_at.items()
    }


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_a_bad_record_becomes_one_dead_letter(poisoned, name):
    value, _, reason = BAD_RECORDS[name]
    position, letters = poisoned[name]
    assert len(letters) == 1
    headers = dict(letters[0].headers())
    assert letters[0].value() == value
    assert reason in headers["reason"].decode()
    assert headers["topic"].decode() == position.topic
    assert (int(headers["partition"]), int(headers["offset"])) == (
        position.partition,
        position.offset,
    )


def test_a_record_too_large_for_a_dead_letter_leaves_its_beginning_there(running):
    value = bytes(np.random.default_rng(3).bytes(1_000)) * 10_000  # ten megabytes, compressible
    key = b"bomb" * 25_000
    running.write(value, key)
    running.site.wait_until_applied()
    letters = running.records_of("dead-letters", key[:MAX_KEY_BYTES])
    assert len(letters) == 1
    assert value.startswith(letters[0].value())
    assert len(letters[0].value()) == MAX_VALUE_BYTES
    headers = dict(letters[0].headers())
    assert (headers["key_bytes"], headers["value_bytes"]) == (b"100000", b"10000000")


@pytest.mark.usefixtures("poisoned")
def test_events_behind_bad_records_take_effect(running):
    users = [f"behind-{k}" for k in range(40)]
    assert {partition_of(user) for user in users} == set(range(DEFAULT_PARTITIONS))
    running.apply(*(click(user, "behind") for user in users))
    assert {user_columns(running.user(user))["user_events_total"] for user in users} == {1}
    assert item_columns(running.item("behind"))["item_engaged_total"] == 40
    assert wrong_rows(running, users) == []


# What follows from events


def test_a_title_that_changes_while_the_flow_runs_enriches_later_events(running):
    for genre in ("War", "Western"):
        title = CatalogItem("changing", "Changing", 1999, (genre,))
        running.writer.append(
            running.site.topic("catalog"), b"changing", encode_catalog_item(title)
        )
        running.writer.flush()
        column = f"user_taste_{genre.lower()}"
        tries = iter(range(1_000_000))

        def has_taste(
            genre: str = genre, column: str = column, tries: Iterator[int] = tries
        ) -> bool:
            """Likes the title once more; the flow looks for changes with every batch."""
            name = f"fan-of-{genre}"
            liked = click(name, "changing", type=EventType.LIKE, event_id=f"{genre}-{next(tries)}")
            running.apply(liked)
            return user_columns(running.user(name))[column] > 0

        wait_until(has_taste)
    assert user_columns(running.user("fan-of-Western"))["user_year_mean"] == 1999


def test_item_updates_hold_the_columns_of_the_stored_rows(running, rng):
    running.apply(*random_interactions(rng, 500, now() - 10**7, tag="updates"))
    wait_until(lambda: outdated_titles(running) == [])


def outdated_titles(running: Running) -> list[int]:
    """Titles whose newest update does not hold the columns of their row at the update's time.

    The rates of genres move on meanwhile: what is smoothed by them need only be near.
    """
    smoothed = np.isin(item_row.NAMES, SMOOTHED)
    newest: dict[int, tuple[int, Rows]] = {}
    for message in read_to_end(running.site.log, running.site.topic("item-updates")):
        update = decode_update(message.value())
        for id_, values in zip(update.ids.tolist(), update.values, strict=True):
            newest[id_] = update.now_ms, values
    touched = clean_replay(running.site.log, running.interactions, running.site.titles())["i"]
    assert len(touched) > 60
    outdated = []
    for row in stored(running.site.redis, ITEMS, touched["id"]):
        now_ms, values = newest.get(int(row["id"]), (0, None))
        expected = np.empty(item_row.N_COLUMNS, np.float32)
        item_row.values(row, now_ms, DEFAULT_PRIORS, expected)
        if (
            values is None
            or not np.array_equal(values[~smoothed], expected[~smoothed])
            or not np.allclose(values[smoothed], expected[smoothed], rtol=1.0, atol=0.5)
        ):
            outdated.append(int(row["id"]))
    return outdated


# What operators see


def ends_of(running: Running) -> dict[int, int]:
    """Offsets behind the last record of each partition, by reading all of them."""
    ends = dict.fromkeys(range(DEFAULT_PARTITIONS), 0)
    for message in read_to_end(running.site.log, running.interactions):
        ends[message.partition()] = message.offset() + 1
    return ends


def test_the_groups_committed_offsets_are_the_ends_of_the_log_when_idle(running, rng):
    running.apply(*random_interactions(rng, 100, now() - 10**7, tag="offsets"))
    running.site.wait_until_applied()
    group = f"{running.site.prefix}features"
    admin = AdminClient({"bootstrap.servers": running.site.log.bootstrap})
    answers = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
    found = answers[group].result(timeout=10).topic_partitions
    assert {p.partition: p.offset for p in found if p.topic == running.interactions} == ends_of(
        running
    )


def test_kafkas_own_tool_shows_the_group_without_lag(running, rng, request):
    if "kafka" not in request.node.callspec.id or not GROUPS_TOOL.exists():
        pytest.skip("Kafka's tool and the embedded broker do not go together, or it is not here")
    running.apply(*random_interactions(rng, 100, now() - 10**7, tag="tool"))
    running.site.wait_until_applied()
    assert lags_by_tool(running) == dict.fromkeys(range(DEFAULT_PARTITIONS), 0)


def lags_by_tool(running: Running) -> Mapping[int, int]:
    """Lag by partition, as `kafka-consumer-groups --describe` prints it."""
    group = f"{running.site.prefix}features"
    server = ["--bootstrap-server", running.site.log.bootstrap]
    answer = subprocess.run(
        [GROUPS_TOOL, "groups", *server, "--describe", "--group", group],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = re.findall(
        rf"{re.escape(running.interactions)}\s+(\d+)\s+\d+\s+\d+\s+(\d+)", answer.stdout
    )
    return {int(partition): int(lag) for partition, lag in lines}


def test_sigterm_ends_the_process_cleanly_with_everything_committed(running, rng):
    ended = False
    try:
        running.site.send(random_interactions(rng, 2_000, now() - 10**7, tag="term"))
        running.apply(click("last"))
        running.site.send([click("last", "i2")])
        wait_until(lambda: user_columns(running.user("last"))["user_events_total"] == 2)
        running.process.stop()
        ended = True
        assert running.process.exit_status == 0
        assert running.site.committed() == ends_of(running)
        assert wrong_rows(running, ["last"]) == []
    finally:
        if ended:
            running.process.start()


def test_a_reader_commits_the_rest_only_when_told_to_stop(running, topic_prefix):
    """Bytewax closes sources after a crash too, when sinks have not taken what was read."""
    running.apply(click("crash"))
    committed = {}
    for told in (False, True):
        stop, group = Event(), f"{topic_prefix}{told}"
        log, partitions = running.site.log, list(range(DEFAULT_PARTITIONS))
        reader = KafkaReader(log, running.interactions, group, partitions, stop, lambda: None)
        wait_until(lambda reader=reader: bool(reader.next_batch()))
        if told:
            stop.set()
            with pytest.raises(StopIteration):
                reader.next_batch()
        reader.close()
        consumer = Consumer(log.consumer(group))
        wanted = [TopicPartition(running.interactions, p) for p in partitions]
        committed[told] = [p.offset for p in consumer.committed(wanted, timeout=10)]
        consumer.close()
    assert max(committed[False]) < 0
    assert max(committed[True]) > 0
