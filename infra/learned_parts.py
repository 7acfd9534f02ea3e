"""What is learnt: the parts of learned state, as the learner moves them and servers read them.

A part stands here once, under one name, which is the name space of its arrays in versions.
"""

from collections.abc import Callable, Mapping
from typing import Any

from features.model_snapshot import Arrays
from online_models.bandits import BanditState
from online_models.base import Learns
from online_models.click_learning import ClickLearner
from online_models.click_scorer import ClickScorer
from online_models.rates import ArmRates

RATES, BANDITS, CLICKS = "rates", "bandits", "clicks"


def learners() -> Mapping[str, Learns]:
    """New parts, as the learner begins without any version."""
    return {RATES: ArmRates(), BANDITS: BanditState(), CLICKS: ClickLearner()}


def readers() -> Mapping[str, Callable[[Arrays], Any]]:
    """How servers make each part of the arrays of a version. They raise SnapshotError."""
    return {RATES: ArmRates.of, BANDITS: _bandits, CLICKS: ClickScorer.of}


def _bandits(arrays: Arrays) -> Arrays:
    """The evidence of all policies, as `policy_of` takes it, once it is known to be whole."""
    BanditState().restore(arrays)
    return arrays
