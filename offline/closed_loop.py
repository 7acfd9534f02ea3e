"""A policy in a closed loop: it fills slates, viewers answer, it learns, and so on.

Time is virtual. An answer is known when the viewer has given it (or after 30 s of silence), and
learnt after the delay of updates on top of that; what is learnt is published at steps of time, and
serves from then on. Nothing else differs between two runs over one world: who asks when, and every
chance, is the same (common random numbers), so policies are compared pair by pair.

Regret is counted slot by slot, and exactly: the expected reward of the best arm's next title, less
that of the title shown, in the state to which this policy has led the viewer.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.decision_context import N_CONTEXTS
from features.ids import id_hashes
from features.model_snapshot import Arrays
from features.outcomes import NO_ANSWER_MS, NO_ROLLBACK, OUTCOME, UNKNOWN_SHARE
from features.vocabulary import N_ARMS
from offline.closed_loop_world import Answers, Floats, Ints, World
from online_models.base import ArmBelief, Draws, Learns, Policy, Situation
from online_models.propensity import alike, fill_slots
from online_models.situation import situation_of

N_LOOP_DRAWS: Final = 100  # rows of draws: ten slots need few, and tenths of them are whole
INDEX_BITS: Final = 24
FOREVER_MS: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Contender:
    """A policy as it learns: what is kept, and the policy that is made of it when it has moved."""

    name: str
    learner: Callable[[], Learns | None]
    policy: Callable[[Arrays], Policy]


@dataclass(frozen=True, slots=True)
class Freshness:
    """When answers begin to count."""

    delay_s: float = 0.0  # from an answer to learning from it
    publish_s: float = 1.0  # a new version serves at whole multiples of this; 0: at once

    def __post_init__(self) -> None:
        for name in ("delay_s", "publish_s"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"freshness.{name} must be 0 or more; got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class LoopResult:
    """What a policy came to, by decision: `(n_decisions,)`, or `(n_decisions, n_slots)`."""

    contexts: Ints
    arms: Ints
    opened: NDArray[np.bool_]
    rewards: Floats
    expected: Floats
    regret: Floats
    n_learnt: int  # outcomes, those behind the end included
    n_versions: int

    @property
    def mean_reward(self) -> float:
        """Of a slot, as it was earned."""
        return float(self.rewards.mean())

    def worth(self) -> tuple[Floats, Ints]:
        """`(N_CONTEXTS, N_ARMS)` mean expected rewards of slots by context and arm; how many."""
        places = (self.contexts[:, None] * N_ARMS + self.arms).ravel()
        sums = np.bincount(places, self.expected.ravel(), minlength=N_CONTEXTS * N_ARMS)
        counts = np.bincount(places, minlength=N_CONTEXTS * N_ARMS)
        means = sums / np.maximum(counts, 1)
        return means.reshape(N_CONTEXTS, N_ARMS), counts.reshape(N_CONTEXTS, N_ARMS)


class ContextTable:
    """The best arm of each context by a given table, `(N_CONTEXTS, N_ARMS)`. `Policy`."""

    name = "context_table"

    def __init__(self, values: Floats) -> None:
        self._values = values

    def draws(self, context: int, situation: Situation, rng: np.random.Generator) -> Draws:
        """Rows alike: the context's."""
        del situation
        return alike(self._values[context], rng, N_LOOP_DRAWS)

    def belief(self, context: int, situation: Situation) -> ArmBelief:
        """The table's row, as sure as can be."""
        del situation
        return ArmBelief(self._values[context], np.full(N_ARMS, np.inf))


