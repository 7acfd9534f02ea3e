"""Outcomes: what became of the slots of served slates, and the record of a batch of them.

The topic `outcomes` is the log of learning. It has one partition, so there is one order, and
learned state is a function of its first n records. Beside outcomes it holds orders to go back to an
earlier version: they too are part of what learned state is a function of.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from features.ranking import N_COLUMNS
from features.vocabulary import Arm

NO_ANSWER_MS: Final = -1
UNKNOWN_SHARE: Final = -1.0
NO_CONTEXT: Final = 65_535
NO_ROLLBACK: Final = -1
UNKNOWN_ARM: Final = 255

OUTCOME = np.dtype(
    [
        ("request", "u8"),  # hashes of the ids
        ("user", "u8"),  # of account and profile, as in EVENT
        ("item", "u8"),
        ("offset", "i8"),  # in the log of learning
        ("served_at_ms", "i8"),
        ("decided_at_ms", "i8"),
        ("delay_ms", "i8"),  # to the first answer; NO_ANSWER_MS
        ("model_sequence", "i8"),
        ("rollback_to", "i8"),  # NO_ROLLBACK: an outcome; else the record is an order, and no more
        ("reward", "f8"),  # -1..1
        ("previous_reward", "f8"),
        ("propensity", "f8"),
        ("item_propensity", "f8"),
        ("watch_share", "f4"),  # 0..1, or UNKNOWN_SHARE
        ("slot", "i2"),
        ("context", "u2"),  # a code of features.decision_context, or NO_CONTEXT
        ("arm", "u1"),  # an Arm, or UNKNOWN_ARM
        ("revision", "u1"),
        ("label", "?"),
        ("previous_label", "?"),
        ("has_features", "?"),  # they are there, and of this process's feature version
        ("features", "f4", (N_COLUMNS,)),
    ],
    align=True,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one slot, at the edges. Times in milliseconds since 1970 UTC."""

    request_id: str
    slot: int
    user_id: str
    item_id: str
    label: bool
    reward: float
    profile_id: str = ""
    watch_share: float = UNKNOWN_SHARE
    delay_ms: int = NO_ANSWER_MS
    revision: int = 0
    previous_label: bool = False
    previous_reward: float = 0.0
    source: str = ""
    arm: str = Arm.RANKER.name.lower()
    propensity: float = 1.0
    item_propensity: float = 1.0
    decision_context: str = ""
    served_at_ms: int = 0
    decided_at_ms: int = 0
    model_sequence: int = 0
    feature_version: str = ""
    bundle_version: str = ""
    features: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Rollback:
    """An order to learners: the state of version `to_sequence`, and on from there."""

    to_sequence: int
    reason: str = ""
    ordered_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Drift:
    """That viewers, or the models' fit, changed. The same log gives the same drifts."""

    what: str  # log_loss, label_rate or share
    segment: str
    offset: int  # in the log of learning, of the last outcome before it was found
    before: float  # mean since its detector began
    after: float  # mean of late
