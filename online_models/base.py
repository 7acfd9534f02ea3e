"""What every policy and every learner has in common.

A policy gives slots of a slate to arms. Its belief at a moment, for one decision, is a matrix of
`draws`: each row is one world that it holds possible, with a value for each arm. A slot goes to the
best arm of a row that is drawn evenly. So the probability of an arm is the share of rows that it
wins, exactly: see `propensity`. A greedy policy has rows that are all alike; an even one shuffles.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from features.compiled import Rows
from features.model_snapshot import Arrays

RATES, BANDITS, CLICKS = "rates", "bandits", "clicks"  # parts of learned state, by name
N_DRAWS = 1_024  # rows of a matrix of draws: propensities are multiples of 1/1,024

Draws = NDArray[np.float64]  # (n_draws, N_ARMS), higher is better
Situation = NDArray[np.float64]  # (n_situation,) what linear policies see of a decision


@dataclass(frozen=True, slots=True)
class ArmBelief:
    """What is believed of each arm in one context: `(N_ARMS,) float64` each."""

    means: NDArray[np.float64]  # of the reward
    weights: NDArray[np.float64]  # answers that the mean rests on, prior included


class Learns(Protocol):
    """State that moves with each outcome. One writer; the order of outcomes is what counts."""

    def learn(self, outcomes: Rows) -> None:
        """Takes in `(n,) OUTCOME` records in their order, a batch of any size alike."""

    def arrays(self) -> Arrays:
        """Everything that learning goes on from, as named plain arrays of their own."""

    def restore(self, arrays: Arrays) -> None:
        """The state of `arrays()` at that moment, bit for bit. Raises SnapshotError."""


class Policy(Protocol):
    """Gives slots to arms; as the server uses it, read only."""

    name: str

    def draws(self, context: int, situation: Situation, rng: np.random.Generator) -> Draws:
        """`(N_DRAWS, N_ARMS)` values of the arms in worlds held possible."""

    def belief(self, context: int, situation: Situation) -> ArmBelief:
        """Means and weights of the arms, for whoever asks why."""
