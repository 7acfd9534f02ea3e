"""Logged feedback: decisions of one policy with their propensities, and what they earned.

All that an off-policy estimate stands on, as columns: which action was shown at which position in
which context, how probable it was, and the reward that followed.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ONE_CONTEXT: Final = ("all",)


class OffPolicyError(ValueError):
    """An estimate cannot be made; the message says of which field, what was expected and found."""


@dataclass(frozen=True, slots=True)
class LoggedFeedback:
    """Rows of a log in the order of time, `(n,)` each.

    `slates` numbers the decisions that rows belong to: rows of one slate depend on each other, so
    bootstrap and folds keep them together. Raises OffPolicyError for columns of unequal length,
    codes out of range, rewards that are not finite, and propensities outside (0, 1].
    """

    rewards: Floats
    actions: Ints  # 0..n_actions-1
    positions: Ints  # from 0
    propensities: Floats  # of the logged action, as the logging policy had it
    contexts: Ints  # 0..n_contexts-1
    slates: Ints
    action_names: tuple[str, ...]
    context_names: tuple[str, ...] = ONE_CONTEXT

    def __post_init__(self) -> None:
        for name in ("rewards", "actions", "positions", "propensities", "contexts", "slates"):
            check_shape(f"logged.{name}", getattr(self, name), (len(self),))
        if not len(self):
            raise OffPolicyError("logged.rewards must have at least one row; got none")
        _check_rows("logged.rewards", "finite", self.rewards, np.isfinite(self.rewards))
        within = (self.propensities > 0) & (self.propensities <= 1)
        _check_rows("logged.propensities", "within 0..1, above 0", self.propensities, within)
        for name, n in (("actions", self.n_actions), ("contexts", len(self.context_names))):
            codes: Ints = getattr(self, name)
            fits = (codes >= 0) & (codes < n)
            _check_rows(f"logged.{name}", f"within 0..{n - 1}", codes, fits)
        _check_rows("logged.positions", "at least 0", self.positions, self.positions >= 0)

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def n_actions(self) -> int:
        """How many actions there are, shown or not."""
        return len(self.action_names)

    @property
    def n_positions(self) -> int:
        """One more than the largest position."""
        return int(self.positions.max()) + 1

    @property
    def n_slates(self) -> int:
        """How many decisions the rows belong to."""
        return len(np.unique(self.slates))

    def take(self, rows: NDArray[np.bool_] | Ints) -> "LoggedFeedback":
        """Some of the rows. Raises OffPolicyError where these are none."""
        return LoggedFeedback(
            self.rewards[rows],
            self.actions[rows],
            self.positions[rows],
            self.propensities[rows],
            self.contexts[rows],
            self.slates[rows],
            self.action_names,
            self.context_names,
        )

    def halves(self) -> tuple["LoggedFeedback", "LoggedFeedback"]:
        """The first half of the slates by time, and the rest. Raises OffPolicyError for one."""
        _, first_row, slate = np.unique(self.slates, return_index=True, return_inverse=True)
        if len(first_row) < 2:
            raise OffPolicyError("logged.slates must be at least two to be halved; got one")
        order = np.empty(len(first_row), np.int64)
        order[np.argsort(first_row)] = np.arange(len(first_row))
        is_early = order[slate] < len(first_row) // 2
        return self.take(is_early), self.take(~is_early)


def check_shape(name: str, values: NDArray[np.generic], expected: tuple[int, ...]) -> None:
    """Raises OffPolicyError unless an array has the expected shape."""
    if values.shape != expected:
        raise OffPolicyError(f"{name} must have the shape {expected}; got {values.shape}")


def _check_rows(
    name: str, expectation: str, values: NDArray[np.generic], fits: NDArray[np.bool_]
) -> None:
    if not fits.all():
        row = int(np.argmin(fits))
        raise OffPolicyError(f"{name} must be {expectation}; got {values[row]} in row {row}")
