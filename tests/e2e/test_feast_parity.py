"""Feast's past values are those that were served: logged vectors against the replayed lake.

On the clock of the events, which stands still when nothing happens: then the titles' values in the
server are those of that very moment, once the flow has looked at every title.
"""

import uuid
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from features import item_row, lake, user_row
from features.codec import encode_interaction
from features.events import CatalogItem, Interaction
from features.global_rates import rates_of, row_id
from features.history import BY_TIME, Moments, past_of
from features.ids import id_hashes, viewer_hash
from features.item_updates import decode_update
from features.lake import LakeError
from features.log import LogWriter, end_offsets, read_to_end
from features.ranking import RANKING_COLUMNS, STANDINGS
from features.registry import ITEM_COLUMNS, USER_COLUMNS, VIEWS
from features.store import GLOBALS, ITEMS, USERS
from features.vocabulary import EventType
from infra import topics
from infra.metrics_client import Metrics
from infra.settings import Settings
from infra.stack import Stack
from offline.replay import publish_catalogue
from serving.catalogue import CatalogueTable
from serving.client import Client
from serving.recommender import Recommender
from serving.slate import Query, Viewer
from tests.clock import START_MS
from tests.flows import PATIENT, wait_until
from tests.oracle import stored

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of libraries that Feast brings along
    from features.feast_store import feature_store

N_TITLES = 6
TITLES = [
    CatalogItem(f"e{k}", f"Title {k}", 2000 + k, ("Drama" if k % 2 else "Comedy",))
    for k in range(N_TITLES)
]
VIEWERS = [("ann", ""), ("bob", ""), ("ann", "kids"), ("nobody", "")]
FRAME = ["user_id", "profile_id", "item_id", "event_timestamp", "included_offset", "logged_at_ms"]
HARMLESS = (EventType.IMPRESSION, EventType.CLICK, EventType.PLAY, EventType.PROGRESS)
# Made every 2 s, not at the moment.
CHARTS = (*(name for name, *_ in STANDINGS), "viewer_long_tail_share", "novelty_match")


@pytest.fixture
def stack(embedded_broker, tmp_path):
    prefix = f"parity{uuid.uuid4().hex[:8]}-"
    settings = Settings(
        kafka={"bootstrap": embedded_broker.bootstrap, "prefix": prefix},
        stream={"group": f"{prefix}features", "epoch_s": 0.2, "clock": "stream"},
        serving={"port": 0, "clock": "stream", "cache_ttl_s": 0, **PATIENT},  # no earlier slates
        archive={"group": f"{prefix}archive", "flush_s": 0.3},
        home=tmp_path,
    )
    with Stack(settings) as running:
        log = running.settings.kafka.log_config()
        publish_catalogue(TITLES, LogWriter(log), prefix + topics.CATALOG)
        running.start_features()
        running.start_serve()
        running.start_archive()
        yield running


