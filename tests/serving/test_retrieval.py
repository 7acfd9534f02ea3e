"""Sources of candidates, each against a slow and obvious way to the same end."""

import lightgbm
import numpy as np
import pytest

from features import item_row
from features.bundle_format import ItemModels
from features.events import CatalogItem
from features.popularity import popularity_of
from features.ranking import (
    LONG_TAIL,
    N_COLUMNS,
    N_LISTED,
    N_SCORES,
    PERCENTILE,
    POPULARITY_RANK,
    RANKING_COLUMNS,
)
from serving.catalogue import CatalogueTable
from serving.ranking.ranker import Ranker
from serving.ranking.trees import TreeError, Trees
from serving.retrieval.base import (
    NO_CAUSE,
    WORDS,
    Candidates,
    Quotas,
    Source,
    heap_push,
)
from serving.retrieval.covisitation import N_TITLES, PRIOR, STEP_WEIGHT, Covisitation
from serving.retrieval.faiss_index import FaissIndex, FoldIn
from serving.retrieval.trending import (
    NEW,
    TOTAL,
    TRENDING_1D,
    TRENDING_3D,
    TRENDING_6H,
    WEEK,
    Trending,
)

N_ITEMS = 50


def column(name: str) -> int:
    return item_row.NAMES.index(name)


def random_models(rng: np.random.Generator, n: int = N_ITEMS) -> ItemModels:
    neighbours = np.array([rng.permutation(n)[:6] for _ in range(n)], np.int32)
    weights = np.sort(rng.random((n, 6)).astype(np.float32) * 9, axis=1)[:, ::-1].copy()
    neighbours[:, 4:][rng.random((n, 2)) < 0.5] = -1
    weights[neighbours < 0] = 0
    return ItemModels(
        np.arange(1, n + 1, dtype=np.uint64),
        rng.normal(size=(n, 8)).astype(np.float32),
        neighbours,
        weights,
        rng.integers(1, 90, n).astype(np.float32),
        10.0,
        5.0,
        2013,
    ).checked()


# --- candidates ---


def test_a_title_is_a_candidate_once_and_remembers_who_came_first():
    found = Candidates(10, 4)
    found.offer(np.array([3, 5]), 9, Source.TRENDING)
    found.offer(np.array([5, 7, 8, 9]), 9, Source.POPULAR)
    assert found.slots[: found.n].tolist() == [3, 5, 7, 8]  # no room for the last
    assert found.primary[:2].tolist() == [Source.TRENDING, Source.TRENDING]
    assert found.sources[1] == 1 << Source.TRENDING | 1 << Source.POPULAR


def test_a_quota_is_kept():
    found = Candidates(10, 10)
    found.offer(np.arange(10), 3, Source.NEW)
    assert found.n == 3


def test_keeping_some_leaves_them_in_order_and_lets_the_others_return(rng):
    found = Candidates(30, 30)
    found.offer(np.arange(20), 20, Source.WEEK)
    allowed = rng.random(20) < 0.5
    assert found.keep(allowed) == 20 - allowed.sum()
    expected = np.flatnonzero(allowed)
    assert found.slots[: found.n].tolist() == expected.tolist()
    found.offer(np.arange(20), 20, Source.POPULAR)
    assert sorted(found.slots[: found.n].tolist()) == list(range(20))


def test_clearing_leaves_nothing():
    found = Candidates(10, 10)
    found.offer(np.arange(5), 5, Source.WEEK)
    found.clear()
    assert found.n == 0
    assert (found.places == -1).all()


def test_a_heap_keeps_the_best(rng):
    for n in (1, 5, 40):
        slots, scores, held = np.zeros(n, np.int32), np.zeros(n, np.float32), 0
        given = rng.permutation(200).astype(np.float32)
        for slot, score in enumerate(given):
            if held < n or score > scores[0]:
                held = heap_push(slots, scores, held, slot, score)
        assert sorted(scores[:held]) == sorted(given)[-n:]
        assert (given[slots[:held]] == scores[:held]).all()


def test_every_source_has_words_of_its_own():
    assert set(WORDS) == set(Source)
    assert len({words.name for words in WORDS.values()}) == len(Source)
    assert Quotas(covisitation=7).total == Quotas().total - 193


# --- co-visitation ---


