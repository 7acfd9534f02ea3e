"""Feast answers with the numbers that the server computes, and changes nothing."""

import runpy
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from features import item_row, lake, user_row
from features.codec import encode_catalog_item
from features.covisitation import N_NEIGHBOURS
from features.events import EVENT, NO_RATING, CatalogItem
from features.global_rates import ALL, DEFAULT_PRIORS
from features.ids import id_hashes, viewer_hash
from features.lake import LakeRecord, LogIdentity
from features.partition_reads import read_neighbours, read_priors, read_segment
from features.popularity import popularity_of
from features.redis_config import RedisConfig
from features.redis_store import RedisLink, RedisRowStore
from features.registry import (
    ITEM_COLUMNS,
    LIST_VIEWS,
    USER_COLUMNS,
    VIEWS,
    feature_version,
    names_of,
    view_named,
)
from features.segment_popularity import N_TITLES
from features.store import COVISITATIONS, GLOBALS, ITEMS, SEGMENTS, USERS, Table
from features.vocabulary import GENRES, N_TYPES, EventType, genre_slot
from features.windows import DAY_MS
from tests.clock import START_MS
from tests.oracle import Replay

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of libraries that Feast brings along
    from feast import FeatureStore
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    from features.definitions import RANKING_SERVICE, Sources
    from features.feast_reads import ViewReader, hexadecimal, region_hash
    from features.feast_store import FixedClock, HeadraceOnlineStore, feature_store, write_repo

N_USERS, N_ITEMS, N_EVENTS = 40, 30, 4_000
USER_IDS = [f"user-{number}" for number in range(N_USERS)]
REGIONS = ("", "DE", "US-CA")
ITEM_IDS = [f"tt{number:07d}" for number in range(N_ITEMS)]


@dataclass
class World:
    """A Redis with rows of viewers and titles, the same rows in memory, and Feast over it."""

    config: RedisConfig
    store: FeatureStore
    link: RedisLink
    rows: dict[str, NDArray[np.void]] = field(default_factory=dict)

    @property
    def priors(self) -> NDArray[np.float32]:
        """The rates of genres that the rows in Redis tell."""
        return read_priors(self.stored(GLOBALS))

    def stored(self, table: Table) -> RedisRowStore:
        return RedisRowStore(self.link, table, self.config)

    def ask(self, features: Any, rows: list[dict[str, str]]) -> dict[str, list[Any]]:
        answer: dict[str, list[Any]] = self.store.get_online_features(features, rows).to_dict()
        return answer


def random_events(rng: np.random.Generator) -> NDArray[np.void]:
    events = np.zeros(N_EVENTS, EVENT)
    events["user"] = rng.choice(id_hashes(USER_IDS), N_EVENTS)
    events["item"] = rng.choice(id_hashes(ITEM_IDS), N_EVENTS)
    events["event"] = np.arange(1, N_EVENTS + 1)
    events["offset"] = np.arange(N_EVENTS)
    events["type"] = rng.integers(1, N_TYPES + 1, N_EVENTS)
    rated = events["type"] == EventType.RATE
    events["rating"] = np.where(rated, rng.integers(0, 21, N_EVENTS) / 2, NO_RATING)
    events["at_ms"] = np.sort(START_MS - rng.integers(0, 9 * DAY_MS, N_EVENTS))
    events["genres"] = rng.integers(1, 2**19, N_EVENTS)
    events["year"] = rng.integers(1930, 2024, N_EVENTS)
    events["region"] = rng.choice([region_hash(region) for region in REGIONS], N_EVENTS)
    return events


def rows_after(
    events: NDArray[np.void], table: Table, ids: list[str], key: str
) -> NDArray[np.void]:
    rows = np.repeat(table.empty, len(ids))
    rows["id"] = id_hashes(ids)
    slot_of = {id_: slot for slot, id_ in enumerate(rows["id"].tolist())}
    slots = np.array([slot_of[id_] for id_ in events[key].tolist()], np.int64)
    apply_all = user_row.apply_all if key == "user" else item_row.apply_all
    apply_all(rows, slots, events, np.zeros(len(events), np.uint8))
    return rows


