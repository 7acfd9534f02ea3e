"""The policies to be measured against are what their names say."""

import numpy as np
import pytest

from features.decision_context import DEPTH
from features.vocabulary import N_ARMS, Arm
from online_models.base import N_DRAWS
from online_models.baseline_arms import EpsilonGreedyPolicy, StaticPolicy, Ucb1Policy
from online_models.beta_arms import BetaArms
from online_models.propensity import win_shares
from online_models.situation import situation_of
from tests.online_models.examples import BEST, outcomes, planted, standard_error

ALL = np.ones(N_ARMS, np.bool_)
SITUATION = situation_of(0)


@pytest.fixture
def arms(rng: np.random.Generator) -> BetaArms:
    made = BetaArms()
    made.learn(planted(rng, 5_000))
    return made


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
def test_epsilon_greedy_prefers_none_in_a_share_of_slots(
    epsilon: float, arms: BetaArms, rng: np.random.Generator
):
    policy = EpsilonGreedyPolicy.of(arms.arrays(), epsilon)
    shares = win_shares(policy.draws(0, SITUATION, rng), ALL)
    expected = np.full(N_ARMS, epsilon / N_ARMS)
    expected[BEST] += 1.0 - epsilon
    assert np.abs(shares - expected).max() <= 4 * standard_error(1 / N_ARMS, N_DRAWS)


def test_a_depth_tells_contexts_apart(rng: np.random.Generator):
    made = BetaArms()
    made.learn(outcomes(50, context=0, arm=Arm.ALS, reward=1.0))
    made.learn(outcomes(90, context=143, arm=Arm.NEW, reward=1.0))
    made.learn(outcomes(50, context=0, arm=Arm.NEW))
    for depth, best in ((0, Arm.ALS), (DEPTH, Arm.NEW)):
        policy = EpsilonGreedyPolicy.of(made.arrays(), 0.0, depth)
        assert win_shares(policy.draws(143, SITUATION, rng), ALL)[best] == 1.0


def test_ucb1_is_the_mean_and_a_bound_that_narrows():
    made = BetaArms()
    for arm in Arm:
        made.learn(outcomes(10 * (arm + 1), arm=arm, reward=0.5))
    draws = Ucb1Policy.of(made.arrays()).draws(0, SITUATION, np.random.default_rng(7))
    counts = 10.0 * np.arange(1, N_ARMS + 1)
    assert draws[0] == pytest.approx(0.5 + np.sqrt(2 * np.log(counts.sum()) / counts), abs=1e-6)


def test_ucb1_tries_every_arm_first(rng: np.random.Generator):
    made = BetaArms()
    made.learn(outcomes(100, arm=Arm.ALS, reward=1.0))
    shares = win_shares(Ucb1Policy.of(made.arrays()).draws(0, SITUATION, rng), ALL)
    assert shares[Arm.ALS] == 0.0
    assert (shares[[arm for arm in Arm if arm != Arm.ALS]] > 0.05).all()


def test_static_shares_hold_among_the_arms_available(rng: np.random.Generator):
    given = np.array([4.0, 2.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    draws = StaticPolicy(given).draws(0, SITUATION, rng)
    for available in (ALL, np.arange(N_ARMS) > 0):
        expected = given * available / (given * available).sum()
        bounds = [4 * standard_error(share, N_DRAWS) for share in expected]
        assert (np.abs(win_shares(draws, available) - expected) <= bounds).all()


@pytest.mark.parametrize("shares", [[1.0], [0.0] * N_ARMS, [-1.0] + [1.0] * 7, [np.nan] * N_ARMS])
def test_shares_that_are_none_are_refused(shares: list[float]):
    with pytest.raises(ValueError, match="shares must be 8 finite numbers of at least 0"):
        StaticPolicy(shares)
