"""What linear policies see of a decision: one function, for learning and for serving.

The parts of the context as one-hot digits, a one for the intercept, and what the logged features
say of the viewer, which is the same in the rows of all candidates. All between 0 and 1.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from features.decision_context import N_CONTEXTS, PARTS, RADICES
from features.ranking import RANKING_COLUMNS
from online_models.base import Situation

SHARES: Final = (  # columns between 0 and 1 as they are
    "viewer_new_share", "viewer_long_tail_share", "user_diversity", "user_completion_habit",
)  # fmt: skip
EVENTS: Final = "viewer_events"
EVENTS_SCALE: Final = 10.0  # e ** 10 events and more are one

SITUATION_COLUMNS: Final = (
    "one",
    *(name for part in PARTS for name in part),
    *SHARES,
    "viewer_events_log",
)
N_SITUATION: Final = len(SITUATION_COLUMNS)

_SHARES_AT = 1 + sum(RADICES)
_SHARE_PLACES = np.array([RANKING_COLUMNS.index(name) for name in SHARES], np.int64)
_EVENTS_PLACE = RANKING_COLUMNS.index(EVENTS)


@compiled
def fill_situation(
    context: int, features: NDArray[np.float32], has_features: bool, out: Situation
) -> None:
    """Fills `out`, `(N_SITUATION,)`, from a context's code and a `(N_COLUMNS,)` feature vector.

    Without features what they say is zero; so are the digits of an unknown context. Pure.
    """
    out[:] = 0.0
    out[0] = 1.0
    if context < N_CONTEXTS:
        end = _SHARES_AT
        for part in range(len(RADICES) - 1, -1, -1):
            end -= RADICES[part]
            out[end + context % RADICES[part]] = 1.0
            context //= RADICES[part]
    if has_features:
        for k in range(len(_SHARE_PLACES)):
            out[_SHARES_AT + k] = _within(features[_SHARE_PLACES[k]])
        events = max(features[_EVENTS_PLACE], np.float32(0.0))
        out[_SHARES_AT + len(_SHARE_PLACES)] = _within(math.log(1.0 + events) / EVENTS_SCALE)


@compiled
def _within(share: float) -> float:
    """A share held to 0..1; zero for NaN."""
    return min(max(share, 0.0), 1.0) if share == share else 0.0  # noqa: PLR0124


def situation_of(context: int, features: NDArray[np.float32] | None = None) -> Situation:
    """`(N_SITUATION,)` for a decision; `features` is any candidate's row, `(N_COLUMNS,)`."""
    out = np.zeros(N_SITUATION)
    if features is None:
        fill_situation(context, _NO_FEATURES, False, out)
    else:
        fill_situation(context, features, True, out)
    return out


_NO_FEATURES = np.zeros(len(RANKING_COLUMNS), np.float32)