def write_rows_of_partitions(world: World, events: NDArray[np.void]) -> None:
    """The rows that a partition feeds, as the flow would have them."""
    replay = Replay()
    for event in events.copy():
        replay.apply(event)
    for table in (COVISITATIONS, SEGMENTS, GLOBALS):
        world.stored(table).write(np.concatenate(list(replay.rows[table.letter].values())))


@pytest.fixture
def world(redis_url: str, tmp_path: Path, rng: np.random.Generator) -> Iterator[World]:
    config = RedisConfig(redis_url)
    link = RedisLink(config, give_up_after_s=5)
    made = World(config, feature_store(config, tmp_path, now_ms=START_MS), link)
    events = random_events(rng)
    for table, ids, key in ((USERS, USER_IDS, "user"), (ITEMS, ITEM_IDS, "item")):
        made.rows[key] = rows_after(events, table, ids, key)
        RedisRowStore(link, table, config).write(made.rows[key])
    write_rows_of_partitions(made, events)
    yield made
    link.close()


def values_by_name(
    kind: Any,
    row: NDArray[np.void],
    now_ms: int = START_MS,
    priors: NDArray[np.float32] = DEFAULT_PRIORS,
) -> dict[str, float]:
    """What the server computes of a row: `kind` is `user_row` or `item_row`."""
    out = np.empty(kind.N_COLUMNS, np.float32)
    kind.values(row, now_ms, *((priors,) if kind is item_row else ()), out)
    return dict(zip(kind.NAMES, out.tolist(), strict=True))


def features_of(entity: str) -> list[str]:
    return [
        f"{view.name}:{column.name}"
        for view in VIEWS
        if view.entity == entity
        for column in view.columns
    ]


def test_the_service_answers_every_column_as_the_server_computes_it(world: World) -> None:
    pairs = [(number % N_USERS, (7 * number) % N_ITEMS) for number in range(60)]
    service = world.store.get_feature_service(RANKING_SERVICE)
    asked = [{"user_id": USER_IDS[u], "item_id": ITEM_IDS[i]} for u, i in pairs]
    answer = world.ask(service, asked)
    for place, (u, i) in enumerate(pairs):
        expected = values_by_name(user_row, world.rows["user"][u])
        expected |= values_by_name(item_row, world.rows["item"][i], priors=world.priors)
        assert {name: answer[name][place] for name in expected} == expected
    assert set(answer) == {*user_row.NAMES, *item_row.NAMES, "user_id", "item_id"}


def test_the_values_are_not_all_the_same(world: World) -> None:
    """The comparison above would say little about rows in which nothing has happened."""
    answer = world.ask(features_of("user"), [{"user_id": user} for user in USER_IDS])
    assert sum(len(set(answer[column.name])) > 1 for column in USER_COLUMNS) > 30


def test_the_service_has_the_columns_of_the_registry_in_order(world: World) -> None:
    service = world.store.get_feature_service(RANKING_SERVICE)
    columns = [
        feature.name
        for projection in service.feature_view_projections
        for feature in projection.features
    ]
    assert columns == [column.name for column in (*USER_COLUMNS, *ITEM_COLUMNS)]
    assert service.tags["feature_version"] == feature_version()


def test_a_field_tells_its_unit_its_default_and_what_it_is(world: World) -> None:
    for view in VIEWS:
        fields = {field.name: field for field in world.store.get_feature_view(view.name).features}
        for column in view.columns:
            assert fields[column.name].description == column.description
            assert fields[column.name].tags["unit"] == column.unit
            assert float(fields[column.name].tags["default"]) == pytest.approx(column.default)


def test_unknown_viewers_and_titles_have_no_values(world: World) -> None:
    service = world.store.get_feature_service(RANKING_SERVICE)
    asked = [
        {"user_id": "nobody", "item_id": ITEM_IDS[0]},
        {"user_id": USER_IDS[0], "item_id": "nothing"},
    ]
    answer = world.ask(service, asked)
    assert all(answer[name][0] is None for name in user_row.NAMES)
    assert all(answer[name][0] is not None for name in item_row.NAMES)
    assert all(answer[name][1] is not None for name in user_row.NAMES)
    assert all(answer[name][1] is None for name in item_row.NAMES)


