"""Where a viewer stands with a title follows from what was reported, by stated rules."""

import numpy as np
import pytest
from hypothesis import given

from features import viewing_state
from features.events import NO_RATING
from features.viewing_state import (
    ABANDONED,
    ABANDONED_AFTER_MS,
    IN_PROGRESS,
    N_FINGERPRINTS,
    N_PLACES,
    REJECTED,
    SEEN,
    WATCHED,
    continue_watching,
    find,
    is_done_with,
    is_remembered,
    remember,
    state_of,
)
from features.vocabulary import EventType
from tests.clock import START_MS
from tests.features.examples import Events, event, logs, user_after, user_values

PLAY_LITTLE = {"type": EventType.PLAY, "watch_position_s": 60, "watch_duration_s": 6_000}
PLAY_NEARLY_ALL = {"type": EventType.PROGRESS, "watch_position_s": 5_400, "watch_duration_s": 6_000}
KINDS = {kind.name: {"type": kind} for kind in EventType}


@pytest.mark.parametrize(
    ("happened", "state"),
    [
        ([KINDS["CLICK"]], SEEN),
        ([KINDS["ADD"]], SEEN),
        ([KINDS["SKIP"]], SEEN),
        ([PLAY_LITTLE], IN_PROGRESS),
        ([KINDS["PLAY"]], IN_PROGRESS),
        ([PLAY_NEARLY_ALL], WATCHED),
        ([KINDS["COMPLETE"]], WATCHED),
        ([{"type": EventType.RATE, "rating": 3.0}], WATCHED),
        ([KINDS["DISLIKE"]], REJECTED),
        ([PLAY_LITTLE, KINDS["SKIP"]], ABANDONED),
        ([PLAY_LITTLE, KINDS["SKIP"], PLAY_LITTLE], IN_PROGRESS),
        ([PLAY_LITTLE, KINDS["CLICK"]], IN_PROGRESS),
        ([KINDS["COMPLETE"], PLAY_LITTLE], WATCHED),
        ([KINDS["COMPLETE"], KINDS["SKIP"]], WATCHED),
        ([KINDS["COMPLETE"], KINDS["CLICK"]], WATCHED),
        ([KINDS["COMPLETE"], KINDS["DISLIKE"]], REJECTED),
        ([KINDS["DISLIKE"], KINDS["CLICK"]], REJECTED),
        ([KINDS["DISLIKE"], KINDS["COMPLETE"]], WATCHED),
    ],
)
def test_events_move_a_title_from_state_to_state(happened: list[dict], state: int) -> None:
    viewing = user_after(*(event(item=9, **fields) for fields in happened))["viewing"][0]
    assert viewing["titles"]["item"][0] == 9
    assert viewing["titles"]["state"][0] == state
    assert viewing_state.is_done_with(viewing, np.uint64(9)) == (state in (WATCHED, REJECTED))


@pytest.mark.parametrize("kind", [EventType.IMPRESSION, EventType.SEARCH])
def test_what_was_only_shown_or_searched_is_not_in_the_table(kind: EventType) -> None:
    viewing = user_after(event(item=9, type=kind))["viewing"][0]
    assert viewing_state.find(viewing, np.uint64(9)) == -1


@given(logs(max_size=40))
def test_the_title_touched_last_stands_in_front_and_each_title_once(events: Events) -> None:
    items = user_after(events)["viewing"]["titles"]["item"][0]
    touched = events[~np.isin(events["type"], [EventType.IMPRESSION, EventType.SEARCH])]["item"]
    expected = list(dict.fromkeys(touched[::-1].tolist()))
    assert items[items != 0].tolist() == expected


@pytest.mark.parametrize("tenths", range(101))
def test_a_rating_is_kept_to_its_tenth(tenths: int) -> None:
    row = user_after(event(type=EventType.RATE, rating=tenths / 10))
    assert row["viewing"]["titles"]["rating"][0, 0] == tenths + 1


