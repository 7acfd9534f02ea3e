"""Fits the table from final scores to probabilities of a click, and measures how true they are.

Isotonic regression (R. E. Barlow et al. 1972; B. Zadrozny, C. Elkan: Transforming Classifier Scores
into Accurate Multiclass Probability Estimates, KDD 2002) over bins of equally many exposures, so
that no point of the table rests on a few.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

LEAST_ROWS: Final = 200  # with fewer there is no table
ROWS_OF_BIN: Final = 50
MOST_BINS: Final = 64
ERROR_BINS: Final = 15

Floats = NDArray[np.float64]


def fit_calibration(
    scores: Floats, clicks: NDArray[np.bool_], weights: Floats | None = None
) -> dict[str, list[float]]:
    """`scores` and `probabilities` for the manifest; empty for fewer than LEAST_ROWS exposures.

    `weights`, `(n,)`: of exposures, one unless told. O(n log n).
    """
    if len(scores) < LEAST_ROWS:
        return {}
    weights = np.ones(len(scores)) if weights is None else weights
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, min(len(scores) // ROWS_OF_BIN, MOST_BINS))
    at = np.array([np.average(scores[p], weights=weights[p]) for p in parts])
    rates = np.array([np.average(clicks[p], weights=weights[p]) for p in parts])
    masses = np.array([weights[p].sum() for p in parts])
    rising = isotonic_regression(rates, weights=masses).x
    at, first = np.unique(at, return_index=True)
    return {"scores": at.tolist(), "probabilities": np.clip(rising[first], 0, 1).tolist()}


def calibration_error(
    probabilities: Floats, clicks: NDArray[np.bool_], n_bins: int = ERROR_BINS
) -> float:
    """Expected calibration error: mean distance of what was said and what came, by bins.

    Bins of equally many exposures (M. Nixon et al.: Measuring Calibration in Deep Learning, 2019).

    >>> calibration_error(np.array([0.5, 0.5]), np.array([True, False]), n_bins=1)
    0.0
    """
    order = np.argsort(probabilities, kind="stable")
    parts = [p for p in np.array_split(order, n_bins) if len(p)]
    missed = [len(p) * abs(float(probabilities[p].mean() - clicks[p].mean())) for p in parts]
    return float(sum(missed) / len(probabilities))
