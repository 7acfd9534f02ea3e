"""The ranker: LambdaMART over the columns of `features.ranking`.

C. J. C. Burges: From RankNet to LambdaRank to LambdaMART, MSR-TR-2010-82. An example is what the
engine itself would have had to order at a moment of the past, and which title came next. Negatives
are drawn uniformly from its candidates: choosing hard ones instead teaches a ranker to avoid what
is popular (in a prototype HR@20 fell from .29 to .19). Nor does it help to learn from what the
ranker orders in service, the 200 best of a cheap first stage: from the same number of rankings
NDCG@20 was .186 with all of these, .190 with 60 of them at random, .189 with 60 of all candidates.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import lightgbm
import numpy as np
from numpy.typing import NDArray

from features.ranking import RANKING_COLUMNS

AT = 20  # metrics at this place of the slate
MIN_QUERIES = 20
MAX_BIN = 127  # of a column's values


@dataclass(frozen=True, slots=True)
class TreesConfig:
    """Trees that rank."""

    n_trees: int
    n_leaves: int  # of a tree, at most
    learning_rate: float
    min_rows_in_leaf: int
    seed: int = 3


@dataclass(frozen=True, slots=True)
class RankerConfig(TreesConfig):
    """Sized for its cost: 100 rows are scored in half a millisecond on one thread.

    On the events between 60 % and 80 % of MovieTweetings 100 trees of 31 leaves were worth .004
    HR@20 and .003 NDCG@20 over 60 of 15; half the learning rate, another ranking loss (XE-NDCG) and
    plain classification did worse.
    """

    n_trees: int = 100
    n_leaves: int = 31
    learning_rate: float = 0.1
    min_rows_in_leaf: int = 50
    feature_share: float = 0.7  # of the columns, for each tree
    n_negatives: int = 50


@dataclass(slots=True)
class Examples:
    """Rankings to learn from, and others kept whole to measure on.

    A ranking is `(n, n_columns) float32` with the title that came next in row 0; of those kept
    whole some have no such row, because it was not among the candidates.
    """

    rows: list[NDArray[np.float32]] = field(default_factory=list)  # sampled, to learn from
    held_out: list[tuple[NDArray[np.float32], bool]] = field(default_factory=list)
    n_queries: int = 0
    n_found: int = 0  # queries with the title that came next among the candidates

    @property
    def recall(self) -> float:
        """Share of queries whose next title was among the candidates."""
        return self.n_found / max(self.n_queries, 1)


class TooFewExamplesError(Exception):
    """There is not enough to learn a ranker from; the message says how much there is."""


def fit_ranker(
    examples: Examples, config: RankerConfig, progress: Callable[[int], None]
) -> lightgbm.Booster:
    """The trees. `progress` is told how many there are. Raises TooFewExamplesError."""
    if len(examples.rows) < MIN_QUERIES:
        raise TooFewExamplesError(
            f"a ranker needs at least {MIN_QUERIES} examples whose next title was a candidate; "
            f"got {len(examples.rows)}"
        )
    sizes = np.array([len(rows) for rows in examples.rows])
    labels = np.zeros(int(sizes.sum()), np.int8)
    labels[np.cumsum(sizes) - sizes] = 1
    data = lightgbm.Dataset(
        np.concatenate(examples.rows),
        labels,
        group=sizes,
        feature_name=list(RANKING_COLUMNS),
        params={"max_bin": MAX_BIN, "verbose": -1},
    )
    return lightgbm.train(
        lambdarank(
            config,
            lambdarank_truncation_level=AT,
            feature_fraction=config.feature_share,
        ),
        data,
        config.n_trees,
        callbacks=[lambda round_: progress(round_.iteration + 1)],
    )


def lambdarank(config: TreesConfig, **more: object) -> dict[str, object]:
    """LightGBM's parameters of LambdaMART, one thread, the same trees each time; `more` beside."""
    return {
        "objective": "lambdarank",
        "label_gain": [0, 1],
        "num_leaves": config.n_leaves,
        "learning_rate": config.learning_rate,
        "min_data_in_leaf": config.min_rows_in_leaf,
        "max_bin": MAX_BIN,
        "seed": config.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbose": -1,
        **more,
    }


def measure(booster: lightgbm.Booster, examples: Examples) -> dict[str, float]:
    """HR and NDCG at 20 of the held-out rankings, beside those of the one-day trend alone.

    All candidates are ranked; a title that was not among them counts as missed.
    """
    if not examples.held_out:
        return {}
    trend = RANKING_COLUMNS.index("item_trend_1d")
    by_ranker = [
        place_of_first(booster.predict(rows, num_threads=1)) if found else None
        for rows, found in examples.held_out
    ]
    by_trend = [
        place_of_first(rows[:, trend]) if found else None for rows, found in examples.held_out
    ]
    return {
        "candidate_recall": examples.recall,
        **_metrics("", by_ranker),
        **_metrics("trend_", by_trend),
    }


def place_of_first(scores: NDArray[np.floating]) -> int:
    """Place, from 0, of element 0 by descending score; ties count against it.

    >>> place_of_first(np.array([0.5, 0.9, 0.1]))
    1
    """
    return int((scores[1:] >= scores[0]).sum())


def _metrics(prefix: str, places: list[int | None]) -> dict[str, float]:
    hits = [place for place in places if place is not None and place < AT]
    gain = sum(1 / np.log2(place + 2) for place in hits)
    return {
        f"{prefix}hr_{AT}": len(hits) / len(places),
        f"{prefix}ndcg_{AT}": float(gain / len(places)),
    }
