"""Beta-Bernoulli Thompson sampling: evidence by context and arm, and what a rare context borrows.

An outcome is counted at its context and at all prefixes of it, up to the root. With `(s, f)` the
discounted successes and failures at a node, the posterior of a leaf is built from the root down:

    root      Beta(1, 1)                              nothing is known: any rate is as likely
    a step    + (s, f) of the node without its child  what the rest of this node says
              scaled down to a weight of at most k    it stands for k answers, k = 60
    leaf      + (s, f) of the leaf

So a context without answers has the mean of its parent's other contexts, at the weight of k
answers; one with n of its own lies at `n / (n + k)` of the way to its own mean, and every answer is
counted once. This is partial pooling with a stated strength (Gelman et al., Bayesian Data Analysis,
3rd ed., ch. 5) by power priors (Ibrahim and Chen, 2000, https://doi.org/10.1214/ss/1009212673);
bandits that borrow so: Hong et al., 2022, https://proceedings.mlr.press/v151/hong22c.html.

Thompson sampling with rewards between 0 and 1: Agrawal and Goyal, 2012,
https://proceedings.mlr.press/v23/agrawal12.html. They toss a coin of the reward's weight; here its
parts are counted, which has the same mean, less variance and no randomness in a replay. What a loss
counts as: see `forgetting`. The linear map of -1..1 to 0..1 would make silence, the most frequent
answer by far, half a success each time: all rates would lie near a half, drowned in the variance of
a fair coin.

No weights by propensity: a posterior of an arm in a context is of the reward given that the arm was
chosen there, and draws depend on the context alone, so how often it was chosen moves how much is
known, not what. This ends where the choice saw more than the context: titles that a changing ranker
picks within an arm, say. There forgetting helps, and `linear_arms` sees more.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import Rows, compiled
from features.decision_context import DEPTH, N_CONTEXTS, n_at
from features.model_snapshot import Arrays
from features.vocabulary import N_ARMS
from online_models.base import N_DRAWS, ArmBelief, Draws, Situation
from online_models.forgetting import (
    HALF_LIFE_MS,
    LEARNT,
    LEAST,
    SKIPPED,
    Clock,
    answers_of,
    evidence_of,
    halvings,
    is_learnable,
    new_clock,
)
from online_models.state import array_like

STRENGTH: Final = 60.0  # answers that a parent's mean stands for, at most; see docs/bandits.md
ROOT_PRIOR: Final = 1.0  # of each, success and failure

NODE_STARTS: Final = np.cumsum([0, *(n_at(depth) for depth in range(DEPTH + 1))]).astype(np.int64)
N_NODES: Final = int(NODE_STARTS[-1])
_LEAVES_BELOW: Final = np.array([N_CONTEXTS // n_at(depth) for depth in range(DEPTH + 1)])

Evidence = NDArray[np.int64]  # (N_NODES, N_ARMS, 2) UNITs: successes, failures


def nodes_of(context: int) -> NDArray[np.int64]:
    """`(DEPTH + 1,)` places in the evidence: the root, then each longer prefix of the context."""
    return np.asarray(NODE_STARTS[:-1] + context // _LEAVES_BELOW, np.int64)


class BetaArms:
    """Evidence of every arm at every node of the tree of contexts. `Learns`, O(depth) an outcome.

    Corrections take back what the reward before counted and count the new one, both with the
    weight of the moment of the correction. `is_net`: a loss takes a gain back, see `forgetting`.
    """

    def __init__(self, half_life_ms: int = HALF_LIFE_MS, is_net: bool = False) -> None:
        self._evidence = np.zeros((N_NODES, N_ARMS, 2), np.int64)
        self._clock = new_clock(half_life_ms, is_net)

    @property
    def counts(self) -> Mapping[str, int]:
        """Outcomes learnt and outcomes skipped for want of a known arm or context."""
        return {"learnt": int(self._clock[LEARNT]), "skipped": int(self._clock[SKIPPED])}

    def learn(self, outcomes: Rows) -> None:
        """Takes in `(n,) OUTCOME` records in their order, a batch of any size alike."""
        _learn(outcomes, self._evidence, self._clock)

    def arrays(self) -> Arrays:
        """`beta_evidence` and `beta_clock`, copies."""
        return {"beta_evidence": self._evidence.copy(), "beta_clock": self._clock.copy()}

    def restore(self, arrays: Arrays) -> None:
        """The state of `arrays()` at that moment, bit for bit. Raises SnapshotError."""
        evidence = array_like(arrays, "beta_evidence", self._evidence)
        clock = array_like(arrays, "beta_clock", self._clock)
        self._evidence, self._clock = evidence, clock


@compiled
def _learn(outcomes: Rows, evidence: Evidence, clock: Clock) -> None:
    for outcome in outcomes:
        if not is_learnable(outcome):
            clock[SKIPPED] += 1
            continue
        clock[LEARNT] += 1
        times = halvings(clock, outcome["decided_at_ms"])
        if times > 0:
            evidence >>= times
        won, lost = evidence_of(outcome, clock)
        _count(evidence, int(outcome["context"]), outcome["arm"], won, lost)


@compiled
def _count(evidence: Evidence, context: int, arm: int, won: int, lost: int) -> None:
    for depth in range(DEPTH + 1):
        node = NODE_STARTS[depth] + context // _LEAVES_BELOW[depth]
        evidence[node, arm, 0] += won
        evidence[node, arm, 1] += lost


def posteriors(
    answers: NDArray[np.float64], strength: float = STRENGTH
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Parameters of the Beta posteriors, `(N_CONTEXTS + 1, N_ARMS)` each; the last is the root's.

    `answers` is `(N_NODES, N_ARMS, 2)`: discounted successes and failures.
    """
    contexts = np.arange(N_CONTEXTS)
    prior = np.full((N_CONTEXTS, N_ARMS, 2), ROOT_PRIOR)
    for depth in range(DEPTH):
        node = answers[NODE_STARTS[depth] + contexts // _LEAVES_BELOW[depth]]
        child = answers[NODE_STARTS[depth + 1] + contexts // _LEAVES_BELOW[depth + 1]]
        prior = np.maximum(prior + (node - child), LEAST)
        weight = prior.sum(axis=2, keepdims=True)
        prior *= np.minimum(1.0, strength / weight)
    leaves = prior + answers[NODE_STARTS[DEPTH] + contexts]
    both = np.maximum(np.concatenate([leaves, ROOT_PRIOR + answers[:1]]), LEAST)
    return both[..., 0], both[..., 1]


class ThompsonPolicy:
    """Thompson sampling from the Beta posteriors of a moment. `Policy`, read only.

    The first request of a context samples a column for each arm, half a millisecond; each request
    turns the columns against each other by offsets of its own, 30 us. Every row is a draw from
    the posteriors as before. What requests share until the next version are the columns'
    sampling errors; propensities are shares of the very rows at hand, so they stay exact.
    """

    name = "thompson"

    def __init__(
        self, successes: NDArray[np.float64], failures: NDArray[np.float64], n_draws: int = N_DRAWS
    ) -> None:
        self._successes, self._failures, self._n_draws = successes, failures, n_draws
        # By context: (N_ARMS, 2 n_draws), each column twice, so that a turned one is a slice.
        self._columns: dict[int, NDArray[np.float64]] = {}

    @classmethod
    def of(
        cls, arrays: Arrays, strength: float = STRENGTH, n_draws: int = N_DRAWS
    ) -> "ThompsonPolicy":
        """The policy of `BetaArms.arrays()`, about 1 ms. Raises SnapshotError."""
        return cls(*posteriors(beta_answers(arrays), strength), n_draws)

    def draws(self, context: int, situation: Situation, rng: np.random.Generator) -> Draws:
        """`(n_draws, N_ARMS)` samples of the posteriors; of the root's in no known context."""
        del situation
        place = min(context, N_CONTEXTS)
        n, columns = self._n_draws, self._columns.get(place)
        if columns is None:
            shape = n, N_ARMS
            columns = np.tile(rng.beta(self._successes[place], self._failures[place], shape).T, 2)
            self._columns[place] = columns
        draws = np.empty((n, N_ARMS))
        for arm, start in enumerate(rng.integers(n, size=N_ARMS).tolist()):
            draws[:, arm] = columns[arm, start : start + n]
        return draws

    def belief(self, context: int, situation: Situation) -> ArmBelief:
        """Posterior means, and the answers that they rest on, prior included."""
        del situation
        place = min(context, N_CONTEXTS)
        weights = self._successes[place] + self._failures[place]
        return ArmBelief(self._successes[place] / weights, weights)


def beta_answers(arrays: Arrays) -> NDArray[np.float64]:
    """`(N_NODES, N_ARMS, 2)` discounted successes and failures. Raises SnapshotError."""
    like: Any = np.zeros((N_NODES, N_ARMS, 2), np.int64)
    evidence = array_like(arrays, "beta_evidence", like)
    return answers_of(evidence, array_like(arrays, "beta_clock", new_clock()))
