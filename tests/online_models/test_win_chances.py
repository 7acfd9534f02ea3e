"""Chances of being the best: an integral that agrees with adaptive quadrature."""

import numpy as np
import pytest

from online_models.exact_wins import win_probabilities
from online_models.win_chances import win_chances


def chances_of(betas: np.ndarray) -> np.ndarray:
    chances = np.empty(len(betas))
    win_chances(betas, chances)
    return chances


def test_equal_titles_are_as_likely_and_all_together_certain():
    chances = chances_of(np.tile([0.4, 9.6], (16, 1)))
    assert chances == pytest.approx([1 / 16] * 16)
    assert chances_of(np.array([[0.01, 0.01]])) == pytest.approx([1.0])


@pytest.mark.parametrize("n", [2, 5, 9])
def test_chances_are_near_those_of_adaptive_quadrature(n: int, rng: np.random.Generator):
    means, weights = rng.uniform(0.02, 0.5, n), 10 + rng.exponential(60, n) * (rng.random(n) < 0.5)
    betas = np.stack([means * weights, (1 - means) * weights], axis=1)
    exact = win_probabilities(betas[:, 0].tolist(), betas[:, 1].tolist())
    assert chances_of(betas) == pytest.approx(exact, abs=0.03)


def test_a_title_sure_to_be_better_wins():
    assert chances_of(np.array([[900.0, 100.0], [1.0, 9.0], [300.0, 700.0]]))[0] > 0.999
