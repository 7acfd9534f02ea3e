"""Rows that one partition feeds: a function of its log, whatever is read again."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import covisitation, global_rates, item_row, segment_popularity, user_row
from features.events import EVENT, NO_RATING
from features.partition_reads import (
    MAX_PARTITIONS,
    read_globals,
    read_neighbours,
    read_priors,
    read_segment,
)
from features.partition_rows import is_visit, session_partners
from features.row_cache import RowCache
from features.store import COVISITATIONS, GLOBALS, SEGMENTS, TABLES, USERS, InMemoryRowStore
from features.vocabulary import N_GENRES, EventType
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from streams.partition_tables import PartitionTables
from tests.clock import START_MS
from tests.features.examples import Events, event, item_after, item_values, log_of, user_after
from tests.oracle import Replay, differences

CAPACITY = 512
DE = 7


class Shard:
    """Viewers and the tables of their partitions over stores in memory, fed in batches."""

    def __init__(self) -> None:
        self.stores = {table.letter: InMemoryRowStore(table) for table in TABLES}
        self.users = RowCache(self.stores["u"], CAPACITY)
        self.tables = PartitionTables(lambda t: RowCache(self.stores[t.letter], CAPACITY))

    def apply(self, events: Events) -> list[str]:
        """Takes a batch in, stores what changed; the letters of the tables that did."""
        events = events.copy()
        slots = self.users.slots_of(np.ascontiguousarray(events["user"]))
        effects = np.zeros(len(events), np.uint8)
        changed = self.tables.apply(self.users.rows, slots, events, effects)
        for table, rows in changed:
            self.stores[table.letter].write(rows)
        are_touched = effects != user_row.REPLAYED
        viewers = self.users.rows[self.users.distinct(slots, are_touched)]
        self.stores["u"].write(viewers)
        return [table.letter for table, _ in changed]

    def records(self) -> dict[str, dict[int, bytes]]:
        """All stored rows as bytes, by table and id."""
        return {letter: dict(store._records) for letter, store in self.stores.items()}

    def wrong_rows(self, events: Events) -> list[str]:
        """Where the stored rows differ from a clean replay, one event after the other."""
        replay = Replay()
        for one in events.copy():
            replay.apply(one)
        wrong = []
        for table in TABLES[1:]:
            expected = replay.rows[table.letter]
            if expected.keys() != self.stores[table.letter]._records.keys():
                wrong.append(f"other rows in table {table.letter}")
            for id_, row in expected.items():
                found, _ = self.stores[table.letter].read(np.array([id_], np.uint64))
                wrong += differences(row, found)
        return wrong


@st.composite
def logs_of_a_partition(draw: st.DrawFn, max_size: int = 40) -> Events:
    """Events of a few viewers, titles and regions within some sessions; some of them twice."""
    made: list[Events] = []
    at_ms = START_MS
    for _ in range(draw(st.integers(0, max_size))):
        if made and draw(st.integers(0, 9)) == 0:
            made.append(made[-1].copy())
            continue
        at_ms += draw(st.sampled_from([1_000, 1_000, 10 * MINUTE_MS, 31 * MINUTE_MS, 40 * DAY_MS]))
        kind = draw(st.sampled_from(list(EventType)[1:]))
        late_ms = draw(st.sampled_from([0, 0, 0, HOUR_MS, 20 * DAY_MS]))
        made.append(
            event(
                user=draw(st.integers(1, 3)),
                item=draw(st.integers(1, 9)),
                type=kind,
                rating=draw(st.integers(0, 10)) if kind == EventType.RATE else NO_RATING,
                at_ms=at_ms - late_ms,
                event=draw(st.integers(1, 2**40)),
                genres=draw(st.integers(0, 2**32 - 1)),
                region=draw(st.sampled_from([0, DE, 9])),
                partition=2,
            )
        )
    events = np.concatenate([np.zeros(0, EVENT), *made])
    events["offset"] = np.arange(len(events))
    return events


# Which titles are visited together


@pytest.mark.parametrize(
    ("kind", "rating", "expected"),
    [
        (EventType.CLICK, NO_RATING, True),
        (EventType.PLAY, NO_RATING, True),
        (EventType.COMPLETE, NO_RATING, True),
        (EventType.LIKE, NO_RATING, True),
        (EventType.ADD, NO_RATING, True),
        (EventType.SHARE, NO_RATING, True),
        (EventType.RATE, 5.0, True),
        (EventType.RATE, 4.5, False),
        (EventType.IMPRESSION, NO_RATING, False),
        (EventType.PROGRESS, NO_RATING, False),
        (EventType.SKIP, NO_RATING, False),
        (EventType.DISLIKE, NO_RATING, False),
        (EventType.SEARCH, NO_RATING, False),
    ],
)
def test_a_visit_is_a_deliberate_liking_action(
    kind: EventType, rating: float, expected: bool
) -> None:
    assert is_visit(kind, rating) == expected


def partners_of(before: list[Events], now: Events) -> list[int]:
    out = np.zeros(covisitation.N_PARTNERS, np.uint64)
    count = session_partners(user_after(*before)[0], now[0], out)
    return [int(item) for item in out[:count]]


def click(item: int, minutes: float = 0.0, **fields: object) -> Events:
    return event(item=item, at_ms=START_MS + int(minutes * MINUTE_MS), **fields)


def test_a_title_meets_the_last_four_of_its_session_newest_first() -> None:
    before = [click(item, item) for item in range(1, 7)]
    assert partners_of(before, click(9, 7)) == [6, 5, 4, 3]


def test_a_title_visited_before_in_the_session_makes_no_pairs() -> None:
    before = [click(1), click(2, 1)]
    assert partners_of(before, click(1, 2, type=EventType.PLAY)) == []
    in_another_session = [click(1), click(2, 31)]
    assert partners_of(in_another_session, click(1, 32)) == [2]


def test_half_an_hour_without_an_event_ends_the_session() -> None:
    assert partners_of([click(1), click(2, 31)], click(3, 61)) == [2]
    assert partners_of([click(1), click(2, 30)], click(3, 60)) == [2, 1]
    assert partners_of([click(1)], click(3, 31)) == []


def test_progress_keeps_its_title_in_the_session_and_rejections_do_not() -> None:
    watched = [click(1, k, type=EventType.PROGRESS) for k in range(20)]
    assert partners_of(watched, click(2, 20)) == [1]
    for kind in (EventType.SKIP, EventType.DISLIKE, EventType.SEARCH):
        assert partners_of([click(1, type=kind)], click(2, 1)) == []


def test_a_pair_counts_less_the_further_apart_its_titles_are() -> None:
    shard = Shard()
    shard.apply(log_of(*(click(item, item) for item in (1, 2, 3))))
    out = read_neighbours(shard.stores["c"], shard.stores["g"], 3, START_MS + 3 * MINUTE_MS, 9, 1)
    assert out["item"].tolist() == [2, 1]
    assert out["weight"] == pytest.approx([1.0, 0.9], rel=1e-3)
    assert out["support"].tolist() == [1, 1]


# Rows are a function of the log


@settings(max_examples=25)
@given(logs_of_a_partition(), st.data())
def test_any_batches_leave_the_rows_of_a_clean_replay(events: Events, data: st.DataObject) -> None:
    shard = Shard()
    at = 0
    while at < len(events):
        stop = at + data.draw(st.integers(1, 15))
        shard.apply(events[at:stop])
        at = stop
    assert shard.wrong_rows(events) == []


@given(logs_of_a_partition(), st.integers(0, 40))
def test_reading_any_suffix_again_changes_nothing(events: Events, start: int) -> None:
    shard = Shard()
    shard.apply(events)
    before = shard.records()
    assert shard.apply(events[start:]) == []
    assert shard.records() == before


@settings(max_examples=25)
@given(logs_of_a_partition(), st.integers(0, 40), st.integers(0, 40), st.integers(0, 4))
def test_a_crash_between_any_two_writes_loses_and_doubles_nothing(
    events: Events, crash_from: int, crash_at: int, n_written: int
) -> None:
    """Tables are written one after the other, viewers last; the process ends in between."""
    crash_from, crash_at = sorted((crash_from, crash_at))
    shard = Shard()
    shard.apply(events[:crash_from])
    settled = shard.records()
    shard.apply(events[crash_from:crash_at])
    written = [table.letter for table in TABLES[:n_written]]
    again = Shard()
    for letter, store in again.stores.items():
        store._records = (shard.records() if letter in written else settled)[letter]
    again.apply(events[crash_from:])
    assert again.wrong_rows(events) == []


def test_a_batch_without_events_changes_nothing() -> None:
    assert Shard().apply(log_of()) == []


# What readers make of them


Pairs = Counter[tuple[int, int]]


def pairs_of(logs: list[Events], now_ms: int) -> tuple[Pairs, Pairs]:
    """Weight and support of every pair of titles, by their definition."""
    weights, supports = Pairs(), Pairs()
    rows: dict[int, Events] = {}
    partners = np.zeros(covisitation.N_PARTNERS, np.uint64)
    for one in np.concatenate(logs):
        row = rows.setdefault(int(one["user"]), user_row.new_row())[0]
        count = session_partners(row, one, partners)
        if user_row.apply(row, one) < user_row.APPLIED:
            continue
        left = 0.5 ** ((now_ms - one["at_ms"]) / covisitation.HALF_LIFE_MS)
        for k, partner in enumerate(partners[:count].tolist()):
            item = int(one["item"])
            for pair in ((item, partner), (partner, item)):
                weights[pair] += 0.9**k * left
                supports[pair] += 1
    return weights, supports


@settings(max_examples=15)
@given(st.lists(logs_of_a_partition(max_size=30), min_size=1, max_size=3))
def test_merged_neighbours_are_those_of_brute_force(logs: list[Events]) -> None:
    """Nine titles fit into every row, so that nothing is given up."""
    shard = Shard()
    for partition, events in enumerate(logs):
        events["partition"] = partition
        events["user"] += 10 * partition
        shard.apply(events)
    now_ms = max([START_MS, *np.concatenate(logs)["at_ms"].tolist()])
    weights, supports = pairs_of(logs, now_ms)
    of_title = Counter[int]()
    for (item, _), weight in weights.items():
        of_title[item] += weight
    for item in range(1, 10):
        found = read_neighbours(shard.stores["c"], shard.stores["g"], item, now_ms, 32, 3)
        assert set(found["item"].tolist()) == {b for a, b in weights if a == item}
        assert (np.diff(found["weight"]) <= 0).all()
        for other, weight, support, lift in found.tolist():
            exact = weights[item, other]
            assert weight == pytest.approx(exact, rel=1e-4, abs=1e-9)
            assert support == supports[item, other]
            if exact > 1e-6:
                chance = of_title[item] * of_title[other] / weights.total()
                assert lift == pytest.approx(exact / chance, rel=1e-3)


def covisit(item: int, neighbour: int, offset: int) -> Events:
    made = np.zeros(1, covisitation.COVISIT)
    made["item"], made["offset"], made["count"], made["at_ms"] = item, offset, 1, START_MS
    made["neighbours"][0, 0] = neighbour
    return made


@given(st.lists(st.integers(1, 60), max_size=400))
def test_a_full_row_of_neighbours_keeps_the_bound_of_space_saving(neighbours: list[int]) -> None:
    row = covisitation.new_row()
    for offset, neighbour in enumerate(neighbours):
        assert covisitation.apply(row[0], covisit(99, neighbour, offset)[0])
    exact = Counter(neighbours)
    full = bool((row["items"][0] != 0).all())
    smallest = float(row["weights"].min()) if full else 0.0
    assert row["weight"][0] == pytest.approx(len(neighbours))
    for item, weight, support in zip(
        row["items"][0].tolist(), row["weights"][0], row["supports"][0], strict=True
    ):
        if item:
            assert support <= exact[item] <= weight <= exact[item] + smallest


def test_a_segment_counts_deliberate_actions_of_its_region_and_hour_and_everywhere() -> None:
    shard = Shard()
    hour = START_MS // HOUR_MS % 24
    shard.apply(
        log_of(
            event(item=1, region=DE),
            event(item=1, region=0, user=5),
            event(item=2, region=DE),
            event(item=3, region=DE, type=EventType.IMPRESSION),
            event(item=4, region=DE, at_ms=START_MS + HOUR_MS),
        )
    )
    store = shard.stores["s"]
    everywhere = read_segment(store, 0, hour, START_MS, 10)
    assert everywhere["item"].tolist() == [1, 2]
    assert everywhere["weight"] == pytest.approx([2.0, 1.0])
    assert everywhere["share"] == pytest.approx([2 / 3, 1 / 3])
    assert read_segment(store, DE, hour, START_MS, 1)["share"] == pytest.approx([0.5])
    week_later = read_segment(store, DE, (hour + 1) % 24, START_MS + HOUR_MS + 7 * DAY_MS, 10)
    assert week_later["item"].tolist() == [4]
    assert week_later["weight"] == pytest.approx([0.5])
    assert len(read_segment(store, 77, hour, START_MS, 10)) == 0


# Rates of all, and what they mean for a title


def test_rates_of_genres_lie_between_the_whole_and_their_own() -> None:
    shard = Shard()
    drama, comedy = 1 << 7, 1 << 4
    shown = [event(type=EventType.IMPRESSION, genres=drama)] * 300
    clicked = [event(genres=drama)] * 150
    ignored = [event(type=EventType.IMPRESSION, genres=comedy)] * 300
    shard.apply(log_of(*shown, *clicked, *ignored))
    priors = read_priors(shard.stores["g"])
    assert priors[N_GENRES, 0] == pytest.approx((150 + 10) / (600 + 100))
    assert priors[7, 0] == pytest.approx((150 + 100 * priors[N_GENRES, 0]) / 400)
    assert priors[4, 0] == pytest.approx(100 * priors[N_GENRES, 0] / 400)
    assert priors[5].tolist() == priors[N_GENRES].tolist()
    assert priors[N_GENRES, 1:] == pytest.approx([0.3, 0.7])


def test_without_rows_the_rates_are_the_assumed_ones() -> None:
    priors = read_priors(InMemoryRowStore(GLOBALS))
    assert np.array_equal(priors, global_rates.DEFAULT_PRIORS)


def test_clicks_without_impressions_say_nothing_of_the_click_rate() -> None:
    shard = Shard()
    shard.apply(log_of(*[event()] * 50))
    assert read_priors(shard.stores["g"])[N_GENRES, 0] == pytest.approx(0.1)


def test_a_new_title_starts_at_the_mean_rate_of_its_genres() -> None:
    priors = global_rates.DEFAULT_PRIORS.copy()
    priors[7], priors[4] = (0.2, 0.6, 0.8), (0.4, 0.2, 0.6)
    row = item_after(event(type=EventType.PROGRESS, genres=1 << 7 | 1 << 4))
    values = item_values(row, START_MS, priors)
    assert values["item_click_rate"] == pytest.approx(0.3)
    assert values["item_completion_rate"] == pytest.approx(0.4)
    assert values["item_like_share"] == pytest.approx(0.7)
    of_no_genre = item_values(item_row.new_row(), START_MS, priors)
    assert of_no_genre["item_click_rate"] == pytest.approx(0.1)


def test_counts_are_those_of_the_title_by_kind_in_each_genre() -> None:
    shard = Shard()
    shard.apply(log_of(event(genres=3), event(genres=2, type=EventType.LIKE)))
    counts = read_globals(shard.stores["g"])["counts"][0]
    clicks, positives, engaged = 1, 4, 6
    assert counts[0, [clicks, positives, engaged]].tolist() == [1, 0, 1]
    assert counts[1, [clicks, positives, engaged]].tolist() == [1, 1, 2]
    assert counts[N_GENRES, engaged] == 2


def test_ids_of_partitions_differ() -> None:
    partitions = range(MAX_PARTITIONS)
    assert len({int(covisitation.row_id(np.uint64(5), p)) for p in partitions}) == MAX_PARTITIONS
    assert len({int(global_rates.row_id(p)) for p in partitions}) == MAX_PARTITIONS
    ids = {
        int(segment_popularity.row_id(region, hour, p))
        for region in (0, 1, 2**32 - 1)
        for hour in range(24)
        for p in partitions
    }
    assert len(ids) == 3 * 24 * MAX_PARTITIONS


def test_viewers_are_written_last() -> None:
    assert TABLES[-1] is USERS
    assert {table.letter for table in TABLES} == set("icsgu")
    assert {COVISITATIONS.letter, SEGMENTS.letter, GLOBALS.letter} == set("csg")
