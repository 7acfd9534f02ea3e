"""Policies that learn from their own choices earn more than a fixed mix, in a planted world."""

import numpy as np
import pytest

from features.decision_context import DEPTH, N_CONTEXTS, n_at, parent
from features.vocabulary import N_ARMS
from online_models.bandits import BanditState, PolicyOptions, policy_of
from online_models.situation import situation_of
from tests.online_models.examples import outcomes

N_BATCHES, BATCH = 40, 100
OPTIONS = PolicyOptions(n_draws=128)


def planted_rates(rng: np.random.Generator) -> np.ndarray:
    """`(N_CONTEXTS, N_ARMS)`: each part of the context moves each arm by a little."""
    rates = np.full((N_CONTEXTS, N_ARMS), 0.15)
    for depth in range(DEPTH + 1):
        moves = rng.normal(0.0, 0.06 if depth == 0 else 0.04, (n_at(depth), N_ARMS))
        rates += moves[[parent(context, depth) for context in range(N_CONTEXTS)]]
    return rates.clip(0.01, 0.6)


def earned(name: str, seed: int) -> float:
    """Mean reward of an answer while the policy learns, a version for each batch."""
    rng = np.random.default_rng(seed)
    rates, frequencies = planted_rates(rng), rng.dirichlet(np.full(N_CONTEXTS, 0.5))
    state, total = BanditState(), 0.0
    for _ in range(N_BATCHES):
        policy = policy_of(name, state.arrays(), OPTIONS)
        log = outcomes(BATCH, context=rng.choice(N_CONTEXTS, BATCH, p=frequencies))
        for context in np.unique(log["context"]).tolist():
            of_context = np.flatnonzero(log["context"] == context)
            draws = policy.draws(context, situation_of(context), rng)
            rows = draws[rng.integers(len(draws), size=len(of_context))]
            log["arm"][of_context] = rows.argmax(axis=1)
        log["reward"] = rng.random(BATCH) < rates[log["context"], log["arm"]]
        total += log["reward"].sum()
        state.learn(log)
    return total / (N_BATCHES * BATCH)


@pytest.mark.parametrize("name", ["thompson", "linear_thompson", "linucb"])
def test_a_policy_that_sees_contexts_earns_more_than_a_fixed_mix(name: str):
    seeds = (1, 2)
    fixed = [earned("static", seed) for seed in seeds]
    learning = [earned(name, seed) for seed in seeds]
    assert all(more >= 1.15 * less for more, less in zip(learning, fixed, strict=True))
