"""Charts, baselines and measures of the evaluation, against counting anew and by hand."""

import numpy as np
import pytest

from features.windows import DAY_MS
from infra.train import next_titles
from offline.baselines import BASELINES, Als, Ease, ItemKnn, places_by_day, seen_matrix
from offline.charts import ALL_TIME, CHARTS, HALF_LIFE, SEVEN_DAYS, chart_places
from offline.datasets import EventColumns
from offline.next_title import MISSED, Quality
from offline.slates import NOBODY, SlateMetrics, genre_calibration_kl, intra_list_diversity
from offline.train_als import AlsConfig
from tests.serving import engine

# Viewers by titles: 0 and 1 go together, as do 2 and 3.
SEEN = seen_matrix(
    np.array([0, 0, 0, 1, 1, 2, 2, 3], np.int32), np.array([0, 1, 1, 0, 1, 2, 3, 3], np.int32), 4, 5
)


def ignore(done: int) -> None:
    """A bar that nobody sees."""


def test_quality_is_what_its_definition_says():
    found = Quality.of(np.array([0, 1, 19, MISSED]))
    assert found.hr_20 == 0.75
    assert found.ndcg_20 == pytest.approx((1 + 1 / np.log2(3) + 1 / np.log2(21)) / 4)
    assert Quality.of(np.zeros(0, np.int64)) == Quality(0.0, 0.0)


# --- charts ---


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
    is_chosen = np.isin(np.arange(len(columns)), chosen)
    places = chart_places(columns.user, columns.item, columns.at_ms, is_chosen)
    assert places.shape == (len(CHARTS), len(chosen))
    expected = [slow_place(columns, event, chart) for event in chosen.tolist()]
    assert places[chart].tolist() == expected


# --- baselines ---


def test_itemknn_adds_up_shrunk_cosines():
    scores = ItemKnn.fit(SEEN, shrinkage=1.0).scores(np.array([0, 2], np.int32))
    # 0 and 1 share both their viewers; 2 and 3 share one, of one and two.
    assert scores.tolist() == pytest.approx([0, 2 / (2 + 1), 0, 1 / (np.sqrt(2) + 1), 0])


def test_itemknn_keeps_the_nearest_neighbours_only():
    users = np.array([0, 0, 0, 1, 1], np.int32)
    items = np.array([0, 1, 2, 0, 1], np.int32)
    similar = ItemKnn.fit(seen_matrix(users, items, 2, 3), n_neighbours=1, shrinkage=0.0).similar
    # For each title the one that speaks most for it: title 1 for 0, 0 for 1.
    assert similar.toarray()[:2, :2].tolist() == [[0, 1], [1, 0]]
    assert (similar.toarray() > 0).sum() == 3


def test_ease_is_its_closed_form():
    scores = Ease.fit(SEEN, regularisation=2.0).scores(np.array([0], np.int32))
    # Of titles 0 and 1 the Gram matrix is [[2, 2], [2, 2]]; with 2 on the diagonal its inverse
    # is [[4, -2], [-2, 4]] / 12, so the weight is 2 / 4.
    assert scores.tolist() == pytest.approx([0, 0.5, 0, 0, 0])


def test_ease_is_silent_about_titles_beyond_its_number():
    model = Ease.fit(SEEN, n_titles=2)
    assert sorted(model.codes.tolist()) == [0, 1]
    assert model.scores(np.array([2, 3], np.int32)).tolist() == [0] * 5


def test_als_brings_titles_of_the_same_viewers_together():
    model = Als.fit(SEEN, AlsConfig(n_factors=2, regularisation=0.1, n_iterations=20))
    scores = model.scores(np.array([0], np.int32))
    assert scores[1] > 0.5 > max(scores[2], scores[3])
    assert scores[4] == 0


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_knows_nothing_of_the_day_it_foretells_but_the_viewers_own_past(name):
    columns = engine.columns(3_000)
    days = columns.at_ms // DAY_MS
    chosen = next_titles(columns) & (days == days[-1] - 1)
    fits = []

    def fit(seen):
        fits.append(seen.nnz)
        return BASELINES[name](seen)

    events = columns.user, columns.item, columns.at_ms
    places = places_by_day(*events, chosen, fit, ignore)
    other = columns.item.copy()
    others = np.flatnonzero((days == days[-1] - 1) & ~chosen)
    other[others] = 0
    again = places_by_day(columns.user, other, columns.at_ms, chosen, fit, ignore)
    assert len(fits) == 2  # one day, one fit
    assert fits[0] == fits[1]
    assert len(places) == chosen.sum()
    assert (places != MISSED).mean() > 0.3  # by chance one in six
    assert (places == again).mean() > 0.5


# --- what slates are like ---


def test_diversity_and_calibration_by_hand():
    genres = np.array([0b01, 0b10, 0b11, 0], np.uint32)
    assert intra_list_diversity(np.array([[0, 1], [0, 2], [2, 2]]), genres) == pytest.approx(0.5)
    assert intra_list_diversity(np.array([[0, 3]]), genres) == 0.0  # no two titles with genres
    history, slate = np.array([[0, 1, -1]]), np.array([[0, 0, NOBODY]])
    # p is half and half, q all of the first genre, q' = (.995, .005).
    expected = 0.5 * np.log(0.5 / 0.995) + 0.5 * np.log(0.5 / 0.005)
    assert genre_calibration_kl(slate, history, genres) == pytest.approx(expected)


def test_slates_that_are_empty_measure_nothing():
    empty = np.full((2, 3), NOBODY)
    counts = np.array([5, 1])
    found = SlateMetrics.of(empty, empty, np.array([1, 2], np.uint32), counts)
    assert found == SlateMetrics(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
