"""Policies to be measured against: epsilon-greedy, UCB1, given shares, and no preference at all.

Epsilon-greedy and UCB1 read the evidence of `beta_arms` at a depth of the tree of contexts: 0, the
default, is one rate for each arm, as in the textbook; DEPTH is a rate for each context. They
borrow nothing. The evidence is discounted, so this UCB1 (Auer et al., 2002,
https://doi.org/10.1023/A:1013689704352) is the discounted one of Garivier and Moulines, 2011,
https://arxiv.org/abs/0805.3415.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from features.decision_context import N_CONTEXTS
from features.model_snapshot import Arrays
from features.vocabulary import N_ARMS
from online_models.base import N_DRAWS, ArmBelief, Draws, Situation
from online_models.beta_arms import beta_answers, nodes_of
from online_models.propensity import alike

EPSILON: Final = 0.1
UCB_WIDTH: Final = 2.0**0.5  # Auer et al.: sqrt(2 ln n / n_arm)
UNTRIED: Final = 1e3  # the bound of an arm without answers
FEWEST_ANSWERS: Final = 0.5  # less has been forgotten
LEAST_SHARE: Final = 1e-12


class _Rates:
    """Success shares by arm at one depth of the tree of contexts."""

    def __init__(self, arrays: Arrays, depth: int) -> None:
        self._answers, self._depth = beta_answers(arrays), depth

    def belief(self, context: int) -> ArmBelief:
        """Shares of success, zero where there is no answer; answers."""
        node = nodes_of(context)[self._depth] if context < N_CONTEXTS else 0
        answers = np.maximum(self._answers[node], 0.0)
        counts = answers.sum(axis=1)
        return ArmBelief(answers[:, 0] / np.maximum(counts, FEWEST_ANSWERS), counts)


class EpsilonGreedyPolicy:
    """The best rate so far, but a share `epsilon` of rows that prefer none. `Policy`, read only."""

    name = "epsilon_greedy"

    def __init__(self, rates: _Rates, epsilon: float, n_draws: int) -> None:
        self._rates, self._n_draws = rates, n_draws
        self._n_even = round(epsilon * n_draws)

    @classmethod
    def of(
        cls, arrays: Arrays, epsilon: float = EPSILON, depth: int = 0, n_draws: int = N_DRAWS
    ) -> "EpsilonGreedyPolicy":
        """The policy of `BetaArms.arrays()`. Raises SnapshotError."""
        return cls(_Rates(arrays, depth), epsilon, n_draws)

    def draws(self, context: int, situation: Situation, rng: np.random.Generator) -> Draws:
        """`(n_draws, N_ARMS)`: rates, and in the first rows any order."""
        del situation
        draws = alike(self._rates.belief(context).means, rng, self._n_draws)
        draws[: self._n_even] = rng.random((self._n_even, N_ARMS))
        return draws

    def belief(self, context: int, situation: Situation) -> ArmBelief:
        """Shares of success and answers."""
        del situation
        return self._rates.belief(context)


class Ucb1Policy:
    """The arm of the highest upper confidence bound. `Policy`, read only."""

    name = "ucb1"

    def __init__(self, rates: _Rates, width: float, n_draws: int) -> None:
        self._rates, self._width, self._n_draws = rates, width, n_draws

    @classmethod
    def of(
        cls, arrays: Arrays, width: float = UCB_WIDTH, depth: int = 0, n_draws: int = N_DRAWS
    ) -> "Ucb1Policy":
        """The policy of `BetaArms.arrays()`. Raises SnapshotError."""
        return cls(_Rates(arrays, depth), width, n_draws)

    def draws(self, context: int, situation: Situation, rng: np.random.Generator) -> Draws:
        """`(n_draws, N_ARMS)` rows alike; arms without answers come first, in any order."""
        del situation
        found = self._rates.belief(context)
        tried = found.weights >= FEWEST_ANSWERS
        log_total = np.log(max(float(found.weights.sum()), 1.0))
        bounds = found.means + self._width * np.sqrt(
            log_total / np.maximum(found.weights, FEWEST_ANSWERS)
        )
        return alike(np.where(tried, bounds, UNTRIED), rng, self._n_draws)

    def belief(self, context: int, situation: Situation) -> ArmBelief:
        """Shares of success and answers."""
        del situation
        return self._rates.belief(context)


class StaticPolicy:
    """Arms in given shares, whatever is learnt; even ones if none are given. `Policy`.

    Rows are exponential races: an arm wins in proportion to its share among those available.
    """

    name = "static"

    def __init__(
        self,
        shares: Sequence[float] | None = None,
        n_draws: int = N_DRAWS,
    ) -> None:
        given = np.ones(N_ARMS) if shares is None else np.asarray(shares, np.float64)
        if given.shape != (N_ARMS,) or not (given >= 0.0).all() or not 0 < given.sum() < np.inf:
            raise ValueError(
                f"shares must be {N_ARMS} finite numbers of at least 0, not all 0; got {shares}"
            )
        self._shares, self._n_draws = given / given.sum(), n_draws

    def draws(self, context: int, situation: Situation, rng: np.random.Generator) -> Draws:
        """`(n_draws, N_ARMS)`: minus the times at which the arms arrive."""
        del context, situation
        times = rng.standard_exponential((self._n_draws, N_ARMS))
        times /= -np.maximum(self._shares, LEAST_SHARE)
        return times

    def belief(self, context: int, situation: Situation) -> ArmBelief:
        """Nothing is believed of the arms."""
        del context, situation
        return ArmBelief(np.zeros(N_ARMS), np.zeros(N_ARMS))


class UniformPolicy(StaticPolicy):
    """Every available arm alike, whatever is learnt. `Policy`."""

    name = "uniform"

    def __init__(self, n_draws: int = N_DRAWS) -> None:
        super().__init__(None, n_draws)
