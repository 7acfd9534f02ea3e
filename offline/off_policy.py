"""Off-policy evaluation: what another policy would have earned, from the log of this one.

Notation, for rows i = 1..n of a log: context x, action a, which the logging policy showed with the
propensity p, reward r; target policy pi(a|x), weight w = pi(a|x) / p, reward model q(x, a).
Every estimator here takes arrays of rows and returns `Terms`: what is summed above and below the
line. So one bootstrap serves them all, on the same draws.

Two assumptions are common to all that weigh. Support: what the target may show, the log shows with
a propensity above zero; where it does not, weights average below one, and `Estimate.mean_weight`
tells. And rewards of a row depend on its own action alone: a slate's slots are taken one by one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from offline.logged_feedback import Floats, Ints, LoggedFeedback, OffPolicyError, check_shape
from offline.target_policies import TargetPolicy

LARGEST_WEIGHT: Final = 10.0
N_BOOTSTRAP: Final = 1_000
LEVEL: Final = 0.95


@dataclass(frozen=True, slots=True)
class Terms:
    """An estimate as sums over rows, `(n,)` each: the value is sum(above) / sum(below)."""

    above: Floats
    below: Floats
    weights: Floats  # that the rows' rewards have in it

    @property
    def value(self) -> float:
        """The estimate itself; NaN where nothing is below the line."""
        below = float(self.below.sum())
        return float(self.above.sum()) / below if below else float("nan")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A policy's reward a row, and how far to trust it."""

    value: float
    low: float  # of the bootstrap interval
    high: float
    n: int  # rows
    effective_n: float  # rows of weight one that would say as much; of the direct method, n
    max_weight: float  # of a row's reward; of the direct method, 0
    mean_weight: float  # about 1 where the log shows what the target would; before any clipping


@dataclass(frozen=True, slots=True)
class Inputs:
    """What estimators take of a log and a target, `(n,)` each.

    `expected` is the sum of pi(b|x) q(x, b) over the actions b, `predicted` is q(x, a) of the
    logged action.
    """

    rewards: Floats
    weights: Floats
    expected: Floats
    predicted: Floats
    largest_weight: float = LARGEST_WEIGHT


def ips(of: Inputs) -> Terms:
    """Inverse propensity score: mean of w r.

    Horvitz and Thompson 1952; Strehl et al. 2010. Unbiased where propensities are true and there is
    support. Misleads when few rows carry large weights: the value then hangs on them, and the
    bootstrap, which can only draw what is there, tells too narrow an interval.
    """
    return Terms(of.weights * of.rewards, np.ones_like(of.rewards), of.weights)


def clipped_ips(of: Inputs) -> Terms:
    """IPS with no weight above M = `largest_weight`: mean of min(w, M) r.

    Ionides 2008; Bottou et al. 2013. Less variance for a bias towards zero, of at most the reward
    that lies behind the clipped part of the weights. Misleads when the target's best actions are
    the rare ones of the log: their reward is what clipping takes away.
    """
    weights = np.minimum(of.weights, of.largest_weight)
    return Terms(weights * of.rewards, np.ones_like(of.rewards), weights)


def snips(of: Inputs) -> Terms:
    """Self-normalised IPS: sum of w r over sum of w.

    Swaminathan and Joachims 2015. Biased by O(1/n), consistent; never outside the range of the
    rewards, and unmoved by adding a constant to them. The first to look at. Misleads without
    support: it then tells of the target as far as the log shows it, as if the rest did not exist.
    """
    return Terms(of.weights * of.rewards, of.weights, of.weights)


def direct_method(of: Inputs) -> Terms:
    """The reward model alone: mean over rows of the sum over actions of pi(b|x) q(x, b).

    Beygelzimer and Langford 2009. Little variance, needs no propensities. Misleads as the model
    does: it has learnt from what the log shows, and knows least of what the log seldom shows. Its
    interval takes the model as given, so it is too narrow.
    """
    return Terms(of.expected, np.ones_like(of.expected), np.zeros_like(of.expected))


def doubly_robust(of: Inputs) -> Terms:
    """The direct method, corrected by weighted errors of its model: expected + w (r - q(x, a)).

    Dudik, Langford and Li 2011. Unbiased if either propensities or model are right; less variance
    than IPS by as much as the model explains. The model must not have seen the row: see
    `reward_model.cross_fitted`. Misleads like IPS where weights are large and the model poor.
    """
    above = of.expected + of.weights * (of.rewards - of.predicted)
    return Terms(above, np.ones_like(above), of.weights)


def switch_doubly_robust(of: Inputs) -> Terms:
    """Doubly robust where w <= `largest_weight`, the model alone in other rows.

    Wang, Agarwal and Dudik 2017. Between DR (a limit of infinity) and the direct method (of zero).
    Misleads where the model is wrong in the rows beyond the limit: nothing corrects it there.
    """
    weights = np.where(of.weights <= of.largest_weight, of.weights, 0.0)
    above = of.expected + weights * (of.rewards - of.predicted)
    return Terms(above, np.ones_like(above), weights)


