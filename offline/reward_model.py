"""The reward model of off-policy estimates: smoothed means, fitted without the rows they predict.

Means by action, by action and context, and by action, context and position: each is pulled towards
the one before it as if that had been seen in `strength` more rows. Of actions that were not shown a
log tells no features, so the model uses none.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from offline.logged_feedback import Floats, Ints, LoggedFeedback, OffPolicyError

STRENGTH: Final = 20.0
N_FOLDS: Final = 5


@dataclass(frozen=True, slots=True)
class RewardTable:
    """Expected rewards by action, context and position."""

    table: Floats  # (n_actions, n_contexts, n_positions)
    contexts: Floats  # (n_actions, n_contexts), positions taken together

    def by_context(self) -> Floats:
        """`(n_contexts, n_actions)` over all positions."""
        return self.contexts.T

    def predict(self, logged: LoggedFeedback) -> Floats:
        """`(n, n_actions)` expected reward of every action at the rows' places."""
        return self.table[:, logged.contexts, logged.positions].T


def fit(logged: LoggedFeedback, n_positions: int, strength: float = STRENGTH) -> RewardTable:
    """The table of a log; a cell without rows expects what its parent does. O(n + cells).

    A level that tells nothing apart, with one context or one position, is left out: it would pull a
    mean towards itself. Raises OffPolicyError unless `strength` is above 0.
    """
    if not strength > 0:
        raise OffPolicyError(f"strength must be above 0; got {strength}")
    n_contexts = len(logged.context_names)
    overall = np.full(logged.n_actions, logged.rewards.mean())
    actions = _smoothed(logged.actions, logged.rewards, overall, strength)
    contexts, cells = np.repeat(actions[:, None], n_contexts, 1), logged.actions
    if n_contexts > 1:
        cells = logged.actions * n_contexts + logged.contexts
        contexts = _smoothed(cells, logged.rewards, contexts.ravel(), strength)
        contexts = contexts.reshape(logged.n_actions, n_contexts)
    table = np.repeat(contexts[:, :, None], n_positions, 2)
    if n_positions > 1:
        cells = cells * n_positions + logged.positions
        table = _smoothed(cells, logged.rewards, table.ravel(), strength).reshape(table.shape)
    return RewardTable(table, contexts)


def cross_fitted(
    logged: LoggedFeedback,
    rng: np.random.Generator,
    *,
    n_folds: int = N_FOLDS,
    strength: float = STRENGTH,
) -> Floats:
    """`(n, n_actions)` expected rewards, each row's from a model that saw nothing of its slate.

    Chernozhukov et al. 2018. Raises OffPolicyError for fewer than two folds or slates.
    """
    folds = folds_of(logged.slates, n_folds, rng)
    q_hat = np.empty((len(logged), logged.n_actions))
    for fold in range(folds.max() + 1):
        out = folds == fold
        q_hat[out] = fit(logged.take(~out), logged.n_positions, strength).predict(logged.take(out))
    return q_hat


def folds_of(slates: Ints, n_folds: int, rng: np.random.Generator) -> Ints:
    """`(n,)` a fold for each row, the same for all rows of a slate; folds of about equal size."""
    names, slate = np.unique(slates, return_inverse=True)
    if n_folds < 2 or len(names) < 2:
        raise OffPolicyError(
            f"folds and slates must be at least two; got {n_folds} folds of {len(names)} slates"
        )
    folds: Ints = (rng.permutation(len(names)) % n_folds)[slate]
    return folds


def _smoothed(cells: Ints, rewards: Floats, parents: Floats, strength: float) -> Floats:
    """Means of cells, each with its parent's mean for `strength` rows."""
    sums = np.bincount(cells, rewards, minlength=len(parents))
    counts = np.bincount(cells, minlength=len(parents))
    smoothed: Floats = (sums + strength * parents) / (counts + strength)
    return smoothed
