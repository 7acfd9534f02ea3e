"""What chance and belief bring to a slate: which slots explore, and what is believed of arms.

Most slots go to the base arm (the ranker, or the charts where nothing is known of the viewer). With
the probability `share` a slot is one to explore: the policy gives it to an arm, by what it believes
of the arms in the context of the decision. Within an arm the title is taken that adds most to the
slate; in the arms of titles that few have seen, one of the best is drawn by what is believed of
each. Viewers in their first days explore more: of them less is known than of anybody.

The propensity of a slot's arm a is (1 - share) [a is the base] + share P(a), where P(a) is the part
of the policy's draws that a wins among the arms that still have a candidate: the very chance with
which it was drawn, not an estimate. `share` is that of the viewer's stage of life, which is a part
of the logged context. The propensity of the title is told apart, given the arm.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.decision_context import parent
from features.model_snapshot import Arrays
from features.user_habits import NEW
from features.vocabulary import N_ARMS
from online_models.bandits import BanditState, policy_of
from online_models.base import ArmBelief, Draws, Policy
from online_models.item_arms import ItemPolicy
from online_models.situation import situation_of
from serving.selection.slots import N_CHANCES, N_SETS

LOOK_AT_SITUATION: Final = frozenset({"linear_thompson", "linucb"})  # others: the context alone

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Plan:
    """What stands in each slot, best first: places among the candidates, and the chances."""

    places: list[int] = field(default_factory=list)
    arms: list[int] = field(default_factory=list)  # an Arm, or slots.PINNED
    propensities: list[float] = field(default_factory=list)
    item_propensities: list[float] = field(default_factory=list)
    context: int = 0
    belief: ArmBelief | None = None  # None: no policy was asked
    diversity: float = 0.0  # mean of 1 - cosine over pairs
    genre_entropy: float = 0.0  # bits


@dataclass(frozen=True, slots=True)
class Known:
    """What a policy holds of the arms in one context."""

    draws: Draws
    belief: ArmBelief
    means: Floats  # (N_ARMS,) of the belief
    shares: Floats  # (N_SETS, N_ARMS) won by each arm, by the set of arms left; worked out as met

    @classmethod
    def of(cls, draws: Draws, belief: ArmBelief) -> "Known":
        """Nothing is worked out yet."""
        means = np.array(belief.means, np.float64)
        return cls(np.ascontiguousarray(draws), belief, means, np.zeros((N_SETS, N_ARMS)))


@dataclass(frozen=True, slots=True)
class Beliefs:
    """What a version of learned state says of arms and of titles."""

    policy: Policy
    items: ItemPolicy
    known: dict[int, Known] = field(default_factory=dict)  # by context, where that is all

    @classmethod
    def of(cls, policy: str, arrays: Arrays) -> "Beliefs":
        """From the arrays of a `BanditState`. Raises SnapshotError."""
        return cls(policy_of(policy, arrays), ItemPolicy.of(arrays))

    @classmethod
    def none_yet(cls, policy: str) -> "Beliefs":
        """Before anything was learnt."""
        return cls.of(policy, BanditState().arrays())


def nothing_known() -> Known:
    """Where no policy is asked: no slot explores."""
    return Known.of(np.zeros((1, N_ARMS)), ArmBelief(np.zeros(N_ARMS), np.zeros(N_ARMS)))


class Explorer:
    """Chances of one request at a time; `share_new` is that of viewers whose stage is new."""

    def __init__(
        self, share: float, rng: np.random.Generator, share_new: float | None = None
    ) -> None:
        self._shares = share, share if share_new is None else share_new
        self._rng = rng

    def share(self, context: int) -> float:
        """The probability with which a slot explores in a context."""
        return self._shares[parent(context, 1) == NEW]

    def chances(self, n_slots: int) -> Floats:
        """`(n_slots, N_CHANCES)`, even in 0..1: what slots are given out by."""
        return self._rng.random((n_slots, N_CHANCES))

    def known(self, beliefs: Beliefs, context: int, features: NDArray[np.float32]) -> Known:
        """Draws and belief; where the context is all that a policy sees, made once a version.

        `features` are those of any candidate: what a policy sees of them is the viewer's.
        """
        known = beliefs.known.get(context)
        if known is None:
            policy, situation = beliefs.policy, situation_of(context, features)
            known = Known.of(
                policy.draws(context, situation, self._rng), policy.belief(context, situation)
            )
            if policy.name not in LOOK_AT_SITUATION:
                beliefs.known[context] = known
        return known
