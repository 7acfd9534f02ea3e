"""What is fitted on logged exposures: fusion, calibration, position bias."""

import numpy as np
import pytest

from features.ranking import N_COLUMNS, RANKING_COLUMNS
from offline.calibration import LEAST_ROWS, calibration_error, fit_calibration
from offline.closed_loop_world import (
    OPENING_BASE,
    World,
    WorldConfig,
    examination,
    look_at,
)
from offline.fusion import RANKER_ALONE, Exposures, fit_fusion
from offline.position_bias import (
    LoggedSlates,
    fit_logged_ranker,
    inverse_propensities,
    of_random_slots,
    of_regression_em,
)
from offline.train_ranker import RankerConfig
from serving.ranking.calibration import Calibration
from serving.ranking.fusion import Fusion
from serving.ranking.ranker import Ranker
from tests.offline.test_closed_loop import answers_of_nobody

N = 20_000


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# --- fusion and calibration ---


@pytest.fixture(scope="module")
def exposures() -> Exposures:
    """Clicks that depend on ranker and click model; what watching says is noise."""
    rng = np.random.default_rng(7)
    ranker, click, watch = rng.normal(3, 2, N), rng.normal(-1, 1, N), rng.random(N)
    truth = 0.5 * (ranker - 3) + 1.5 * click - 0.5
    return Exposures(ranker, click, watch, rng.random(N) < sigmoid(truth))


def test_weights_are_those_that_clicks_depend_on(exposures):
    found = fit_fusion(exposures)
    assert found["ranker"] == pytest.approx(1.0, abs=0.15)  # of a deviation of 2
    assert found["click"] == pytest.approx(1.5, abs=0.2)
    assert found["watch"] < 0.1
    assert (found["ranker_mean"], found["ranker_deviation"]) == pytest.approx((3, 2), abs=0.1)
    assert Fusion.of(found).asks_models


def test_a_log_that_says_nothing_leaves_the_ranker_alone(exposures):
    few = Exposures(*(part[:100] for part in (exposures.ranker, exposures.click)),
                    exposures.watch[:100], exposures.clicks[:100])  # fmt: skip
    never = Exposures(exposures.ranker, exposures.click, exposures.watch, np.zeros(N, np.bool_))
    against = Exposures(*(-p for p in (exposures.ranker, exposures.click)), np.zeros(N),
                        exposures.clicks)  # fmt: skip
    for log in (few, never, against):
        assert fit_fusion(log) == RANKER_ALONE


def test_said_probabilities_come_true_on_exposures_that_were_not_fitted_on(exposures):
    scores = Fusion.of(fit_fusion(exposures)).scores(
        exposures.ranker, sigmoid(exposures.click), exposures.watch
    )
    half = N // 2
    table = Calibration.of(fit_calibration(scores[:half], exposures.clicks[:half]))
    said, came = table.probabilities(scores[half:]), exposures.clicks[half:]
    assert calibration_error(said, came) < 0.03
    assert calibration_error(sigmoid(scores[half:] * 3), came) > 0.05
    assert (np.diff(table.chances) >= 0).all()


def test_few_exposures_make_no_table():
    n = LEAST_ROWS - 1
    assert fit_calibration(np.arange(n, dtype=float), np.zeros(n, np.bool_)) == {}


def test_a_score_that_says_nothing_has_one_probability(rng):
    clicks = rng.random(2_000) < 0.3
    table = Calibration.of(fit_calibration(np.zeros(2_000), clicks))
    assert table.probabilities(np.array([-1.0, 0.0, 1.0])) == pytest.approx(
        clicks[:32].mean(), abs=0.3
    )


# --- position bias, in a world whose examination is known ---

N_SLOTS, N_SLATES = 10, 5_000


