"""Scores candidates with the bundle's trees, on one thread."""

from collections.abc import Mapping
from typing import Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from features.bundle_format import BundleError
from features.ranking import RANKING_COLUMNS
from serving.ranking.trees import TreeError, Trees

# A ranker of logged slates has learned with the slot as its last column: here all are in the first.
SLOT_COLUMN: Final = "slot"
FIXED: Final[Mapping[int, float]] = {len(RANKING_COLUMNS): 0.0}


class Ranker:
    """A LightGBM model over the columns of `features.ranking`. Immutable.

    LightGBM reads the model; the trees are scored by our own loop, to the same last bit. What
    features contribute is LightGBM's to say, which reads the model again when it is first asked.
    """

    def __init__(self, booster: lightgbm.Booster) -> None:
        self._text: str = booster.model_to_string()
        self._booster: lightgbm.Booster | None = None
        # Tree by tree: all at once would be one long text, whose parsing nothing interrupts, and
        # a server reads rankers while it answers.
        self._trees = Trees.of(
            [
                booster.dump_model(num_iteration=1, start_iteration=k)["tree_info"][0][
                    "tree_structure"
                ]
                for k in range(booster.num_trees())
            ],
            FIXED,
        )

    @classmethod
    def parse(cls, text: str, name: str) -> "Ranker":
        """The model that a file holds. Raises BundleError, for other columns too."""
        try:
            booster = lightgbm.Booster(model_str=text)
            found = tuple(booster.feature_name())
        except (lightgbm.basic.LightGBMError, TypeError, ValueError) as error:
            raise BundleError(f"{name} must be a LightGBM model; {error}") from error
        if found not in (RANKING_COLUMNS, (*RANKING_COLUMNS, SLOT_COLUMN)):
            odd = sorted(set(found) ^ set(RANKING_COLUMNS)) or ["their order"]
            raise BundleError(
                f"{name} must be trained on the {len(RANKING_COLUMNS)} ranking columns of this "
                f"version; it has {len(found)}, see {', '.join(odd)}"
            )
        try:
            return cls(booster)
        except TreeError as error:
            raise BundleError(f"{name} cannot be scored; {error}") from error

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """`(n,) float64` of `(n, N_COLUMNS) float32`; larger is better."""
        return self._trees.score(features)

    def contributions(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """`(n, N_COLUMNS) float32`: what each feature adds to the score of its row (TreeSHAP).

        With the mean score of the training rows they sum up to the score. O(trees * leaves *
        depth^2) a row; the first call takes some tens of milliseconds more. For debugging.
        """
        if self._booster is None:
            self._booster = lightgbm.Booster(model_str=self._text)
        found = self._booster.predict(features, pred_contrib=True, num_threads=1)
        contributions: NDArray[np.float32] = np.asarray(found, np.float32)[:, :-1]
        return contributions
