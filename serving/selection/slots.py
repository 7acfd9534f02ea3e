"""Filling the slots of a slate, compiled: which arm gets each, and its best candidate that is left.

The state of a slate is a few small arrays, so that whoever fills it can stop at a slot whose title
is to be drawn, put one in, and go on.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from features.vocabulary import N_ARMS, Arm
from online_models.base import Draws

RANKER: Final = int(Arm.RANKER)
NO_PLACE: Final = -1

Bits = NDArray[np.uint16]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class SlateState(NamedTuple):
    """A slate on its way, for `n` candidates and `k` slots."""

    taken: NDArray[np.bool_]  # (n,) by place
    starts: Ints  # (N_ARMS,) in the order: before it nothing of the arm is left
    left: Ints  # (N_ARMS,) candidates of each arm
    shares: Floats  # (N_ARMS,) the chance of each arm; all zero: to be looked at anew
    places: Ints  # (k,) the candidate in each slot
    arms: Ints  # (k,)
    propensities: Floats  # (k,)


def new_slate(bits: Bits, n_slots: int) -> SlateState:
    """Nothing is chosen yet."""
    members = (bits[:, None] >> np.arange(N_ARMS, dtype=np.uint16)) & np.uint16(1)
    return SlateState(
        np.zeros(len(bits), np.bool_),
        np.zeros(N_ARMS, np.int64),
        members.sum(axis=0, dtype=np.int64),
        np.zeros(N_ARMS),
        np.full(n_slots, NO_PLACE, np.int64),
        np.zeros(n_slots, np.int64),
        np.zeros(n_slots),
    )


@compiled
def fill_slots(
    state: SlateState,
    start: int,
    bits: Bits,
    order: Ints,
    draws: Draws,
    chances: Floats,
    share: float,
    base: int,
    drawn_items: int,
) -> int:
    """Fills slots from `start` on; the next one whose title is to be drawn, or how many there are.

    `chances`, `(k, 2)` even in 0..1, say whether a slot explores and which arm then gets it.
    `drawn_items` has bit `arm` where titles are drawn. O(draws) at first and when an arm runs out.
    """
    for k in range(start, len(state.places)):
        if state.shares.sum() == 0.0:
            _share_out(draws, state.left, state.shares)
        wanted = base if state.left[base] > 0 else RANKER
        arm = wanted
        if chances[k, 0] < share:
            arm = _drawn(state.shares, chances[k, 1])
        state.arms[k] = arm
        certain = 1.0 - share if arm == wanted else 0.0
        state.propensities[k] = share * state.shares[arm] + certain
        if arm != wanted and (drawn_items >> arm) & 1:
            return k
        take(state, k, _best(state, arm, bits, order), bits)
    return len(state.places)


@compiled
def take(state: SlateState, slot: int, place: int, bits: Bits) -> None:
    """Puts a candidate into a slot, and takes it out of every arm."""
    state.places[slot] = place
    state.taken[place] = True
    for arm in range(N_ARMS):
        if (bits[place] >> arm) & 1:
            state.left[arm] -= 1
            if state.left[arm] == 0:  # its share goes to others
                state.shares[:] = 0.0


@compiled
def shortlist(state: SlateState, arm: int, bits: Bits, order: Ints, n: int) -> Ints:
    """Places of the best `n` candidates of an arm that are left."""
    found = np.empty(n, np.int64)
    count = 0
    for at in range(state.starts[arm], len(order)):
        place = order[at]
        if not state.taken[place] and (bits[place] >> arm) & 1:
            found[count] = place
            count += 1
            if count == n:
                break
    return found[:count]


@compiled
def _best(state: SlateState, arm: int, bits: Bits, order: Ints) -> int:
    for at in range(state.starts[arm], len(order)):
        place = order[at]
        if not state.taken[place] and (bits[place] >> arm) & 1:
            state.starts[arm] = at + 1
            return int(place)
    return NO_PLACE  # never: an arm is chosen only while it has a candidate


@compiled
def _share_out(draws: Draws, left: Ints, shares: Floats) -> None:
    """The part of the draws that each arm with a candidate wins; equal values: the first."""
    shares[:] = 0.0
    for row in range(len(draws)):
        best = -1
        for arm in range(N_ARMS):
            if left[arm] > 0 and (best < 0 or draws[row, arm] > draws[row, best]):
                best = arm
        shares[best] += 1.0
    shares /= len(draws)


@compiled
def _drawn(shares: Floats, chance: float) -> int:
    """The arm at which the sum of the shares passes `chance`."""
    total, last = 0.0, RANKER
    for arm in range(N_ARMS):
        if shares[arm] > 0.0:
            last = arm
            total += shares[arm]
            if chance < total:
                return arm
    return last
