"""Evidence of rewards that is forgotten exponentially, counted in integers.

Forward decay (Cormode et al., 2009, https://doi.org/10.1109/ICDE.2009.65): evidence stands as of a
landmark, and what comes later counts for more, `2 ** (elapsed / half-life)`. Landmarks are whole
half-lives since 1970. When a later one begins, all evidence is halved once for each that passed;
so growth stays between one and two, and where evidence is renormalised depends on the times of the
outcomes alone, never on how they were cut into batches. What comes late grows less than by one.

Evidence is kept in whole UNITs, not in floats: sums of integers are the same in any order, and what
is taken back leaves nothing behind. The half-life is part of the state, as is what a loss counts.

A reward `r` in -1..1 counts as `success(r)` and `failure(r)`. A loss, `r < 0`, counts either

    as failures     success 0, failure 1 - r: evidence is never negative and the rate is that of
                    gains per answer or loss; a loss weighs the less the lower the rate is
    or net          success r, failure 1 - r: a loss takes a gain back, so the rate is the mean
                    reward, where that is above zero, and arms are ordered by it exactly

For instance gains of .25 and losses of .10 an answer against .20 and .02: the mean rewards are .15
and .18, but the rates that count losses as failures .227 and .196, the other way round.
"""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import Row, compiled
from features.decision_context import N_CONTEXTS
from features.outcomes import NO_ROLLBACK
from features.vocabulary import N_ARMS
from features.windows import DAY_MS

HALF_LIFE_MS: Final = 7 * DAY_MS
UNIT: Final = 2.0**-24  # of an answer; 2 ** 63 of them are 500 thousand million answers
LANDMARK, NEWEST, HALF_LIFE, LEARNT, SKIPPED, IS_NET = range(6)
_N_FIELDS = 6
_MOST_HALVINGS = 63

LEAST: Final = 0.01  # of each parameter of a Beta

Clock = NDArray[np.int64]  # (6,): times in ms, counts of outcomes, whether losses are net


def new_clock(half_life_ms: int = HALF_LIFE_MS, is_net: bool = False) -> Clock:
    """Nothing learnt yet. Raises ValueError for a half-life of less than a millisecond."""
    if half_life_ms < 1:
        raise ValueError(f"half_life_ms must be at least 1; got {half_life_ms}")
    clock = np.zeros(_N_FIELDS, np.int64)
    clock[HALF_LIFE], clock[IS_NET] = half_life_ms, is_net
    return clock


@compiled
def halvings(clock: Clock, at_ms: int) -> int:
    """Moves the clock on to `at_ms`; how often all evidence is to be halved now, 0..63."""
    clock[NEWEST] = max(clock[NEWEST], at_ms)
    passed = (at_ms - clock[LANDMARK]) // clock[HALF_LIFE]
    if passed <= 0:
        return 0
    clock[LANDMARK] += passed * clock[HALF_LIFE]
    return int(min(passed, _MOST_HALVINGS))


@compiled
def growth(clock: Clock, at_ms: int) -> float:
    """What one answer at `at_ms` counts for at the landmark: below two, below one if late."""
    return math.pow(2.0, (at_ms - clock[LANDMARK]) / clock[HALF_LIFE])


@compiled
def units(amount: float) -> int:
    """An amount of evidence in whole UNITs."""
    return math.floor(amount / UNIT + 0.5)


@compiled
def is_learnable(outcome: Row) -> Any:
    """No order, and of a known arm and context."""
    if outcome["rollback_to"] != NO_ROLLBACK:
        return False
    if outcome["arm"] >= N_ARMS or outcome["context"] >= N_CONTEXTS:
        return False
    return abs(outcome["reward"]) <= 1.0 and abs(outcome["previous_reward"]) <= 1.0


@compiled
def success(reward: float, is_net: bool) -> float:
    """How much of a success a reward in -1..1 is, 0..1; below zero for a loss if net."""
    return reward if is_net else max(reward, 0.0)


@compiled
def failure(reward: float) -> float:
    """How much of a failure it is, 0..2: what lacks to a success."""
    return 1.0 - reward


@compiled
def evidence_of(outcome: Row, clock: Clock) -> tuple[int, int]:
    """UNITs of success and failure that an outcome adds, at the weight of its moment.

    A correction takes back, at the same weight, what the reward before had counted.
    """
    weight, is_net = growth(clock, outcome["decided_at_ms"]), clock[IS_NET] != 0
    won = units(weight * success(outcome["reward"], is_net))
    lost = units(weight * failure(outcome["reward"]))
    if outcome["revision"] > 0:
        won -= units(weight * success(outcome["previous_reward"], is_net))
        lost -= units(weight * failure(outcome["previous_reward"]))
    return won, lost


def answers_of(evidence: NDArray[np.int64], clock: Clock) -> NDArray[np.float64]:
    """Evidence as discounted answers as of the newest outcome.

    Successes may be below zero: net losses, or a correction after a landmark, which takes back
    more than halving had left of what it corrects.
    """
    return np.asarray(evidence * (UNIT / growth(clock, int(clock[NEWEST]))), np.float64)