def test_a_profile_does_not_show_in_the_row_of_its_account(world: World) -> None:
    row = world.rows["user"][:1].copy()
    row["id"] = viewer_hash("parent", "kids")
    RedisRowStore(world.link, USERS, world.config).write(row)
    answer = world.ask(["user_activity:user_events_total"], [{"user_id": "parent"}])
    assert answer["user_events_total"] == [None]


def test_five_hundred_rows_with_repetitions_come_in_the_order_asked(world: World) -> None:
    users = [USER_IDS[(3 * number) % N_USERS] for number in range(499)] + ["nobody"]
    answer = world.ask(features_of("user"), [{"user_id": user} for user in users])
    assert answer["user_id"] == users
    by_user = {
        user: values_by_name(user_row, row)
        for user, row in zip(USER_IDS, world.rows["user"], strict=True)
    }
    for name in user_row.NAMES:
        assert answer[name] == [by_user[user][name] if user in by_user else None for user in users]


def test_the_event_time_of_a_value_is_that_of_the_last_event(world: World) -> None:
    online = HeadraceOnlineStore()
    view = world.store.get_feature_view("item_activity")
    keys = [entity_key("item_id", ITEM_IDS[3]), entity_key("item_id", "nothing")]
    known, unknown = online.online_read(world.store.config, view, keys)
    last_ms = int(world.rows["item"]["activity"]["last_ms"][3])
    assert known[0] == datetime.fromtimestamp(last_ms // 1_000, UTC).replace(
        microsecond=last_ms % 1_000 * 1_000
    )
    assert unknown == (None, None)
    online.teardown()


def test_without_a_list_of_features_a_read_brings_those_of_the_view(world: World) -> None:
    online = HeadraceOnlineStore()
    view = world.store.get_feature_view("viewing_state")
    ((_, values),) = online.online_read(
        world.store.config, view, [entity_key("user_id", USER_IDS[0])]
    )
    assert values is not None
    assert list(values) == [column.name for column in view_named("viewing_state").columns]
    assert online.online_read(world.store.config, view, []) == []
    online.teardown()


def test_an_unknown_feature_is_refused_by_name(world: World) -> None:
    online = HeadraceOnlineStore()
    view = world.store.get_feature_view("viewing_state")
    with pytest.raises(KeyError, match="viewing_state has no feature shoe_size"):
        online.online_read(world.store.config, view, [entity_key("user_id", "ann")], ["shoe_size"])
    online.teardown()


def test_values_follow_the_clock(world: World, tmp_path: Path) -> None:
    later_ms = START_MS + 40 * DAY_MS
    later = feature_store(world.config, tmp_path, now_ms=later_ms)
    answer = later.get_online_features(features_of("user"), [{"user_id": USER_IDS[0]}]).to_dict()
    expected = values_by_name(user_row, world.rows["user"][0], later_ms)
    assert {name: answer[name][0] for name in expected} == expected
    assert answer["user_idle_hours"] == [720.0]


def test_without_a_fixed_time_features_are_of_now(world: World, tmp_path: Path) -> None:
    store = feature_store(world.config, tmp_path)
    answer = store.get_online_features(features_of("user"), [{"user_id": USER_IDS[0]}]).to_dict()
    assert answer["user_idle_hours"] == [720.0]  # the events are years old


def test_a_changed_row_shows_in_the_next_answer(world: World) -> None:
    question = ["user_activity:user_events_total"], [{"user_id": USER_IDS[0]}]
    before = world.ask(*question)["user_events_total"][0]
    world.rows["user"]["activity"]["totals"][0, 0] += 5
    RedisRowStore(world.link, USERS, world.config).write(world.rows["user"][:1])
    assert world.ask(*question)["user_events_total"] == [before + 5]


