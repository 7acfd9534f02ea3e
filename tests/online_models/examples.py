"""Outcomes to learn from, and bounds for shares of draws."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.decision_context import N_CONTEXTS
from features.outcomes import NO_CONTEXT, NO_ROLLBACK, OUTCOME, UNKNOWN_ARM
from features.ranking import N_COLUMNS
from features.vocabulary import N_ARMS, Arm
from features.windows import DAY_MS
from online_models.forgetting import HALF_LIFE_MS

Outcomes = NDArray[np.void]
AT_MS = 1_000 * HALF_LIFE_MS  # a landmark: answers of this moment weigh one
BEST = Arm.TRENDING


def outcomes(n: int = 1, **fields: Any) -> Outcomes:
    """`(n,) OUTCOME`: unanswered slots of one moment, context and arm, except for given fields."""
    made = np.zeros(n, OUTCOME)
    made["rollback_to"], made["decided_at_ms"], made["arm"] = NO_ROLLBACK, AT_MS, BEST
    made["item"], made["propensity"], made["item_propensity"] = 1, 1.0, 1.0
    for name, value in fields.items():
        made[name] = value
    return made


def planted(rng: np.random.Generator, n: int, context: Any = None) -> Outcomes:
    """Gains of 0.3 an answer for the best arm, 0.1 for the others; all contexts and arms alike."""
    arms = rng.integers(0, N_ARMS, n)
    rates = np.where(arms == BEST, 0.3, 0.1)
    features = rng.random((n, N_COLUMNS), np.float32)
    return outcomes(
        n,
        arm=arms,
        context=rng.integers(0, N_CONTEXTS, n) if context is None else context,
        reward=rng.random(n) < rates,
        item=rng.integers(1, 50, n),
        has_features=True,
        features=features,
    )


def standard_error(share: float, n: int) -> float:
    """Of a share of n even draws, and a little for shares near none or all."""
    return float(np.sqrt(max(share * (1.0 - share), 1.0 / n) / n))


@st.composite
def _outcome(draw: st.DrawFn) -> Outcomes:
    return outcomes(
        arm=draw(st.sampled_from([*Arm, UNKNOWN_ARM])),
        context=draw(st.one_of(st.integers(0, N_CONTEXTS - 1), st.just(NO_CONTEXT))),
        reward=draw(st.floats(-1, 1, width=32)),
        previous_reward=draw(st.floats(-1, 1, width=32)),
        revision=draw(st.integers(0, 2)),
        item=draw(st.integers(0, 20)) * 1_024,
        decided_at_ms=AT_MS + draw(st.integers(-3, 30)) * DAY_MS + draw(st.integers(0, DAY_MS)),
        has_features=draw(st.booleans()),
        features=draw(st.floats(0, 2, width=32)),
    )


logs = st.lists(_outcome(), max_size=40).map(
    lambda made: np.concatenate(made) if made else outcomes(0)
)
