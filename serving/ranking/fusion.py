"""Late fusion: one score of what the ranker, the click model and the watch model say of a title.

    score = w_ranker (ranker - mean) / deviation + w_click logit P(click) + w_watch share

The weights are those of the bundle, fitted on logged exposures (offline/fusion.py); the models
behind `click` and `watch` learn on meanwhile. Without learned models their parts are left out.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.bundle_format import MANIFEST, BundleError

SUREST: Final = 1e-6  # probabilities are held this far from 0 and 1

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fusion:
    """Weights of the parts, and what the ranker's scores are like. Immutable.

    >>> Fusion().scores(np.array([0.5, -1.0]))
    array([ 0.5, -1. ])
    """

    ranker: float = 1.0
    click: float = 0.0
    watch: float = 0.0
    ranker_mean: float = 0.0
    ranker_deviation: float = 1.0

    @classmethod
    def of(cls, weights: Mapping[str, float]) -> "Fusion":
        """As a manifest has it; an empty one is the ranker alone. Raises BundleError."""
        odd = sorted(set(weights) - {f.name for f in fields(cls)})
        if odd:
            raise BundleError(f"{MANIFEST} must have known weights of fusion; see {', '.join(odd)}")
        found = cls(**weights)
        for name, value in asdict(found).items():
            if not math.isfinite(value) or (name != "ranker_mean" and value < 0):
                raise BundleError(
                    f"{MANIFEST} must have a finite fusion.{name} of at least 0; got {value}"
                )
        if found.ranker_deviation == 0:
            raise BundleError(f"{MANIFEST} must have a fusion.ranker_deviation above 0; got 0")
        return found

    @property
    def asks_models(self) -> bool:
        """Whether learned models have a say."""
        return self.click > 0.0 or self.watch > 0.0

    def scores(
        self,
        ranker: Floats,
        click_probabilities: Floats | None = None,
        watch_shares: Floats | None = None,
    ) -> Floats:
        """`(n,)` scores of `(n,)` parts; larger is better."""
        found = self.ranker / self.ranker_deviation * (ranker - self.ranker_mean)
        if click_probabilities is not None and self.click > 0.0:
            found += self.click * logits(click_probabilities)
        if watch_shares is not None and self.watch > 0.0:
            found += self.watch * watch_shares
        return np.asarray(found)


RANKER_ALONE: Final = Fusion()


def logits(probabilities: Floats) -> Floats:
    """ln(p / (1 - p)), finite for all.

    >>> logits(np.array([0.5])).tolist()
    [0.0]
    """
    held = np.clip(probabilities, SUREST, 1.0 - SUREST)
    return np.asarray(np.log(held / (1.0 - held)))