def sizes(store: FeatureStore) -> list[int]:
    """What would grow if answers left something behind: the lists of features of each view."""
    views = [store.get_feature_view(view.name) for view in VIEWS]
    service = store.get_feature_service(RANKING_SERVICE)
    return [len(view.features) for view in views] + [
        len(projection.features) for projection in service.feature_view_projections
    ]


def test_every_view_answers_what_the_server_computes(world: World) -> None:
    """Whatever views the registry has: each one alone, every column of it."""
    kinds = {"user": (user_row, USER_IDS), "item": (item_row, ITEM_IDS)}
    for view in VIEWS:
        kind, ids = kinds[view.entity]
        names = [column.name for column in view.columns]
        questions = [f"{view.name}:{name}" for name in names]
        answer = world.ask(questions, [{f"{view.entity}_id": id_} for id_ in ids])
        for place in range(len(ids)):
            expected = values_by_name(kind, world.rows[view.entity][place], priors=world.priors)
            assert {name: answer[name][place] for name in names} == {
                name: expected[name] for name in names
            }


def test_neighbours_are_those_that_the_server_reads(world: World) -> None:
    names = names_of("covisitation")
    answer = world.ask(
        [f"covisitation:{name}" for name in names],
        [{"item_id": item} for item in [*ITEM_IDS, "nothing"]],
    )
    tables = world.stored(COVISITATIONS), world.stored(GLOBALS)
    for place, item in enumerate(id_hashes(ITEM_IDS).tolist()):
        found = read_neighbours(*tables, item, START_MS, N_NEIGHBOURS)
        assert len(found) > 1
        assert answer["covisitation_items"][place] == hexadecimal(found["item"])
        for column in ("weight", "support", "lift"):
            assert answer[f"covisitation_{column}"][place] == found[column].tolist()
    assert all(answer[name][-1] is None for name in names)


def test_what_a_region_watches_is_what_the_server_reads(world: World) -> None:
    names = names_of("segment_popularity")
    asked: list[dict[str, Any]] = [
        {"region": region, "hour": hour} for region in REGIONS for hour in range(24)
    ]
    answer = world.ask([f"segment_popularity:{name}" for name in names], asked)
    for place, of in enumerate(asked):
        region, store = region_hash(of["region"]), world.stored(SEGMENTS)
        found = read_segment(store, region, of["hour"], START_MS, N_TITLES)
        assert len(found) > 1
        assert answer["segment_popularity_items"][place] == hexadecimal(found["item"])
        for column in ("weight", "share"):
            assert answer[f"segment_popularity_{column}"][place] == found[column].tolist()


def test_an_hour_is_within_the_day_and_a_region_may_be_unknown(world: World) -> None:
    answer = world.ask(["segment_popularity:segment_popularity_items"], [segment("Mars", 3)])
    assert answer["segment_popularity_items"] == [None]
    with pytest.raises(ValueError, match=r"hour must be within 0\.\.23; got 24"):
        world.ask(["segment_popularity:segment_popularity_items"], [segment("DE", 24)])


def segment(region: str, hour: int) -> dict[str, Any]:
    return {"region": region, "hour": hour}


def test_rates_of_genres_are_the_priors_of_titles(world: World) -> None:
    genres = [*GENRES, "Cooking", ""]
    names = names_of("global_rates")
    answer = world.ask(
        [f"global_rates:{name}" for name in names], [{"genre": genre} for genre in genres]
    )
    for place, genre in enumerate(genres):
        expected = world.priors[genre_slot(genre) if genre else ALL]
        assert [answer[name][place] for name in names] == expected.tolist()
    assert not np.array_equal(world.priors, DEFAULT_PRIORS)


POPULARITY = ("popularity_rank", "popularity_percentile", "is_long_tail")


def expected_popularity(rows: NDArray[np.void]) -> list[list[float]]:
    """Of all titles with these rows, by column."""
    values = np.empty((len(rows), item_row.N_COLUMNS), np.float32)
    item_row.values_of(rows, np.arange(len(rows)), START_MS, DEFAULT_PRIORS, values)
    return [column.astype(np.float32).tolist() for column in popularity_of(values)]


