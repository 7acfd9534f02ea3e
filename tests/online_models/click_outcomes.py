"""Outcomes of a made-up world, where it is known what a click depends on."""

import numpy as np
from numpy.typing import NDArray

from features.decision_context import N_CONTEXTS
from features.outcomes import NO_ROLLBACK, OUTCOME
from features.vocabulary import N_ARMS
from online_models.click_features import COLUMNS, N_FEATURES, columns_of

SLOTS = 10
USUAL = np.zeros(len(COLUMNS))
USUAL[[0, 3, N_FEATURES - 5]] = 1.0, -0.8, 0.6
USUAL[-1] = -0.5  # lower slots are clicked less


def outcomes_of(
    rng: np.random.Generator,
    n: int,
    first_offset: int = 0,
    weights: NDArray[np.float64] = USUAL,
    bias: float = -1.0,
    n_items: int = 300,
) -> NDArray[np.void]:
    """`(n,) OUTCOME` records of slates of ten slots; half of the clicks have a watch share."""
    found = np.zeros(n, OUTCOME)
    n_slates = -(-n // SLOTS)
    found["features"] = rng.normal(size=found["features"].shape)
    found["slot"] = np.arange(n) % SLOTS
    found["offset"] = first_offset + np.arange(n)
    found["rollback_to"] = NO_ROLLBACK
    found["has_features"] = True
    for name, most in (("request", 2**63), ("user", 2**63), ("context", N_CONTEXTS)):
        found[name] = np.repeat(rng.integers(0, most, n_slates), SLOTS)[:n]
    items = np.random.default_rng(9).integers(1, 2**63, n_items)
    found["item"] = items[rng.integers(0, n_items, n)]
    found["arm"] = rng.integers(0, N_ARMS, n)
    found["label"] = rng.random(n) < chances_of(found, weights, bias)
    known = found["label"] & (rng.random(n) < 0.5)
    found["watch_share"] = np.where(known, rng.random(n), -1.0)
    return found


def chances_of(
    outcomes: NDArray[np.void], weights: NDArray[np.float64] = USUAL, bias: float = -1.0
) -> NDArray[np.float64]:
    """The true probabilities of a click."""
    logits = columns_of(outcomes["features"], outcomes["slot"]) @ weights + bias
    return np.asarray(1.0 / (1.0 + np.exp(-logits)))


def in_batches(
    rng: np.random.Generator, outcomes: NDArray[np.void], most: int = 300
) -> list[NDArray[np.void]]:
    """The same outcomes in batches of any size, empty ones too."""
    batches, start = [], 0
    while start < len(outcomes):
        stop = start + int(rng.integers(0, most))
        batches.append(outcomes[start:stop])
        start = stop
    return batches
