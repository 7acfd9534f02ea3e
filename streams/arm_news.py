"""What learning believes of the arms, and what became of their slots, as metrics."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from features.compiled import Rows
from features.decision_context import CONTEXT_NAMES, N_CONTEXTS
from features.outcomes import NO_ROLLBACK
from features.vocabulary import ARM_NAMES, N_ARMS
from online_models.bandits import policy_of
from online_models.base import BANDITS, RATES, Learns
from online_models.situation import N_SITUATION
from streams import metrics

TELL_EVERY_S: Final = 5.0
MOST_CONTEXTS: Final = 8
ALL: Final = "all"
UNKNOWN: Final = "unknown"
FATES: Final = ("ignored", "clicked", "corrected")


class HasSlots(Protocol):
    """The part of learned state that counts slots."""

    slots: NDArray[np.int64]  # by context and arm


class ArmNews:
    """Call it after each batch; beliefs are told every five seconds, which takes some 3 ms."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._told_s = float("-inf")
        self._told: set[tuple[str, str]] = set()

    def __call__(self, parts: Mapping[str, Learns]) -> None:
        """Tells of the eight contexts with the most slots, and of all together."""
        if self._monotonic_s() - self._told_s < TELL_EVERY_S:
            return
        self._told_s = self._monotonic_s()
        policy = policy_of("thompson", parts[BANDITS].arrays())
        slots = cast("HasSlots", parts[RATES]).slots[:N_CONTEXTS].sum(axis=1)
        busiest = np.argsort(-slots, kind="stable")[:MOST_CONTEXTS]
        codes = {CONTEXT_NAMES[code]: code for code in busiest.tolist() if slots[code]}
        told = set()
        for name, code in {**codes, ALL: N_CONTEXTS}.items():
            means = policy.belief(code, np.zeros(N_SITUATION)).means
            for arm, mean in zip(ARM_NAMES, means.tolist(), strict=True):
                metrics.ARM_MEAN.labels(arm, name).set(mean)
                told.add((arm, name))
        for gone in self._told - told:
            metrics.ARM_MEAN.remove(*gone)
        self._told = told


def count_slots(records: Rows) -> None:
    """Counts what became of slots, by arm; records of the log of learning. O(n)."""
    outcomes = records[records["rollback_to"] == NO_ROLLBACK]
    arms = np.minimum(outcomes["arm"].astype(np.int64), N_ARMS)
    fates = np.where(outcomes["revision"] > 0, 2, outcomes["label"].astype(np.int64))
    counts = np.bincount(arms * len(FATES) + fates, minlength=(N_ARMS + 1) * len(FATES))
    for place in np.flatnonzero(counts).tolist():
        arm, fate = divmod(place, len(FATES))
        name = ARM_NAMES[arm] if arm < N_ARMS else UNKNOWN
        metrics.ARM_SLOTS.labels(name, FATES[fate]).inc(int(counts[place]))
