"""Slots to arms: the sets of the arms, and that chances told are chances had."""

from collections import Counter

import numpy as np
import pytest

from features.decision_context import context_of
from features.outcomes import OUTCOME
from features.ranking import RANKING_COLUMNS
from features.store import USERS
from features.vocabulary import N_ARMS, Arm
from online_models.bandits import POLICIES, BanditState
from serving.retrieval.base import Candidates, Source
from serving.selection.arms import arm_bits
from serving.selection.explorer import Beliefs, Explorer, certain_plan
from tests.clock import START_MS

N_ITEMS = 60
SOURCES = (Source.FOR_YOU, Source.COVISITATION, Source.TRENDING, Source.NEW, Source.POPULAR)


def candidates(rng: np.random.Generator, n: int = N_ITEMS) -> Candidates:
    """Every fifth from each source; affinities and ratings drawn evenly."""
    found = Candidates(N_ITEMS, N_ITEMS)
    for k in range(n):
        found.offer(np.array([k]), 1, SOURCES[k % len(SOURCES)])
    features = found.features[:n]
    for name in ("genre_affinity", "item_rating_low", "is_long_tail"):
        features[:, RANKING_COLUMNS.index(name)] = rng.random(n)
    features[:, RANKING_COLUMNS.index("item_rating_low")] += 5.5
    features[:, RANKING_COLUMNS.index("is_long_tail")] = np.arange(n) % 3 == 0
    return found


def members(found: Candidates, arm: Arm) -> set[int]:
    return set(np.flatnonzero(arm_bits(found) & (1 << arm)).tolist())


def plan(explorer, beliefs, found, count=20, base=Arm.RANKER):
    ids = np.arange(1, N_ITEMS + 1, dtype=np.uint64)
    order = np.arange(found.n)
    return explorer.plan(beliefs, USERS.empty[0], START_MS, found, ids, order, count, base)


def test_arms_hold_the_candidates_that_they_are_named_for(rng):
    found = candidates(rng)
    column = {name: found.features[:N_ITEMS, k] for k, name in enumerate(RANKING_COLUMNS)}
    assert members(found, Arm.RANKER) == set(range(N_ITEMS))
    assert members(found, Arm.ALS) == set(range(0, N_ITEMS, 5))
    assert members(found, Arm.NEW) == set(range(3, N_ITEMS, 5))
    good = set(np.flatnonzero(column["item_rating_low"] >= 6.0).tolist())
    assert members(found, Arm.LONG_TAIL) == good & set(range(0, N_ITEMS, 3))
    assert members(found, Arm.SERENDIPITY) < good
    likes = column["genre_affinity"]
    liked = members(found, Arm.CONTENT)
    assert len(liked) == N_ITEMS // 5
    assert min(likes[list(liked)]) > max(np.delete(likes, list(liked)))
    far = members(found, Arm.SERENDIPITY)
    assert max(likes[list(far)]) <= np.sort(likes)[N_ITEMS // 2]


def test_without_exploration_the_best_stand_first_for_certain(rng):
    found = candidates(rng)
    chosen = plan(Explorer(0.0, rng), Beliefs.none_yet("thompson"), found)
    certain = certain_plan(np.arange(found.n), 20, Arm.RANKER, 0)
    assert (chosen.places, chosen.propensities) == (certain.places, certain.propensities)
    assert set(chosen.arms) == {Arm.RANKER}


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_no_title_is_shown_twice_and_every_slot_is_filled(policy, rng):
    found = candidates(rng)
    chosen = plan(Explorer(1.0, rng), Beliefs.none_yet(policy), found, count=N_ITEMS)
    assert sorted(chosen.places) == list(range(N_ITEMS))
    assert all(0 < chance <= 1 for chance in chosen.propensities + chosen.item_propensities)
    bits = arm_bits(found)
    assert all(
        bits[place] & (1 << arm) for place, arm in zip(chosen.places, chosen.arms, strict=True)
    )


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_an_arm_gets_a_slot_as_often_as_its_propensity_says(share, rng):
    """The sum of 1 / propensity over slots that went to an arm is the number of slots: the mean of
    the inverse propensities of all arms together is how many arms could have had the slot."""
    found = candidates(rng)
    explorer, beliefs = Explorer(share, rng), Beliefs.none_yet("thompson")
    n, weights, first = 3_000, Counter(), Counter()
    for _ in range(n):
        chosen = plan(explorer, beliefs, found, count=1)
        weights[chosen.arms[0]] += 1 / chosen.propensities[0]
        first[chosen.arms[0]] += 1
    assert len(first) == N_ARMS
    for arm, seen in first.items():
        chance = seen / weights[arm]  # the propensity that was told, as it is the same each time
        error = 4 * np.sqrt(chance * (1 - chance) / n)
        assert abs(seen / n - chance) < error, arm


def test_a_title_of_the_long_tail_is_drawn_as_often_as_its_propensity_says(rng):
    found = candidates(rng)
    explorer, beliefs = Explorer(1.0, rng), Beliefs.none_yet("uniform")
    inverse, shown = Counter(), 0
    for _ in range(4_000):
        chosen = plan(explorer, beliefs, found, count=1)
        if chosen.arms[0] == Arm.LONG_TAIL:
            shown += 1
            inverse[chosen.places[0]] += 1 / chosen.item_propensities[0]
    assert len(inverse) == len(members(found, Arm.LONG_TAIL))
    for place, weight in inverse.items():  # each is `shown` on average
        assert abs(weight / shown - 1) < 0.8, place


def test_what_was_learnt_moves_the_slots(rng):
    found = candidates(rng)
    state, outcomes = BanditState(), np.zeros(2_000, OUTCOME)
    outcomes["rollback_to"] = -1
    outcomes["arm"] = np.arange(2_000) % N_ARMS
    outcomes["reward"] = outcomes["arm"] == Arm.NEW
    outcomes["propensity"] = 1 / N_ARMS
    outcomes["context"] = context_of(USERS.empty[0], START_MS)
    outcomes["decided_at_ms"] = START_MS
    state.learn(outcomes)
    beliefs = Beliefs.of("thompson", state.arrays())
    chosen = plan(Explorer(1.0, rng), beliefs, found, count=5)
    assert set(chosen.arms) == {Arm.NEW}
    assert chosen.belief.means[Arm.NEW] > 0.5 > chosen.belief.means[Arm.ALS]
    assert chosen.belief.weights[Arm.NEW] > 100
