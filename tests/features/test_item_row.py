"""A title's row is the same whichever partition was read first, and takes every event once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from features import item_row
from features.events import EVENT, NO_RATING
from features.global_rates import DEFAULT_PRIORS
from features.item_activity import KINDS
from features.vocabulary import EventType
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from tests.clock import START_MS
from tests.features.examples import (
    Events,
    apply_to_item,
    event,
    item_after,
    item_values,
    log_of,
    logs,
)

N_PARTITIONS = 3


def interleaved(logs_of_partitions: list[Events], order: list[int]) -> Events:
    """One sequence of all events: each partition in its own order, mixed as `order` says."""
    waiting = {number: list(log) for number, log in enumerate(logs_of_partitions)}
    taken = []
    for choice in order:
        left = [number for number, log in waiting.items() if log]
        if left:
            taken.append(waiting[left[choice % len(left)]].pop(0))
    taken += [one for log in waiting.values() for one in log]
    return np.array(taken, EVENT)


@st.composite
def partitions(draw: st.DrawFn) -> list[Events]:
    made = []
    for number in range(N_PARTITIONS):
        log = draw(logs(max_size=15))
        log["partition"] = number
        log["offset"] += draw(st.integers(0, 5))
        made.append(log)
    return made


orders = st.lists(st.integers(0, N_PARTITIONS - 1), max_size=3 * 15)


def row_after(events: Events) -> NDArray[np.void]:
    row = item_row.new_row()
    apply_to_item(row, events)
    return row


@given(partitions(), orders, orders)
def test_any_interleaving_of_partitions_gives_the_same_bits(
    made: list[Events], one: list[int], other: list[int]
) -> None:
    first, second = row_after(interleaved(made, one)), row_after(interleaved(made, other))
    assert first.tobytes() == second.tobytes()


@given(logs(max_size=40), st.randoms(use_true_random=False), st.integers(-DAY_MS, 16 * DAY_MS))
def test_events_of_a_partition_in_any_late_order_give_the_same_values(
    events: Events, random: object, later_ms: int
) -> None:
    order = list(range(len(events)))
    random.shuffle(order)  # type: ignore[attr-defined]
    row, other = item_after(events), item_after(events[order])
    now_ms = START_MS + later_ms
    assert item_values(row, now_ms) == item_values(other, now_ms)


def test_a_late_event_leaves_the_same_row_in_any_order() -> None:
    """The smallest case of the property above that has an event older than every window."""
    old = event(partition=0, type=EventType.CLICK, at_ms=START_MS - 30 * DAY_MS)
    new = event(partition=1, type=EventType.CLICK)
    one, other = row_after(np.concatenate([old, new])), row_after(np.concatenate([new, old]))
    assert one.tobytes() == other.tobytes()


@given(partitions(), orders, st.integers(0, 45))
def test_a_replay_of_any_suffix_changes_nothing(
    made: list[Events], order: list[int], start: int
) -> None:
    events = interleaved(made, order)
    row = item_row.new_row()
    assert apply_to_item(row, events) == [1] * len(events)
    before = row.tobytes()
    assert not any(apply_to_item(row, events[start:]))
    assert row.tobytes() == before


@given(partitions(), orders, st.integers(0, 45))
def test_a_replay_after_a_crash_takes_only_what_is_missing(
    made: list[Events], order: list[int], crashed_at: int
) -> None:
    events = interleaved(made, order)
    row = row_after(events[:crashed_at])
    apply_to_item(row, events)
    assert row.tobytes() == row_after(events).tobytes()


def test_an_empty_row_includes_nothing_of_any_partition() -> None:
    row = item_row.new_row()
    last = item_row.MAX_PARTITIONS - 1
    assert apply_to_item(row, event(partition=last, offset=0)) == [1]
    assert row["offsets"][0].tolist() == [-1] * last + [0]


@pytest.mark.parametrize(
    ("kind", "rating", "expected"),
    [
        (EventType.IMPRESSION, NO_RATING, {"impressions"}),
        (EventType.CLICK, NO_RATING, {"clicks", "engaged"}),
        (EventType.SEARCH, NO_RATING, {"clicks", "engaged"}),
        (EventType.PLAY, NO_RATING, {"plays", "engaged"}),
        (EventType.PROGRESS, NO_RATING, set()),
        (EventType.COMPLETE, NO_RATING, {"completions", "engaged"}),
        (EventType.LIKE, NO_RATING, {"positives", "engaged"}),
        (EventType.ADD, NO_RATING, {"positives", "engaged"}),
        (EventType.SHARE, NO_RATING, {"positives", "engaged"}),
        (EventType.DISLIKE, NO_RATING, {"negatives"}),
        (EventType.SKIP, NO_RATING, {"negatives"}),
        (EventType.RATE, 7.0, {"positives", "engaged"}),
        (EventType.RATE, 6.5, {"engaged"}),
        (EventType.RATE, 4.0, {"negatives", "engaged"}),
        (EventType.RATE, 0.0, {"negatives", "engaged"}),
    ],
)
def test_an_event_counts_as_its_kinds(kind: EventType, rating: float, expected: set[str]) -> None:
    row = item_after(event(type=kind, rating=rating))
    counted = {
        name for name, count in zip(KINDS, row["activity"]["totals"][0], strict=True) if count
    }
    assert counted == expected


def test_windows_count_what_is_recent_enough() -> None:
    ages = (0, 20 * MINUTE_MS, 3 * HOUR_MS, 20 * HOUR_MS, 2 * DAY_MS, 6 * DAY_MS, 100 * DAY_MS)
    values = item_values(item_after(*(event(at_ms=START_MS - age) for age in reversed(ages))))
    assert values["item_clicks_5m"] == 1
    assert values["item_clicks_1h"] == 2
    assert values["item_engaged_6h"] == 3
    assert values["item_engaged_24h"] == values["item_clicks_24h"] == 4
    assert values["item_engaged_3d"] == 5
    assert values["item_engaged_7d"] == 6
    assert values["item_engaged_total"] == 7


def test_late_events_are_in_the_totals_alone() -> None:
    late = event(at_ms=START_MS - 30 * DAY_MS)
    on_time = item_after(event())
    both = item_after(event(), late)
    assert both["activity"]["days"].tolist() == on_time["activity"]["days"].tolist()
    assert item_values(both)["item_engaged_total"] == 2
    assert item_values(both)["item_engaged_7d"] == 1


def test_rates_start_at_their_priors_and_move_with_evidence() -> None:
    empty = item_values(item_row.new_row())
    assert empty["item_click_rate"] == pytest.approx(0.1)
    assert empty["item_rating_mean"] == pytest.approx(7.0)
    seen = [event(type=EventType.IMPRESSION)] * 10 + [event(type=EventType.CLICK)] * 9
    assert item_values(item_after(*seen))["item_click_rate"] == pytest.approx(10 / 20)
    rated = item_values(item_after(*[event(type=EventType.RATE, rating=9.5)] * 15))
    assert rated["item_rating_mean"] == pytest.approx((15 * 9.5 + 5 * 7) / 20)
    assert rated["item_rating_deviation"] == 0.0
    assert rated["item_rating_count"] == 15


@pytest.mark.parametrize(("column", "half_life_days"), [("item_trend_1d", 1), ("item_trend_3d", 3)])
@pytest.mark.parametrize("days", [2, 5, 9])
def test_a_trend_halves_with_its_half_life(column: str, half_life_days: int, days: int) -> None:
    trend = item_values(item_after(*[event()] * 8), START_MS + days * DAY_MS)[column]
    exact = 8 * 0.5 ** (days / half_life_days)
    of_half_a_day = 0.5 ** (0.5 / half_life_days)  # a day counts as its noon
    assert exact * of_half_a_day <= trend * 1.000_01
    assert trend <= exact / of_half_a_day * 1.000_01


@given(st.lists(st.integers(0, 3 * 24), min_size=1, max_size=20), st.integers(0, 23))
def test_a_trend_never_rises_without_an_event(hours: list[int], later_h: int) -> None:
    row = item_after(*(event(at_ms=START_MS - hour * HOUR_MS) for hour in hours))
    times_ms = [START_MS + (later_h + hour) * HOUR_MS for hour in range(0, 20 * 24, 5)]
    for column in ("item_trend_6h", "item_trend_1d", "item_trend_3d"):
        trends = np.array([item_values(row, now_ms)[column] for now_ms in times_ms])
        assert (np.diff(trends) <= 1e-4).all()
        assert trends[-1] <= len(hours) * 0.02


@given(logs(), st.integers(0, 400 * DAY_MS))
def test_values_are_finite_and_rates_are_rates(events: Events, later_ms: int) -> None:
    events["partition"] = 0
    values = item_values(row_after(events), START_MS + later_ms)
    assert np.isfinite(list(values.values())).all()
    for name in ("item_click_rate", "item_completion_rate", "item_like_share"):
        assert values[name] > 0
    assert 0 <= values["item_rating_mean"] <= 10
    assert 0 <= values["item_idle_days"] <= 365


@given(logs())
def test_values_change_nothing(events: Events) -> None:
    row = row_after(events)
    before = row.tobytes()
    item_values(row)
    assert row.tobytes() == before


def test_values_of_many_rows_are_those_of_each() -> None:
    rows = np.concatenate([item_after(*[event()] * count) for count in (1, 4, 9)])
    out = np.zeros((2, item_row.N_COLUMNS), np.float32)
    item_row.values_of(rows, np.array([2, 0]), START_MS, DEFAULT_PRIORS, out)
    assert out[0].tolist() == list(item_values(rows[2:]).values())
    assert out[1].tolist() == list(item_values(rows[:1]).values())


def test_the_log_of_an_hour_that_goes_backwards_counts_the_same() -> None:
    events = [event(at_ms=START_MS - minutes * MINUTE_MS) for minutes in range(60)]
    forwards, backwards = item_after(*events[::-1]), item_after(*events)
    assert item_values(forwards) == item_values(backwards)
    assert log_of(*events)["offset"].tolist() == list(range(60))