@pytest.mark.parametrize("n_history", [0, 1, 5, 30])
def test_sums_over_neighbours_are_what_they_say(rng, n_history):
    models = random_models(rng)
    slots = rng.permutation(N_ITEMS).astype(np.int64)
    slots[:4] = -1  # no longer in the catalogue
    covisitation = Covisitation(models, slots, N_ITEMS)
    history = rng.permutation(N_ITEMS)[:n_history]
    history = np.insert(history, 0, -1).astype(np.int64)
    share, cosine, last, count = np.zeros((4, N_ITEMS))
    row_of = {int(slot): row for row, slot in enumerate(slots) if slot >= 0}
    for step, title in enumerate(history[1 : N_TITLES + 1].tolist()):
        row = row_of.get(title)
        if row is None:
            continue
        for other, weight in zip(models.neighbours[row], models.weights[row], strict=True):
            if other < 0 or slots[other] < 0:
                continue
            slot, own = slots[other], models.support[row] + PRIOR
            share[slot] += STEP_WEIGHT**step * weight / own
            cosine[slot] += (
                STEP_WEIGHT**step * weight / np.sqrt(own * (models.support[other] + PRIOR))
            )
            last[slot] += weight / own if step == 0 else 0
            count[slot] += 1
    covisitation.gather(history)
    everything = np.arange(N_ITEMS, dtype=np.int32)
    scores, causes = np.zeros((N_ITEMS, N_SCORES), np.float32), np.zeros(N_ITEMS, np.int32)
    covisitation.describe(everything, scores, causes)
    relative = share / max(share.max(), 1e-9)
    for k, expected in enumerate((share, cosine, last, count, relative), 1):
        np.testing.assert_allclose(scores[:, k], expected, rtol=1e-4, atol=1e-6)
    assert set(causes[count > 0].tolist()) <= set(history.tolist())
    assert (causes[count == 0] == NO_CAUSE).all()
    by_share = covisitation.by_share()
    assert sorted(by_share.tolist()) == np.flatnonzero(count).tolist()
    assert (np.diff(share[by_share]) <= 1e-6).all()


def test_nothing_of_a_viewer_is_left_for_the_next(rng):
    covisitation = Covisitation(random_models(rng), np.arange(N_ITEMS), N_ITEMS)
    covisitation.gather(np.array([1, 2, 3]))
    covisitation.clear()
    scores, causes = np.ones((N_ITEMS, N_SCORES), np.float32), np.zeros(N_ITEMS, np.int32)
    covisitation.describe(np.arange(N_ITEMS, dtype=np.int32), scores, causes)
    assert (scores[:, 1:] == 0).all()
    assert len(covisitation.by_share()) == 0


# --- factors ---


@pytest.mark.parametrize("n_titles", [1, 3, 8, 30])
def test_folding_in_solves_the_equations_of_implicit_als(rng, n_titles):
    factors = rng.normal(size=(200, 8)).astype(np.float32)
    confidence, regularisation = 10.0, 5.0
    seen = factors[:n_titles].astype(np.float64)
    system = factors.T.astype(np.float64) @ factors + regularisation * np.eye(8)
    system += confidence * seen.T @ seen
    expected = np.linalg.solve(system, (1 + confidence) * seen.sum(axis=0))
    found = FoldIn(factors, confidence, regularisation).viewer(factors[:n_titles])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_viewer_of_titles_without_factors_is_nobody(rng):
    factors = rng.normal(size=(200, 8)).astype(np.float32)
    found = FoldIn(factors, 10.0, 5.0).viewer(np.zeros((2, 8), np.float32))
    assert np.isfinite(found).all()
    assert (found == 0).all()


def test_the_index_finds_the_largest_products(rng):
    factors = rng.normal(size=(300, 16)).astype(np.float32)
    vector = rng.normal(size=16).astype(np.float32)
    rows = FaissIndex.of(factors).search(vector, 10)
    assert rows.tolist() == np.argsort(-(factors @ vector))[:10].tolist()


def test_an_index_gives_no_more_than_it_has(rng):
    index = FaissIndex.of(rng.normal(size=(3, 4)).astype(np.float32))
    assert sorted(index.search(np.ones(4, np.float32), 10).tolist()) == [0, 1, 2]
    assert len(index.search(np.ones(4, np.float32), 0)) == 0
    assert len(FaissIndex.of(np.zeros((0, 4), np.float32)).search(np.ones(4, np.float32), 5)) == 0


# --- lists ---


def hot_values(rng: np.random.Generator, n: int) -> np.ndarray:
    values = np.zeros((n, item_row.N_COLUMNS), np.float32)
    for name in ("item_trend_6h", "item_trend_1d", "item_trend_3d", "item_days_known"):
        values[:, column(name)] = rng.random(n) * 40
    values[:, column("item_engaged_7d")] = rng.integers(0, 9, n)
    values[:, column("item_engaged_total")] = rng.integers(0, 30, n)
    return values


