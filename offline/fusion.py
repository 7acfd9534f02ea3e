"""Fits the weights of late fusion on logged exposures.

A logistic regression of clicks on the three parts, none of which may count against a title: with
a log of what was served, the parts are what they said at the time, before the answer. The weights
make the sum a logit; `offline.calibration` makes probabilities of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

LEAST_ROWS: Final = 500  # exposures; with fewer, or all alike, the ranker speaks alone
SHRINKAGE: Final = 1e-3  # of the squares of the weights, an exposure
RANKER_ALONE: Final[Mapping[str, float]] = {"ranker": 1.0, "click": 0.0, "watch": 0.0}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Exposures:
    """What the parts said of each exposure before it was answered, and the answer, `(n,)` each."""

    ranker: Floats  # its score
    click: Floats  # the logit of the click model
    watch: Floats  # the expected watched share
    clicks: NDArray[np.bool_]
    weights: Floats | None = None  # such as inverse propensities of examination


def fit_fusion(exposures: Exposures) -> dict[str, float]:
    """The weights, as `serving.ranking.fusion.Fusion.of` takes them."""
    clicks = exposures.clicks.astype(np.float64)
    if len(clicks) < LEAST_ROWS or clicks.min() == clicks.max():
        return dict(RANKER_ALONE)
    mean, deviation = float(exposures.ranker.mean()), float(exposures.ranker.std()) or 1.0
    parts = np.column_stack(
        [(exposures.ranker - mean) / deviation, exposures.click, exposures.watch]
    )
    masses = np.ones(len(clicks)) if exposures.weights is None else exposures.weights
    masses = masses / masses.sum()
    found = minimize(
        _loss,
        np.array([0.1, 0.1, 0.1, 0.0]),
        (parts, clicks, masses),
        method="L-BFGS-B",
        jac=True,
        bounds=[(0.0, None)] * 3 + [(None, None)],
    ).x
    if not found[:3].any():
        return dict(RANKER_ALONE)
    ranker, click, watch = (float(weight) for weight in found[:3])
    return {
        "ranker": ranker, "click": click, "watch": watch,
        "ranker_mean": mean, "ranker_deviation": deviation,
    }  # fmt: skip


def _loss(weights: Floats, parts: Floats, clicks: Floats, masses: Floats) -> tuple[float, Floats]:
    """Log loss with shrinkage, and its gradient."""
    scores = parts @ weights[:3] + weights[3]
    lost = masses @ (np.logaddexp(0.0, scores) - clicks * scores)
    missed = masses * (1.0 / (1.0 + np.exp(-scores)) - clicks)
    shrunk = np.append(weights[:3], 0.0)
    gradient = np.append(parts.T @ missed, missed.sum()) + 2 * SHRINKAGE * shrunk
    return float(lost + SHRINKAGE * shrunk @ shrunk), gradient
