"""Past rows and values are those of a replay that stops where the moment says."""

from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features import item_row, lake, user_row
from features.codec import encode_catalog_item, encode_erasure, encode_interaction
from features.decode import decode_records
from features.erasure import Erasure, ErasureLedger, erase_event
from features.events import CatalogItem, Interaction
from features.global_rates import rates_of
from features.history import BY_TIME, NOTHING, Moments, events_of, past_of
from features.ids import id_hash, key_hash, viewer_hash
from features.item_activity import CLICKS
from features.lake import LakeRecord, LogIdentity
from features.store import GLOBALS, ITEMS, USERS
from features.titles import TitleFacts
from features.vocabulary import EventType
from tests.clock import START_MS
from tests.flows import random_interactions
from tests.oracle import Replay, differences

N_PARTITIONS = 3
TITLES = [
    CatalogItem(f"i{k}", f"Title {k}", 1950 + k, ("Drama", "Comedy")[k % 2 :]) for k in range(60)
]


def record(table, partition, offset, logged_at_ms, key, value):
    return LakeRecord(table, partition, offset, logged_at_ms, key, value, [])


def write(folder, table, records, rows_per_file=70):
    """Puts records into files of a lake, as the archive does."""
    for partition in {r.partition() for r in records}:
        mine = [r for r in records if r.partition() == partition]
        for start in range(0, len(mine), rows_per_file):
            run = mine[start : start + rows_per_file]
            rows = pa.table(lake.raw_columns(run), pa.schema(lake.RAW))
            day = folder / table / "day=2023-11-14"
            lake.write_file(day, partition, run[0].offset(), run[-1].offset(), rows)


def write_lake(folder: Path, interactions, rng) -> list[LakeRecord]:
    """A lake of these events, some in a wrong partition, some nonsense; its records."""
    lake.claim(
        folder,
        LogIdentity("c", {}, {lake.INTERACTIONS: N_PARTITIONS, lake.CATALOG: 1}),
    )
    offsets = [count() for _ in range(N_PARTITIONS)]
    records, logged_at_ms = [], START_MS
    for k, event in enumerate(interactions):
        partition = key_hash(event.user_id) % N_PARTITIONS
        if k % 40 == 3:
            partition = (partition + 1) % N_PARTITIONS
        value = b"nonsense" if k % 50 == 9 else encode_interaction(event)
        logged_at_ms += int(rng.integers(0, 30))
        place = partition, next(offsets[partition]), logged_at_ms
        records.append(record(lake.INTERACTIONS, *place, event.user_id.encode(), value))
    write(folder, lake.INTERACTIONS, records)
    titles = [
        record(lake.CATALOG, 0, k, START_MS, b"", encode_catalog_item(item))
        for k, item in enumerate(TITLES)
    ]
    write(folder, lake.CATALOG, [*titles, record(lake.CATALOG, 0, 99, START_MS, b"i1", None)])
    return records


@pytest.fixture
def interactions(rng):
    return random_interactions(rng, 700, START_MS, n_users=12)


@pytest.fixture
def records(tmp_path, interactions, rng):
    return write_lake(tmp_path, interactions, rng)


def events_until(records, until_ms, user=None, until_offset=BY_TIME):
    """The events that a moment includes, one by one; of a viewer by offset, if one is given."""
    events = decode_records(records).events
    events = events[events["key_hash"] % N_PARTITIONS == events["partition"]]
    if until_offset != BY_TIME:
        events = events[(events["user"] == user) & (events["offset"] <= until_offset)]
    else:
        events = events[events["logged_at_ms"] <= until_ms]
    TitleFacts(TITLES).enrich(events)
    return events


def replayed(events):
    """All rows after these events, by the functions of the flow, one event after the other."""
    replay = Replay()
    for event in events:
        replay.apply(event)
    return replay


def row_of(replay, table, id_):
    """`(1,)` row of an id, an empty one where it had no event."""
    row = table.empty.copy()
    row["id"] = id_
    return replay.rows[table.letter].get(int(id_), row)


def priors_of(replay):
    """The rates of genres that the flow would smooth those of titles by."""
    rows = list(replay.rows[GLOBALS.letter].values())
    return rates_of(np.concatenate([np.empty(0, GLOBALS.dtype), *rows]))


def expected(records, table, moments):
    """Values and rows of moments, each by a replay of its own."""
    kind = user_row if table is USERS else item_row
    values = np.full((len(moments.ids), kind.N_COLUMNS), np.nan, np.float32)
    rows = []
    for k, id_ in enumerate(moments.ids):
        events = events_until(
            records, moments.until_ms[k], user=id_, until_offset=moments.until_offset[k]
        )
        replay = replayed(events)
        row = row_of(replay, table, id_)
        if (events["user" if table is USERS else "item"] == id_).any():
            priors = () if table is USERS else (priors_of(replay),)
            kind.values(row[0], int(moments.now_ms[k]), *priors, values[k])
        rows.append(row)
    return values, np.concatenate(rows)


def random_times(records, rng, n):
    last_ms = max(r.timestamp()[1] for r in records)
    return rng.integers(START_MS - 100, last_ms + 5_000, n)


def assert_past_is(past, wanted):
    values, rows = wanted
    np.testing.assert_array_equal(past.values, values)
    assert differences(rows, past.rows) == []


