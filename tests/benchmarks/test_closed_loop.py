"""The arithmetic of the closed loop's figures."""

import math

import pytest

from benchmarks.closed_loop import WEEK, Earned, interval, ratio, shares_text, shortened
from features.vocabulary import N_ARMS


def earned(reward):
    return Earned(reward, reward, 0.0, 0.0, 0.0)


def test_an_interval_is_that_of_students_t():
    mean, half = interval([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert half == pytest.approx(3.182446 * math.sqrt(5 / 3) / 2, rel=1e-6)


def test_one_world_has_no_interval():
    mean, half = interval([2.0])
    assert mean == 2.0
    assert math.isnan(half)


def test_ratios_are_taken_world_by_world():
    runs = [{"a": earned(2.0), "b": earned(1.0)}, {"a": earned(8.0), "b": earned(4.0)}]
    assert ratio(runs, "a", "b") == (2.0, 2.0)


def test_shares_are_told_the_largest_first():
    shares = (0.3, 0.7, *[0.0] * (N_ARMS - 2))
    assert shares_text(shares) == "als 0.7, ranker 0.3"


def test_a_quick_look_is_at_the_same_week():
    assert shortened(WEEK).span_s == pytest.approx(WEEK.span_s)
