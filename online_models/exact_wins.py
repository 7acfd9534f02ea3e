"""Exact probabilities that one Beta variable is the largest: what Monte Carlo is checked against.

Needs SciPy, which comes with the extras `models` and `offline`; serving does not import this.
"""

import math
from collections.abc import Sequence

from scipy import integrate, special


def first_of_two(a: int, b: float, c: float, d: float) -> float:
    """P(X > Y) for X of Beta(a, b), whole `a`, and Y of Beta(c, d), in closed form. O(a).

    Cook, 2005, Exact calculation of beta inequalities; in this form Miller, 2014,
    https://www.evanmiller.org/bayesian-ab-testing.html.

    >>> round(first_of_two(2, 1, 1, 1), 6)
    0.666667
    """
    if a < 1 or a != int(a):
        raise ValueError(f"a must be a whole number of at least 1; got {a}")
    return math.fsum(
        math.exp(_ln_beta(c + i, b + d) - math.log(b + i) - _ln_beta(1 + i, b) - _ln_beta(c, d))
        for i in range(int(a))
    )


def _ln_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def win_probabilities(successes: Sequence[float], failures: Sequence[float]) -> list[float]:
    """P(each of n Betas is the largest): the integral of its density times the others' CDFs.

    By adaptive quadrature, to about 1e-8.
    """
    return [_integral(k, successes, failures) for k in range(len(successes))]


def _integral(arm: int, successes: Sequence[float], failures: Sequence[float]) -> float:
    """Over the quantiles of the arm itself: its density is one there, whatever its shape."""
    others = [k for k in range(len(successes)) if k != arm]

    def share_below(quantile: float) -> float:
        value = special.betaincinv(successes[arm], failures[arm], quantile)
        below = (float(special.betainc(successes[k], failures[k], value)) for k in others)
        return math.prod(below)

    found, _ = integrate.quad(share_below, 0.0, 1.0, epsabs=1e-8, limit=200)
    return float(found)