def table_of(n: int, room: int = 0) -> CatalogueTable:
    return CatalogueTable.of([CatalogItem(f"t{k}") for k in range(n)], room=room)


@pytest.mark.parametrize("n", [0, 3, 500, 3_000])
def test_lists_hold_the_hottest_titles_in_order(rng, n):
    values = hot_values(rng, n)
    hot = Trending(table_of(n), 1_000).lists(values, 0)
    touched = values[:, column("item_engaged_total")] > 0
    trend = values[:, column("item_trend_1d")]
    tie = np.float32(1e-3) * trend
    known = values[:, column("item_days_known")]
    week = values[:, column("item_engaged_7d")]
    scores = {
        TRENDING_6H: values[:, column("item_trend_6h")] + tie,
        TRENDING_1D: trend,
        WEEK: np.where(week > 0, week + tie, 0),
        TOTAL: values[:, column("item_engaged_total")] + tie,
        TRENDING_3D: values[:, column("item_trend_3d")],
        NEW: np.where(known < 21, 2 ** (-known / 2) * (1 + trend), 0),
    }
    for k, score in scores.items():
        fitting = np.flatnonzero(touched & (score > 0))
        expected = np.sort(score[fitting])[::-1][:N_LISTED]
        np.testing.assert_allclose(score[hot.lists[k]], expected, rtol=1e-5)
    for rank, k in enumerate((TRENDING_1D, WEEK, TOTAL, TRENDING_3D)):
        ranks = hot.standings[:, rank]
        assert (ranks[hot.lists[k]] == np.arange(len(hot.lists[k]))).all()
        assert (ranks == N_LISTED).sum() == n - len(hot.lists[k])
    popularity = popularity_of(values)
    assert (hot.standings[:, POPULARITY_RANK] == popularity.rank).all()
    assert (hot.standings[:, PERCENTILE] == popularity.percentile).all()
    assert (hot.standings[:, LONG_TAIL] == popularity.is_long_tail).all()


def test_lists_are_made_anew_when_they_are_old_and_not_before(rng):
    values = hot_values(rng, 100)
    trending = Trending(table_of(100), 1_000)
    first = trending.lists(values, 5_000)
    assert trending.lists(values, 5_999) is first
    values[:] = hot_values(rng, 100)
    assert trending.lists(values, 6_000) is not first
    assert trending.lists(values, 4_000).at_ms == 4_000  # a clock that was set back


def test_a_slot_that_is_still_free_stands_where_a_title_stands_that_nobody_has_touched(rng):
    values = hot_values(rng, 50)
    values[30:] = item_row.DEFAULTS
    full = Trending(table_of(50), 1_000).lists(values, 0)
    table = table_of(49, room=1)
    partly = Trending(table, 1_000).lists(values, 0)
    assert partly.standings[49].tolist() == partly.standings[48].tolist()
    np.testing.assert_allclose(partly.standings[49], full.standings[49], rtol=0.05)


# --- trees ---


@pytest.mark.parametrize("n_leaves", [2, 15, 32])
def test_trees_score_to_the_last_bit_what_lightgbm_predicts(rng, n_leaves):
    rows = rng.normal(size=(2_000, N_COLUMNS)).astype(np.float32)
    labels = rows[:, 0] + rows[:, 1] * rows[:, 2]
    parameters = {"num_leaves": n_leaves, "num_threads": 1, "verbose": -1}
    names = list(RANKING_COLUMNS)
    data = lightgbm.Dataset(rows, labels, feature_name=names)
    booster = lightgbm.train(parameters, data, 20)
    thresholds = booster.trees_to_dataframe()["threshold"].dropna().to_numpy()
    rows[: len(thresholds), 0] = thresholds[: len(rows)]  # as close to a boundary as can be
    found = Ranker.parse(booster.model_to_string(), "it").score(rows)
    np.testing.assert_array_equal(found, booster.predict(rows, num_threads=1))


def test_a_tree_with_too_many_leaves_is_refused():
    node: dict = {"leaf_value": 0.0}
    for _ in range(32):
        node = {
            "split_feature": 0, "threshold": 0.0, "decision_type": "<=",
            "left_child": {"leaf_value": 1.0}, "right_child": node,
        }  # fmt: skip
    with pytest.raises(TreeError, match="at most 32 leaves"):
        Trees.of([node])


def test_no_rows_have_no_scores():
    assert Trees.of([{"leaf_value": 1.5}]).score(np.zeros((0, 3), np.float32)).shape == (0,)
    assert Trees.of([{"leaf_value": 1.5}]).score(np.zeros((2, 3), np.float32)).tolist() == [1.5] * 2