def test_places_among_all_titles_are_those_of_the_one_function(world: World) -> None:
    questions = [f"item_popularity:{name}" for name in POPULARITY]
    answer = world.ask(questions, [{"item_id": item} for item in [*ITEM_IDS, "nothing"]])
    for name, expected in zip(POPULARITY, expected_popularity(world.rows["item"]), strict=True):
        assert answer[name] == [*expected, None]
    assert len(set(answer["popularity_rank"])) > 10


def test_with_a_lake_all_titles_are_those_of_its_catalogue(world: World, tmp_path: Path) -> None:
    """As in the server: the untouched count, those taken out do not."""
    ids = [*ITEM_IDS[:20], *(f"untouched-{k}" for k in range(7))]
    gone = [ITEM_IDS[20], ITEM_IDS[21]]
    write_catalogue(tmp_path / "lake", [*ids, *gone], gone)
    store = feature_store(world.config, tmp_path, now_ms=START_MS)
    questions = [f"item_popularity:{name}" for name in POPULARITY]
    asked = [{"item_id": item} for item in [*ids, *gone]]
    answer = store.get_online_features(questions, asked).to_dict()
    rows, _ = world.stored(ITEMS).read(id_hashes(ids))
    for name, expected in zip(POPULARITY, expected_popularity(rows), strict=True):
        assert answer[name] == [*expected, None, None]


def write_catalogue(folder: Path, ids: list[str], gone: list[str]) -> None:
    """A lake whose catalogue has these titles, some taken out again: one way, or the other."""
    lake.claim(folder, LogIdentity("c", {}, {lake.INTERACTIONS: 1, lake.CATALOG: 1}))
    items = [CatalogItem(item) for item in ids] + [CatalogItem(gone[0], removed=True)]
    values: list[tuple[str, bytes | None]] = [
        (item.item_id, encode_catalog_item(item)) for item in items
    ]
    records = [
        LakeRecord(lake.CATALOG, 0, offset, START_MS, item.encode(), value, [])
        for offset, (item, value) in enumerate([*values, (gone[1], None)])
    ]
    rows = pa.table(lake.raw_columns(records), pa.schema(lake.RAW))
    lake.write_file(folder / lake.CATALOG / "day=2023-11-14", 0, 0, len(records) - 1, rows)


def test_places_among_all_titles_are_at_most_a_minute_old(world: World, tmp_path: Path) -> None:
    now_s = [0.0]
    reader = ViewReader(
        world.config, FixedClock(START_MS), tmp_path / "no-lake", monotonic_s=lambda: now_s[0]
    )

    def rank_of_last() -> float:
        key = {"item_id": Value(string_val=ITEM_IDS[-1])}
        ((_, values),) = reader.read("item_popularity", [key], ["popularity_rank"])
        return float(values["popularity_rank"].float_val)

    before = rank_of_last()
    row = world.rows["item"][-1:].copy()
    row["activity"]["totals"] += 10_000
    world.stored(ITEMS).write(row)
    now_s[0] = 59.0
    assert rank_of_last() == before != 1.0
    now_s[0] = 60.0
    assert rank_of_last() == 1.0
    reader.close()


def test_every_feature_of_every_view_has_a_field_in_the_catalogue(world: World) -> None:
    """Whatever the registry lists can be asked for by Feast's own API."""
    for view_name in all_views():
        fields = {field.name for field in world.store.get_feature_view(view_name).features}
        assert fields == set(names_of(view_name))


def test_lists_have_no_past(world: World) -> None:
    frame = pd.DataFrame({"item_id": ["i1"], "event_timestamp": [pd.Timestamp(0, tz="UTC")]})
    with pytest.raises(KeyError, match="covisitation has no past"):
        world.store.get_historical_features(frame, ["covisitation:covisitation_items"])


def all_views() -> set[str]:
    return {view.name for view in (*VIEWS, *LIST_VIEWS)} | {"item_popularity"}


