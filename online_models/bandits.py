"""The bandits together: one learner for what all policies need, and the policies by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from features.compiled import Rows
from features.model_snapshot import Arrays
from features.vocabulary import N_ARMS
from online_models.base import N_DRAWS, Policy
from online_models.baseline_arms import (
    EPSILON,
    UCB_WIDTH,
    EpsilonGreedyPolicy,
    StaticPolicy,
    Ucb1Policy,
    UniformPolicy,
)
from online_models.beta_arms import STRENGTH, BetaArms, ThompsonPolicy
from online_models.forgetting import HALF_LIFE_MS
from online_models.item_arms import ItemArms
from online_models.linear_arms import (
    RIDGE,
    SCALE,
    WIDTH,
    LinearArms,
    LinearThompsonPolicy,
    LinUcbPolicy,
)

EVEN_SHARES: Final = (1.0,) * N_ARMS


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """What policies can be told; each reads its own."""

    strength: float = STRENGTH  # thompson: answers that a parent's mean stands for
    scale: float = SCALE  # linear_thompson: of the deviation of draws
    width: float = WIDTH  # linucb: of the confidence
    ridge: float = RIDGE  # linear_thompson, linucb
    epsilon: float = EPSILON  # epsilon_greedy: share of slots without preference
    ucb_width: float = UCB_WIDTH  # ucb1
    depth: int = 0  # epsilon_greedy, ucb1: parts of the context that they tell apart
    shares: tuple[float, ...] = EVEN_SHARES  # static: of the arms, in the order of Arm
    n_draws: int = N_DRAWS  # all: rows of draws; propensities are multiples of 1 / n_draws


DEFAULT_OPTIONS: Final = PolicyOptions()


class BanditState:
    """The evidence of all policies, by arm and context, arm and situation, and title. `Learns`.

    `is_net`: a loss takes a gain back instead of counting as a failure, see `forgetting`.
    """

    def __init__(self, half_life_ms: int = HALF_LIFE_MS, is_net: bool = False) -> None:
        self._beta = BetaArms(half_life_ms, is_net)
        self._linear = LinearArms(half_life_ms)
        self._items = ItemArms(half_life_ms, is_net)

    @property
    def counts(self) -> Mapping[str, int]:
        """Outcomes learnt and outcomes skipped for want of a known arm or context."""
        return self._beta.counts

    def learn(self, outcomes: Rows) -> None:
        """Takes in `(n,) OUTCOME` records in their order, a batch of any size alike."""
        self._beta.learn(outcomes)
        self._linear.learn(outcomes)
        self._items.learn(outcomes)

    def arrays(self) -> Arrays:
        """Those of the three parts side by side, about 350 kB."""
        return {**self._beta.arrays(), **self._linear.arrays(), **self._items.arrays()}

    def restore(self, arrays: Arrays) -> None:
        """The state of `arrays()` at that moment, bit for bit. Raises SnapshotError, unchanged."""
        parts = BetaArms(), LinearArms(), ItemArms()
        for part in parts:
            part.restore(arrays)
        self._beta, self._linear, self._items = parts


POLICIES: Final[Mapping[str, Callable[[Arrays, PolicyOptions], Policy]]] = {
    "thompson": lambda arrays, given: ThompsonPolicy.of(arrays, given.strength, given.n_draws),
    "linear_thompson": lambda arrays, given: LinearThompsonPolicy.of(
        arrays, given.scale, given.ridge, given.n_draws
    ),
    "linucb": lambda arrays, given: LinUcbPolicy.of(
        arrays, given.width, given.ridge, given.n_draws
    ),
    "epsilon_greedy": lambda arrays, given: EpsilonGreedyPolicy.of(
        arrays, given.epsilon, given.depth, given.n_draws
    ),
    "ucb1": lambda arrays, given: Ucb1Policy.of(
        arrays, given.ucb_width, given.depth, given.n_draws
    ),
    "static": lambda _, given: StaticPolicy(given.shares, given.n_draws),
    "uniform": lambda _, given: UniformPolicy(given.n_draws),
}


def policy_of(name: str, arrays: Arrays, options: PolicyOptions = DEFAULT_OPTIONS) -> Policy:
    """The policy of that name over `BanditState.arrays()`; a new state's where nothing is learnt.

    Raises ValueError for an unknown name, SnapshotError for arrays that are not a state's.
    """
    make = POLICIES.get(name)
    if make is None:
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}; got {name}")
    return make(arrays, options)
