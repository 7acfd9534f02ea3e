"""Linear Thompson sampling and LinUCB: the reward of an arm as a linear function of the situation.

For each arm, with `x` the situation, `r` the reward and `w` the weight of forgetting:

    A = ridge * I + sum w x x',   b = sum w r x,   mean = x' A^-1 b,   variance = x' A^-1 x

Linear Thompson sampling draws the reward from Normal(mean, scale^2 * variance), which is what
`x' theta` of a draw of weights is (Agrawal and Goyal, 2013,
https://proceedings.mlr.press/v28/agrawal13.html); LinUCB takes `mean + width * sqrt(variance)`, the
disjoint model of Li et al., 2010, https://doi.org/10.1145/1772690.1772758.

The sums are kept, not the inverse: an outcome adds to a hundred numbers, nothing drifts as it does
with rank-one updates of an inverse, and forgetting cannot make A singular, since the ridge is added
after it. A^-1 is worked out when a policy is made: eight matrices of 20 x 20, less than a
millisecond. A correction moves b alone.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import Rows, compiled
from features.model_snapshot import Arrays
from features.vocabulary import N_ARMS
from online_models.base import N_DRAWS, ArmBelief, Draws, Situation
from online_models.forgetting import (
    HALF_LIFE_MS,
    LEARNT,
    NEWEST,
    SKIPPED,
    Clock,
    growth,
    halvings,
    is_learnable,
    new_clock,
)
from online_models.propensity import alike
from online_models.situation import N_SITUATION, fill_situation
from online_models.state import array_like

RIDGE: Final = 1.0
SCALE: Final = 0.25  # of the deviation of draws; rewards deviate by .3 to .5, less explores less
WIDTH: Final = 0.5  # of LinUCB's confidence, in deviations

Gram = NDArray[np.float64]  # (N_ARMS, N_SITUATION, N_SITUATION)
Moment = NDArray[np.float64]  # (N_ARMS, N_SITUATION)


class LinearArms:
    """Sums for a ridge regression of each arm. `Learns`, O(non-zeros^2) an outcome."""

    def __init__(self, half_life_ms: int = HALF_LIFE_MS) -> None:
        self._gram = np.zeros((N_ARMS, N_SITUATION, N_SITUATION))
        self._moment = np.zeros((N_ARMS, N_SITUATION))
        self._clock = new_clock(half_life_ms)

    def learn(self, outcomes: Rows) -> None:
        """Takes in `(n,) OUTCOME` records in their order, a batch of any size alike."""
        _learn(outcomes, self._gram, self._moment, self._clock)

    def arrays(self) -> Arrays:
        """`linear_gram`, `linear_moment` and `linear_clock`, copies."""
        return {
            "linear_gram": self._gram.copy(),
            "linear_moment": self._moment.copy(),
            "linear_clock": self._clock.copy(),
        }

    def restore(self, arrays: Arrays) -> None:
        """The state of `arrays()` at that moment, bit for bit. Raises SnapshotError."""
        gram = array_like(arrays, "linear_gram", self._gram)
        moment = array_like(arrays, "linear_moment", self._moment)
        clock = array_like(arrays, "linear_clock", self._clock)
        self._gram, self._moment, self._clock = gram, moment, clock


@compiled
def _learn(outcomes: Rows, gram: Gram, moment: Moment, clock: Clock) -> None:
    situation = np.zeros(N_SITUATION)
    places = np.zeros(N_SITUATION, np.int64)
    for outcome in outcomes:
        if not is_learnable(outcome):
            clock[SKIPPED] += 1
            continue
        clock[LEARNT] += 1
        times = halvings(clock, outcome["decided_at_ms"])
        if times > 0:
            gram *= 2.0 ** (-times)
            moment *= 2.0 ** (-times)
        weight, arm = growth(clock, outcome["decided_at_ms"]), outcome["arm"]
        fill_situation(
            int(outcome["context"]), outcome["features"], outcome["has_features"], situation
        )
        n_places = _nonzero(situation, places)
        change = outcome["reward"]
        if outcome["revision"] > 0:
            change -= outcome["previous_reward"]
        else:
            _add_square(gram[arm], situation, places[:n_places], weight)
        for k in places[:n_places]:
            moment[arm, k] += weight * change * situation[k]


@compiled
def _nonzero(situation: Situation, places: NDArray[np.int64]) -> int:
    n = 0
    for k in range(len(situation)):
        if situation[k] != 0.0:
            places[n] = k
            n += 1
    return n


@compiled
def _add_square(
    gram: NDArray[np.float64], situation: Situation, places: NDArray[np.int64], weight: float
) -> None:
    for j in places:
        for k in places:
            gram[j, k] += weight * (situation[j] * situation[k])


class _Regressions:
    """Weights of the arms and their inverse matrices, as of the newest outcome."""

    def __init__(self, arrays: Arrays, ridge: float) -> None:
        learnt = LinearArms()
        learnt.restore(arrays)
        sums = learnt.arrays()
        clock: Clock = np.asarray(sums["linear_clock"], np.int64)
        scale = 1.0 / growth(clock, int(clock[NEWEST]))
        gram = np.asarray(sums["linear_gram"], np.float64) * scale + ridge * np.eye(N_SITUATION)
        moment = np.asarray(sums["linear_moment"], np.float64) * scale
        self.inverses = np.linalg.inv(gram)
        self.weights = np.einsum("ajk,ak->aj", self.inverses, moment)

    def means_and_variances(
        self, situation: Situation
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`(N_ARMS,)` each: the expected reward and the variance of it, for noise of one."""
        variances = (self.inverses @ situation) @ situation
        return self.weights @ situation, np.maximum(variances, 0.0)


