"""A viewer's row takes every event once, in the order of the log, by stated rules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import item_row, user_row, viewing_state
from features.events import NO_RATING
from features.user_activity import N_RECENT, SESSION_GAP_MS
from features.user_row import APPLIED, N_REMEMBERED, REPLAYED, SEEN_BEFORE
from features.user_taste import HALF_LIFE_MS
from features.viewing_state import ABANDONED, IN_PROGRESS, REJECTED, SEEN, WATCHED
from features.vocabulary import GENRES, EventType, genre_mask
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from tests.clock import START_MS
from tests.features.examples import (
    Events,
    apply_to_user,
    event,
    log_of,
    logs,
    user_after,
    user_values,
)

# --- exactly once --------------------------------------------------------------------------------


@given(logs(max_size=60), st.integers(0, 60))
def test_a_replay_of_any_suffix_changes_nothing(events: Events, start: int) -> None:
    row = user_row.new_row()
    assert apply_to_user(row, events) == [APPLIED] * len(events)
    before = row.tobytes()
    replayed = apply_to_user(row, events[start:])
    assert replayed == [REPLAYED] * len(events[start:])
    assert row.tobytes() == before


@given(logs(max_size=40), st.integers(0, 40))
def test_a_replay_after_a_crash_takes_only_what_is_missing(events: Events, crashed_at: int) -> None:
    row = user_row.new_row()
    apply_to_user(row, events[:crashed_at])
    effects = apply_to_user(row, events)
    assert effects == [REPLAYED] * len(events[:crashed_at]) + [APPLIED] * len(events[crashed_at:])
    assert row.tobytes() == user_after(events).tobytes()


@st.composite
def logs_with_duplicates(draw: st.DrawFn) -> Events:
    """Events of which some have the id of an earlier one, all still remembered."""
    events = draw(logs(min_size=1, max_size=N_REMEMBERED))
    events["event"] = draw(st.lists(st.integers(1, 8), min_size=len(events), max_size=len(events)))
    return events


@given(logs_with_duplicates())
def test_only_the_first_of_an_event_id_has_an_effect(events: Events) -> None:
    row = user_row.new_row()
    _, firsts = np.unique(events["event"], return_index=True)
    expected = [APPLIED if place in firsts else SEEN_BEFORE for place in range(len(events))]
    assert apply_to_user(row, events) == expected
    without = user_row.new_row()
    apply_to_user(without, events[np.sort(firsts)])
    without["offset"], without["logged_at_ms"] = row["offset"], row["logged_at_ms"]
    assert row.tobytes() == without.tobytes()


@given(logs_with_duplicates(), st.integers(0, N_REMEMBERED), st.integers(0, N_REMEMBERED))
def test_title_rows_take_no_duplicate_however_much_is_replayed(
    events: Events, crashed_at: int, start: int
) -> None:
    """A crash leaves rows of titles as new as those of users; the log is then read again."""
    row, titles = user_row.new_row(), item_row.new_row()
    apply_to_both(row, titles, events)
    again_row, again_titles = user_row.new_row(), item_row.new_row()
    apply_to_both(again_row, again_titles, events[:crashed_at])
    apply_to_both(again_row, again_titles, events[min(start, crashed_at) :])
    assert again_row.tobytes() == row.tobytes()
    assert again_titles.tobytes() == titles.tobytes()


def apply_to_both(row: Events, title: Events, events: Events) -> None:
    """Takes events to the viewer's row and on to the row of one title."""
    events = events.copy()
    apply_to_user(row, events)
    for one in events:
        item_row.apply(title[0], one)


def test_a_duplicate_moves_the_position_of_the_row() -> None:
    row = user_row.new_row()
    original, again = event(offset=4, event=9), event(offset=6, event=9, logged_at_ms=START_MS + 5)
    assert apply_to_user(row, np.concatenate([original, again])) == [APPLIED, SEEN_BEFORE]
    assert (row["offset"][0], row["logged_at_ms"][0]) == (6, START_MS + 5)
    assert user_values(row)["user_events_total"] == 1


@pytest.mark.parametrize(
    ("n_between", "effect"), [(N_REMEMBERED - 1, SEEN_BEFORE), (N_REMEMBERED, APPLIED)]
)
def test_an_event_id_is_remembered_for_a_stated_number_of_events(
    n_between: int, effect: int
) -> None:
    between = log_of(*[event()] * n_between, first_offset=1)
    again = event(offset=n_between + 1, event=9)
    events = np.concatenate([event(offset=0, event=9), between, again])
    assert apply_to_user(user_row.new_row(), events)[-1] == effect


