"""Trains the cheap stage: a small LambdaMART over `features.cheap_columns`, on the same examples.

Measured on MovieTweetings, 9,000 rankings of the engine before the last fifth of the events, 900 of
them held out with 546 candidates each: NDCG@20 of the ranker over all is .1764; over the 100 best
of this stage .1758, of 150 .1764, of 200 .1765, where the one-day trend alone in its place gives
.1655. Trees fitted to the ranker's scores instead of to what came next gave .1738 with 100.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from features.cheap_columns import CHEAP_COLUMNS, CHEAP_PLACES
from offline.train_ranker import (
    AT,
    MAX_BIN,
    Examples,
    TreesConfig,
    lambdarank,
    place_of_first,
)

KEPT: Final = (100, 150, 200)  # candidates that go on, as they are measured


@dataclass(frozen=True, slots=True)
class CheapConfig(TreesConfig):
    """Sized for its cost: 70 inner nodes are 27 us for 1,000 candidates."""

    n_trees: int = 10
    n_leaves: int = 8
    learning_rate: float = 0.3
    min_rows_in_leaf: int = 100


def fit_cheap(examples: Examples, config: CheapConfig) -> lightgbm.Booster:
    """The trees; `examples.rows` must not be empty."""
    sizes = np.array([len(rows) for rows in examples.rows])
    labels = np.zeros(int(sizes.sum()), np.int8)
    labels[np.cumsum(sizes) - sizes] = 1
    data = lightgbm.Dataset(
        np.concatenate([rows[:, CHEAP_PLACES] for rows in examples.rows]),
        labels,
        group=sizes,
        feature_name=list(CHEAP_COLUMNS),
        params={"max_bin": MAX_BIN, "verbose": -1},
    )
    level = 5 * AT  # who stands 21st or 90th matters here
    parameters = lambdarank(config, lambdarank_truncation_level=level)
    return lightgbm.train(parameters, data, config.n_trees)


def measure_cheap(
    cheap: lightgbm.Booster,
    ranker: lightgbm.Booster,
    examples: Examples,
    kept: Sequence[int] = KEPT,
) -> dict[str, float]:
    """NDCG at 20 of the ranker over all held-out candidates, and over those that are kept.

    `cheap_recall_K`: of the titles that came next and were candidates, the share kept.
    """
    places: dict[int, list[int | None]] = {k: [] for k in (0, *kept)}
    for rows, is_found in examples.held_out:
        scores = ranker.predict(rows, num_threads=1)
        order = np.argsort(-cheap.predict(rows[:, CHEAP_PLACES], num_threads=1), kind="stable")
        for k, found_at in places.items():
            stays = order[:k] if k else order
            found_at.append(_place(scores, stays) if is_found else None)
    if not examples.held_out:
        return {}
    found = {f"ndcg_{AT}_all": _ndcg(places[0])}
    n_found = max(sum(place is not None for place in places[0]), 1)
    for k in kept:
        found[f"ndcg_{AT}_kept_{k}"] = _ndcg(places[k])
        found[f"cheap_recall_{k}"] = sum(p is not None for p in places[k]) / n_found
    return found


def _place(scores: NDArray[np.float64], stays: NDArray[np.int64]) -> int | None:
    """Place of row 0 among the rows that stay; None where it does not."""
    if not (stays == 0).any():
        return None
    others = stays[stays != 0]
    return place_of_first(scores[np.concatenate([[0], others])])


def _ndcg(places: Sequence[int | None]) -> float:
    gains = [1 / np.log2(place + 2) for place in places if place is not None and place < AT]
    return float(sum(gains) / len(places))
