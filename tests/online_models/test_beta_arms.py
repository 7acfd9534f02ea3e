"""Beta posteriors: what a rare context borrows, what is forgotten, and what draws are of."""

import numpy as np
import pytest

from features.decision_context import CONTEXT_CODES, DEPTH, N_CONTEXTS, parent
from features.outcomes import NO_CONTEXT
from features.vocabulary import N_ARMS, Arm
from online_models.base import N_DRAWS, ArmBelief
from online_models.beta_arms import STRENGTH, BetaArms, ThompsonPolicy, nodes_of
from online_models.exact_wins import win_probabilities
from online_models.forgetting import HALF_LIFE_MS
from online_models.propensity import win_shares
from online_models.situation import situation_of
from tests.online_models.examples import AT_MS, BEST, Outcomes, outcomes, planted, standard_error

HERE = CONTEXT_CODES["power/deep/saturated/evening/weekend"]
SIBLING = CONTEXT_CODES["power/deep/saturated/evening/weekday"]
FAR = CONTEXT_CODES["new/start/open/night/weekday"]
SITUATION = situation_of(0)
ALL = np.ones(N_ARMS, np.bool_)


def policy_after(*batches: Outcomes, is_net: bool = False) -> ThompsonPolicy:
    arms = BetaArms(is_net=is_net)
    for batch in batches:
        arms.learn(batch)
    return ThompsonPolicy.of(arms.arrays())


def belief(policy: ThompsonPolicy, context: int) -> ArmBelief:
    return policy.belief(context, SITUATION)


def answered(n: int, n_won: int, **fields: int) -> Outcomes:
    made = outcomes(n, **fields)
    made["reward"][:n_won] = 1.0
    return made


def test_an_outcome_is_counted_at_its_context_and_all_its_parents():
    arms = BetaArms()
    arms.learn(answered(3, 1, context=HERE))
    evidence = arms.arrays()["beta_evidence"][:, BEST] / 2**24
    nodes = nodes_of(HERE)
    assert len(nodes) == DEPTH + 1
    assert evidence[nodes].tolist() == [[1.0, 2.0]] * (DEPTH + 1)
    assert evidence.sum() == 3 * (DEPTH + 1)


def test_contexts_share_the_nodes_of_their_common_parents_alone():
    for one, other in [(HERE, SIBLING), (HERE, FAR), (5, 77)]:
        common = sum(parent(one, depth) == parent(other, depth) for depth in range(DEPTH + 1))
        assert (nodes_of(one) == nodes_of(other)).sum() == common


def test_nothing_known_is_the_uniform_distribution():
    fresh = belief(policy_after(), HERE)
    assert fresh.means.tolist() == [0.5] * N_ARMS
    assert fresh.weights.tolist() == [2.0] * N_ARMS


def test_a_context_without_answers_has_the_mean_of_its_parents_at_a_stated_weight():
    policy = policy_after(answered(1_000, 300, context=SIBLING))
    assert belief(policy, HERE).means[BEST] == pytest.approx(0.3, abs=0.001)
    assert belief(policy, HERE).weights[BEST] == pytest.approx(STRENGTH)


def test_answers_of_its_own_move_a_context_by_their_share():
    policy = policy_after(
        answered(100_000, 30_000, context=SIBLING), answered(60, 60, context=HERE)
    )
    own = 60 / (60 + STRENGTH)
    expected = own * 1.0 + (1 - own) * 0.3
    assert belief(policy, HERE).means[BEST] == pytest.approx(expected, abs=0.001)


def test_the_nearest_relative_says_most():
    policy = policy_after(
        answered(1_000, 100, context=FAR), answered(10_000, 5_000, context=SIBLING)
    )
    assert belief(policy, HERE).means[BEST] == pytest.approx(0.5, abs=0.01)


def test_no_answer_counts_twice():
    policy = policy_after(answered(7, 3, context=HERE), answered(5, 3, context=FAR))
    assert belief(policy, HERE).weights[BEST] == pytest.approx(2 + 7 + 5)
    assert belief(policy, HERE).means[BEST] == pytest.approx((1 + 6) / (2 + 12))


def test_no_known_context_has_the_posterior_of_the_root():
    policy = policy_after(answered(98, 48, context=HERE))
    assert belief(policy, NO_CONTEXT).means[BEST] == pytest.approx(0.49)
    assert belief(policy, NO_CONTEXT).weights[BEST] == pytest.approx(100)


def test_answers_weigh_half_after_a_half_life():
    half = HALF_LIFE_MS // 2
    old = answered(1_000, 1_000, context=HERE)
    new = answered(1_000, 0, context=HERE, decided_at_ms=AT_MS + half + HALF_LIFE_MS)
    old["decided_at_ms"] = AT_MS + half
    now = belief(policy_after(old, new), NO_CONTEXT)
    assert now.means[BEST] == pytest.approx((1 + 500) / (2 + 1_500))
    assert belief(policy_after(new, old), NO_CONTEXT).means[BEST] == pytest.approx(now.means[BEST])


