"""A viewer's row takes every event once, in the order of the log, by stated rules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import item_row, user_activity, user_row, viewing_state
from features.registry import USER_COLUMNS
from features.user_activity import N_RECENT
from features.user_row import (
    APPLIED,
    APPLIED_HEAD,
    HEAD_BYTES,
    N_REMEMBERED,
    REPLAYED,
    SEEN_BEFORE,
    USER_ROW,
)
from features.vocabulary import EventType
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

COUNTED = {APPLIED, APPLIED_HEAD}

# --- exactly once --------------------------------------------------------------------------------


@given(logs(max_size=60), st.integers(0, 60))
def test_a_replay_of_any_suffix_changes_nothing(events: Events, start: int) -> None:
    row = user_row.new_row()
    assert set(apply_to_user(row, events)) <= COUNTED
    before = row.tobytes()
    replayed = apply_to_user(row, events[start:])
    assert replayed == [REPLAYED] * len(events[start:])
    assert row.tobytes() == before


@given(logs(max_size=40), st.integers(0, 40))
def test_a_replay_after_a_crash_takes_only_what_is_missing(events: Events, crashed_at: int) -> None:
    row = user_row.new_row()
    apply_to_user(row, events[:crashed_at])
    effects = apply_to_user(row, events)
    assert effects[:crashed_at] == [REPLAYED] * len(events[:crashed_at])
    assert set(effects[crashed_at:]) <= COUNTED
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
    counted = [effect in COUNTED for effect in apply_to_user(row, events)]
    assert counted == [place in firsts for place in range(len(events))]
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
    assert apply_to_user(row, np.concatenate([original, again])) == [APPLIED_HEAD, SEEN_BEFORE]
    assert (row["offset"][0], row["logged_at_ms"][0]) == (6, START_MS + 5)
    assert user_values(row)["user_events_total"] == 1


@pytest.mark.parametrize(
    ("n_between", "effect"), [(N_REMEMBERED - 1, SEEN_BEFORE), (N_REMEMBERED, APPLIED_HEAD)]
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
    for name in ("clicks", "events"):
        counts = [values[f"user_{name}_{window}"] for window in ("5m", "1h", "24h", "7d")]
        assert counts == [1, 2, 3, 4]
    assert values["user_events_total"] == 5
    assert values["user_plays_7d"] == 0


@pytest.mark.parametrize(
    ("kind", "counted_as"),
    [
        ("IMPRESSION", {"impressions"}),
        ("CLICK", {"events", "clicks"}),
        ("PLAY", {"events", "plays"}),
        ("PROGRESS", {"events"}),
        ("COMPLETE", {"events", "completions"}),
        ("RATE", {"events", "ratings"}),
        ("LIKE", {"events"}),
        ("SEARCH", {"events"}),
    ],
)
def test_an_event_counts_as_its_kind_and_as_deliberate_unless_only_shown(
    kind: str, counted_as: set[str]
) -> None:
    values = user_values(user_after(event(type=EventType[kind], rating=5.0)))
    for name in user_activity.KINDS:
        for window, _ in user_activity.WINDOWS:
            assert values[f"user_{name}_{window}"] == (name in counted_as), (name, window)


def test_a_late_event_counts_in_each_window_that_still_has_its_bucket() -> None:
    values = user_values(user_after(event(), event(at_ms=START_MS - 2 * HOUR_MS)))
    counts = [values[f"user_clicks_{window}"] for window in ("5m", "1h", "24h", "7d")]
    assert counts == [1, 1, 2, 2]


def test_an_event_older_than_every_window_is_in_the_totals_alone_and_counted_as_late() -> None:
    row = user_after(event(), event(at_ms=START_MS - 8 * DAY_MS))
    assert row["activity"]["days"].sum() == 2  # one event, as itself and as deliberate
    assert row["activity"]["late"][0] == 1
    assert user_values(row)["user_events_total"] == 2
    assert user_values(row)["user_idle_hours"] == 0


IN_ANY_ORDER = ("minutes", "ten_minutes", "three_hours", "days", "totals", "first_ms", "last_ms")
RATED_IN_ANY_ORDER = ("rating_count", "rating_sum_tenths", "rating_square_sum_tenths")


@given(logs(max_size=40), st.randoms(use_true_random=False), st.integers(-DAY_MS, 9 * DAY_MS))
def test_windows_totals_and_ratings_are_the_same_in_any_order(
    events: Events, random: object, later_ms: int
) -> None:
    order = list(range(len(events)))
    random.shuffle(order)  # type: ignore[attr-defined]
    row, other = user_after(events), user_after(events[order])
    for name in (*IN_ANY_ORDER, *RATED_IN_ANY_ORDER):
        assert row["activity"][name].tolist() == other["activity"][name].tolist(), name
    values = user_values(row, START_MS + later_ms)
    for column in user_activity.COLUMNS:
        assert user_values(other, START_MS + later_ms)[column[0]] == values[column[0]], column


@given(logs(max_size=40), st.integers(0, 9 * DAY_MS))
def test_windows_say_what_a_count_of_the_events_says(events: Events, later_ms: int) -> None:
    now_ms = START_MS + later_ms
    values = user_values(user_after(events), now_ms)
    widths_ms = {
        "5m": (MINUTE_MS, 5), "1h": (10 * MINUTE_MS, 6), "24h": (3 * HOUR_MS, 8), "7d": (DAY_MS, 7)
    }  # fmt: skip
    for window, (width_ms, n_buckets) in widths_ms.items():
        buckets = events["at_ms"] // width_ms
        newest = max(now_ms // width_ms, int(buckets.max()) if len(events) else 0)
        kept = (buckets > newest - n_buckets) & (buckets > now_ms // width_ms - n_buckets)
        clicks = kept & (events["type"] == EventType.CLICK)
        deliberate = kept & (events["type"] != EventType.IMPRESSION)
        assert values[f"user_clicks_{window}"] == clicks.sum()
        assert values[f"user_events_{window}"] == deliberate.sum()


def test_counters_stop_at_their_limit() -> None:
    row = user_after(event())
    activity, habits = row["activity"], row["habits"]
    for name in ("minutes", "days"):
        activity[name][activity[name] > 0] = 2**16 - 1
    for counts, name in ((activity, "totals"), (activity, "late"), (habits, "engaged")):
        counts[name] = 2**32 - 1
    row["sessions"]["events"] = row["sessions"]["actions"] = 2**32 - 1
    late = event(at_ms=START_MS - 8 * DAY_MS)
    apply_to_user(row, log_of(event(), late, first_offset=1))
    assert activity["minutes"].max() == activity["days"].max() == 2**16 - 1
    assert activity["totals"][0].tolist() == [2**32 - 1] * 12
    assert activity["late"][0] == habits["engaged"][0] == 2**32 - 1
    assert row["sessions"]["events"][0] == row["sessions"]["actions"][0] == 2**32 - 1


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


# --- the whole row -------------------------------------------------------------------------------


@given(logs())
def test_values_change_nothing(events: Events) -> None:
    row = user_after(events)
    before = row.tobytes()
    user_values(row)
    assert row.tobytes() == before


@given(logs(max_size=60))
def test_every_value_is_finite_and_shares_stay_within_one(events: Events) -> None:
    for now_ms in (START_MS, START_MS + 50 * DAY_MS):
        values = user_values(user_after(events), now_ms)
        assert np.isfinite(list(values.values())).all()
        for column in USER_COLUMNS:
            low, high = {"0..1": (0, 1), "0/1": (0, 1), "-1..1": (-1, 1)}.get(
                column.unit, (0, np.inf)
            )
            assert low <= values[column.name] <= high, column.name


@given(logs(max_size=60))
def test_the_same_log_gives_the_same_bytes(events: Events) -> None:
    assert user_after(events).tobytes() == user_after(events.copy()).tobytes()


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 250))
def test_after_any_effect_but_applied_the_tail_of_the_row_is_as_it_was(
    seed: int, n_titles: int, n_ids: int
) -> None:
    rng = np.random.default_rng(seed)
    events = np.repeat(event(), 120)
    events["type"] = rng.integers(1, len(EventType), len(events))
    events["item"] = rng.integers(1, n_titles + 1, len(events))
    events["at_ms"] -= rng.integers(0, DAY_MS, len(events))
    events["rating"] = rng.integers(-1, 11, len(events))
    events["watch_position_s"] = rng.integers(0, 6_000, len(events))
    events["runtime_min"] = 100
    events["event"] = rng.integers(1, n_ids + 1, len(events))  # with duplicates
    events["offset"] = np.arange(len(events)) - rng.integers(0, 2, len(events))  # and replays
    row = user_row.new_row()
    for k in range(len(events)):
        before = row.tobytes()[HEAD_BYTES:]
        (effect,) = apply_to_user(row, events[k : k + 1])
        if effect != APPLIED:
            assert row.tobytes()[HEAD_BYTES:] == before


def test_what_happens_to_the_first_four_titles_leaves_the_tail_alone() -> None:
    row = user_after(*(event(item=item) for item in range(1, 10)))
    next_ = len(row["activity"]["recent_items"][0])
    for offset, (item, kind) in enumerate(
        [(6, "PROGRESS"), (9, "RATE"), (3, "IMPRESSION"), (77, "IMPRESSION"), (77, "SEARCH")]
    ):
        made = event(item=item, type=EventType[kind], rating=5.0, offset=next_ + offset)
        assert apply_to_user(row, made) == [APPLIED_HEAD]
    assert apply_to_user(row, event(item=5, offset=100)) == [APPLIED]  # from behind them
    assert apply_to_user(row, event(item=88, offset=101)) == [APPLIED]  # pushes one across


def test_the_head_is_what_most_writes_need() -> None:
    titles_at = USER_ROW.fields["viewing"][1]
    assert titles_at + viewing_state.N_FRONT * viewing_state.TITLE.itemsize == HEAD_BYTES
    assert HEAD_BYTES % 8 == 0
    assert HEAD_BYTES <= 1_700
    assert USER_ROW.itemsize <= 2_700
