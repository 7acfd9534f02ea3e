"""Segments of outcomes: all, each part of the decision's context, each arm."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import Rows
from features.decision_context import N_CONTEXTS, PARTS, RADICES
from features.vocabulary import ARM_NAMES, N_ARMS

_KINDS = ("stage", "session", "saturation", "time", "week")
SEGMENTS: Final = (
    "all",
    *(f"{kind}:{name}" for kind, names in zip(_KINDS, PARTS, strict=True) for name in names),
    *(f"arm:{name}" for name in ARM_NAMES),
)
N_SEGMENTS: Final = len(SEGMENTS)
N_KINDS: Final = 1 + len(_KINDS) + 1  # segments that one outcome lies in
_STARTS = np.cumsum([1, *RADICES])
UNKNOWN: Final = -1

Segments = NDArray[np.int64]  # (n, N_KINDS) places in SEGMENTS, or UNKNOWN


def segments_of(outcomes: Rows) -> Segments:
    """The segments that each of `(n,) OUTCOME` records lies in.

    >>> from features.outcomes import OUTCOME
    >>> outcomes = np.zeros(1, OUTCOME)
    >>> [SEGMENTS[k] for k in segments_of(outcomes)[0]]  # doctest: +NORMALIZE_WHITESPACE
    ['all', 'stage:new', 'session:start', 'saturation:open', 'time:night', 'week:weekday',
     'arm:ranker']
    """
    found = np.zeros((len(outcomes), N_KINDS), np.int64)
    code = outcomes["context"].astype(np.int64)
    for k in reversed(range(len(RADICES))):
        found[:, 1 + k] = _STARTS[k] + code % RADICES[k]
        code = code // RADICES[k]
    found[outcomes["context"] >= N_CONTEXTS, 1:-1] = UNKNOWN
    arms = outcomes["arm"].astype(np.int64)
    found[:, -1] = np.where(arms < N_ARMS, _STARTS[-1] + arms, UNKNOWN)
    return found
