"""What became of slots by context and arm: exact running sums.

How often each arm was given a slot in each context, how often it was taken up, and the rewards.
Sums are integers, rewards in millionths: the same in any order, so nothing drifts and a correction
undoes exactly what it corrects.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import Rows
from features.decision_context import N_CONTEXTS
from features.model_snapshot import Arrays, SnapshotError
from features.vocabulary import N_ARMS

MICRO: Final = 1_000_000
SHAPE: Final = (N_CONTEXTS + 1, N_ARMS + 1)  # the last row and column: no context, no known arm
NAMES: Final = ("slots", "taken", "reward_micros")


class ArmRates:
    """Sums by context and arm, `SHAPE int64` each."""

    def __init__(self) -> None:
        self.slots: NDArray[np.int64] = np.zeros(SHAPE, np.int64)
        self.taken: NDArray[np.int64] = np.zeros(SHAPE, np.int64)
        self.reward_micros: NDArray[np.int64] = np.zeros(SHAPE, np.int64)

    @classmethod
    def of(cls, arrays: Arrays) -> "ArmRates":
        """The sums in a version. Raises SnapshotError."""
        rates = cls()
        rates.restore(arrays)
        return rates

    def learn(self, outcomes: Rows) -> None:
        """Adds outcomes; of a correction, what changes."""
        places = (
            np.minimum(outcomes["context"], N_CONTEXTS),
            np.minimum(outcomes["arm"], N_ARMS),
        )
        is_correction = outcomes["revision"] > 0
        taken = outcomes["label"].astype(np.int64)
        reward = _micros(outcomes["reward"])
        taken -= is_correction * outcomes["previous_label"].astype(np.int64)
        reward -= is_correction * _micros(outcomes["previous_reward"])
        np.add.at(self.slots, places, 1 - is_correction.astype(np.int64))
        np.add.at(self.taken, places, taken)
        np.add.at(self.reward_micros, places, reward)

    def arrays(self) -> Arrays:
        """Copies of the sums."""
        return {name: getattr(self, name).copy() for name in NAMES}

    def restore(self, arrays: Arrays) -> None:
        """The sums of `arrays()`. Raises SnapshotError."""
        for name in NAMES:
            found = arrays.get(name)
            if found is None or found.shape != SHAPE or found.dtype != np.int64:
                told = None if found is None else (found.shape, str(found.dtype))
                raise SnapshotError(f"{name} must be {SHAPE} int64; got {told}")
        for name in NAMES:
            setattr(self, name, np.array(arrays[name]))

    def shares(self) -> NDArray[np.float64]:
        """`SHAPE float64`: of the slots in a context, the share of each arm; 0 without slots."""
        totals = self.slots.sum(axis=1, keepdims=True)
        shares: NDArray[np.float64] = self.slots / np.maximum(totals, 1)
        return shares

    def mean_rewards(self) -> NDArray[np.float64]:
        """`SHAPE float64`: mean reward of a slot; 0 without slots."""
        means: NDArray[np.float64] = self.reward_micros / (MICRO * np.maximum(self.slots, 1))
        return means


def _micros(rewards: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(rewards * MICRO).astype(np.int64)
