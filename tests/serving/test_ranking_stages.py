"""From many candidates to few, from parts to one score, from scores to probabilities."""

import lightgbm
import numpy as np
import pytest

from features.bundle_format import BundleError
from features.cheap_columns import CHEAP_COLUMNS, N_CHEAP
from features.ranking import N_COLUMNS, RANKING_COLUMNS
from offline.position_bias import SLOT_COLUMN
from serving.ranking.calibration import Calibration
from serving.ranking.cheap import CheapStage, keep_best
from serving.ranking.fusion import Fusion, logits
from serving.ranking.ranker import Ranker


def booster_of(rng, names, labels_of) -> lightgbm.Booster:
    rows = rng.normal(size=(1_500, len(names))).astype(np.float32)
    data = lightgbm.Dataset(rows, labels_of(rows).copy(), feature_name=list(names))
    return lightgbm.train({"num_leaves": 8, "num_threads": 1, "verbose": -1}, data, 10)


# --- the cheap stage ---


def test_the_cheap_stage_scores_columns_to_the_last_bit_as_lightgbm_does(rng):
    booster = booster_of(rng, CHEAP_COLUMNS, lambda rows: rows[:, 0] - rows[:, 7] ** 2)
    rows = rng.normal(size=(900, N_CHEAP)).astype(np.float32)
    found = CheapStage.parse(booster.model_to_string(), "it").score(np.ascontiguousarray(rows.T))
    np.testing.assert_array_equal(found, booster.predict(rows, num_threads=1))


def test_a_cheap_stage_of_other_columns_is_refused(rng):
    booster = booster_of(rng, ("als", "sunshine"), lambda rows: rows[:, 0])
    with pytest.raises(BundleError, match=r"cheap columns of this version; it has 2.*sunshine"):
        CheapStage.parse(booster.model_to_string(), "cheap.txt")
    with pytest.raises(BundleError, match=r"cheap\.txt must be a LightGBM model"):
        CheapStage.parse("nonsense", "cheap.txt")


def kept_slowly(scores, sources, n_keep, least) -> list[int]:
    order = np.argsort(-scores, kind="stable")
    kept = set()
    for source in range(16):
        kept |= set(order[(sources[order] >> source) & 1 == 1][:least].tolist())
    for place in order.tolist():
        if len(kept) < n_keep:
            kept.add(place)
    return sorted(kept)


@pytest.mark.parametrize("n", [0, 1, 40, 700])
@pytest.mark.parametrize(("n_keep", "least"), [(100, 0), (100, 5), (20, 8), (1_000, 3)])
def test_the_best_are_kept_and_some_of_every_source(rng, n, n_keep, least):
    scores = rng.permutation(n).astype(np.float64)
    common = rng.integers(0, 64, n)
    sources = (common | np.where(rng.random(n) < 0.02, 1 << 12, 0)).astype(np.uint16)
    found = keep_best(scores, sources, n_keep, least)
    assert found.tolist() == kept_slowly(scores, sources, n_keep, least)


def test_equal_scores_change_nothing_but_who_of_them_is_kept(rng):
    scores, sources = rng.integers(0, 9, 300).astype(np.float64), rng.integers(1, 64, 300)
    found = keep_best(scores, sources.astype(np.uint16), 100, 5)
    assert len(np.unique(found)) == len(found) == 100
    assert found.tolist() == keep_best(scores, sources.astype(np.uint16), 100, 5).tolist()
    for source in range(6):
        of_source = (sources >> source) & 1 == 1
        best = np.sort(scores[of_source])[-5:]
        kept = np.sort(scores[found[of_source[found]]])[-5:]
        assert kept.tolist() == best.tolist()


def test_candidates_of_no_source_are_kept_by_score_alone():
    found = keep_best(np.array([1.0, 3.0, 2.0]), np.zeros(3, np.uint16), 2, 5)
    assert found.tolist() == [1, 2]


# --- a ranker that has learned with the slot ---


def test_a_ranker_of_logged_slates_scores_as_if_all_stood_in_the_first_slot(rng):
    names = (*RANKING_COLUMNS, SLOT_COLUMN)
    booster = booster_of(rng, names, lambda rows: rows[:, 0] - 2 * rows[:, -1])
    rows = rng.normal(size=(300, N_COLUMNS)).astype(np.float32)
    first = np.column_stack([rows, np.zeros(300, np.float32)])
    found = Ranker.parse(booster.model_to_string(), "it").score(rows)
    np.testing.assert_array_equal(found, booster.predict(first, num_threads=1))
    assert booster.feature_importance()[-1] > 0


# --- fusion ---


def test_without_weights_the_order_is_that_of_the_ranker(rng):
    scores, clicks = rng.normal(size=50), rng.random(50)
    fusion = Fusion.of({})
    assert not fusion.asks_models
    np.testing.assert_array_equal(fusion.scores(scores, clicks, clicks), scores)


def test_parts_count_by_their_weights_and_those_that_are_missing_are_left_out():
    fusion = Fusion.of(
        {"ranker": 2, "click": 0.5, "watch": 3, "ranker_mean": 1, "ranker_deviation": 4}
    )
    ranker, clicks, watch = np.array([5.0]), np.array([0.75]), np.array([0.1])
    assert fusion.scores(ranker, clicks, watch) == pytest.approx(2 + 0.5 * np.log(3) + 0.3)
    assert fusion.scores(ranker) == pytest.approx(2)
    assert np.isfinite(logits(np.array([0.0, 1.0]))).all()


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({"moon": 1.0}, "moon"),
        ({"click": -1.0}, "fusion.click of at least 0; got -1"),
        ({"watch": float("nan")}, "fusion.watch of at least 0; got nan"),
        ({"ranker_deviation": 0.0}, "above 0"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weights, reason):
    with pytest.raises(BundleError, match=reason):
        Fusion.of(weights)


# --- calibration ---


@pytest.mark.parametrize(
    "table",
    [
        {"scores": [0.0]},
        {"scores": [0.0, 0.0], "probabilities": [0.1, 0.2]},
        {"scores": [0.0, 1.0], "probabilities": [0.2, 0.1]},
        {"scores": [0.0, 1.0], "probabilities": [0.2, 1.1]},
        {"scores": [], "probabilities": []},
        {"scores": [float("nan")], "probabilities": [0.2]},
    ],
)
def test_a_table_that_is_none_is_refused(table):
    with pytest.raises(BundleError, match="calibration"):
        Calibration.of(table)


def test_an_older_bundle_has_no_table():
    assert Calibration.of({}) is None
