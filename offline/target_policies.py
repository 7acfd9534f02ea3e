"""Policies to evaluate on a log: how probably each would have shown each action, row by row."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from offline.logged_feedback import Floats, Ints, LoggedFeedback, OffPolicyError, check_shape
from offline.reward_model import RewardTable

SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class TargetPolicy:
    """A policy on the rows of a log."""

    name: str
    probabilities: Floats  # (n, n_actions)
    chosen: Floats  # (n,) of the action that was logged

    @classmethod
    def of(cls, name: str, probabilities: Floats, logged: LoggedFeedback) -> "TargetPolicy":
        """From probabilities `(n, n_actions)`. Raises OffPolicyError unless rows add up to one."""
        check_shape("target.probabilities", probabilities, (len(logged), logged.n_actions))
        sums = probabilities.sum(axis=1)
        off = (np.abs(sums - 1) > SUM_TOLERANCE) | (probabilities < 0).any(axis=1)
        if off.any():
            row = int(np.argmax(off))
            raise OffPolicyError(
                "target.probabilities must be at least 0 and add up to 1; those of row "
                f"{row} add up to {sums[row]:g}"
            )
        return cls(name, probabilities, probabilities[np.arange(len(logged)), logged.actions])


def logged_policy(logged: LoggedFeedback) -> TargetPolicy:
    """The policy that wrote the log: every estimate that weighs is the mean of the rewards.

    A log tells the propensity of what was shown alone, so each row's action stands for the policy
    in `probabilities`: a draw from it.
    """
    probabilities = np.zeros((len(logged), logged.n_actions))
    probabilities[np.arange(len(logged)), logged.actions] = 1.0
    return TargetPolicy("logged", probabilities, logged.propensities)


def uniform(logged: LoggedFeedback) -> TargetPolicy:
    """All actions alike."""
    shape = len(logged), logged.n_actions
    return TargetPolicy.of("uniform", np.full(shape, 1 / logged.n_actions), logged)


def static(logged: LoggedFeedback, weights: Mapping[str, float]) -> TargetPolicy:
    """Always the same shares; an action that is not named has none. Raises OffPolicyError."""
    shares = np.zeros(logged.n_actions)
    for name, weight in weights.items():
        shares[code_of(logged, name)] = weight
    if not (shares.sum() > 0 and (shares >= 0).all()):
        raise OffPolicyError(
            f"weights must be at least 0 and one of them above; got {dict(weights)}"
        )
    return _same_everywhere("static", shares / shares.sum(), logged)


def fixed(logged: LoggedFeedback, action: str) -> TargetPolicy:
    """Always the same action. Raises OffPolicyError where the log knows no such action."""
    shares = np.zeros(logged.n_actions)
    shares[code_of(logged, action)] = 1.0
    return _same_everywhere(f"fixed:{action}", shares, logged)


def by_position(name: str, table: Floats, logged: LoggedFeedback) -> TargetPolicy:
    """Shares of the actions by position, `(n_positions, n_actions)`. Raises OffPolicyError."""
    if table.shape[0] < logged.n_positions:
        raise OffPolicyError(
            f"target {name} must have shares for {logged.n_positions} positions; "
            f"got {table.shape[0]}"
        )
    return TargetPolicy.of(name, table[logged.positions], logged)


def greedy(model: RewardTable, logged: LoggedFeedback) -> TargetPolicy:
    """In each context the action of which a model expects most.

    The model must come from other rows, as from the log's first half when this is the second: on
    its own rows a greedy policy looks better than it is.
    """
    best = np.argmax(model.by_context(), axis=1)
    probabilities = np.zeros((len(logged), logged.n_actions))
    probabilities[np.arange(len(logged)), best[logged.contexts]] = 1.0
    return TargetPolicy.of("greedy", probabilities, logged)


def shares_by_position(logged: LoggedFeedback) -> Floats:
    """`(n_positions, n_actions)` how often each action was shown at each position of a log.

    The mean over time of the policy that wrote it, as far as the log tells it. Raises
    OffPolicyError for a position without rows.
    """
    shape = logged.n_positions, logged.n_actions
    cells: Ints = logged.positions * logged.n_actions + logged.actions
    counts = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    totals = counts.sum(axis=1, keepdims=True)
    if not totals.all():
        raise OffPolicyError(f"logged.positions must have rows each; got {totals.ravel().tolist()}")
    shares: Floats = counts / totals
    return shares


def code_of(logged: LoggedFeedback, action: str) -> int:
    """Code of an action by its name. Raises OffPolicyError where the log knows none such."""
    try:
        return logged.action_names.index(action)
    except ValueError:
        raise OffPolicyError(
            f"action must be one of {', '.join(logged.action_names)}; got {action!r}"
        ) from None


def _same_everywhere(name: str, shares: Floats, logged: LoggedFeedback) -> TargetPolicy:
    return TargetPolicy.of(name, np.tile(shares, (len(logged), 1)), logged)
