"""Series: rates over counters that begin again, quantiles within buckets, and its limits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.ops.scrape import Sample
from infra.ops.series import Series, increase_of, quantile_of

NAME = "headrace_stream_events_total"


def told(value: float, name: str = NAME, **labels: str) -> list[Sample]:
    return [Sample(name, labels, value)]


def counters(values: list[float], step_s: float = 2.0) -> Series:
    """A process that told these values of one counter, one after the other from second 0."""
    series = Series(history_s=3_600, step_s=step_s)
    for i, value in enumerate(values):
        series.observe("features", told(value), i * step_s)
    return series


def test_latest_has_the_name_of_the_process_and_only_what_was_told_last():
    series = Series()
    series.observe("features", [*told(1, effect="applied"), *told(2, effect="late")], 0)
    series.observe("features", told(3, effect="applied"), 2)
    assert series.latest(NAME) == [({"effect": "applied", "process": "features"}, 3)]
    assert series.latest(NAME, effect="late") == []
    assert series.latest(NAME, effect=("late", "applied"))[0][1] == 3


def test_a_process_that_does_not_answer_has_no_values_and_is_not_up():
    series = Series()
    series.observe("features", told(1), 0)
    series.observe("features", [], 2)
    assert series.latest(NAME) == []
    assert series.latest("up") == [({"process": "features"}, 0.0)]


def test_what_nobody_has_asked_for_a_while_is_not_the_latest():
    series = Series(stale_s=10)
    series.observe("features", told(1), 0)
    series.observe("serve", told(1), 11)
    assert [labels["process"] for labels, _ in series.latest(NAME)] == ["serve"]


def test_a_label_process_of_the_sample_stays():
    series = Series()
    series.observe("ops", told(1, name="headrace_ops_up", process="serve"), 0)
    assert series.latest("headrace_ops_up", process="serve") == [({"process": "serve"}, 1)]


def test_rates_are_summed_by_labels():
    series = Series()
    for i in range(6):
        samples = [*told(10 * i, effect="a", worker="0"), *told(4 * i, effect="a", worker="1")]
        series.observe("features", samples + told(2 * i, effect="b", worker="0"), 2 * i)
    assert series.rate(NAME, 10, 10, ("effect",)) == {("a",): 7, ("b",): 1}
    assert series.rate(NAME, 10, 10, worker="1") == {(): 2}
    assert series.rate("no_such_metric", 10, 10) == {}


def test_a_counter_that_begins_again_goes_on_from_zero():
    series = counters([100, 110, 3, 13, 23, 33])
    assert series.rate(NAME, 10, 10) == {(): pytest.approx((10 + 3 + 30) / 10)}


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=60), st.data())
def test_growth_over_restarts_is_what_was_counted(steps, data):
    begins_again = data.draw(
        st.lists(st.booleans(), min_size=len(steps), max_size=len(steps)), label="restarts"
    )
    values, counted, now = [0.0], 0.0, 0.0
    for step, again in zip(steps, begins_again, strict=True):
        # a restart shows only where the new count is below the old one
        now = step if again and step < now else now + step
        counted += step
        values.append(now)
    times_s = np.arange(len(values), dtype=float)
    found = increase_of(times_s, np.array(values), 0, times_s[-1])
    assert found == pytest.approx(counted, rel=1e-9, abs=1e-9)


@given(
    st.lists(st.integers(0, 1_000), min_size=1, max_size=12),
    st.floats(0.001, 1),
)
def test_a_quantile_lies_in_the_bucket_that_has_its_rank(counts, q):
    edges = [*(0.1 * (i + 1) for i in range(len(counts))), math.inf]
    below = np.cumsum([*counts, 0]).tolist()
    found = quantile_of(q, list(zip(edges, below, strict=True)))
    if below[-1] == 0:
        assert math.isnan(found)
        return
    at = next(i for i, count in enumerate(below) if count >= q * below[-1])
    assert (0 if at == 0 else edges[at - 1]) <= found <= edges[at] + 1e-12


def test_what_is_beyond_the_last_edge_counts_as_the_last_edge():
    assert quantile_of(0.99, [(0.1, 1), (1.0, 2), (math.inf, 10)]) == 1.0


def test_quantiles_are_by_group_and_interpolated():
    series = Series()
    for i in range(6):
        samples = [
            Sample("latency_bucket", {"le": le, "method": method}, share * i)
            for method, shares in {"a": (50, 100, 100), "b": (0, 0, 100)}.items()
            for le, share in zip(("0.1", "0.2", "+Inf"), shares, strict=True)
        ]
        series.observe("serve", samples, 2 * i)
    found = series.quantile(0.75, "latency", 10, 10, ("method",))
    assert found == {("a",): pytest.approx(0.15), ("b",): 0.2}
    assert series.quantile(0.75, "latency", 10, 10, method="none") == {}


def test_a_series_that_appears_while_its_process_is_read_is_new():
    series = Series()
    series.observe("features", told(1), 0)
    series.observe("features", [*told(2), *told(7, name="bad")], 2)
    series.observe("learning", told(9, name="bad"), 2)  # read for the first time
    assert {w.labels["process"]: w.is_new for w in series.windows("bad", 10, 4)} == {
        "features": True,
        "learning": False,
    }
    series.observe("features", [], 4)
    series.observe("features", [*told(2), *told(7, name="bad")], 6)
    assert [w.is_new for w in series.windows("bad", 1, 6, process="features")] == [False]


def test_points_put_series_together_reading_by_reading():
    series = Series()
    for i in range(3):
        series.observe("features", [*told(i, worker="0"), *told(10 * i, worker="1")], 2 * i)
    assert series.points(NAME, "sum", 2) == [(2, 11), (4, 22)]
    assert series.points(NAME, "max", 0) == [(0, 0), (2, 10), (4, 20)]
    assert series.points(NAME, "rate", 0) == [(2, 5.5), (4, 5.5)]


def test_history_is_bounded_in_time_and_in_series():
    series = Series(history_s=10, step_s=2, max_series=4)
    for i in range(100):
        series.observe("features", told(i), 2 * i)
    assert len(series.points(NAME, "sum", 0)) == 6
    series.observe("serve", [*told(1, arm="a"), *told(1, arm="b")], 198)
    assert (len(series), series.dropped) == (4, 1)  # of each process, `up`
    assert [labels["arm"] for labels, _ in series.latest(NAME, process="serve")] == ["a"]


def test_series_that_are_gone_make_room_for_new_ones():
    series = Series(history_s=10, step_s=2, max_series=3)
    for i in range(40):
        series.observe("features", told(i, generation=str(i // 10)), 2 * i)
    assert series.latest(NAME) == [({"generation": "3", "process": "features"}, 39)]
    assert len(series) <= 3
