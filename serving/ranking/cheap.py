"""A first look at up to 1,000 candidates: few columns, few trees; the best go on to the ranker.

    assemble_cheap -> CheapStage.score -> keep_best -> all columns of those that are kept -> ranker

The trees are trained on the ranker's own examples (offline/cheap_stage.py). Every source keeps some
of its candidates whatever they score, so that a bandit's arm never stands with empty hands.
"""

from typing import Any, Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from features.bundle_format import BundleError
from features.cheap_columns import CHEAP_COLUMNS
from features.compiled import compiled
from serving.ranking.trees import TreeError, Trees
from serving.retrieval.base import Source, heap_push

N_SOURCES: Final = len(Source)  # bits of a candidate's sources


class CheapStage:
    """Trees over `features.cheap_columns`. Immutable."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees

    @classmethod
    def parse(cls, text: str, name: str) -> "CheapStage":
        """The model that a file holds. Raises BundleError, for other columns too."""
        try:
            booster = lightgbm.Booster(model_str=text)
            found = tuple(booster.feature_name())
            roots = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
            trees = Trees.of(roots)
        except (lightgbm.basic.LightGBMError, TypeError, ValueError) as error:
            raise BundleError(f"{name} must be a LightGBM model; {error}") from error
        except TreeError as error:
            raise BundleError(f"{name} cannot be scored; {error}") from error
        if found != CHEAP_COLUMNS:
            odd = sorted(set(found) ^ set(CHEAP_COLUMNS)) or ["their order"]
            raise BundleError(
                f"{name} must be trained on the {len(CHEAP_COLUMNS)} cheap columns of this "
                f"version; it has {len(found)}, see {', '.join(odd)}"
            )
        return cls(trees)

    def score(self, by_column: NDArray[np.float32]) -> NDArray[np.float64]:
        """`(n,) float64` of `(N_CHEAP, n) float32`, as `assemble_cheap` fills it; larger is better.

        About 35 us for 1,000 candidates.
        """
        return self._trees.score_columns(by_column)


@compiled
def keep_best(
    scores: NDArray[np.float64], sources: NDArray[Any], n_keep: int, min_per_source: int
) -> NDArray[np.int32]:
    """Places of the candidates to go on with, ascending.

    `sources`, `(n,)`, has a bit for each source of a candidate. Of every source its best
    `min_per_source` are kept (all, where it has fewer), and of the others the best, up to `n_keep`
    in all; more only where the sources' own are more. Which of equal scores is kept is the same
    every time, and nothing more. O(n log n_keep).
    """
    n = len(scores)
    is_kept = np.zeros(n, np.bool_)
    n_kept = _keep_of_sources(scores, sources, min_per_source, is_kept)
    n_more = max(min(n_keep, n) - n_kept, 0)
    best, worths, n_best = np.zeros(n_more, np.int32), np.zeros(n_more, np.float64), 0
    for i in range(n if n_more > 0 else 0):
        if is_kept[i] or (n_best == n_more and not scores[i] > worths[0]):
            continue
        n_best = heap_push(best, worths, n_best, i, scores[i])
    for k in range(n_best):
        is_kept[best[k]] = True
    return np.flatnonzero(is_kept).astype(np.int32)


@compiled
def _keep_of_sources(
    scores: NDArray[np.float64],
    sources: NDArray[Any],
    wanted: int,
    is_kept: NDArray[np.bool_],
) -> int:
    """Marks the best `wanted` of every source; how many candidates that are."""
    if wanted <= 0:
        return 0
    places = np.zeros((N_SOURCES, wanted), np.int32)
    worths = np.zeros((N_SOURCES, wanted), np.float64)
    counts = np.zeros(N_SOURCES, np.int64)
    for i in range(len(scores)):
        bits = np.int64(sources[i])
        for source in range(N_SOURCES):
            if bits >> source == 0:
                break
            if not (bits >> source) & 1:
                continue
            if counts[source] == wanted and not scores[i] > worths[source, 0]:
                continue
            counts[source] = heap_push(places[source], worths[source], counts[source], i, scores[i])
    for source in range(N_SOURCES):
        for k in range(counts[source]):
            is_kept[places[source, k]] = True
    return int(np.count_nonzero(is_kept))
