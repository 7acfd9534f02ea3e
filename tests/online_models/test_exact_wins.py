"""Exact win probabilities agree with each other and with draws."""

import numpy as np
import pytest

from online_models.exact_wins import first_of_two, win_probabilities
from online_models.propensity import win_shares
from tests.online_models.examples import standard_error

N = 200_000


@pytest.mark.parametrize(
    ("a", "b", "c", "d"), [(1, 1, 1, 1), (3, 7, 2, 5), (12, 80, 9, 90), (2, 9.5, 1.25, 30.0)]
)
def test_the_closed_form_is_the_integral(a: int, b: float, c: float, d: float):
    first, second = win_probabilities([a, c], [b, d])
    assert first_of_two(a, b, c, d) == pytest.approx(first, abs=1e-6)
    assert first + second == pytest.approx(1.0, abs=1e-6)


def test_two_of_a_kind_win_evenly():
    assert first_of_two(4, 9, 4, 9) == pytest.approx(0.5)
    assert win_probabilities([2.5] * 4, [7.0] * 4) == pytest.approx([0.25] * 4, abs=1e-6)


def test_a_parameter_that_is_not_whole_has_no_closed_form():
    with pytest.raises(ValueError, match=r"a must be a whole number of at least 1; got 1\.5"):
        first_of_two(1.5, 1, 1, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("successes", "failures"),
    [
        ([3.0, 2.0], [7.0, 5.0]),
        ([1.0, 4.0, 9.0], [1.0, 12.0, 25.0]),
        ([0.3, 20.0, 5.5, 2.0, 1.0, 8.0, 3.0, 60.0], [5.0, 90.0, 20.0, 4.0, 1.0, 30.0, 9.0, 240.0]),
    ],
)
def test_draws_agree_within_four_standard_errors(
    successes: list[float], failures: list[float], rng: np.random.Generator
):
    draws = rng.beta(successes, failures, (N, len(successes)))
    shares = win_shares(draws, np.ones(len(successes), np.bool_))
    exact = win_probabilities(successes, failures)
    assert sum(exact) == pytest.approx(1.0, abs=1e-5)
    for share, probability in zip(shares, exact, strict=True):
        assert abs(share - probability) <= 4 * standard_error(probability, N)
