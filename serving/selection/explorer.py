"""Gives each slot of a slate to an arm, and tells with what probability it did.

Most slots go to the base arm (the ranker, or the charts where nothing is known of the viewer). With
the probability `share` a slot is one to explore: the policy gives it to an arm, by what it believes
of the arms in the context of the decision. Within an arm the best candidate left is taken; in the
arms of titles that few have seen, one of the best is drawn by what is believed of each.

The propensity of a slot's arm a is (1 - share) [a is the base] + share P(a), where P(a) is the part
of the policy's draws that a wins among the arms that still have a candidate: the very chance with
which it was drawn, not an estimate. That of the item is told apart, given the arm.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import Row
from features.decision_context import context_of
from features.model_snapshot import Arrays
from features.vocabulary import Arm
from online_models.bandits import BanditState, policy_of
from online_models.base import ArmBelief, Draws, Policy
from online_models.item_arms import ItemPolicy
from online_models.situation import situation_of
from serving.retrieval.base import Candidates
from serving.selection.arms import arm_bits
from serving.selection.slots import fill_slots, new_slate, shortlist, take

DRAWN_ITEMS: Final = 1 << Arm.LONG_TAIL | 1 << Arm.NEW  # arms whose titles are drawn as well
N_SHORTLIST: Final = 16  # of an arm's candidates, among which an item is drawn
N_ITEM_DRAWS: Final = 128
LOOK_AT_SITUATION: Final = frozenset({"linear_thompson", "linucb"})  # others: the context alone

Places = NDArray[np.int64]


@dataclass(slots=True)
class Plan:
    """What stands in each slot, best first: places among the candidates, and the chances."""

    places: list[int] = field(default_factory=list)
    arms: list[Arm] = field(default_factory=list)
    propensities: list[float] = field(default_factory=list)
    item_propensities: list[float] = field(default_factory=list)
    context: int = 0
    belief: ArmBelief | None = None  # None: no policy was asked


def certain_plan(order: Places, count: int, base: Arm, context: int) -> Plan:
    """The first `count` of `order`, without chance."""
    places = order[:count].tolist()
    n = len(places)
    return Plan(places, [base] * n, [1.0] * n, [1.0] * n, context)


@dataclass(frozen=True, slots=True)
class Beliefs:
    """What a version of learned state says of arms and of titles."""

    policy: Policy
    items: ItemPolicy
    known: dict[int, "Known"] = field(default_factory=dict)  # by context, where that is all

    @classmethod
    def of(cls, policy: str, arrays: Arrays) -> "Beliefs":
        """From the arrays of a `BanditState`. Raises SnapshotError."""
        return cls(policy_of(policy, arrays), ItemPolicy.of(arrays))

    @classmethod
    def none_yet(cls, policy: str) -> "Beliefs":
        """Before anything was learnt."""
        return cls.of(policy, BanditState().arrays())


Known = tuple[Draws, ArmBelief]


class Explorer:
    """Chooses for one request at a time, by the beliefs that it is given with it."""

    def __init__(self, share: float, rng: np.random.Generator) -> None:
        self._share = share
        self._rng = rng

    def warm_up(self, beliefs: Beliefs) -> None:
        """Has compiled what only some slates need: titles that are drawn."""
        bits, order = np.full(2, 1 << Arm.NEW, np.uint16), np.arange(2)
        state = new_slate(bits, 1)
        places = shortlist(state, int(Arm.NEW), bits, order, N_SHORTLIST)
        self._item_chances(beliefs, np.arange(1, 3, dtype=np.uint64), 0.5)
        take(state, 0, int(places[0]), bits)

    def plan(
        self,
        beliefs: Beliefs,
        row: Row,
        now_ms: int,
        found: Candidates,
        ids: NDArray[np.uint64],
        order: Places,
        count: int,
        base: Arm,
    ) -> Plan:
        """Fills up to `count` slots from the candidates in `order`; `ids` are by catalogue slot.

        O(candidates) for the sets of the arms; for each slot a look at those that are left.
        """
        context = context_of(row, now_ms)
        draws, belief = self._known(beliefs, context, found)
        bits = arm_bits(found)
        state = new_slate(bits, min(count, found.n))
        chances = self._rng.random((len(state.places), 2))
        item_chances = np.ones(len(state.places))
        slot = 0
        while (
            slot := fill_slots(
                state, slot, bits, order, draws, chances, self._share, int(base), DRAWN_ITEMS
            )
        ) < len(state.places):
            arm = int(state.arms[slot])
            places = shortlist(state, arm, bits, order, N_SHORTLIST)
            odds = self._item_chances(beliefs, ids[found.slots[places]], float(belief.means[arm]))
            chosen = int(self._rng.choice(len(places), p=odds))
            item_chances[slot] = odds[chosen]
            take(state, slot, int(places[chosen]), bits)
            slot += 1
        return Plan(
            state.places.tolist(),
            [Arm(arm) for arm in state.arms.tolist()],
            state.propensities.tolist(),
            item_chances.tolist(),
            context,
            belief,
        )

    def _item_chances(
        self, beliefs: Beliefs, ids: NDArray[np.uint64], mean: float
    ) -> NDArray[np.float64]:
        """How often each title is the best of an arm's shortlist, by what is believed of titles."""
        draws = beliefs.items.draws(ids, mean, self._rng, N_ITEM_DRAWS)
        wins = np.bincount(draws.argmax(axis=1), minlength=len(ids))
        chances: NDArray[np.float64] = wins / len(draws)
        return chances

    def _known(self, beliefs: Beliefs, context: int, found: Candidates) -> Known:
        """Draws and belief; where the context is all that a policy sees, made once a version."""
        known = beliefs.known.get(context)
        if known is None:
            policy, situation = beliefs.policy, situation_of(context, found.features[0])
            draws = np.ascontiguousarray(policy.draws(context, situation, self._rng))
            known = draws, policy.belief(context, situation)
            if policy.name not in LOOK_AT_SITUATION:
                beliefs.known[context] = known
        return known