class Pending:
    """Outcomes on their way to the learner, by the time at which they count."""

    def __init__(self, world: World) -> None:
        n, n_slots = len(world), world.config.n_slots
        self._due: list[int] = []  # time and index in one number
        self._schedule = world.schedule
        self._users = id_hashes([f"u{k}" for k in range(world.config.n_viewers)])
        self._items = id_hashes([f"i{k}" for k in range(len(world.titles.fame))])
        self._shape = n, n_slots
        self._columns = {
            name: np.zeros(self._shape, OUTCOME[name])
            for name in ("arm", "reward", "watch_share", "label", "delay_ms", "propensity")
        }
        self._title = np.zeros(self._shape, np.int32)
        self._context = np.zeros(n, np.uint16)

    def __len__(self) -> int:
        return len(self._due)

    def add(
        self, decision: int, context: int, arms: Ints, propensities: Floats, told: Answers,
        delay_ms: int,
    ) -> None:  # fmt: skip
        """The outcomes of a slate, each due `delay_ms` after the viewer's own delay."""
        self._context[decision] = context
        self._title[decision] = told.title
        self._columns["arm"][decision] = arms
        self._columns["propensity"][decision] = propensities
        self._columns["reward"][decision] = told.reward
        self._columns["label"][decision] = told.opened
        self._columns["watch_share"][decision] = told.watch_share
        self._columns["delay_ms"][decision] = told.delay_ms
        ready_ms = int(self._schedule.at_ms[decision]) + delay_ms
        first = decision * self._shape[1]
        for slot, own_ms in enumerate(told.delay_ms.tolist()):
            heapq.heappush(self._due, (ready_ms + own_ms) << INDEX_BITS | first + slot)

    def due(self, until_ms: int) -> NDArray[np.void]:
        """Takes out the outcomes due by then, `(n,) OUTCOME`, in the order in which they are."""
        bound = (until_ms + 1) << INDEX_BITS
        found = []
        while self._due and self._due[0] < bound:
            found.append(heapq.heappop(self._due) & ((1 << INDEX_BITS) - 1))
        return self._records(np.array(found, np.int64)) if found else np.zeros(0, OUTCOME)

    def _records(self, index: Ints) -> NDArray[np.void]:
        records = np.zeros(len(index), OUTCOME)
        decision, slot = np.divmod(index, self._shape[1])
        for name, column in self._columns.items():
            records[name] = column.reshape(-1)[index]
        records["slot"], records["offset"] = slot, index
        records["request"] = decision + 1
        records["context"] = self._context[decision]
        records["user"] = self._users[self._schedule.viewer[decision]]
        records["item"] = self._items[self._title.reshape(-1)[index]]
        records["served_at_ms"] = self._schedule.at_ms[decision]
        records["decided_at_ms"] = records["served_at_ms"] + records["delay_ms"]
        silent = ~records["label"]
        records["delay_ms"][silent] = NO_ANSWER_MS
        records["watch_share"][records["watch_share"] < 0] = UNKNOWN_SHARE
        records["rollback_to"] = NO_ROLLBACK
        return records


def run(
    world: World, contender: Contender, freshness: Freshness, rng: np.random.Generator
) -> LoopResult:
    """Runs a policy through all decisions of a world, which begins anew. 0.2 ms a decision."""
    return _Loop(world, contender, freshness).run(rng)


def run_oracle(world: World) -> LoopResult:
    """Each slot to whichever arm offers most: what no policy can earn more than, slot by slot."""
    return _Loop(world, None, Freshness()).run(np.random.default_rng(0))


class _Loop:
    """The state of one run."""

    def __init__(self, world: World, contender: Contender | None, freshness: Freshness) -> None:
        world.restart()
        self._world, self._contender = world, contender
        self._freshness = freshness
        self._learner = contender.learner() if contender else None
        self._pending = Pending(world)
        self._policy = self._published()
        self._n_learnt, self._n_versions = 0, 0
        self._plenty = np.full(N_ARMS, world.config.n_slots + 1)

    def run(self, rng: np.random.Generator) -> LoopResult:
        n, n_slots = len(self._world), self._world.config.n_slots
        contexts, arms = np.zeros(n, np.int64), np.zeros((n, n_slots), np.int64)
        opened = np.zeros((n, n_slots), np.bool_)
        rewards, expected, regret = (np.zeros((n, n_slots)) for _ in range(3))
        delay_ms = round(1_000 * self._freshness.delay_s)
        for k in range(n):
            self._learn(self._published_until(int(self._world.schedule.at_ms[k])))
            contexts[k] = context = self._world.context(k)
            arms[k], propensities = self._choose(context, rng)
            told = self._world.answer(k, arms[k])
            opened[k], rewards[k] = told.opened, told.reward
            expected[k], regret[k] = told.expected, told.regret
            if self._learner is not None:
                self._pending.add(k, context, arms[k], propensities, told, delay_ms)
        self._learn(FOREVER_MS)
        return LoopResult(
            contexts, arms, opened, rewards, expected, regret, self._n_learnt, self._n_versions
        )

    def _choose(self, context: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
        n_slots = self._world.config.n_slots
        if self._policy is None:
            return np.full(n_slots, -1), np.ones(n_slots)
        draws = self._policy.draws(context, situation_of(context), rng)
        return fill_slots(draws, self._plenty, n_slots, rng)

    def _published_until(self, now_ms: int) -> int:
        """The newest moment whose version serves now."""
        step_ms = round(1_000 * self._freshness.publish_s)
        return now_ms // step_ms * step_ms if step_ms else now_ms

    def _learn(self, until_ms: int) -> None:
        if self._learner is None:
            return
        outcomes = self._pending.due(until_ms)
        if len(outcomes):
            self._learner.learn(outcomes)
            self._n_learnt += len(outcomes)
            self._n_versions += 1
            self._policy = self._published()

    def _published(self) -> Policy | None:
        if self._contender is None:
            return None
        return self._contender.policy(self._learner.arrays() if self._learner else {})