def test_a_row_knows_the_place_of_its_last_event() -> None:
    row = user_row.new_row()
    assert (row["partition"][0], row["offset"][0]) == (-1, -1)
    apply_to_user(row, event(partition=3, offset=12, logged_at_ms=START_MS + 7))
    assert (row["partition"][0], row["offset"][0]) == (3, 12)
    assert row["logged_at_ms"][0] == START_MS + 7


# --- activity ------------------------------------------------------------------------------------


def test_windows_count_what_is_recent_enough() -> None:
    ages_ms = (0, 20 * MINUTE_MS, 5 * HOUR_MS, 30 * HOUR_MS, 90 * DAY_MS)
    row = user_after(*(event(at_ms=START_MS - age) for age in reversed(ages_ms)))
    values = user_values(row)
    assert values["user_clicks_5m"] == 1
    assert values["user_clicks_1h"] == 2
    assert values["user_clicks_24h"] == 3
    assert values["user_events_total"] == 5
    assert values["user_plays_24h"] == 0


def test_a_late_event_is_in_the_totals_alone_and_counted() -> None:
    row = user_after(event(), event(at_ms=START_MS - 3 * DAY_MS))
    assert row["activity"]["three_hours"].sum() == 1
    assert row["activity"]["late"][0] == 1
    assert user_values(row)["user_events_total"] == 2
    assert user_values(row)["user_idle_hours"] == 0


@given(logs(max_size=50))
def test_the_ring_of_titles_holds_the_last_touched_in_the_order_of_the_log(events: Events) -> None:
    activity = user_after(events)["activity"][0]
    touched = events[events["type"] != EventType.IMPRESSION]["item"].tolist()
    ring = np.roll(activity["recent_items"], -int(activity["recent_next"])).tolist()
    assert [item for item in ring if item != 0] == touched[-N_RECENT:]


def test_ratings_have_a_smoothed_mean_and_a_deviation() -> None:
    rated = [event(type=EventType.RATE, rating=rating) for rating in (4.0, 8.0)]
    values = user_values(user_after(*rated))
    assert values["user_ratings_total"] == 2
    assert values["user_rating_mean"] == pytest.approx((12 + 2 * 7) / 4)
    assert values["user_rating_deviation"] == pytest.approx(2.0)


# --- sessions ------------------------------------------------------------------------------------


def session_of(*events: Events) -> tuple[int, int, int]:
    """Events, start and name of the session after some events."""
    activity = user_after(*events)["activity"][0]
    started = int(activity["session_started_ms"]) - START_MS
    return int(activity["session_events"]), started, int(activity["session"])


def at(minutes: float, session: int = 0) -> Events:
    return event(at_ms=START_MS + int(minutes * MINUTE_MS), session=session)


def test_events_within_half_an_hour_of_each_other_are_one_session() -> None:
    assert session_of(at(0), at(30), at(60)) == (3, 0, 0)


def test_a_session_ends_after_half_an_idle_hour() -> None:
    later = event(at_ms=START_MS + SESSION_GAP_MS + 1)
    assert session_of(at(0), at(0), later) == (1, SESSION_GAP_MS + 1, 0)


def test_a_session_ends_when_the_producer_names_another() -> None:
    assert session_of(at(0, 5), at(1, 5), at(2, 6)) == (1, 2 * MINUTE_MS, 6)


def test_events_without_a_session_belong_to_the_current_one() -> None:
    assert session_of(at(0, 5), at(1), at(2, 5)) == (3, 0, 5)


def test_a_late_event_of_an_earlier_session_starts_none() -> None:
    assert session_of(at(0, 5), at(10, 6), at(9, 5)) == (2, 10 * MINUTE_MS, 6)


def test_session_values_are_zero_once_the_session_is_over() -> None:
    row = user_after(at(0), at(10))
    during = user_values(row, START_MS + 20 * MINUTE_MS)
    after = user_values(row, START_MS + 41 * MINUTE_MS)
    assert (during["user_session_events"], during["user_session_minutes"]) == (2, 10)
    assert (after["user_session_events"], after["user_session_minutes"]) == (0, 0)


# --- taste ---------------------------------------------------------------------------------------

DRAMA, WAR = genre_mask(["Drama"]), genre_mask(["War"])