def some_events(rng, start_ms, n):
    """Events of three viewers, one a minute, some twice; half the titles are never done with."""
    found = []
    for k in range(n):
        user, profile = VIEWERS[int(rng.integers(3))]
        kind = EventType(int(rng.integers(1, 13)))
        item = int(rng.integers(N_TITLES)) if kind in HARMLESS else int(rng.integers(3))
        found.append(
            Interaction(
                uuid.UUID(int=start_ms + k).hex, user, f"e{item}", kind,
                occurred_at_ms=start_ms + 60_000 * k, profile_id=profile,
                rating=float(rng.integers(11)) if kind == EventType.RATE else None,
                watch_position_s=600.0, watch_duration_s=6_000.0,
            )
        )  # fmt: skip
    return [*found, *found[: n // 10]]


def send(stack, events):
    writer = LogWriter(stack.settings.kafka.log_config())
    topic = stack.settings.kafka.prefix + topics.INTERACTIONS
    for event in events:
        writer.append(topic, event.user_id.encode(), encode_interaction(event))
    writer.flush()


def served_now(client, viewer):
    """The titles' values as a slate of all titles has them, by title and column."""
    slate = client.recommend(viewer[0], profile_id=viewer[1], count=N_TITLES, debug=True)
    return {item.item_id: item.features for item in slate.items}


def wait_until_quiet(stack, client, n_events):
    """Returns when every event is in the rows and every title's row in the server.

    Its rates are smoothed by those of genres, which the flow reads once a second and spreads with
    the look at every title that follows.
    """
    ids = id_hashes([title.item_id for title in TITLES])
    globals_ = np.array([row_id(partition) for partition in range(4)], np.uint64)
    names = [name for name in item_row.NAMES if name in RANKING_COLUMNS]
    redis = stack.settings.redis.config()

    def is_quiet():
        if not is_whole_log_in_rows(stack):
            return False
        rows = stored(redis, ITEMS, ids)
        values = np.empty((len(ids), item_row.N_COLUMNS), np.float32)
        now_ms, priors = newest_time_ms(stack), rates_of(stored(redis, GLOBALS, globals_))
        item_row.values_of(rows, np.arange(len(ids)), now_ms, priors, values)
        served = served_now(client, ("nobody", ""))
        return all(
            served[title.item_id][name] == values[k, item_row.NAMES.index(name)]
            for k, title in enumerate(TITLES)
            for name in names
        )

    flow = Metrics(stack.addresses.metrics["features"])
    wait_until(lambda: flow.read()["events"] >= n_events)
    flow.wait_until_idle()
    wait_until(is_quiet, timeout_s=120)


def is_whole_log_in_rows(stack):
    """Whether the viewers' rows, which are stored last, stand at the end of every partition."""
    settings = stack.settings
    ids = np.array([viewer_hash(user, profile) for user, profile in VIEWERS], np.uint64)
    rows = stored(settings.redis.config(), USERS, ids)
    topic = settings.kafka.prefix + topics.INTERACTIONS
    ends = end_offsets(settings.kafka.log_config(), topic, range(4))
    return all(
        rows["offset"][rows["partition"] == partition].max(initial=-1) == end - 1
        for partition, end in ends.items()
    )


def newest_time_ms(stack):
    """Where the clock of the events stands: in the flow, and in the server that is told of it."""
    topic = stack.settings.kafka.prefix + topics.ITEM_UPDATES
    updates = read_to_end(stack.settings.kafka.log_config(), topic)
    return max((decode_update(record.value()).now_ms for record in updates), default=0)


def wait_for_decisions(stack, n):
    """Decisions go to the log behind their answers; they must not come behind later events."""
    topic = stack.settings.kafka.prefix + topics.IMPRESSIONS
    log = stack.settings.kafka.log_config()
    wait_until(lambda: sum(b"quiet-" in record.value() for record in read_to_end(log, topic)) >= n)


def archived_slates(stack, n):
    """The rows of the slates that were asked for in quiet, once `n` of them lie in the lake."""

    def found():
        try:
            frame = lake.table_of(stack.settings.lake(), lake.IMPRESSIONS).to_pandas()
        except LakeError:
            return None
        mine = frame[frame["request_id"].str.startswith("quiet-")]
        return mine if mine["request_id"].nunique() == n else None

    wait_until(lambda: found() is not None)
    return found().reset_index(drop=True)


def logged_vectors(frame):
    """`(n, n_columns)` of the slots' logged features, by column name."""
    vectors = np.stack(frame["features"].to_numpy()).astype(np.float32)
    assert vectors.shape == (len(frame), len(RANKING_COLUMNS))
    return dict(zip(RANKING_COLUMNS, vectors.T, strict=True))


@pytest.mark.slow
def test_past_features_are_those_that_were_served(stack, rng):
    n_slates = n_sent = 0
    with Client(stack.addresses.grpc, timeout_s=10) as client:
        client.wait_until_connected()
        for phase in range(2):
            events = some_events(rng, START_MS + phase * 9_000_000, 80)
            send(stack, events)
            n_sent += len(events)
            wait_until_quiet(stack, client, n_sent)
            for number, (user, profile) in enumerate(VIEWERS):
                client.recommend(
                    user, profile_id=profile, count=N_TITLES, request_id=f"quiet-{phase}{number}"
                )
                n_slates += 1
            wait_for_decisions(stack, n_slates)
    frame = archived_slates(stack, n_slates)
    folder = stack.settings.lake()
    assert_feast_gives_what_was_logged(stack, frame, folder)
    assert_the_engine_would_log_the_same(frame, folder)


def assert_feast_gives_what_was_logged(stack, frame, folder):
    """Every column of the logged vectors that Feast has, too, is the same float32."""
    store = feature_store(stack.settings.redis.config(), stack.settings.home / "feast", lake=folder)
    names = [f"{view.name}:{column.name}" for view in VIEWS for column in view.columns]
    past = store.get_historical_features(frame[FRAME], names).to_df()
    logged = logged_vectors(frame)
    columns = [c for c in (*USER_COLUMNS, *ITEM_COLUMNS) if c.name in logged]
    assert len(columns) >= 10
    for column in columns:
        found = past[column.name].fillna(column.default).to_numpy(np.float32)
        np.testing.assert_array_equal(found, logged[column.name], err_msg=column.name)
    is_known = (frame["included_offset"] >= 0).to_numpy()
    assert 0 < is_known.sum() < len(frame)
    for column in USER_COLUMNS:
        assert (past[column.name].notna() == is_known).all()
    is_last = is_known & frame["request_id"].str.startswith("quiet-1").to_numpy()
    assert is_last.any()
    for place in np.flatnonzero(is_last):
        expected = served_viewer(stack, frame.iloc[place])
        found = past.iloc[place][list(user_row.NAMES)].to_numpy(np.float32)
        np.testing.assert_array_equal(found, expected)


def served_viewer(stack, slot):
    """All columns of the viewer's row in Redis, which is still as it was at the last slates."""
    id_ = np.array([viewer_hash(slot["user_id"], slot["profile_id"])], np.uint64)
    row = stored(stack.settings.redis.config(), USERS, id_)[0]
    assert row["offset"] == slot["included_offset"]
    values = np.empty(user_row.N_COLUMNS, np.float32)
    user_row.values(row, int(slot["served_at_ms"]), values)
    return values


def assert_the_engine_would_log_the_same(frame, folder):
    """The viewer's row and the titles' values as of each slate give its whole logged vectors.

    Charts aside, which the server makes every two seconds. No bundle is here: what models say of a
    candidate is zero on both sides.
    """
    table = CatalogueTable.of(TITLES)
    for _, slots in frame.groupby("request_id"):
        first = slots.iloc[0]
        row, values = past_of_slate(folder, first, table)
        engine = Recommender(table, SimpleNamespace(values=values), None)
        query = Query(first["user_id"], profile_id=first["profile_id"], count=N_TITLES)
        slate = engine.recommend(query, Viewer(row), int(first["served_at_ms"]))
        vectors = {item.item_id: item.features for item in slate.items}
        assert set(vectors) == set(slots["item_id"])
        for _, slot in slots.iterrows():
            for name, wanted, found in zip(
                RANKING_COLUMNS, slot["features"], vectors[slot["item_id"]], strict=True
            ):
                assert name in CHARTS or np.float32(wanted) == found, (name, wanted, found)


def past_of_slate(folder, slate, table):
    """The viewer's `(1,)` row, None where unknown, and the matrix of titles, as of a slate."""
    now_ms = np.array([slate["served_at_ms"]])
    logged_ms = np.array([slate["logged_at_ms"]])
    viewer = np.array([viewer_hash(slate["user_id"], slate["profile_id"])], np.uint64)
    n = len(table)
    users, items = past_of(
        folder,
        Moments(viewer, now_ms, logged_ms, np.array([slate["included_offset"]])),
        Moments(table.ids, now_ms.repeat(n), logged_ms.repeat(n), np.full(n, BY_TIME)),
        with_rows=True,
    )
    values = np.where(np.isnan(items.values), item_row.DEFAULTS, items.values)
    return (users.rows if slate["included_offset"] >= 0 else None), values.astype(np.float32)