ESTIMATORS: Final[Mapping[str, Callable[[Inputs], Terms]]] = {
    "ips": ips,
    "clipped-ips": clipped_ips,
    "snips": snips,
    "dm": direct_method,
    "dr": doubly_robust,
    "switch-dr": switch_doubly_robust,
}
ALL: Final = tuple(ESTIMATORS)


def effective_sample_size(weights: Floats) -> float:
    """Kish 1965: (sum of w)^2 / sum of w^2; 0 where all weights are. At most n, equal weights.

    >>> effective_sample_size(np.array([2.0, 2.0, 0.0, 0.0]))
    2.0
    """
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def inputs_of(
    logged: LoggedFeedback,
    target: TargetPolicy,
    q_hat: Floats,
    largest_weight: float = LARGEST_WEIGHT,
) -> Inputs:
    """What estimators take. `q_hat` is `(n, n_actions)`: the reward model at each row's place.

    Raises OffPolicyError for other shapes, a limit of zero, and a target that shares no action with
    the log, of which nothing can be said.
    """
    check_shape("q_hat", q_hat, (len(logged), logged.n_actions))
    check_shape("target.probabilities", target.probabilities, q_hat.shape)
    if not largest_weight > 0:
        raise OffPolicyError(f"largest_weight must be above 0; got {largest_weight}")
    weights = target.chosen / logged.propensities
    if not weights.any():
        raise OffPolicyError(
            f"target {target.name} must choose something that the log shows; all {len(logged)} "
            "weights are 0"
        )
    return Inputs(
        logged.rewards,
        weights,
        np.einsum("ij,ij->i", target.probabilities, q_hat),
        q_hat[np.arange(len(logged)), logged.actions],
        largest_weight,
    )


def evaluate(
    of: Inputs,
    slates: Ints,
    rng: np.random.Generator,
    *,
    estimators: Sequence[str] = ALL,
    n_bootstrap: int = N_BOOTSTRAP,
    level: float = LEVEL,
) -> dict[str, Estimate]:
    """Estimates by the names of ESTIMATORS, with percentile intervals over the same draws.

    `slates` is `(n,)`: whole slates are drawn. O(n_bootstrap * slates). Raises OffPolicyError for a
    name that is none of ESTIMATORS.
    """
    if unknown := set(estimators) - set(ESTIMATORS):
        raise OffPolicyError(
            f"estimator must be one of {', '.join(ALL)}; got {', '.join(sorted(unknown))}"
        )
    terms = {name: ESTIMATORS[name](of) for name in estimators}
    intervals = bootstrap(list(terms.values()), slates, rng, n_bootstrap=n_bootstrap, level=level)
    mean_weight = float(of.weights.mean())
    return {
        name: _estimate(found, interval, mean_weight)
        for (name, found), interval in zip(terms.items(), intervals.tolist(), strict=True)
    }


def _estimate(terms: Terms, interval: list[float], mean_weight: float) -> Estimate:
    n, weighs = len(terms.above), bool(terms.weights.any())
    return Estimate(
        value=terms.value,
        low=interval[0],
        high=interval[1],
        n=n,
        effective_n=effective_sample_size(terms.weights) if weighs else float(n),
        max_weight=float(terms.weights.max()),
        mean_weight=mean_weight,
    )


def bootstrap(
    terms: Sequence[Terms],
    slates: Ints,
    rng: np.random.Generator,
    *,
    n_bootstrap: int = N_BOOTSTRAP,
    level: float = LEVEL,
) -> Floats:
    """`(len(terms), 2)` ends of percentile intervals; whole slates are drawn with replacement.

    Efron 1979; Field and Welsh 2007 for clusters. All estimates see the same draws. Too narrow
    where few slates have a reward or a large weight: what was not logged cannot be drawn.
    """
    if not (n_bootstrap > 0 and 0 < level < 1):
        raise OffPolicyError(
            f"n_bootstrap must be above 0 and level within 0..1; got {n_bootstrap} and {level}"
        )
    _, slate = np.unique(slates, return_inverse=True)
    columns = [part for term in terms for part in (term.above, term.below)]
    sums = np.stack([np.bincount(slate, part) for part in columns], axis=1)
    drawn = np.empty((n_bootstrap, len(columns)))
    for k in range(n_bootstrap):
        drawn[k] = np.bincount(rng.integers(len(sums), size=len(sums)), minlength=len(sums)) @ sums
    below = np.where(drawn[:, 1::2] == 0, np.nan, drawn[:, 1::2])
    tail = 50 * (1 - level)
    return np.nanpercentile(drawn[:, ::2] / below, [tail, 100 - tail], axis=0).T