def test_a_title_without_a_rating_has_none() -> None:
    row = user_after(event(type=EventType.CLICK, rating=NO_RATING))
    assert row["viewing"]["titles"]["rating"][0, 0] == 0


def watched_titles(first: int, count: int) -> list[Events]:
    return [event(item=first + n, type=EventType.COMPLETE) for n in range(count)]


def test_a_watched_title_that_left_the_table_is_still_done_with() -> None:
    n_titles = viewing_state.N_TITLES + viewing_state.N_FINGERPRINTS
    viewing = user_after(*watched_titles(10, n_titles))["viewing"][0]
    assert viewing_state.find(viewing, np.uint64(10)) == -1
    done = [viewing_state.is_done_with(viewing, np.uint64(10 + n)) for n in range(n_titles)]
    assert all(done)
    assert not viewing_state.is_done_with(viewing, np.uint64(9))


def test_the_oldest_of_very_many_watched_titles_is_forgotten() -> None:
    n_titles = viewing_state.N_TITLES + viewing_state.N_FINGERPRINTS + 1
    viewing = user_after(*watched_titles(10, n_titles))["viewing"][0]
    assert not viewing_state.is_done_with(viewing, np.uint64(10))
    assert viewing_state.is_done_with(viewing, np.uint64(11))


def test_a_title_that_was_only_seen_leaves_no_trace_when_it_leaves_the_table() -> None:
    others = watched_titles(10, viewing_state.N_TITLES)
    viewing = user_after(event(item=9, type=EventType.CLICK), *others)["viewing"][0]
    assert not viewing_state.is_done_with(viewing, np.uint64(9))


def test_a_watched_title_that_comes_back_into_the_table_is_still_done_with() -> None:
    left = watched_titles(10, viewing_state.N_TITLES + 1)
    viewing = user_after(*left, event(item=10, type=EventType.CLICK))["viewing"][0]
    assert viewing_state.find(viewing, np.uint64(10)) == 0
    assert viewing_state.is_done_with(viewing, np.uint64(10))


def test_shares_of_titles_are_counted_by_state() -> None:
    values = user_values(
        user_after(
            event(item=1, **KINDS["COMPLETE"]),
            event(item=2, **PLAY_LITTLE),
            event(item=3, **PLAY_LITTLE),
            event(item=3, **KINDS["SKIP"]),
            event(item=4, **KINDS["CLICK"]),
        )
    )
    assert values["user_titles_watched"] == 1
    assert values["user_titles_in_progress"] == 1
    assert values["user_titles_abandoned"] == 1
    assert values["user_completion_share"] == pytest.approx(1 / 3)


def test_a_title_in_progress_that_is_left_for_a_week_is_abandoned_when_it_is_read() -> None:
    row = user_after(event(item=9, **PLAY_LITTLE))
    viewing = row["viewing"][0]
    before = row.tobytes()
    last_ms = START_MS + ABANDONED_AFTER_MS
    for now_ms, state, name in (
        (last_ms, IN_PROGRESS, "user_titles_in_progress"),
        (last_ms + 1, ABANDONED, "user_titles_abandoned"),
    ):
        assert state_of(viewing, 0, now_ms) == state
        assert user_values(row, now_ms)[name] == 1
    assert row.tobytes() == before


def test_what_was_left_for_a_week_and_is_played_again_is_in_progress() -> None:
    again_ms = START_MS + 2 * ABANDONED_AFTER_MS
    row = user_after(event(item=9, **PLAY_LITTLE), event(item=9, at_ms=again_ms, **PLAY_LITTLE))
    assert state_of(row["viewing"][0], 0, again_ms) == IN_PROGRESS


@pytest.mark.parametrize(
    ("fields", "state"),
    [(KINDS["COMPLETE"], WATCHED), (KINDS["CLICK"], SEEN), (PLAY_NEARLY_ALL, WATCHED)],
)
def test_only_what_is_in_progress_is_abandoned_by_time(fields: dict, state: int) -> None:
    viewing = user_after(event(item=9, **fields))["viewing"][0]
    assert state_of(viewing, 0, START_MS + 100 * ABANDONED_AFTER_MS) == state


