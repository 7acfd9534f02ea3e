"""Beta posteriors of single titles, for slots that explore: which new or under-shown one to show.

A bounded table of 1,024 sets of 8 titles. A title belongs to one set, by its id; in a full set the
title that was shown longest ago gives way, the first of equals: its evidence has faded most. So
which titles are in it is a function of the log alone, and finding one looks at 8 places.

Outcomes of all arms but the ranker's count. What the ranker shows it shows to those whom it fits,
which says little of others, and the titles of the head would crowd out the rest.

The prior of a title is the mean of its arm, at the weight of 10 answers. Forgetting, successes and
corrections are those of `beta_arms`; a correction of a title that has given way is skipped.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import Rows, compiled
from features.ids import NO_ID
from features.model_snapshot import Arrays
from features.vocabulary import Arm
from online_models.base import ArmBelief, Draws
from online_models.forgetting import (
    HALF_LIFE_MS,
    LEARNT,
    LEAST,
    SKIPPED,
    Clock,
    answers_of,
    evidence_of,
    halvings,
    is_learnable,
    new_clock,
)
from online_models.state import array_like

N_SETS: Final = 1_024
N_WAYS: Final = 8
ITEM_STRENGTH: Final = 10.0  # answers that the mean of the arm stands for
N_ITEM_DRAWS: Final = 256
ABSENT: Final = -1
RANKER: Final = int(Arm.RANKER)

Items = NDArray[np.uint64]  # (N_SETS, N_WAYS), 0: nobody's
Evidence = NDArray[np.int64]  # (N_SETS, N_WAYS, 2) UNITs
Times = NDArray[np.int64]  # (N_SETS, N_WAYS) ms


@compiled
def _set_of(item: np.uint64) -> np.int64:
    """Ids are hashes: their low bits are even enough."""
    return np.int64(item & np.uint64(N_SETS - 1))


@compiled
def _way_of(ways: NDArray[np.uint64], item: np.uint64) -> int:
    for way in range(len(ways)):
        if ways[way] == item:
            return way
    return ABSENT


class ItemArms:
    """Evidence of up to 8,192 titles. `Learns`, O(1) an outcome; 256 KiB."""

    def __init__(self, half_life_ms: int = HALF_LIFE_MS, is_net: bool = False) -> None:
        self._items = np.zeros((N_SETS, N_WAYS), np.uint64)
        self._evidence = np.zeros((N_SETS, N_WAYS, 2), np.int64)
        self._shown_ms = np.zeros((N_SETS, N_WAYS), np.int64)
        self._clock = new_clock(half_life_ms, is_net)

    @property
    def counts(self) -> Mapping[str, int]:
        """Outcomes learnt and outcomes skipped."""
        return {"learnt": int(self._clock[LEARNT]), "skipped": int(self._clock[SKIPPED])}

    def learn(self, outcomes: Rows) -> None:
        """Takes in `(n,) OUTCOME` records in their order, a batch of any size alike."""
        _learn(outcomes, self._items, self._evidence, self._shown_ms, self._clock)

    def arrays(self) -> Arrays:
        """`item_ids`, `item_evidence`, `item_shown_ms` and `item_clock`, copies."""
        return {
            "item_ids": self._items.copy(),
            "item_evidence": self._evidence.copy(),
            "item_shown_ms": self._shown_ms.copy(),
            "item_clock": self._clock.copy(),
        }

    def restore(self, arrays: Arrays) -> None:
        """The state of `arrays()` at that moment, bit for bit. Raises SnapshotError."""
        items = array_like(arrays, "item_ids", self._items)
        evidence = array_like(arrays, "item_evidence", self._evidence)
        shown_ms = array_like(arrays, "item_shown_ms", self._shown_ms)
        clock = array_like(arrays, "item_clock", self._clock)
        self._items, self._evidence, self._shown_ms, self._clock = items, evidence, shown_ms, clock


@compiled
def _learn(outcomes: Rows, items: Items, evidence: Evidence, shown_ms: Times, clock: Clock) -> None:
    for outcome in outcomes:
        item, at_ms, is_first = outcome["item"], outcome["decided_at_ms"], outcome["revision"] == 0
        row = _set_of(item)
        way = _way_of(items[row], item)
        is_other = outcome["arm"] == RANKER or item == NO_ID or (way == ABSENT and not is_first)
        if is_other or not is_learnable(outcome):
            clock[SKIPPED] += 1
            continue
        clock[LEARNT] += 1
        times = halvings(clock, at_ms)
        if times > 0:
            evidence >>= times
        if way == ABSENT:
            way = int(np.argmin(shown_ms[row]))
            items[row, way], shown_ms[row, way] = item, at_ms
            evidence[row, way] = 0
        if is_first:
            shown_ms[row, way] = max(shown_ms[row, way], at_ms)
        won, lost = evidence_of(outcome, clock)
        evidence[row, way, 0] += won
        evidence[row, way, 1] += lost


class ItemPolicy:
    """Thompson sampling over titles, read only."""

    def __init__(
        self, items: Items, answers: NDArray[np.float64], strength: float = ITEM_STRENGTH
    ) -> None:
        self._items, self._answers, self._strength = items, answers, strength

    @classmethod
    def of(cls, arrays: Arrays, strength: float = ITEM_STRENGTH) -> "ItemPolicy":
        """The policy of `ItemArms.arrays()`. Raises SnapshotError."""
        learnt = ItemArms()
        learnt.restore(arrays)
        found = learnt.arrays()
        clock = np.asarray(found["item_clock"], np.int64)
        answers = answers_of(np.asarray(found["item_evidence"], np.int64), clock)
        return cls(np.asarray(found["item_ids"], np.uint64), answers, strength)

    def draws(
        self,
        items: NDArray[np.uint64],
        prior_mean: float,
        rng: np.random.Generator,
        n_draws: int = N_ITEM_DRAWS,
    ) -> Draws:
        """`(n_draws, n)` values of `(n,)` titles, by hash of id; a slot goes to the best of a row.

        `prior_mean`, the mean of the arm that the slot is given to, is what is expected of a title
        not in the table.
        """
        successes, failures = self._parameters(items, prior_mean)
        return rng.beta(successes, failures, (n_draws, len(items)))

    def belief(self, items: NDArray[np.uint64], prior_mean: float) -> ArmBelief:
        """Means and weights of `(n,)` titles, prior included."""
        successes, failures = self._parameters(items, prior_mean)
        weights = successes + failures
        return ArmBelief(successes / weights, weights)

    @property
    def tables(self) -> tuple[Items, NDArray[np.float64], float]:
        """Titles, `(N_SETS, N_WAYS, 2)` answers and the weight of the prior, for compiled code."""
        return self._items, self._answers, self._strength

    def _parameters(
        self, items: NDArray[np.uint64], prior_mean: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        found = np.zeros((len(items), 2))
        posteriors(items, self._items, self._answers, self._strength, prior_mean, found)
        return found[:, 0], found[:, 1]


@compiled
def posteriors(
    wanted: NDArray[np.uint64],
    items: Items,
    answers: NDArray[np.float64],
    strength: float,
    prior_mean: float,
    found: NDArray[np.float64],
) -> None:
    """Fills `found`, `(n, 2)`: successes and failures of each title's Beta, prior included.

    O(1) a title; `items`, `answers` and `strength` are the policy's tables.
    """
    mean = min(max(prior_mean, 0.01), 0.99)  # a Beta needs some of both
    for i in range(len(wanted)):
        row = _set_of(wanted[i])
        way = _way_of(items[row], wanted[i])
        won, lost = strength * mean, strength * (1.0 - mean)
        if way != ABSENT:
            won, lost = won + answers[row, way, 0], lost + answers[row, way, 1]
        found[i, 0], found[i, 1] = max(won, LEAST), max(lost, LEAST)
