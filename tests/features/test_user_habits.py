"""Habits are shares of what a viewer does; the stage of life follows a stated rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import user_habits
from features.user_habits import NEW, POWER, REGULAR, active_days, stage
from features.vocabulary import Device, EventType
from features.windows import DAY_MS, HOUR_MS
from tests.clock import START_MS
from tests.features.examples import Events, event, logs, user_after, user_values

# START_MS is 2023-11-14 22:13:20 UTC, a Tuesday.


def on_days(*days_ago: int) -> Events:
    return np.concatenate([event(at_ms=START_MS - days * DAY_MS) for days in days_ago])


def test_hours_and_weekdays_are_shares_by_utc() -> None:
    values = user_values(
        user_after(
            *[event()] * 3,
            event(at_ms=START_MS + 2 * HOUR_MS),
        )
    )
    assert values["user_hour_22"] == pytest.approx(3 / 4)
    assert values["user_hour_00"] == pytest.approx(1 / 4)
    assert values["user_weekday_tuesday"] == pytest.approx(3 / 4)
    assert values["user_weekday_wednesday"] == pytest.approx(1 / 4)
    assert sum(value for name, value in values.items() if name.startswith("user_hour_")) == 1


def test_devices_are_a_mix() -> None:
    used = [event(device=device) for device in (Device.TV, Device.TV, Device.PHONE, 0)]
    values = user_values(user_after(*used))
    mix = [values[f"user_device_{device.name.lower()}"] for device in Device]
    assert mix == [0.25, 0.5, 0.25, 0, 0]


def test_what_was_only_shown_is_no_habit() -> None:
    shown = event(type=EventType.IMPRESSION, device=Device.TV)
    habits = user_after(shown)["habits"][0]
    assert habits["engaged"] == habits["hours"].sum() == habits["devices"].sum() == 0
    assert habits["active_days"] == 0


def test_a_full_count_halves_all_beside_it() -> None:
    row = user_after(*[event(device=1)] * 20, *[event(device=2)] * 255)
    assert row["habits"]["devices"][0].tolist() == [0, 20, 255, 0, 0]
    row = user_after(*[event(device=1)] * 20, *[event(device=2)] * 256)
    assert row["habits"]["devices"][0].tolist() == [0, 10, 128, 0, 0]


@pytest.mark.parametrize(
    ("plays", "completions", "habit"), [(0, 0, 0.3), (5, 0, 0.15), (5, 5, 0.65), (0, 5, 0.65)]
)
def test_the_completion_habit_is_smoothed(plays: int, completions: int, habit: float) -> None:
    happened = [event(type=EventType.PLAY)] * plays + [event(type=EventType.COMPLETE)] * completions
    assert user_values(user_after(*happened))["user_completion_habit"] == pytest.approx(habit)


def test_active_days_are_counted_among_the_last_28() -> None:
    habits = user_after(on_days(40, 28, 27, 27, 3, 0))["habits"][0]
    assert active_days(habits, START_MS) == 3
    assert active_days(habits, START_MS + DAY_MS) == 2
    assert active_days(habits, START_MS + 24 * DAY_MS) == 2
    assert active_days(habits, START_MS + 27 * DAY_MS) == 1
    assert active_days(habits, START_MS + 28 * DAY_MS) == 0
    assert active_days(habits, START_MS + 4_000 * DAY_MS) == 0


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(0, 40), st.randoms())
def test_active_days_are_the_same_in_any_order(
    days_ago: list[int], later: int, random: object
) -> None:
    shuffled = list(days_ago)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    now_ms = START_MS + later * DAY_MS
    expected = len({days for days in days_ago if days + later < user_habits.N_DAYS})
    for order in (days_ago, shuffled):
        made = [on_days(days) for days in order]
        habits = user_after(*made)["habits"][0]
        assert active_days(habits, now_ms) == expected


def test_days_known_begin_with_the_first_event_even_if_it_is_late_or_only_shown() -> None:
    shown = event(type=EventType.IMPRESSION, at_ms=START_MS - 3 * DAY_MS)
    values = user_values(user_after(event(), shown), START_MS + DAY_MS)
    assert values["user_days_known"] == pytest.approx(4, abs=1e-4)


@pytest.mark.parametrize(
    ("days_ago", "expected"),
    [
        ([], NEW),
        ([3, 2, 1, 0], NEW),  # too few events
        ([0] * 50, NEW),  # too short a time
        ([3, 2, 1, 0, 0], REGULAR),
        ([*range(12, -1, -1)], REGULAR),
        ([*range(13, -1, -1)], POWER),
        ([*range(41, 20, -1)], REGULAR),  # of late they come less
        ([*range(27, -1, -2)], POWER),
    ],
)
def test_the_stage_of_life_follows_its_rule(days_ago: list[int], expected: int) -> None:
    row = user_after(*([on_days(*days_ago)] if days_ago else []))
    assert stage(row["habits"][0], START_MS) == expected
    values = user_values(row)
    stages = [values[f"user_is_{name}"] for name in ("new", "regular", "power")]
    assert stages == [float(k == expected) for k in range(3)]


@given(logs(max_size=60))
def test_shares_sum_to_one_or_nothing_is_known(events: Events) -> None:
    values = user_values(user_after(events))
    engaged = (events["type"] != EventType.IMPRESSION).any()
    for prefix in ("user_hour_", "user_weekday_", "user_device_"):
        total = sum(value for name, value in values.items() if name.startswith(prefix))
        assert total == pytest.approx(1.0 if engaged else 0.0, abs=1e-5)