def test_there_is_no_state_behind_the_last_title() -> None:
    assert state_of(user_after()["viewing"][0], 0, START_MS) == 0


def test_the_position_is_the_furthest_reported() -> None:
    at = [{**PLAY_LITTLE, "watch_position_s": position} for position in (600, 3_000, 60)]
    row = user_after(*(event(item=9, **fields) for fields in at))
    assert user_values(row)["user_progress"] == pytest.approx(0.5)


def test_where_no_length_is_reported_that_of_the_catalogue_counts() -> None:
    played = event(item=9, type=EventType.PROGRESS, watch_position_s=1_800, runtime_min=120)
    assert user_values(user_after(played))["user_progress"] == pytest.approx(0.25)
    unknown = event(item=9, type=EventType.PROGRESS, watch_position_s=1_800)
    assert user_values(user_after(unknown))["user_progress"] == 0


def titles_to_continue(row: np.ndarray, now_ms: int, most: int = 5) -> list[tuple[int, float]]:
    items, fractions = np.zeros(most, np.uint64), np.zeros(most, np.float32)
    n = continue_watching(row["viewing"][0], now_ms, items, fractions)
    return list(zip(items[:n].tolist(), fractions[:n].tolist(), strict=True))


def test_titles_to_continue_are_those_in_progress_the_last_touched_first() -> None:
    row = user_after(
        event(item=1, at_ms=START_MS - ABANDONED_AFTER_MS - 2_000, **PLAY_LITTLE),
        event(item=2, type=EventType.PROGRESS, watch_position_s=1_500, watch_duration_s=6_000),
        event(item=3, **KINDS["COMPLETE"]),
        event(item=4, type=EventType.PROGRESS, watch_position_s=3_000, watch_duration_s=6_000),
        event(item=5, **KINDS["CLICK"]),
    )
    assert titles_to_continue(row, START_MS) == [(4, 0.5), (2, 0.25)]
    assert titles_to_continue(row, START_MS, most=1) == [(4, 0.5)]
    assert titles_to_continue(row, START_MS + 2 * ABANDONED_AFTER_MS) == []


def test_a_late_event_does_not_make_a_title_older() -> None:
    row = user_after(event(item=9, **PLAY_LITTLE), event(item=9, at_ms=START_MS - 60_000))
    assert row["viewing"]["titles"]["at_s"][0, 0] == START_MS // 1_000


def remembered_of(row: Events, items: np.ndarray) -> list[bool]:
    viewing, places = row["viewing"][0], np.zeros(N_PLACES, np.uint32)
    remember(viewing, places)
    return [is_remembered(viewing, places, item) for item in items]


@given(logs())
def test_what_is_remembered_is_what_is_done_with_and_no_longer_in_the_table(events: Events) -> None:
    row = user_after(*(events[k : k + 1] for k in range(len(events))))
    items, viewing = np.unique(events["item"]), row["viewing"][0]
    expected = [is_done_with(viewing, item) and find(viewing, item) < 0 for item in items]
    assert remembered_of(row, items) == expected


def test_what_is_remembered_is_found_for_a_viewer_of_hundreds_and_nothing_else(rng) -> None:
    watched = rng.integers(1, 2**63, 400).astype(np.uint64)
    watched[::2] &= ~np.uint64(N_PLACES - 1)  # many that want the same place
    kinds = (EventType.COMPLETE, EventType.DISLIKE, EventType.CLICK)
    row = user_after(
        *(event(item=item, type=kinds[k % 3], at_ms=START_MS + k) for k, item in enumerate(watched))
    )
    items = np.concatenate([watched, rng.integers(1, 2**63, 4_000).astype(np.uint64)])
    viewing = row["viewing"][0]
    expected = [is_done_with(viewing, item) and find(viewing, item) < 0 for item in items]
    assert remembered_of(row, items) == expected
    assert sum(expected) == N_FINGERPRINTS
