"""Slots to arms, and with which probability: exactly, since draws are rows that win or lose.

A slot goes to the best available arm of an evenly drawn row of a policy's draws, so an arm's
probability is the share of rows that it wins: no estimate of a probability, but that of the choice
as it is made. Equal values in a row go to the first arm; policies leave none that matter.

A slot of a slate is explored with probability `exploration`, else it is that of one arm, `wanted`:
the ranker's as a rule. So in all

    P(arm) = (1 - exploration) * [arm is wanted] + exploration * share of rows won

`share_out`, `draw_arm` and `propensity_of` are this rule. Whoever gives out slots calls them: the
server, simulations and tools.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from features.vocabulary import Arm
from online_models.base import Draws

RANKER: Final = int(Arm.RANKER)
NO_ARM: Final = -1  # of a slot for which no arm had a candidate left
TIE: Final = 1e-9  # values closer than this are alike

Mask = NDArray[np.bool_]  # (n_arms,)
Shares = NDArray[np.float64]  # (n_arms,)


def alike(values: NDArray[np.float64], rng: np.random.Generator, n_draws: int) -> Draws:
    """`(n_draws, n_arms)` rows that are all these values; equal ones win evenly."""
    noise = rng.random((n_draws, len(values)))
    noise *= TIE
    noise += values
    return noise


@compiled
def share_out(draws: Draws, available: Mask, shares: Shares) -> None:
    """Fills `shares`, `(n_arms,)`: the part of the rows that each available arm wins.

    All zero where none is available. O(n_draws * n_arms): 10 us for 1,024 x 8.
    """
    shares[:] = 0.0
    for i in range(len(draws)):
        best = NO_ARM
        for arm in range(len(available)):
            if available[arm] and (best == NO_ARM or draws[i, arm] > draws[i, best]):
                best = arm
        if best == NO_ARM:
            return
        shares[best] += 1.0
    shares /= len(draws)


@compiled
def draw_arm(shares: Shares, wanted: int, exploration: float, explored: float, drawn: float) -> int:
    """The arm of a slot, by two numbers that are even in 0..1; NO_ARM where there is none.

    `wanted` NO_ARM: the slot is explored in any case.
    """
    if wanted != NO_ARM and explored >= exploration:
        return wanted
    total, last = 0.0, NO_ARM
    for arm in range(len(shares)):
        if shares[arm] > 0.0:
            last = arm
            total += shares[arm]
            if drawn < total:
                break
    return last


@compiled
def propensity_of(arm: int, won: float, wanted: int, exploration: float) -> float:
    """The probability with which `draw_arm` gives an arm that wins the share `won`."""
    if wanted == NO_ARM:
        return won
    return exploration * won + (1.0 - exploration if arm == wanted else 0.0)


def total_propensity(
    arm: int, share_won: float, exploration: float, ranker_available: bool = True
) -> float:
    """Of a slot that is explored with probability `exploration`, else the ranker's.

    A ranker without candidates leaves its part to the policy.

    >>> total_propensity(Arm.RANKER, 0.5, 0.25), total_propensity(Arm.NEW, 0.5, 0.25)
    (0.875, 0.125)
    """
    wanted = RANKER if ranker_available else NO_ARM
    return float(propensity_of(int(arm), share_won, wanted, exploration))


def win_shares(draws: Draws, available: Mask) -> Shares:
    """`(n_arms,)` shares of the rows that each available arm wins; all zero where none is.

    >>> win_shares(np.array([[1.0, 2.0, 9.0], [3.0, 2.0, 9.0]]), np.array([True, True, False]))
    array([0.5, 0.5, 0. ])
    """
    shares = np.zeros(draws.shape[1])
    share_out(draws, available, shares)
    return shares


def choose(draws: Draws, available: Mask, rng: np.random.Generator) -> tuple[int, float]:
    """An arm, and the probability with which it is chosen; `(NO_ARM, 0.0)` if none is available."""
    return ArmChooser(draws, available).choose(rng)


class ArmChooser:
    """Gives the slots of one slate to arms, one by one, while arms run out of candidates.

    O(n_draws * n_arms) at first and when an arm runs out, O(n_arms) a slot.
    """

    def __init__(self, draws: Draws, available: Mask, exploration: float = 1.0) -> None:
        self._draws, self._available = draws, np.array(available, np.bool_)
        self._exploration = exploration
        self._won = win_shares(draws, self._available)

    @property
    def _wanted(self) -> int:
        return RANKER if self._available[RANKER] else NO_ARM

    def shares(self) -> Shares:
        """`(n_arms,)` probabilities of the arms in the next slot, zero for those run out."""
        told = [
            propensity_of(arm, won, self._wanted, self._exploration)
            for arm, won in enumerate(self._won.tolist())
        ]
        return np.array(told)

    def choose(self, rng: np.random.Generator) -> tuple[int, float]:
        """An arm and its probability; `(NO_ARM, 0.0)` if all have run out."""
        explored, drawn = rng.random(2)
        arm = draw_arm(self._won, self._wanted, self._exploration, explored, drawn)
        if arm == NO_ARM:
            return NO_ARM, 0.0
        return arm, propensity_of(arm, self._won[arm], self._wanted, self._exploration)

    def run_out(self, arm: int) -> None:
        """The arm has no candidate left."""
        if self._available[arm]:
            self._available[arm] = False
            self._won = win_shares(self._draws, self._available)


def fill_slots(
    draws: Draws,
    counts: NDArray[np.int64],
    n_slots: int,
    rng: np.random.Generator,
    exploration: float = 1.0,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The arms of a slate's slots in sequence, and the probability of each given those before.

    `counts`, `(n_arms,)`, is how many candidates each arm has, no candidate in two; `(n_slots,)`
    each, NO_ARM and zero once all have run out. For simulations, where titles are no matter. The
    same choices as `ArmChooser`'s.
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
    shares = np.zeros(len(left), np.float64)
    share_out(draws, left > 0, shares)
    for slot in range(len(arms)):
        wanted = RANKER if left[RANKER] > 0 else NO_ARM
        arm = draw_arm(shares, wanted, exploration, drawn[slot, 0], drawn[slot, 1])
        if arm == NO_ARM:
            return
        arms[slot] = arm
        propensities[slot] = propensity_of(arm, shares[arm], wanted, exploration)
        left[arm] -= 1
        if left[arm] == 0:
            share_out(draws, left > 0, shares)
