"""Slots to arms, and with which probability: exactly, since draws are rows that win or lose.

A slot goes to the best available arm of an evenly drawn row of a policy's draws, so an arm's
probability is the share of rows that it wins: no estimate of a probability, but that of the choice
as it is made. Equal values in a row go to the first arm; policies leave none that matter.

A slot of a slate is explored with probability `exploration`, else it is the ranker's. So in all

    P(arm) = (1 - exploration) * [arm is RANKER] + exploration * share of rows won
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from features.vocabulary import Arm
from online_models.base import Draws

RANKER: Final = int(Arm.RANKER)
NO_ARM: Final = -1  # of a slot for which no arm had a candidate left
UNDECIDED: Final = -2  # of a row that nobody has been asked to win
TIE: Final = 1e-9  # values closer than this are alike

Mask = NDArray[np.bool_]  # (n_arms,)


def alike(values: NDArray[np.float64], rng: np.random.Generator, n_draws: int) -> Draws:
    """`(n_draws, n_arms)` rows that are all these values; equal ones win evenly."""
    noise = rng.random((n_draws, len(values)))
    noise *= TIE
    noise += values
    return noise


@compiled
def _award(
    draws: Draws,
    available: Mask,
    winners: NDArray[np.int64],
    wins: NDArray[np.int64],
    loser: int,
) -> None:
    """Gives the rows of `loser` to the best available arms, NO_ARM where there is none."""
    arms = np.nonzero(available)[0]
    for i in range(len(winners)):
        if winners[i] != loser:
            continue
        winner = NO_ARM
        if len(arms) > 0:
            winner, best = arms[0], draws[i, arms[0]]
            for k in range(1, len(arms)):
                value = draws[i, arms[k]]
                winner = arms[k] if value > best else winner
                best = max(value, best)
            wins[winner] += 1
        winners[i] = winner


@compiled
def _run_out(
    draws: Draws, available: Mask, winners: NDArray[np.int64], wins: NDArray[np.int64], arm: int
) -> None:
    """Passes the rows of an arm on: it is not available any more."""
    available[arm] = False
    wins[arm] = 0
    _award(draws, available, winners, wins, arm)


@compiled
def _propensity(arm: int, won: float, ranker_available: bool, exploration: float) -> float:
    if not ranker_available:
        return won
    return exploration * won + (1.0 - exploration if arm == RANKER else 0.0)


def total_propensity(
    arm: int, share_won: float, exploration: float, ranker_available: bool = True
) -> float:
    """Of a slot that is explored with probability `exploration`, else the ranker's.

    A ranker without candidates leaves its part to the policy.

    >>> total_propensity(Arm.RANKER, 0.5, 0.25), total_propensity(Arm.NEW, 0.5, 0.25)
    (0.875, 0.125)
    """
    return float(_propensity(int(arm), share_won, ranker_available, exploration))


def win_shares(draws: Draws, available: Mask) -> NDArray[np.float64]:
    """`(n_arms,)` shares of the rows that each available arm wins; all zero where none is.

    >>> win_shares(np.array([[1.0, 2.0, 9.0], [3.0, 2.0, 9.0]]), np.array([True, True, False]))
    array([0.5, 0.5, 0. ])
    """
    winners, wins = np.full(len(draws), UNDECIDED), np.zeros(draws.shape[1], np.int64)
    _award(draws, available, winners, wins, UNDECIDED)
    return wins / len(draws)


def choose(draws: Draws, available: Mask, rng: np.random.Generator) -> tuple[int, float]:
    """An arm, and the probability with which it is chosen; `(NO_ARM, 0.0)` if none is available."""
    return ArmChooser(draws, available).choose(rng)


class ArmChooser:
    """Gives the slots of one slate to arms, one by one, while arms run out of candidates.

    O(n_draws * n_arms) at first (15 us for 1,024 x 8), O(1) a slot, and when an arm runs out
    O(n_draws + rows that it won * n_arms).
    """

    def __init__(self, draws: Draws, available: Mask, exploration: float = 1.0) -> None:
        self._draws, self._available = draws, np.array(available, np.bool_)
        self._exploration = exploration
        self._winners = np.full(len(draws), UNDECIDED)
        self._wins = np.zeros(draws.shape[1], np.int64)
        _award(draws, self._available, self._winners, self._wins, UNDECIDED)

    def shares(self) -> NDArray[np.float64]:
        """`(n_arms,)` probabilities of the arms in the next slot, zero for those run out."""
        won = self._wins / len(self._draws)
        if self._available[RANKER]:
            won *= self._exploration
            won[RANKER] += 1.0 - self._exploration
        return won

    def choose(self, rng: np.random.Generator) -> tuple[int, float]:
        """An arm and its probability; `(NO_ARM, 0.0)` if all have run out."""
        is_ranked = bool(self._available[RANKER])
        explored, drawn = rng.random(2)
        if is_ranked and explored >= self._exploration:
            arm = RANKER
        else:
            arm = int(self._winners[int(drawn * len(self._winners))])
        if arm == NO_ARM:
            return NO_ARM, 0.0
        won = self._wins[arm] / len(self._draws)
        return arm, total_propensity(arm, float(won), self._exploration, is_ranked)

    def run_out(self, arm: int) -> None:
        """The arm has no candidate left."""
        if self._available[arm]:
            _run_out(self._draws, self._available, self._winners, self._wins, arm)


def fill_slots(
    draws: Draws,
    counts: NDArray[np.int64],
    n_slots: int,
    rng: np.random.Generator,
    exploration: float = 1.0,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The arms of a slate's slots in sequence, and the probability of each given those before.

    `counts`, `(n_arms,)`, is how many candidates each arm has, no candidate in two; `(n_slots,)`
    each, NO_ARM and zero once all have run out. The same choices as `ArmChooser`'s; 30 us for 20
    slots.
    """
    arms = np.full(n_slots, NO_ARM, np.int64)
    propensities = np.zeros(n_slots)
    _fill_slots(draws, counts.copy(), rng.random((n_slots, 2)), exploration, arms, propensities)
    return arms, propensities


@compiled
def _fill_slots(
    draws: Draws,
    left: NDArray[np.int64],
    drawn: NDArray[np.float64],
    exploration: float,
    arms: NDArray[np.int64],
    propensities: NDArray[np.float64],
) -> None:
    n_draws = len(draws)
    available = left > 0
    winners, wins = np.full(n_draws, UNDECIDED), np.zeros(len(left), np.int64)
    _award(draws, available, winners, wins, UNDECIDED)
    for slot in range(len(arms)):
        is_ranked = available[RANKER]
        if is_ranked and drawn[slot, 0] >= exploration:
            arm = RANKER
        else:
            arm = winners[int(drawn[slot, 1] * n_draws)]
        if arm == NO_ARM:
            return
        arms[slot] = arm
        propensities[slot] = _propensity(arm, wins[arm] / n_draws, is_ranked, exploration)
        left[arm] -= 1
        if left[arm] == 0:
            _run_out(draws, available, winners, wins, arm)
