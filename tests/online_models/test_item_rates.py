import numpy as np
import pytest

from online_models.item_rates import N_PLACES, PRIOR_SHOWN, ItemRates


def learn(rates, items, labels, is_new=True):
    n = len(items)
    return rates.learn(np.array(items, np.uint64), np.array(labels, bool), np.full(n, is_new))


def test_a_rate_is_told_before_the_outcome_is_taken_in():
    rates = ItemRates()
    everything, by_item = learn(rates, [5, 5, 6], [True, False, False])
    assert everything[0] == by_item[0] == 0.5
    assert everything[1] > 0.5
    assert by_item[1] == pytest.approx((1 + PRIOR_SHOWN * everything[1]) / (1 + PRIOR_SHOWN))
    assert by_item[2] == everything[2]  # a title not seen yet


def test_titles_that_are_clicked_more_have_higher_rates(rng):
    rates = ItemRates()
    items = rng.integers(1, 11, 5_000)
    learn(rates, items, rng.random(5_000) < items / 20)
    found = rates.rates_of(np.arange(1, 11, dtype=np.uint64))
    assert (np.diff(found) > 0).all()
    assert rates.global_rate == pytest.approx(items.mean() / 20, abs=0.02)


def test_a_correction_moves_clicks_and_not_showings():
    corrected, right = ItemRates(), ItemRates()
    learn(corrected, [5, 6], [False, False])
    learn(corrected, [5], [True], is_new=False)
    learn(right, [5, 6], [True, False])
    assert corrected.rates_of(np.array([5], np.uint64)) == pytest.approx(
        right.rates_of(np.array([5], np.uint64)), abs=1e-4
    )
    learn(corrected, [5], [False], is_new=False)
    learn(corrected, [5], [False], is_new=False)  # more is taken away than there is
    assert corrected.arrays()["clicks"].min() == 0.0


def test_a_newcomer_takes_a_place_once_its_tenant_is_worn_down():
    rates = ItemRates()
    tenant, newcomer = 7, 7 + N_PLACES
    learn(rates, [tenant] * 3, [True] * 3)
    learn(rates, [newcomer] * 3, [False] * 3)
    assert tenant in rates.arrays()["item"]
    learn(rates, [newcomer], [False])
    assert newcomer in rates.arrays()["item"]
    assert tenant not in rates.arrays()["item"]