class _LinearPolicy:
    def __init__(self, regressions: _Regressions, factor: float, n_draws: int) -> None:
        self._regressions, self._factor, self._n_draws = regressions, factor, n_draws

    def belief(self, context: int, situation: Situation) -> ArmBelief:
        """Expected rewards, and how many answers in this very situation would be as sure."""
        del context
        means, variances = self._regressions.means_and_variances(situation)
        return ArmBelief(means, 1.0 / np.maximum(variances, np.finfo(float).tiny))


class LinearThompsonPolicy(_LinearPolicy):
    """Draws the arms' rewards in the situation from their regressions. `Policy`, read only."""

    name = "linear_thompson"

    @classmethod
    def of(
        cls, arrays: Arrays, scale: float = SCALE, ridge: float = RIDGE, n_draws: int = N_DRAWS
    ) -> "LinearThompsonPolicy":
        """The policy of `LinearArms.arrays()`. Raises SnapshotError."""
        return cls(_Regressions(arrays, ridge), scale, n_draws)

    def draws(self, context: int, situation: Situation, rng: np.random.Generator) -> Draws:
        """`(n_draws, N_ARMS)` rewards held possible."""
        del context
        means, variances = self._regressions.means_and_variances(situation)
        noise = rng.standard_normal((self._n_draws, N_ARMS))
        noise *= self._factor * np.sqrt(variances)
        noise += means
        return noise


class LinUcbPolicy(_LinearPolicy):
    """The arm of the highest bound on its reward, always. `Policy`, read only."""

    name = "linucb"

    @classmethod
    def of(
        cls, arrays: Arrays, width: float = WIDTH, ridge: float = RIDGE, n_draws: int = N_DRAWS
    ) -> "LinUcbPolicy":
        """The policy of `LinearArms.arrays()`. Raises SnapshotError."""
        return cls(_Regressions(arrays, ridge), width, n_draws)

    def draws(self, context: int, situation: Situation, rng: np.random.Generator) -> Draws:
        """`(n_draws, N_ARMS)` rows alike, equal bounds in an even order."""
        del context
        means, variances = self._regressions.means_and_variances(situation)
        return alike(means + self._factor * np.sqrt(variances), rng, self._n_draws)
