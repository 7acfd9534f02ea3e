"""Propensities are the probabilities with which arms are chosen, not estimates of them."""

import numpy as np
import pytest

from features.vocabulary import N_ARMS, Arm
from online_models.base import N_DRAWS
from online_models.propensity import (
    NO_ARM,
    ArmChooser,
    alike,
    choose,
    fill_slots,
    total_propensity,
    win_shares,
)
from tests.online_models.examples import standard_error

ALL = np.ones(N_ARMS, np.bool_)
N_REPEATS = 4_000


@pytest.fixture
def draws(rng: np.random.Generator) -> np.ndarray:
    return rng.beta(np.arange(1.0, N_ARMS + 1), 5.0, (N_DRAWS, N_ARMS))


def mask(*arms: Arm) -> np.ndarray:
    made = np.zeros(N_ARMS, np.bool_)
    made[list(arms)] = True
    return made


def test_shares_are_those_of_the_rows_won(draws: np.ndarray):
    shares = win_shares(draws, ALL)
    assert (shares * N_DRAWS == np.bincount(draws.argmax(1), minlength=N_ARMS)).all()
    assert shares.sum() == 1.0


def test_arms_that_are_not_available_win_nothing(draws: np.ndarray):
    available = mask(Arm.ALS, Arm.NEW)
    shares = win_shares(draws, available)
    assert shares.sum() == shares[available].sum() == 1.0
    assert shares[Arm.ALS] == (draws[:, Arm.ALS] >= draws[:, Arm.NEW]).mean()


def test_nobody_wins_where_nobody_is_available(draws: np.ndarray, rng: np.random.Generator):
    assert not win_shares(draws, mask()).any()
    assert choose(draws, mask(), rng) == (NO_ARM, 0.0)


def test_arms_are_chosen_as_often_as_their_propensities_say(
    draws: np.ndarray, rng: np.random.Generator
):
    chooser = ArmChooser(draws, ALL, exploration=0.5)
    chosen = [chooser.choose(rng) for _ in range(N_REPEATS)]
    shares = np.bincount([arm for arm, _ in chosen], minlength=N_ARMS) / N_REPEATS
    for arm, propensity in set(chosen):
        assert propensity == pytest.approx(chooser.shares()[arm])
        assert abs(shares[arm] - propensity) <= 4 * standard_error(propensity, N_REPEATS)
    assert chooser.shares().sum() == pytest.approx(1.0)


def test_a_choice_states_the_share_of_its_arm(draws: np.ndarray, rng: np.random.Generator):
    arm, propensity = choose(draws, ALL, rng)
    assert propensity == win_shares(draws, ALL)[arm]


def test_an_arm_that_runs_out_leaves_its_rows_to_the_next_best(draws: np.ndarray):
    chooser = ArmChooser(draws, ALL)
    available = ALL.copy()
    for arm in (Arm.NEW, Arm.RANKER, Arm.SERENDIPITY):
        chooser.run_out(arm)
        chooser.run_out(arm)  # twice is once
        available[arm] = False
        assert (chooser.shares() == win_shares(draws, available)).all()


def test_the_mask_of_the_caller_is_left_alone(draws: np.ndarray):
    available = ALL.copy()
    ArmChooser(draws, available).run_out(Arm.NEW)
    assert available.all()


@pytest.mark.parametrize("exploration", [0.0, 0.3, 1.0])
def test_total_propensities_are_a_distribution(draws: np.ndarray, exploration: float):
    shares = win_shares(draws, ALL)
    total = sum(total_propensity(arm, shares[arm], exploration) for arm in Arm)
    assert total == pytest.approx(1.0)


def test_without_exploration_every_slot_is_the_rankers(draws: np.ndarray, rng: np.random.Generator):
    arms, propensities = fill_slots(draws, np.full(N_ARMS, 50), 20, rng, exploration=0.0)
    assert set(arms) == {Arm.RANKER}
    assert set(propensities) == {1.0}


def test_a_ranker_without_candidates_leaves_its_part_to_the_others(
    draws: np.ndarray, rng: np.random.Generator
):
    counts = np.full(N_ARMS, 50)
    counts[Arm.RANKER] = 0
    arms, propensities = fill_slots(draws, counts, 20, rng, exploration=0.1)
    shares = win_shares(draws, counts > 0)
    assert Arm.RANKER not in arms
    assert (propensities == shares[arms]).all()


def test_a_slate_is_filled_as_slot_by_slot(draws: np.ndarray):
    counts = np.array([3, 2, 1, 4, 2, 1, 3, 2])
    arms, propensities = fill_slots(draws, counts, 20, np.random.default_rng(5), exploration=0.6)
    chooser, rng, left = ArmChooser(draws, counts > 0, 0.6), np.random.default_rng(5), counts.copy()
    for slot in range(20):
        found = chooser.choose(rng)
        assert found == (arms[slot], propensities[slot])
        if found[0] != NO_ARM:
            left[found[0]] -= 1
            if left[found[0]] == 0:
                chooser.run_out(found[0])
    assert (np.bincount(arms[:18], minlength=N_ARMS) == counts).all()
    assert arms[18:].tolist() == [NO_ARM] * 2
    assert propensities[18:].tolist() == [0.0] * 2


def test_propensities_of_a_slate_are_how_often_slates_come_out_so(
    draws: np.ndarray, rng: np.random.Generator
):
    """The second slot given the first, with arms of one candidate each: no slate but these."""
    counts = np.zeros(N_ARMS, np.int64)
    counts[[Arm.ALS, Arm.TRENDING, Arm.NEW]] = 1
    found: dict[tuple[int, ...], list[float]] = {}
    for _ in range(N_REPEATS):
        arms, propensities = fill_slots(draws, counts, 2, rng)
        found.setdefault(tuple(arms), []).append(float(propensities.prod()))
    assert len(found) == 6
    for slates in found.values():
        (propensity,) = set(slates)
        share = len(slates) / N_REPEATS
        assert abs(share - propensity) <= 4 * standard_error(propensity, N_REPEATS)


def test_inverse_propensities_estimate_another_policy_without_bias(
    draws: np.ndarray, rng: np.random.Generator
):
    """The mean of [arm is A] / P(arm) is one, for every arm that can be chosen."""
    chooser = ArmChooser(draws, ALL, exploration=0.8)
    chosen = [chooser.choose(rng) for _ in range(N_REPEATS)]
    for arm in np.flatnonzero(chooser.shares() > 0.02):
        weights = np.array([(a == arm) / p for a, p in chosen])
        assert abs(weights.mean() - 1.0) <= 4 * weights.std() / N_REPEATS**0.5


def test_equal_values_win_evenly(rng: np.random.Generator):
    shares = win_shares(alike(np.array([0.2, 0.7, 0.7, 0.7]), rng, N_DRAWS), np.ones(4, np.bool_))
    assert shares[0] == 0.0
    assert np.abs(shares[1:] - 1 / 3).max() <= 4 * standard_error(1 / 3, N_DRAWS)