@pytest.fixture(scope="module")
def logged() -> dict[str, np.ndarray]:
    """Slates of a policy that puts what it believes to be good first, and slates left to chance."""
    rng = np.random.default_rng(3)
    world = World(WorldConfig(seed=3, n_decisions=10, n_viewers=20, n_titles=120))
    appeal = rng.normal(OPENING_BASE, 1.5, (N_SLATES, N_SLOTS))
    is_random = np.arange(N_SLATES) % 3 == 0
    believed = appeal + rng.normal(0, 1.0, appeal.shape)
    order = np.argsort(-believed, axis=1)
    appeal[~is_random] = np.take_along_axis(appeal, order, axis=1)[~is_random]
    opened = np.zeros(appeal.shape, np.bool_)
    chances = rng.random((*appeal.shape, 5))
    for slate in range(N_SLATES):
        told = answers_of_nobody()
        for slot in range(N_SLOTS):
            look_at(slot, appeal[slate, slot], chances[slate, slot], world.titles, world._truth,
                    told)  # fmt: skip
        opened[slate] = told.opened
    return {
        "appeal": appeal.ravel(),
        "clicks": opened.ravel(),
        "slots": np.tile(np.arange(N_SLOTS), N_SLATES),
        "is_random": np.repeat(is_random, N_SLOTS),
    }


def test_slots_left_to_chance_tell_how_often_each_is_looked_at(logged):
    rows = logged["is_random"]
    found = of_random_slots(logged["slots"][rows], logged["clicks"][rows])
    np.testing.assert_allclose(found, examination(N_SLOTS), atol=0.08)
    naive = of_random_slots(logged["slots"][~rows], logged["clicks"][~rows])
    assert np.abs(naive - examination(N_SLOTS))[1:].mean() > 0.1


def test_so_do_all_slots_where_features_explain_what_is_liked(logged):
    half = len(logged["slots"]) // 2
    features = logged["appeal"][:half, None].astype(np.float32)
    found = of_regression_em(features, logged["slots"][:half], logged["clicks"][:half])
    np.testing.assert_allclose(found, examination(N_SLOTS), atol=0.1)


def test_propensities_make_up_for_what_stood_where_more_often(rng):
    slots = rng.integers(0, 2, N)
    is_good = rng.random(N) < np.where(slots == 0, 0.8, 0.2)
    clicks = rng.random(N) < np.where(is_good, 0.6, 0.2) * np.array([1.0, 0.5])[slots]
    propensities = np.where(is_good == (slots == 0), 0.8, 0.2)
    assert of_random_slots(slots, clicks)[1] < 0.4
    assert of_random_slots(slots, clicks, propensities)[1] == pytest.approx(0.5, abs=0.05)


def test_a_click_where_few_look_counts_more_but_not_without_bound():
    weights = inverse_propensities(
        np.array([0, 1, 1, 2, 9]), np.array([True, True, False, True, True]),
        np.array([1.0, 0.5, 0.05]), most=8.0,
    )  # fmt: skip
    assert weights.tolist() == [1, 2, 1, 8, 8]


def test_slots_that_nobody_met_are_taken_for_those_before_and_a_dead_log_is_refused():
    found = of_random_slots(np.array([0, 0, 2, 2]), np.array([True, False, False, False]))
    assert found.tolist() == [1, 1, 0.05]
    with pytest.raises(ValueError, match="first slot must have been clicked"):
        of_random_slots(np.array([0, 1]), np.array([False, True]))


def test_a_ranker_of_logged_slates_learns_what_is_liked_and_not_where_it_stood(logged):
    """A column that only tells how the old policy ordered slates gains by position alone."""
    rng = np.random.default_rng(5)
    rows = ~logged["is_random"]
    slots, clicks = logged["slots"][rows], logged["clicks"][rows]
    features = np.zeros((rows.sum(), N_COLUMNS), np.float32)
    features[:, 0] = logged["appeal"][rows] + rng.normal(0, 0.5, rows.sum())
    slates = LoggedSlates(features, slots, clicks, np.full(rows.sum() // N_SLOTS, N_SLOTS))
    config = RankerConfig(n_trees=30, n_leaves=8, feature_share=1.0)
    booster = fit_logged_ranker(slates, examination(N_SLOTS), config)
    assert booster.feature_name() == [*RANKING_COLUMNS, "slot"]
    probes = np.zeros((50, N_COLUMNS), np.float32)
    probes[:, 0] = np.linspace(OPENING_BASE - 2, OPENING_BASE + 2, 50)
    scores = Ranker.parse(booster.model_to_string(), "it").score(probes)
    assert np.corrcoef(scores, probes[:, 0])[0, 1] > 0.8
