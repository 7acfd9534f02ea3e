"""The evaluation, on a small world; the full claim on MovieTweetings where it is at hand."""

from pathlib import Path

import numpy as np
import pytest

from features.windows import DAY_MS
from infra.evaluate import (
    ALL_TIME,
    CHARTS,
    HALF_LIFE,
    MISSED,
    SEVEN_DAYS,
    Quality,
    chart_places,
    evaluate_replay,
    table_of,
)
from infra.train import next_titles
from offline.datasets import EVERYTHING, EventColumns, MovieTweetings, Selection
from tests.serving import engine

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


class SmallDataset:
    """The small world of the engine's tests as a dataset."""

    name = "small world"

    def columns(self, selection: Selection = EVERYTHING) -> EventColumns:
        return engine.columns().select(selection)

    def interactions(self, selection: Selection = EVERYTHING):
        return self.columns(selection).interactions()

    def catalogue(self):
        return engine.catalogue()


@pytest.fixture(scope="module")
def found():
    return evaluate_replay(SmallDataset(), config=engine.SMALL)


def test_the_engine_is_ahead_of_every_chart(found):
    assert set(found.charts) == set(CHARTS)
    assert found.is_ahead, found


def test_every_slate_before_a_next_title_counts(found):
    columns = engine.columns()
    start = len(SmallDataset().columns(Selection(first_share=0.8)))
    assert found.n_slates == next_titles(columns)[start:].sum()
    hits = round(found.engine.hr_20 * found.n_slates)
    assert sum(found.by_source.values()) == hits
    assert 100 <= found.n_candidates_mean <= engine.N_TITLES


def test_a_limit_takes_the_first_slates():
    limited = evaluate_replay(SmallDataset(), config=engine.SMALL, limit=50)
    assert limited.n_slates == 50


def test_the_table_shows_engine_and_charts(found):
    table = table_of(found)
    assert list(table.columns[0].cells) == [*CHARTS, "[bold]Headrace"]
    assert found.to_dict()["is_ahead"] is True


def test_quality_is_what_its_definition_says():
    found = Quality.of(np.array([0, 1, 19, MISSED]))
    assert found.hr_20 == 0.75
    assert found.ndcg_20 == pytest.approx((1 + 1 / np.log2(3) + 1 / np.log2(21)) / 4)
    assert Quality.of(np.zeros(0, np.int64)) == Quality(0.0, 0.0)


def slow_place(columns: EventColumns, event: int, chart: int) -> int:
    """Counts everything before one event anew."""
    user, item = columns.user[:event], columns.item[:event]
    age_ms = columns.at_ms[event] - columns.at_ms[:event]
    weight = {
        ALL_TIME: np.ones(event),
        SEVEN_DAYS: (age_ms <= 7 * DAY_MS).astype(float),
        HALF_LIFE: 2.0 ** (-age_ms / DAY_MS),
    }[chart]
    scores = np.bincount(item, weight, minlength=len(columns.item_ids))
    wanted = columns.item[event]
    if scores[wanted] <= 1e-12:
        return MISSED
    scores[item[user == columns.user[event]]] = -1
    ahead = scores > scores[wanted] + 1e-9
    ahead[:wanted] |= np.abs(scores[:wanted] - scores[wanted]) <= 1e-9
    place = int(ahead.sum())
    return place if place < 20 else MISSED


@pytest.mark.parametrize("chart", range(len(CHARTS)))
def test_charts_are_what_counting_anew_gives(chart):
    columns = engine.columns(3_000)
    chosen = np.flatnonzero(next_titles(columns))[-150:]
    places = chart_places(columns, chosen)
    assert places.shape == (len(CHARTS), len(chosen))
    expected = [slow_place(columns, event, chart) for event in chosen.tolist()]
    assert places[chart].tolist() == expected


@pytest.mark.parametrize(
    "limit",
    [pytest.param(5_000, marks=pytest.mark.slow), pytest.param(None, marks=pytest.mark.long)],
)
@pytest.mark.timeout(600)
@pytest.mark.skipif(not MovieTweetings.is_in(DATA), reason="MovieTweetings is not on this machine")
def test_on_real_viewers_the_engine_is_ahead_of_every_chart(limit):
    found = evaluate_replay(MovieTweetings(DATA), limit=limit)
    assert found.n_slates == (limit or 17_615)
    assert found.is_ahead, found
    assert found.engine.hr_20 > 0.27
    assert found.engine.ndcg_20 > 0.13