def test_what_is_watched_is_liked_and_what_is_disliked_is_not() -> None:
    values = user_values(
        user_after(
            event(type=EventType.COMPLETE, genres=DRAMA),
            event(type=EventType.DISLIKE, genres=WAR),
        )
    )
    assert values["user_taste_drama"] == pytest.approx(1 / 3)
    assert values["user_taste_war"] == pytest.approx(-1 / 3)
    assert values["user_taste_comedy"] == 0
    assert values["user_taste_weight"] == 2


@pytest.mark.parametrize(("rating", "weight"), [(10.0, 1.0), (5.0, 0.0), (0.0, -1.0), (7.5, 0.5)])
def test_a_rating_says_how_much_it_is_liked(rating: float, weight: float) -> None:
    row = user_after(event(type=EventType.RATE, rating=rating, genres=DRAMA))
    assert row["taste"]["affinity"][0].sum() == pytest.approx(weight)


def test_a_title_of_several_genres_speaks_for_each_a_little_less() -> None:
    both = user_after(event(type=EventType.COMPLETE, genres=DRAMA | WAR))["taste"]["affinity"][0]
    assert both[GENRES.index("Drama")] == both[GENRES.index("War")] == pytest.approx(0.5**0.5)


def test_taste_halves_within_its_half_life() -> None:
    like = event(type=EventType.COMPLETE, genres=DRAMA, at_ms=START_MS - HALF_LIFE_MS)
    assert user_values(user_after(like))["user_taste_weight"] == pytest.approx(0.5)
    row = user_after(like, event(type=EventType.COMPLETE, genres=WAR))
    assert row["taste"]["affinity"][0][GENRES.index("Drama")] == pytest.approx(0.5)
    assert row["taste"]["affinity"][0][GENRES.index("War")] == pytest.approx(1.0)


def test_a_late_event_counts_with_the_weight_it_has_left() -> None:
    early = event(type=EventType.COMPLETE, genres=DRAMA, year=1990, at_ms=START_MS - HALF_LIFE_MS)
    recent = event(type=EventType.COMPLETE, genres=WAR, year=2010)
    in_order, late = user_after(early, recent), user_after(recent, early)
    for name, value in user_values(in_order).items():
        if name.startswith(("user_taste", "user_year")):
            assert user_values(late)[name] == pytest.approx(value, rel=1e-4), name


def test_the_year_of_watched_titles_has_a_mean_and_a_spread() -> None:
    seen = [event(type=EventType.COMPLETE, genres=DRAMA, year=year) for year in (1990, 2010)]
    values = user_values(user_after(*seen))
    assert values["user_year_mean"] == pytest.approx(2000)
    assert values["user_year_deviation"] == pytest.approx(10)


@given(logs(max_size=60))
def test_affinities_stay_within_one_and_every_value_is_finite(events: Events) -> None:
    values = user_values(user_after(events))
    assert np.isfinite(list(values.values())).all()
    for name in GENRES:
        assert abs(values[f"user_taste_{name.lower().replace('-', '_')}"]) <= 1
    assert 0 <= values["user_completion_share"] <= 1


# --- where a viewer stands with a title ----------------------------------------------------------

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
    assert viewing["items"][0] == 9
    assert viewing["states"][0] == state
    assert viewing_state.is_done_with(viewing, np.uint64(9)) == (state in (WATCHED, REJECTED))


@pytest.mark.parametrize("kind", [EventType.IMPRESSION, EventType.SEARCH])
def test_what_was_only_shown_or_searched_is_not_in_the_table(kind: EventType) -> None:
    viewing = user_after(event(item=9, type=kind))["viewing"][0]
    assert viewing_state.find(viewing, np.uint64(9)) == -1


@given(logs(max_size=40))
def test_the_title_touched_last_stands_in_front_and_each_title_once(events: Events) -> None:
    items = user_after(events)["viewing"]["items"][0]
    touched = events[~np.isin(events["type"], [EventType.IMPRESSION, EventType.SEARCH])]["item"]
    expected = list(dict.fromkeys(touched[::-1].tolist()))
    assert items[items != 0].tolist() == expected


@pytest.mark.parametrize("tenths", range(101))
def test_a_rating_is_kept_to_its_tenth(tenths: int) -> None:
    row = user_after(event(type=EventType.RATE, rating=tenths / 10))
    assert row["viewing"]["ratings"][0, 0] == tenths + 1


def test_a_title_without_a_rating_has_none() -> None:
    row = user_after(event(type=EventType.CLICK, rating=NO_RATING))
    assert row["viewing"]["ratings"][0, 0] == 0


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


@given(logs())
def test_values_change_nothing(events: Events) -> None:
    row = user_after(events)
    before = row.tobytes()
    user_values(row)
    assert row.tobytes() == before
