"""All policies over one learner: a contract that each keeps, and state that can be moved."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.decision_context import DEPTH, N_CONTEXTS
from features.model_snapshot import Arrays, SnapshotError, pack
from features.outcomes import NO_CONTEXT, UNKNOWN_ARM
from features.vocabulary import N_ARMS, Arm
from online_models.bandits import POLICIES, BanditState, PolicyOptions, policy_of
from online_models.base import N_DRAWS
from online_models.forgetting import HALF_LIFE_MS
from online_models.propensity import win_shares
from online_models.situation import situation_of
from tests.online_models.examples import BEST, Outcomes, logs, outcomes, planted, standard_error

LEARNING = sorted(set(POLICIES) - {"static", "uniform"})
CONTEXT = 17
ALL = np.ones(N_ARMS, np.bool_)

policies = pytest.mark.parametrize("name", sorted(POLICIES))


def state_of(*batches: Outcomes) -> BanditState:
    state = BanditState()
    for batch in batches:
        state.learn(batch)
    return state


def assert_same(one: BanditState, other: BanditState) -> None:
    others = other.arrays()
    for name, values in one.arrays().items():
        assert values.tobytes() == others[name].tobytes(), name


@policies
@pytest.mark.parametrize("context", [0, CONTEXT, N_CONTEXTS - 1, NO_CONTEXT])
def test_draws_are_finite_rows_for_any_context(name: str, context: int, rng: np.random.Generator):
    policy = policy_of(name, state_of(planted(rng, 500)).arrays())
    draws = policy.draws(context, situation_of(context), rng)
    assert policy.name == name
    assert draws.shape == (N_DRAWS, N_ARMS)
    assert np.isfinite(draws).all()


@policies
def test_beliefs_are_rewards_and_answers(name: str, rng: np.random.Generator):
    policy = policy_of(name, state_of(planted(rng, 5_000)).arrays())
    belief = policy.belief(CONTEXT, situation_of(CONTEXT))
    assert belief.means.shape == belief.weights.shape == (N_ARMS,)
    assert (np.abs(belief.means) <= 1.0).all()
    assert (belief.weights >= 0.0).all()
    assert np.isfinite(belief.weights).all()


@policies
def test_arms_of_which_nothing_is_known_win_evenly(name: str, rng: np.random.Generator):
    policy = policy_of(name, BanditState().arrays())
    shares = win_shares(policy.draws(CONTEXT, situation_of(CONTEXT), rng), ALL)
    even = 1.0 / N_ARMS
    assert np.abs(shares - even).max() <= 4 * standard_error(even, N_DRAWS)


@pytest.mark.parametrize("depth", [0, DEPTH])
@pytest.mark.parametrize("name", LEARNING)
def test_the_best_arm_wins_more_once_it_has_shown_what_it_is(
    name: str, depth: int, rng: np.random.Generator
):
    options = PolicyOptions(depth=depth)
    situation = situation_of(CONTEXT)
    before = policy_of(name, BanditState().arrays(), options).belief(CONTEXT, situation)
    policy = policy_of(name, state_of(planted(rng, 8_000, CONTEXT)).arrays(), options)
    after = policy.belief(CONTEXT, situation)
    assert after.means.argmax() == BEST
    assert after.weights[BEST] > before.weights[BEST]
    assert win_shares(policy.draws(CONTEXT, situation, rng), ALL)[BEST] > 0.9


@pytest.mark.parametrize("name", ["static", "uniform"])
def test_policies_that_do_not_learn_stay_as_they_are(name: str, rng: np.random.Generator):
    policy = policy_of(name, state_of(planted(rng, 8_000, CONTEXT)).arrays())
    shares = win_shares(policy.draws(CONTEXT, situation_of(CONTEXT), rng), ALL)
    assert np.abs(shares - 1 / N_ARMS).max() <= 4 * standard_error(1 / N_ARMS, N_DRAWS)


@policies
def test_rows_can_be_fewer(name: str, rng: np.random.Generator):
    policy = policy_of(name, BanditState().arrays(), PolicyOptions(n_draws=64))
    assert policy.draws(0, situation_of(0), rng).shape == (64, N_ARMS)


def test_a_policy_of_no_known_name_is_refused():
    with pytest.raises(ValueError, match=r"policy must be one of thompson, .*; got best"):
        policy_of("best", BanditState().arrays())


@settings(max_examples=40)
@given(log=logs, cuts=st.lists(st.integers(0, 40), max_size=5))
def test_any_split_into_batches_teaches_the_same_bit_for_bit(log: Outcomes, cuts: list[int]):
    assert_same(state_of(log), state_of(*np.split(log, sorted(cuts))))


@settings(max_examples=40)
@given(log=logs, cut=st.integers(0, 40))
def test_restored_state_is_the_same_and_learns_on_the_same(log: Outcomes, cut: int):
    whole, first, second = BanditState(), BanditState(), BanditState(half_life_ms=1)
    whole.learn(log)
    first.learn(log[:cut])
    second.restore(first.arrays())
    assert_same(second, first)
    second.learn(log[cut:])
    assert_same(second, whole)


def evidence_by_title(arrays: Arrays) -> dict[int, list[int]]:
    ids, evidence = arrays["item_ids"].reshape(-1), arrays["item_evidence"].reshape(-1, 2)
    return {int(ids[place]): evidence[place].tolist() for place in np.flatnonzero(ids)}


@settings(max_examples=40)
@given(log=logs, seed=st.integers(0, 9))
def test_outcomes_of_one_moment_teach_the_same_in_any_order(log: Outcomes, seed: int):
    log["decided_at_ms"] = log["decided_at_ms"][:1]
    log["item"] = log["item"] % 8 * 1_024  # no more than one set of titles holds
    log["revision"] = 0
    shuffled = np.random.default_rng(seed).permutation(log)
    one, other = state_of(log).arrays(), state_of(shuffled).arrays()
    assert (one["beta_evidence"] == other["beta_evidence"]).all()
    assert evidence_by_title(one) == evidence_by_title(other)
    np.testing.assert_allclose(one["linear_gram"], other["linear_gram"], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(one["linear_moment"], other["linear_moment"], atol=1e-12)


@settings(max_examples=40)
@given(log=logs, final=st.floats(-1, 1, width=32))
def test_a_correction_leaves_what_the_final_reward_alone_would_have(log: Outcomes, final: float):
    first, revised, at_once = log.copy(), log.copy(), log.copy()
    first["revision"], revised["revision"], at_once["revision"] = 0, 1, 0
    revised["previous_reward"] = first["reward"]
    revised["reward"] = at_once["reward"] = final
    log_of_both = np.stack([first, revised], axis=1).reshape(-1)
    one, other = state_of(log_of_both).arrays(), state_of(at_once).arrays()
    # Halving rounds down: off by a UNIT at most for each outcome before a landmark.
    most = len(log) if len(np.unique(log["decided_at_ms"] // HALF_LIFE_MS)) > 1 else 0
    assert np.abs(one["beta_evidence"] - other["beta_evidence"]).max() <= most
    np.testing.assert_allclose(one["linear_moment"], other["linear_moment"], atol=1e-9)
    assert (one["linear_gram"] == other["linear_gram"]).all()


def test_what_is_of_no_known_arm_or_context_is_skipped_and_counted():
    known = outcomes(2, reward=1.0)
    strange = outcomes(5, reward=1.0)
    strange["arm"][0], strange["context"][1], strange["rollback_to"][2] = UNKNOWN_ARM, NO_CONTEXT, 3
    strange["reward"][3], strange["context"][4] = np.nan, N_CONTEXTS
    state = state_of(known, strange)
    assert state.counts == {"learnt": 2, "skipped": 5}
    assert state.arrays()["beta_evidence"].sum() == 2 * (DEPTH + 1) * 2**24
    assert state.arrays()["linear_gram"][Arm.TRENDING, 0, 0] == 2.0


def test_arrays_are_copies():
    state = BanditState()
    before = state.arrays()
    state.learn(outcomes(3, reward=1.0))
    assert not any(values.any() for name, values in before.items() if "clock" not in name)
    for values in state.arrays().values():
        values[...] = 0
    assert state.counts["learnt"] == 3


@pytest.mark.parametrize("name", sorted(BanditState().arrays()))
def test_arrays_that_are_not_those_of_a_state_are_refused_and_change_nothing(name: str):
    state = state_of(outcomes(3, reward=1.0))
    arrays, before = dict(BanditState().arrays()), pack(state.arrays())
    whole = arrays.pop(name)
    with pytest.raises(SnapshotError, match=f"arrays must have {name}"):
        state.restore(arrays)
    for bad in (whole[..., :-1], whole.astype(np.float32)):
        with pytest.raises(SnapshotError, match=f"{name} must be {whole.dtype}"):
            state.restore({**arrays, name: bad})
    assert pack(state.arrays()) == before


def test_arrays_that_are_not_finite_are_refused():
    arrays = dict(BanditState().arrays())
    arrays["linear_gram"] = np.full_like(arrays["linear_gram"], np.nan)
    with pytest.raises(SnapshotError, match="linear_gram must be finite"):
        BanditState().restore(arrays)
