"""CPU of the stages between candidates and scores, with and without the cheap stage.

    python -m benchmarks.cheap

One viewer of 32 titles, 1,000 and 700 candidates out of 50,000 made-up titles; trees of the sizes
that training makes, fitted on noise: what they cost does not depend on what they say. What is lost
in quality is measured where they are trained (`cheap_recall_*`, `ndcg_20_kept_*` of a bundle).
"""

import time
from collections.abc import Callable
from typing import Any, Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from benchmarks import common
from features import item_row
from features.cheap_columns import CHEAP_COLUMNS, N_CHEAP, assemble_cheap
from features.ranking import N_COLUMNS, N_SCORES, N_STANDINGS, RANKING_COLUMNS, assemble
from features.store import USERS
from features.titles import FACTS
from features.viewing_state import N_TITLES
from offline.cheap_stage import CheapConfig
from offline.train_ranker import RankerConfig
from serving.ranking.cheap import CheapStage, keep_best
from serving.ranking.ranker import Ranker

N_ITEMS, YEAR, NOW_MS = 50_000, 2013, 1_380_000_000_000
ROUNDS: Final = 300
KEPT, OF_EVERY_SOURCE = 100, 5

Floats = NDArray[np.float32]


class World:
    """Titles and a viewer, at random."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.values = rng.gamma(1.0, 20.0, (N_ITEMS, item_row.N_COLUMNS)).astype(np.float32)
        self.standings = rng.integers(0, 601, (N_ITEMS, N_STANDINGS)).astype(np.float32)
        self.facts = np.zeros(N_ITEMS, FACTS)
        self.facts["genres"] = 1 << rng.integers(0, 19, N_ITEMS) | 1 << rng.integers(0, 19, N_ITEMS)
        self.facts["year"] = rng.integers(1950, YEAR, N_ITEMS)
        self.history = rng.integers(0, N_ITEMS, N_TITLES)
        self.slots = rng.permutation(N_ITEMS)[:n].astype(np.int32)
        self.scores = rng.random((n, N_SCORES), np.float32)
        self.sources = (1 << rng.integers(0, 8, n)).astype(np.uint16)
        self.row = USERS.empty

    def all_columns(self, places: NDArray[np.int32]) -> Floats:
        """Of some candidates."""
        out = np.empty((len(places), N_COLUMNS), np.float32)
        assemble(
            self.row, NOW_MS, self.history, self.slots[places], self.scores[places], self.values,
            self.standings, self.facts, YEAR, out,
        )  # fmt: skip
        return out

    def cheap_columns(self) -> Floats:
        """Of all candidates."""
        out = np.empty((N_CHEAP, len(self.slots)), np.float32)
        assemble_cheap(
            self.row, self.history, self.slots, self.scores, self.values, self.standings,
            self.facts, YEAR, out,
        )  # fmt: skip
        return out


def booster_text(names: tuple[str, ...], n_trees: int, n_leaves: int) -> str:
    """Trees of a size, fitted on noise."""
    rng = np.random.default_rng(1)
    data = lightgbm.Dataset(
        rng.gamma(1.0, 20.0, (5_000, len(names))), rng.random(5_000), feature_name=list(names)
    )
    parameters = {"num_leaves": n_leaves, "num_threads": 1, "verbose": -1}
    text: str = lightgbm.train(parameters, data, n_trees).model_to_string()
    return text


def median_us(work: Callable[[], Any]) -> float:
    """Of CPU time, after two rounds that are not counted."""
    work(), work()
    took = []
    for _ in range(ROUNDS):
        start_ns = time.thread_time_ns()
        work()
        took.append(time.thread_time_ns() - start_ns)
    return round(float(np.median(took)) / 1_000, 1)


def stages(n: int, cheap: CheapStage, ranker: Ranker) -> dict[str, float]:
    """Microseconds of each stage for `n` candidates, and of the whole by both ways."""
    world = World(n, np.random.default_rng(7))
    everything = np.arange(n, dtype=np.int32)
    columns, features = world.cheap_columns(), world.all_columns(everything)
    scores = cheap.score(columns)
    kept = keep_best(scores, world.sources, KEPT, OF_EVERY_SOURCE)

    def through_cheap() -> Any:
        found = cheap.score(world.cheap_columns())
        places = keep_best(found, world.sources, KEPT, OF_EVERY_SOURCE)
        return ranker.score(world.all_columns(places))

    return {
        f"cheap_columns_{n}_us": median_us(world.cheap_columns),
        f"cheap_trees_{n}_us": median_us(lambda: cheap.score(columns)),
        f"keep_best_{n}_us": median_us(
            lambda: keep_best(scores, world.sources, KEPT, OF_EVERY_SOURCE)
        ),
        f"ranker_of_{len(kept)}_us": median_us(lambda: ranker.score(features[: len(kept)])),
        f"with_cheap_stage_{n}_us": median_us(through_cheap),
        f"without_{n}_us": median_us(lambda: ranker.score(world.all_columns(everything))),
    }


def main() -> None:
    """Prints a table; writes `benchmarks/out/cheap.json`."""
    common.arguments(__doc__)
    config, small = RankerConfig(), CheapConfig()
    ranker = Ranker.parse(booster_text(RANKING_COLUMNS, config.n_trees, config.n_leaves), "ranker")
    cheap = CheapStage.parse(booster_text(CHEAP_COLUMNS, small.n_trees, small.n_leaves), "cheap")
    figures: dict[str, float] = {}
    for n in (1_000, 700):
        figures |= stages(n, cheap, ranker)
    common.report("cheap", {"titles": N_ITEMS, "kept": KEPT, "rounds": ROUNDS}, figures)


if __name__ == "__main__":
    main()
