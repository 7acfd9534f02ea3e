"""Posteriors of titles: a bounded table, and the prior of the arm for whoever is not in it."""

import numpy as np
import pytest

from features.vocabulary import Arm
from online_models.forgetting import HALF_LIFE_MS
from online_models.item_arms import ITEM_STRENGTH, N_SETS, N_WAYS, ItemArms, ItemPolicy
from online_models.propensity import choose
from tests.online_models.examples import AT_MS, Outcomes, outcomes


def ids(*items: int) -> np.ndarray:
    return np.array(items, np.uint64)


def learnt(*batches: Outcomes) -> ItemArms:
    arms = ItemArms()
    for batch in batches:
        arms.learn(batch)
    return arms


def weights(arms: ItemArms, *items: int) -> list[float]:
    found = ItemPolicy.of(arms.arrays()).belief(ids(*items), 0.2).weights
    return (found - ITEM_STRENGTH).round(6).tolist()


def test_a_title_starts_at_the_mean_of_its_arm_and_moves_by_its_answers():
    arms = learnt(outcomes(30, item=5, reward=1.0))
    belief = ItemPolicy.of(arms.arrays()).belief(ids(5, 6), 0.2)
    assert belief.means[1] == pytest.approx(0.2)
    assert belief.weights[1] == pytest.approx(ITEM_STRENGTH)
    assert belief.means[0] == pytest.approx((0.2 * ITEM_STRENGTH + 30) / (ITEM_STRENGTH + 30))


def test_the_title_shown_longest_ago_gives_way():
    titles = [7 + N_SETS * k for k in range(N_WAYS + 1)]  # all of one set
    log = np.concatenate([outcomes(item=title) for title in titles])
    log["decided_at_ms"] += np.arange(len(titles))
    again = outcomes(item=titles[0], decided_at_ms=AT_MS + N_WAYS - 1)
    arms = learnt(log[:N_WAYS], again, log[N_WAYS:])
    assert [weight > 0 for weight in weights(arms, *titles)] == [True, False] + [True] * 7


def test_the_table_is_bounded(rng: np.random.Generator):
    log = outcomes(30_000)
    log["item"] = rng.integers(1, 2**63, len(log))
    arms = learnt(log)
    assert arms.counts == {"learnt": 30_000, "skipped": 0}
    assert np.count_nonzero(arms.arrays()["item_ids"]) == N_SETS * N_WAYS
    assert sum(values.nbytes for values in arms.arrays().values()) < 300_000


def test_what_the_ranker_shows_is_not_counted():
    arms = learnt(outcomes(5, item=3, arm=Arm.RANKER), outcomes(2, item=3, arm=Arm.NEW))
    assert weights(arms, 3) == [2.0]
    assert arms.counts == {"learnt": 2, "skipped": 5}


def test_a_correction_holds_and_one_of_a_title_that_has_given_way_is_skipped():
    late = {"revision": 1, "previous_reward": 0.0, "reward": 1.0}
    corrected = learnt(outcomes(item=3), outcomes(item=3, **late))
    at_once = learnt(outcomes(item=3, reward=1.0))
    evidence = "item_evidence"
    assert (corrected.arrays()[evidence] == at_once.arrays()[evidence]).all()
    skipped = learnt(outcomes(item=4, **late))
    assert skipped.counts == {"learnt": 0, "skipped": 1}
    assert not skipped.arrays()[evidence].any()


def test_titles_are_forgotten_like_arms():
    later = outcomes(item=4, decided_at_ms=AT_MS + HALF_LIFE_MS)
    assert weights(learnt(outcomes(8, item=3), later), 3, 4) == [4.0, 1.0]


@pytest.mark.parametrize("prior_mean", [0.0, -0.5, 0.3, 1.0])
def test_draws_have_a_column_for_each_title(prior_mean: float, rng: np.random.Generator):
    policy = ItemPolicy.of(learnt(outcomes(50, item=3, reward=-1.0)).arrays())
    draws = policy.draws(ids(3, 4, 5), prior_mean, rng)
    assert draws.shape == (256, 3)
    assert ((draws >= 0) & (draws <= 1)).all()


def test_the_better_title_is_shown_more_often_with_its_propensity(rng: np.random.Generator):
    arms = learnt(outcomes(50, item=3, reward=1.0), outcomes(50, item=4))
    draws = ItemPolicy.of(arms.arrays()).draws(ids(3, 4), 0.2, rng)
    place, propensity = choose(draws, np.ones(2, np.bool_), rng)
    assert place == 0
    assert propensity > 0.99


def test_no_title_is_no_error(rng: np.random.Generator):
    assert ItemPolicy.of(ItemArms().arrays()).draws(ids(), 0.2, rng).shape == (256, 0)
    assert learnt(outcomes(item=0)).counts == {"learnt": 0, "skipped": 1}