@pytest.mark.parametrize("n_half_lives", [63, 64, 1_000])
def test_what_is_very_old_is_forgotten(n_half_lives: int):
    old = answered(1_000, 1_000, context=HERE)
    new = outcomes(arm=Arm.NEW, decided_at_ms=AT_MS + n_half_lives * HALF_LIFE_MS)
    assert belief(policy_after(old, new), HERE).means[BEST] == pytest.approx(0.5)


def test_an_arm_that_has_turned_is_believed_within_two_half_lives():
    old = answered(2_000, 1_000, context=HERE)
    new = answered(2_000, 200, context=HERE, decided_at_ms=AT_MS + 2 * HALF_LIFE_MS)
    assert belief(policy_after(old, new), HERE).means[BEST] < 0.2


@pytest.mark.parametrize(
    ("reward", "parts"), [(1.0, (1, 0)), (0.25, (0.25, 0.75)), (0.0, (0, 1)), (-0.5, (0, 1.5))]
)
def test_a_reward_is_partly_a_success_and_partly_a_failure(
    reward: float, parts: tuple[float, float]
):
    arms = BetaArms()
    arms.learn(outcomes(reward=reward))
    assert tuple(arms.arrays()["beta_evidence"][0, BEST] / 2**24) == parts


def test_net_losses_order_arms_by_their_mean_reward():
    liked = outcomes(10_000, arm=Arm.ALS)
    liked["reward"][:2_500], liked["reward"][2_500:3_500] = 1.0, -1.0
    calm = outcomes(10_000, arm=Arm.CONTENT)
    calm["reward"][:2_000], calm["reward"][2_000:2_200] = 1.0, -1.0
    as_failures = belief(policy_after(liked, calm), 0).means
    net = belief(policy_after(liked, calm, is_net=True), 0).means
    assert as_failures[Arm.ALS] > as_failures[Arm.CONTENT]
    assert net[[Arm.ALS, Arm.CONTENT]] == pytest.approx([0.15, 0.18], abs=0.001)


def test_an_arm_of_losses_alone_keeps_a_posterior():
    for is_net in (False, True):
        policy = policy_after(outcomes(1_000, reward=-1.0, context=HERE), is_net=is_net)
        found = belief(policy, HERE)
        assert 0.0 < found.means[BEST] < 0.01
        assert found.weights[BEST] > 100
        draws = policy.draws(HERE, SITUATION, np.random.default_rng(7))
        assert np.isfinite(draws).all()


def test_draws_have_the_moments_of_the_posterior(rng: np.random.Generator):
    policy = policy_after(planted(rng, 20_000))
    found = belief(policy, HERE)
    draws = policy.draws(HERE, SITUATION, rng)
    deviation = np.sqrt(found.means * (1 - found.means) / (found.weights + 1))
    assert (np.abs(draws.mean(0) - found.means) <= 4 * deviation / N_DRAWS**0.5).all()
    assert draws.std(0) == pytest.approx(deviation, rel=0.15)  # 4 / sqrt(2 * 1,024) is 0.09


def test_requests_turn_the_columns_of_one_sample(rng: np.random.Generator):
    policy = policy_after(planted(rng, 2_000))
    one, other = (policy.draws(HERE, SITUATION, rng) for _ in range(2))
    assert (np.sort(one, axis=0) == np.sort(other, axis=0)).all()
    pairs = {tuple(row) for row in one[:, :2].tolist()}
    assert len(pairs & {tuple(row) for row in other[:, :2].tolist()}) == 0


def test_draws_of_a_fresh_policy_are_those_of_the_seed(rng: np.random.Generator):
    log = planted(rng, 2_000)
    one, other = (
        policy_after(log).draws(HERE, SITUATION, np.random.default_rng(3)) for _ in range(2)
    )
    assert (one == other).all()


def test_win_shares_are_the_exact_win_probabilities_but_for_sampling(rng: np.random.Generator):
    policy = policy_after(planted(rng, 3_000))
    found = belief(policy, HERE)
    successes = found.means * found.weights
    exact = win_probabilities(list(successes), list(found.weights - successes))
    shares = win_shares(policy.draws(HERE, SITUATION, rng), ALL)
    bounds = [4 * standard_error(share, N_DRAWS) for share in exact]
    assert sum(exact) == pytest.approx(1.0, abs=1e-6)
    assert (np.abs(shares - exact) <= bounds).all()


def test_every_context_has_a_posterior(rng: np.random.Generator):
    policy = policy_after(planted(rng, 50_000))
    found = [belief(policy, context) for context in range(N_CONTEXTS)]
    means, weights = (
        np.array([getattr(one, name) for one in found]) for name in ("means", "weights")
    )
    rates = np.full(N_ARMS, 0.1)
    rates[BEST] = 0.3
    assert means.mean(axis=0) == pytest.approx(rates, abs=0.02)
    # Contexts stray no further than their weights say: five deviations among 1,152 posteriors.
    assert (np.abs(means - rates) <= 5 * np.sqrt(rates * (1 - rates) / weights)).all()


def test_a_half_life_of_nothing_is_refused():
    with pytest.raises(ValueError, match="half_life_ms must be at least 1; got 0"):
        BetaArms(half_life_ms=0)
