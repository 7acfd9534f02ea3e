"""What was learnt from outcomes, as one request uses it: over the bundle, swapped by reference."""

from dataclasses import dataclass

from online_models.click_scorer import ClickScorer
from serving.selection.explorer import Beliefs


@dataclass(frozen=True, slots=True)
class Overlay:
    """A version of learned state, ready for answers."""

    sequence: int  # 0: nothing was learnt yet
    beliefs: Beliefs
    clicks: ClickScorer | None = None
