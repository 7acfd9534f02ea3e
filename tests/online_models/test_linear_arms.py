"""Linear arms are ridge regressions, for as long as answers are not forgotten."""

import numpy as np
import pytest

from features.vocabulary import N_ARMS, Arm
from online_models.base import N_DRAWS
from online_models.forgetting import HALF_LIFE_MS
from online_models.linear_arms import LinearArms, LinearThompsonPolicy, LinUcbPolicy
from online_models.propensity import win_shares
from online_models.situation import N_SITUATION, situation_of
from tests.online_models.examples import AT_MS, Outcomes, outcomes, planted

ALL = np.ones(N_ARMS, np.bool_)


def learnt(*batches: Outcomes) -> LinearArms:
    arms = LinearArms()
    for batch in batches:
        arms.learn(batch)
    return arms


def situations_of(log: Outcomes) -> np.ndarray:
    return np.array([situation_of(int(one["context"]), one["features"]) for one in log])


def test_means_and_variances_are_those_of_a_ridge_regression(rng: np.random.Generator):
    log = planted(rng, 2_000)
    policy = LinearThompsonPolicy.of(learnt(log).arrays(), ridge=2.0)
    situation = situation_of(40, log["features"][0])
    belief = policy.belief(40, situation)
    for arm in Arm:
        of_arm = log[log["arm"] == arm]
        x = situations_of(of_arm)
        matrix = 2.0 * np.eye(N_SITUATION) + x.T @ x
        weights = np.linalg.solve(matrix, x.T @ of_arm["reward"])
        variance = situation @ np.linalg.solve(matrix, situation)
        assert belief.means[arm] == pytest.approx(situation @ weights, abs=1e-9)
        assert belief.weights[arm] == pytest.approx(1.0 / variance, rel=1e-9)


def test_draws_are_normal_about_the_mean(rng: np.random.Generator):
    policy = LinearThompsonPolicy.of(learnt(planted(rng, 3_000)).arrays(), scale=0.5)
    situation = situation_of(7)
    belief, draws = policy.belief(7, situation), policy.draws(7, situation, rng)
    deviation = 0.5 / np.sqrt(belief.weights)
    assert (np.abs(draws.mean(0) - belief.means) <= 4 * deviation / N_DRAWS**0.5).all()
    assert draws.std(0) == pytest.approx(deviation, rel=4 / (2 * N_DRAWS) ** 0.5)


def test_arms_are_told_apart_by_what_the_situation_says(rng: np.random.Generator):
    """One arm gains in even contexts (weekdays), another in odd ones (weekends)."""
    log = planted(rng, 8_000)
    is_odd = log["context"] % 2 == 1
    log["reward"] = ((log["arm"] == Arm.ALS) & ~is_odd) | ((log["arm"] == Arm.NEW) & is_odd)
    for policy in (
        LinearThompsonPolicy.of(learnt(log).arrays()),
        LinUcbPolicy.of(learnt(log).arrays()),
    ):
        for context, arm in ((60, Arm.ALS), (61, Arm.NEW)):
            shares = win_shares(policy.draws(context, situation_of(context), rng), ALL)
            assert shares[arm] > 0.95


def test_linucb_tries_the_arm_that_it_knows_least_of(rng: np.random.Generator):
    log = planted(rng, 4_000, 7)
    log["reward"] = 0.1
    log["has_features"] = False
    policy = LinUcbPolicy.of(learnt(log[log["arm"] != Arm.CONTENT]).arrays())
    shares = win_shares(policy.draws(7, situation_of(7), rng), ALL)
    assert shares[Arm.CONTENT] == 1.0


def test_forgetting_leads_back_to_the_ridge(rng: np.random.Generator):
    fresh = LinearThompsonPolicy.of(LinearArms().arrays()).belief(7, situation_of(7))
    log = planted(rng, 1_000, 7)
    much_later = outcomes(arm=Arm.NEW, decided_at_ms=AT_MS + 1_100 * HALF_LIFE_MS)
    belief = LinearThompsonPolicy.of(learnt(log, much_later).arrays()).belief(7, situation_of(7))
    assert belief.means[Arm.TRENDING] == pytest.approx(0.0, abs=1e-12)
    assert belief.weights[Arm.TRENDING] == pytest.approx(fresh.weights[Arm.TRENDING])


def test_answers_weigh_half_after_a_half_life():
    old = outcomes(64, reward=1.0, decided_at_ms=AT_MS + 10)
    new = outcomes(arm=Arm.NEW, decided_at_ms=AT_MS + 10 + HALF_LIFE_MS)
    half = outcomes(32, reward=1.0, decided_at_ms=AT_MS + 10)
    situation = situation_of(0)
    one = LinearThompsonPolicy.of(learnt(old, new).arrays()).belief(0, situation)
    other = LinearThompsonPolicy.of(learnt(half).arrays()).belief(0, situation)
    assert one.means[Arm.TRENDING] == pytest.approx(other.means[Arm.TRENDING])
    assert one.weights[Arm.TRENDING] == pytest.approx(other.weights[Arm.TRENDING])