def test_a_thousand_reads_do_not_get_slower(world: World) -> None:
    """Medians of the first and the last fifth; a store that keeps something of each would creep."""
    service = world.store.get_feature_service(RANKING_SERVICE)
    question = [{"user_id": USER_IDS[0], "item_id": ITEM_IDS[0]}]
    world.ask(service, question)
    took_s = []
    for _ in range(1_000):
        started_s = time.perf_counter()
        world.ask(service, question)
        took_s.append(time.perf_counter() - started_s)
    assert np.median(took_s[-200:]) < 3 * np.median(took_s[:200])


def test_the_catalogue_names_the_stream_and_the_lake(world: World) -> None:
    for view in VIEWS:
        found = world.store.get_feature_view(view.name)
        assert found.stream_source.kafka_options.topic == "interactions"
        assert found.batch_source.path.endswith("lake/interactions")


def test_a_repository_opens_in_feast_by_its_folder(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    write_repo(world.config, folder, Sources(tmp_path / "lake", "10.0.0.5:9092", "eu-interactions"))
    store = FeatureStore(repo_path=str(folder))
    assert (folder / "feature_store.yaml").stat().st_mode & 0o077 == 0
    view = store.get_feature_view(VIEWS[0].name)
    assert view.stream_source.kafka_options.topic == "eu-interactions"
    answer = store.get_online_features(features_of("item"), [{"item_id": ITEM_IDS[0]}]).to_dict()
    assert answer["item_engaged_total"] == [
        values_by_name(item_row, world.rows["item"][0])["item_engaged_total"]
    ]


def test_feast_apply_in_a_repository_changes_nothing(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    store = write_repo(world.config, folder, Sources(tmp_path / "lake"))
    before = {view.name for view in store.list_feature_views()}
    names = runpy.run_path(str(folder / "definitions.py"))
    assert {RANKING_SERVICE, "user", "item", *before} <= set(names)
    assert before == all_views()


def test_three_hundred_calls_leave_nothing_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    read = HeadraceOnlineStore.online_read

    def counted(self: HeadraceOnlineStore, **question: Any) -> Any:
        asked.append(len(question["requested_features"]))
        return read(self, **question)

    monkeypatch.setattr(HeadraceOnlineStore, "online_read", counted)
    service = world.store.get_feature_service(RANKING_SERVICE)
    question = [{"user_id": USER_IDS[0], "item_id": ITEM_IDS[0]}]
    first, before = world.ask(service, question), sizes(world.store)
    for _ in range(299):
        last = world.ask(service, question)
    assert last == first
    assert sizes(world.store) == before
    assert asked == asked[: len(VIEWS)] * 300


def test_writing_through_feast_is_refused_and_changes_nothing(world: World) -> None:
    before = world.rows["user"].tobytes()
    view = world.store.get_feature_view("user_activity")
    with pytest.raises(PermissionError, match="written by the features flow alone"):
        HeadraceOnlineStore().online_write_batch(world.store.config, view, [], None)
    rows, _ = RedisRowStore(world.link, USERS, world.config).read(id_hashes(USER_IDS))
    assert rows.tobytes() == before


def test_opening_the_store_again_changes_nothing(world: World, tmp_path: Path) -> None:
    again = feature_store(world.config, tmp_path, now_ms=START_MS)
    for store in (world.store, again):
        assert {view.name for view in store.list_feature_views()} == all_views()
        assert len(store.list_feature_services()) == 1
        assert {entity.name for entity in store.list_entities()} >= {"user", "item"}
    question = features_of("user"), [{"user_id": USER_IDS[1]}]
    assert again.get_online_features(*question).to_dict() == world.ask(*question)


def test_tearing_the_catalogue_down_deletes_no_row(world: World) -> None:
    world.ask(features_of("user"), [{"user_id": USER_IDS[0]}])
    world.store.teardown()
    for key, table, ids in (("user", USERS, USER_IDS), ("item", ITEMS, ITEM_IDS)):
        rows, found = RedisRowStore(world.link, table, world.config).read(id_hashes(ids))
        assert found.all()
        assert rows.tobytes() == world.rows[key].tobytes()


def entity_key(join_key: str, id_: str) -> Any:
    return EntityKey(join_keys=[join_key], entity_values=[Value(string_val=id_)])
