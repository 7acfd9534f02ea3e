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
import pytest
from numpy.typing import NDArray

from features import item_row, user_row
from features.events import EVENT, NO_RATING
from features.global_rates import DEFAULT_PRIORS
from features.ids import id_hashes, viewer_hash
from features.redis_store import RedisConfig, RedisLink, RedisRowStore
from features.registry import ITEM_COLUMNS, USER_COLUMNS, VIEWS, feature_version, view_named
from features.store import ITEMS, USERS, Table
from features.vocabulary import N_TYPES, EventType
from features.windows import DAY_MS
from tests.clock import START_MS

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of libraries that Feast brings along
    from feast import FeatureStore
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    from features.definitions import RANKING_SERVICE, Sources
    from features.feast_store import HeadraceOnlineStore, feature_store, write_repo

N_USERS, N_ITEMS, N_EVENTS = 40, 30, 4_000
USER_IDS = [f"user-{number}" for number in range(N_USERS)]
ITEM_IDS = [f"tt{number:07d}" for number in range(N_ITEMS)]


@dataclass
class World:
    """A Redis with rows of viewers and titles, the same rows in memory, and Feast over it."""

    config: RedisConfig
    store: FeatureStore
    link: RedisLink
    rows: dict[str, NDArray[np.void]] = field(default_factory=dict)

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


@pytest.fixture
def world(redis_url: str, tmp_path: Path, rng: np.random.Generator) -> Iterator[World]:
    config = RedisConfig(redis_url)
    link = RedisLink(config, give_up_after_s=5)
    made = World(config, feature_store(config, tmp_path, now_ms=START_MS), link)
    events = random_events(rng)
    for table, ids, key in ((USERS, USER_IDS, "user"), (ITEMS, ITEM_IDS, "item")):
        made.rows[key] = rows_after(events, table, ids, key)
        RedisRowStore(link, table, config).write(made.rows[key])
    yield made
    link.close()


def values_by_name(kind: Any, row: NDArray[np.void], now_ms: int = START_MS) -> dict[str, float]:
    """What the server computes of a row: `kind` is `user_row` or `item_row`."""
    out = np.empty(kind.N_COLUMNS, np.float32)
    priors = (DEFAULT_PRIORS,) if kind is item_row else ()
    kind.values(row, now_ms, *priors, out)
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
        expected |= values_by_name(item_row, world.rows["item"][i])
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
            expected = values_by_name(kind, world.rows[view.entity][place])
            assert {name: answer[name][place] for name in names} == {
                name: expected[name] for name in names
            }


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
    assert before == {view.name for view in VIEWS}


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
        assert {view.name for view in store.list_feature_views()} == {view.name for view in VIEWS}
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
