"""Scores candidates with the bundle's trees, on one thread."""

import lightgbm
import numpy as np
from numpy.typing import NDArray

from features.bundle_format import BundleError
from features.ranking import RANKING_COLUMNS


class Ranker:
    """A LightGBM model over the columns of `features.ranking`. Immutable."""

    def __init__(self, booster: lightgbm.Booster) -> None:
        self._booster = booster

    @classmethod
    def parse(cls, text: str, name: str) -> "Ranker":
        """The model that a file holds. Raises BundleError, for other columns too."""
        try:
            booster = lightgbm.Booster(model_str=text)
        except (lightgbm.basic.LightGBMError, TypeError, ValueError) as error:
            raise BundleError(f"{name} must be a LightGBM model; {error}") from error
        found = tuple(booster.feature_name())
        if found != RANKING_COLUMNS:
            odd = sorted(set(found) ^ set(RANKING_COLUMNS)) or ["their order"]
            raise BundleError(
                f"{name} must be trained on the {len(RANKING_COLUMNS)} ranking columns of this "
                f"version; it has {len(found)}, see {', '.join(odd)}"
            )
        return cls(booster)

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """`(n,) float64` of `(n, N_COLUMNS) float32`, C-contiguous; larger is better."""
        scores: NDArray[np.float64] = self._booster.predict(features, num_threads=1)
        return scores
