"""How likely each of a few titles is the best of them, by their Beta posteriors: an integral.

P(title i is the best) is the integral of its density times the distribution functions of the
others. It is taken over the log-odds of the rate, where densities are smooth and bounded whatever
the parameters: N_POINTS of a grid that lies where the best may be, and N_BELOW coarse ones below.
The chances add up to one, and a title is drawn by these very numbers, so they are its propensities
whatever error the grid makes; against adaptive quadrature that is within 0.03.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled

N_POINTS: Final = 48
N_BELOW: Final = 8
WIDTH: Final = 3.5  # deviations that the grid reaches to either side

Floats = NDArray[np.float64]


@compiled
def win_chances(betas: Floats, chances: Floats) -> None:
    """Fills `chances`, `(n,)`, for `(n, 2)` successes and failures, all above zero.

    About 1 us a title; titles with the parameters of the one before cost a third of it.
    """
    n = len(betas)
    densities, below = np.empty((n, N_BELOW + N_POINTS)), np.empty((n, N_BELOW + N_POINTS))
    odds, steps = np.empty((N_BELOW + N_POINTS, 2)), np.empty(N_BELOW + N_POINTS)
    _lay_grid(betas, odds, steps)
    for i in range(n):
        if i > 0 and betas[i, 0] == betas[i - 1, 0] and betas[i, 1] == betas[i - 1, 1]:
            densities[i], below[i] = densities[i - 1], below[i - 1]
        else:
            _fill_posterior(betas[i, 0], betas[i, 1], odds, steps, densities[i], below[i])
    _integrate(densities, below, chances)


@compiled
def _lay_grid(betas: Floats, odds: Floats, steps: Floats) -> None:
    """Logarithms of rates and of their complements at the points, and the width of each point."""
    least, start, end = np.inf, -np.inf, -np.inf
    for i in range(len(betas)):
        middle = math.log(betas[i, 0] / betas[i, 1])
        won, lost = _tail(betas[i, 0]), _tail(betas[i, 1])
        low, high = middle - won - math.log1p(lost), middle + math.log1p(won) + lost
        least, start, end = min(least, low), max(start, low), max(end, high)
    coarse, fine = (start - least) / N_BELOW, (end - start) / N_POINTS
    for k in range(len(steps)):
        at = least + (k + 0.5) * coarse
        steps[k] = coarse
        if k >= N_BELOW:
            at, steps[k] = start + (k - N_BELOW + 0.5) * fine, fine
        odds[k, 0] = -math.log1p(math.exp(-at)) if at > -30.0 else at
        odds[k, 1] = odds[k, 0] - at


@compiled
def _tail(amount: float) -> float:
    """How far the logarithm of a Gamma of this shape reaches below its mean, nearly always."""
    return WIDTH / math.sqrt(amount) + WIDTH / amount


@compiled
def _fill_posterior(
    won: float, lost: float, odds: Floats, steps: Floats, density: Floats, below: Floats
) -> None:
    """The mass of a posterior at each point, and that below the point with half its own."""
    highest = -np.inf
    for k in range(len(steps)):
        density[k] = won * odds[k, 0] + lost * odds[k, 1]
        highest = max(highest, density[k])
    total = 0.0
    for k in range(len(steps)):
        density[k] = steps[k] * math.exp(density[k] - highest)
        below[k] = total + 0.5 * density[k]
        total += density[k]
    for k in range(len(steps)):
        density[k] /= total
        below[k] /= total


@compiled
def _integrate(densities: Floats, below: Floats, chances: Floats) -> None:
    """Products of all others' distribution functions, from the left and from the right."""
    n = len(densities)
    chances[:] = 0.0
    after = np.ones(n + 1)
    for k in range(densities.shape[1]):
        for i in range(n - 1, -1, -1):
            after[i] = after[i + 1] * below[i, k]
        before = 1.0
        for i in range(n):
            chances[i] += densities[i, k] * before * after[i + 1]
            before *= below[i, k]
    total = chances.sum()
    chances /= total
