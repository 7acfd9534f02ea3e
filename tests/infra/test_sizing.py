"""How much a site needs: the arithmetic by hand, and what must hold of any plan."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from features.store import COVISITATIONS, ITEMS, SEGMENTS, USERS
from infra.cli import app
from infra.sizing import MEASURED, Site, figure_of, peak_rate, plan_of, redis_bytes
from tests.apache_kafka import REPOSITORY

SMALL = Site(viewers=100_000, events_per_day=2e6, slates_per_day=2e5)
FLEET = Site(viewers=200_000_000, events_per_day=12e9, slates_per_day=1e9)


def test_rows_are_as_large_as_is_reckoned():
    assert ITEMS.dtype.itemsize == MEASURED.title_row_bytes
    assert COVISITATIONS.dtype.itemsize == MEASURED.pair_row_bytes
    assert SEGMENTS.dtype.itemsize == MEASURED.segment_row_bytes
    assert 0 < MEASURED.viewer_redis_bytes - USERS.dtype.itemsize < 200


def test_a_small_site_is_one_cell_with_one_worker():
    plan = plan_of(SMALL)
    assert plan.cells == 1
    assert (plan.value("workers a cell"), plan.value("partitions a cell")) == (1, 4)
    assert plan.value("servers a cell") == 2
    assert plan.value("events at the peak") == pytest.approx(2e6 / 86_400 * 3)


def test_a_fleet_is_as_many_cells_as_learning_needs():
    plan = plan_of(FLEET)
    outcomes_s = 1e9 * 20 / 86_400
    by_hand = math.ceil(outcomes_s / (MEASURED.learner_outcomes_s * 0.5))
    assert (plan.cells, plan.bound_by) == (by_hand, "learning")
    servers_s = 1e9 / 86_400 * 3 / by_hand * MEASURED.serve_cpu_ms / 1_000 / 0.5
    assert plan.value("servers a cell") == math.ceil(servers_s)


def test_few_slates_leave_redis_as_the_limit():
    plan = plan_of(replace(FLEET, slates_per_day=1e6))
    assert plan.bound_by == "redis"
    assert plan.value("rows in Redis") <= FLEET.redis_gib
    assert redis_bytes(FLEET, FLEET.viewers / (plan.cells - 1), 16) > FLEET.redis_gib * 2**30


SITES = st.builds(
    Site,
    viewers=st.integers(1, 10**9),
    events_per_day=st.floats(1, 1e11),
    slates_per_day=st.floats(1, 1e10),
    titles=st.integers(1, 200_000),
    peak=st.floats(1, 20),
    headroom=st.floats(0.05, 1),
)


@settings(max_examples=30, deadline=None)
@given(SITES)
def test_no_limit_is_passed_by_any_plan(site):
    plan = plan_of(site)
    rate = peak_rate(site.events_per_day, site.peak) / plan.cells
    workers, partitions = plan.value("workers a cell"), plan.value("partitions a cell")
    assert 1 <= workers <= partitions <= 16
    assert rate <= workers * MEASURED.worker_events_s * site.headroom * (1 + 1e-9)
    assert plan.value("rows in Redis") <= site.redis_gib * (1 + 1e-9)
    assert all(math.isfinite(line.value) and line.value >= 0 for line in plan.lines)


@settings(max_examples=30, deadline=None)
@given(SITES, st.floats(1, 10))
def test_more_of_anything_needs_no_fewer_cells(site, times):
    more = replace(site, events_per_day=site.events_per_day * times)
    assert plan_of(more).cells >= plan_of(site).cells


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("viewers", 0, "viewers must be more than 0; got 0"), ("headroom", 2, "headroom must be 1")],
)
def test_what_makes_no_sense_is_refused(field, value, said):
    with pytest.raises(ValueError, match=said):
        replace(SMALL, **{field: value})


def test_the_page_shows_what_is_computed():
    page = (REPOSITORY / "docs" / "sizing.md").read_text()
    sites = (
        Site(100_000, 2e6, 2e5, replicas=1),
        Site(5_000_000, 1e8, 1e7),
        Site(200_000_000, 4e9, 4e8),
    )
    plans = [plan_of(site) for site in sites]
    for lines in zip(*(plan.lines for plan in plans), strict=True):
        figures = " | ".join(figure_of(line) for line in lines)
        assert f"| {lines[0].what} | {figures} |" in page


def test_the_command_prints_the_plan():
    words = ["size", "--viewers", "100000", "--events-per-day", "2e6", "--slates-per-day", "2e5"]
    shown = CliRunner().invoke(app, words)
    assert (shown.exit_code, "workers a cell" in shown.output) == (0, True)
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    assert told == json.loads(json.dumps(plan_of(SMALL).as_dict()))
