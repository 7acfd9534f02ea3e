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
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import Row
from features.decision_context import context_of
from features.model_snapshot import Arrays
from features.vocabulary import N_ARMS, Arm
from online_models.bandits import BanditState, policy_of
from online_models.base import ArmBelief, Draws, Policy
from online_models.item_arms import ItemPolicy
from online_models.propensity import win_shares
from online_models.situation import situation_of
from serving.retrieval.base import Candidates
from serving.selection.arms import Bits, arm_bits

EXPLORING_ITEMS: Final = frozenset({Arm.LONG_TAIL, Arm.NEW})
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

    def add(self, place: int, arm: Arm, propensity: float, item_propensity: float = 1.0) -> None:
        """Fills the next slot."""
        self.places.append(place)
        self.arms.append(arm)
        self.propensities.append(propensity)
        self.item_propensities.append(item_propensity)


def certain_plan(order: Places, count: int, base: Arm, context: int) -> Plan:
    """The first `count` of `order`, without chance."""
    plan = Plan(context=context)
    for place in order[:count].tolist():
        plan.add(place, base, 1.0)
    return plan


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
        plan = Plan(context=context, belief=belief)
        slate = _Slate(arm_bits(found), order, draws)
        for explores in (self._rng.random(count) < self._share)[: found.n].tolist():
            shares = slate.shares()
            base = base if slate.has(base) else Arm.RANKER
            arm = slate.drawn(self._rng) if explores else base
            propensity = self._share * float(shares[arm]) + (1.0 - self._share) * (arm == base)
            place, item_propensity = slate.best(arm), 1.0
            if arm in EXPLORING_ITEMS and arm != base:
                shortlist = slate.shortlist(arm)
                chances = self._item_chances(
                    beliefs, ids[found.slots[shortlist]], float(belief.means[arm])
                )
                chosen = int(self._rng.choice(len(shortlist), p=chances))
                place, item_propensity = shortlist[chosen], float(chances[chosen])
            slate.take(place)
            plan.add(place, arm, propensity, item_propensity)
        return plan

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
            draws = policy.draws(context, situation, self._rng)
            known = draws, policy.belief(context, situation)
            if policy.name not in LOOK_AT_SITUATION:
                beliefs.known[context] = known
        return known


class _Slate:
    """The candidates of each arm that are left, while a slate is filled."""

    def __init__(self, bits: Bits, order: Places, draws: Draws) -> None:
        self._bits = bits
        self._order = order
        self._draws = draws
        self._taken: set[int] = set()
        self._lists: dict[Arm, list[int]] = {}
        self._left = [int(np.count_nonzero(bits & np.uint16(1 << arm))) for arm in Arm]
        self._shares: NDArray[np.float64] | None = None

    def has(self, arm: Arm) -> bool:
        """Whether the arm has a candidate left."""
        return self._left[arm] > 0

    def shares(self) -> NDArray[np.float64]:
        """The chance of each arm; looked at anew when one has run out."""
        if self._shares is None:
            self._shares = win_shares(self._draws, np.array(self._left) > 0)
        return self._shares

    def drawn(self, rng: np.random.Generator) -> Arm:
        """An arm, with the chance that it has."""
        return Arm(int(np.searchsorted(np.cumsum(self.shares()), rng.random(), side="right")))

    def best(self, arm: Arm) -> int:
        """The arm's best candidate that is left."""
        return next(place for place in self._of(arm) if place not in self._taken)

    def shortlist(self, arm: Arm) -> list[int]:
        """The best few of them."""
        left = (place for place in self._of(arm) if place not in self._taken)
        return list(islice(left, N_SHORTLIST))

    def take(self, place: int) -> None:
        """Takes a candidate out of every arm."""
        self._taken.add(place)
        bits = int(self._bits[place])
        for arm in range(N_ARMS):
            if bits >> arm & 1:
                self._left[arm] -= 1
                if self._left[arm] == 0:  # its share goes to others
                    self._shares = None

    def _of(self, arm: Arm) -> list[int]:
        if arm not in self._lists:
            members = self._bits[self._order] & np.uint16(1 << arm) != 0
            self._lists[arm] = self._order[members].tolist()
        return self._lists[arm]
