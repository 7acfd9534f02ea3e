"""How servers make of a version of learned state what answers need; without River."""

from collections.abc import Callable, Mapping
from typing import Any

from features.model_snapshot import Arrays
from online_models.base import BANDITS, CLICKS, RATES
from online_models.click_scorer import ClickScorer
from online_models.rates import ArmRates
from serving.model_mirror import LearnedState
from serving.overlay import Overlay
from serving.selection.explorer import Beliefs


def readers(policy: str) -> Mapping[str, Callable[[Arrays], Any]]:
    """How each part is made of its arrays. They raise SnapshotError."""
    return {
        RATES: ArmRates.of,
        BANDITS: lambda arrays: Beliefs.of(policy, arrays),
        CLICKS: ClickScorer.of,
    }


def overlay_of(state: LearnedState) -> Overlay:
    """A version as requests use it."""
    return Overlay(state.sequence, state.parts[BANDITS], state.parts[CLICKS])