def test_viewers_at_random_times_are_those_of_a_replay(tmp_path, records, rng):
    ids = np.array([viewer_hash(f"u{k}") for k in rng.integers(0, 14, 60)], np.uint64)
    moments = Moments.at(ids, random_times(records, rng, 60))
    past, _ = past_of(tmp_path, moments, with_rows=True)
    assert_past_is(past, expected(records, USERS, moments))
    assert 0 < np.isnan(past.values[:, 0]).sum() < 60


def test_titles_at_random_times_are_those_of_a_replay(tmp_path, records, rng):
    """Second deliveries count once, though the rows of most viewers are not asked for."""
    ids = np.array([id_hash(f"i{k}") for k in rng.integers(0, 66, 60)], np.uint64)
    moments = Moments.at(ids, random_times(records, rng, 60))
    _, past = past_of(tmp_path, None, moments, with_rows=True)
    assert_past_is(past, expected(records, ITEMS, moments))


def test_a_viewer_as_of_an_offset_includes_that_event_and_none_behind_it(tmp_path, records, rng):
    ids = np.array([viewer_hash(f"u{k}") for k in rng.integers(0, 12, 80)], np.uint64)
    now_ms = random_times(records, rng, 80)
    until_offset = rng.integers(NOTHING, 250, 80)
    until_offset[::4] = BY_TIME  # both kinds in one question
    moments = Moments(ids, now_ms, now_ms, until_offset)
    past, _ = past_of(tmp_path, moments, with_rows=True)
    assert_past_is(past, expected(records, USERS, moments))


def erase(folder, erasure):
    """Puts an entry into the lake's copy of the ledger."""
    partitions = {lake.INTERACTIONS: N_PARTITIONS, lake.CATALOG: 1, lake.ERASURES: 1}
    lake.claim(folder, LogIdentity("c", {}, partitions))
    entry = encode_erasure(erasure)
    write(folder, lake.ERASURES, [record(lake.ERASURES, 0, 0, START_MS, erasure.key, entry)])


def test_an_erased_viewer_has_no_past_and_titles_keep_theirs(tmp_path, records):
    end_ms = START_MS + 10**6
    viewer = viewer_hash("u3")
    events = events_until(records, end_ms)
    mine = events[events["user"] == viewer]
    at = mine[len(mine) // 2]
    ids = np.array([id_hash(f"i{k}") for k in range(60)], np.uint64)
    titles = Moments.at(ids, np.full(60, end_ms))
    _, before = past_of(tmp_path, None, titles)
    erasure = Erasure(viewer, int(at["partition"]), int(at["offset"]), START_MS)
    erase(tmp_path, erasure)
    n = len(mine)
    now_ms = np.full(n, end_ms)
    moments = Moments(np.full(n, viewer, np.uint64), now_ms, now_ms, mine["offset"].astype(int))
    past, after = past_of(tmp_path, moments, titles, with_rows=True)
    is_before = mine["offset"] < erasure.offset
    assert np.isnan(past.values[is_before]).all()
    assert np.isfinite(past.values[~is_before]).all()
    np.testing.assert_array_equal(after.values, before.values)
    ledger = ErasureLedger()
    ledger.put(erasure)
    ledger.flag(events)
    assert differences(row_of(replayed(events), USERS, viewer), past.rows[-1:]) == []


def test_an_event_of_an_erased_viewer_that_is_sent_again_counts_again(tmp_path, rng):
    """As in the flow: the viewer's row has forgotten its id."""
    click = Interaction("e1", "u1", "i1", EventType.CLICK, START_MS)
    misplaced = Interaction("e2", "u2", "i2", EventType.CLICK, START_MS)  # see write_lake
    sent = [click, click, erase_event("u1", "", START_MS), misplaced, click]
    records = write_lake(tmp_path, sent, rng)
    moments = Moments.at(np.array([id_hash("i1")], np.uint64), np.array([START_MS + 10**6]))
    _, past = past_of(tmp_path, None, moments, with_rows=True)
    assert past.rows["activity"]["totals"][0, CLICKS] == 2
    assert_past_is(past, expected(records, ITEMS, moments))


@pytest.mark.usefixtures("records")
def test_values_follow_now_while_the_row_stays(tmp_path):
    ids = np.repeat(np.array([viewer_hash("u1")], np.uint64), 2)
    until_ms = np.full(2, START_MS + 10**6)
    now_ms = np.array([START_MS + 10**6, START_MS + 10**9])
    past, _ = past_of(tmp_path, Moments(ids, now_ms, until_ms, np.full(2, BY_TIME)), with_rows=True)
    assert differences(past.rows[:1], past.rows[1:]) == []
    assert past.values[0].tobytes() != past.values[1].tobytes()


def test_events_come_by_the_time_of_the_log_and_in_order_within_partitions(tmp_path, records):
    batches = list(events_of(tmp_path))
    times = np.concatenate([times for _, times in batches])
    events = np.concatenate([events for events, _ in batches])
    assert (np.diff(times) >= 0).all()
    assert len(events) == len(events_until(records, 2**62))
    for partition in range(N_PARTITIONS):
        assert (np.diff(events["offset"][events["partition"] == partition]) > 0).all()


@pytest.mark.usefixtures("records")
def test_a_question_without_moments_has_no_answers(tmp_path):
    nothing = np.empty(0, np.int64)
    users, items = past_of(tmp_path, Moments.at(nothing.astype(np.uint64), nothing))
    assert users.values.shape == (0, user_row.N_COLUMNS)
    assert items is None
