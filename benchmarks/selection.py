"""What the select stage buys and costs: quality against variety by each of its settings, and time.

A bundle is trained on the first 60 % of MovieTweetings' events; before events of the part from 60 %
to 80 % the engine ranks, and what it ranked is kept. Every setting then chooses slates from the
very same candidates, without exploration. The last fifth is left for the evaluation of the whole.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.common import console, report
from features.compiled import Rows
from features.ranking import RANKING_COLUMNS
from features.vocabulary import Arm
from infra.train import REFRESH_MS, LocalFeatures, next_titles, train_bundle
from offline.datasets import EventColumns, find_data_folder, open_dataset
from offline.datasets import Selection as Part
from offline.next_title import AT, MISSED, Quality
from serving.bundle import Bundle, load_current
from serving.knowledge import Knowledge
from serving.recommender import Recommender
from serving.request import Request
from serving.retrieval.base import Candidates
from serving.retrieval.trending import Trending
from serving.selection.config import PLAIN, SelectionConfig
from serving.selection.selection import Selection
from serving.slate import Query

DATASET: Final = "movietweetings"
FOLDERS: Final = (Path("data"), Path("../shared/data"))
TRAIN_SHARE, TUNE_SHARE = 0.6, 0.8
N_KEPT: Final = 550  # candidates of a ranking, best first
SETTINGS: Final = (
    ("none", PLAIN),
    *((f"diversity {d}", replace(PLAIN, diversity=d)) for d in (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)),
    *((f"genre cap {c}", replace(PLAIN, genre_cap=c)) for c in (0.7, 0.6, 0.5, 0.4)),
    *((f"damping {d}", replace(PLAIN, popularity_damping=d)) for d in (0.1, 0.25, 0.5, 1.0)),
    *((f"coverage {c}", replace(PLAIN, coverage_boost=c)) for c in (0.05, 0.1, 0.25, 0.5)),
    ("defaults", SelectionConfig()),
)
_PERCENTILE: Final = RANKING_COLUMNS.index("popularity_percentile")


@dataclass(slots=True)
class Ranking:
    """What the engine had to choose a slate from, and the title that the viewer watched next."""

    row: Rows
    now_ms: int
    slots: NDArray[np.int32]
    features: NDArray[np.float32]
    scores: NDArray[np.float64]
    wanted: int  # catalogue slot


def tuned_on(columns: EventColumns, local: LocalFeatures, limit: int) -> NDArray[np.int64]:
    """Numbers of `limit` events of the part from 60 % to 80 %, evenly spread."""
    first, last = (int(share * len(columns)) for share in (TRAIN_SHARE, TUNE_SHARE))
    chosen = np.flatnonzero(next_titles(columns))
    chosen = chosen[(chosen >= first) & (chosen < last)]
    chosen = chosen[[local.slot(event) >= 0 for event in chosen.tolist()]]
    return chosen[np.linspace(0, len(chosen) - 1, min(limit, len(chosen))).astype(np.int64)]


def rankings(local: LocalFeatures, bundle: Bundle, events: NDArray[np.int64]) -> Iterator[Ranking]:
    """What the engine would have chosen from before each event."""
    recommender = Recommender(local.table, local.mirror, bundle, refresh_ms=REFRESH_MS)
    assert bundle.ranker is not None  # noqa: S101 (trained just now)
    for event in events.tolist():
        local.advance(event)
        viewer, now_ms = local.viewer(event), local.now_ms(event)
        slots, features = recommender.candidates(viewer, now_ms)
        scores = bundle.ranker.score(features)
        best = np.sort(np.argsort(-scores, kind="stable")[:N_KEPT])
        assert viewer.row is not None  # noqa: S101 (viewers of a replay are known)
        yield Ranking(
            viewer.row.copy(), now_ms, slots[best], features[best], scores[best], local.slot(event)
        )


def measured(
    kept: list[Ranking], local: LocalFeatures, config: SelectionConfig
) -> dict[str, float]:
    """Slates of all rankings by one setting."""
    knowledge = Knowledge(local.table, local.mirror, Trending(local.table, REFRESH_MS))
    selection = Selection(knowledge, None, config)
    found = Candidates(len(local.table), N_KEPT)
    places, took_ms, shown = [], [], []
    sums = np.zeros(3)
    for ranking in kept:
        n = found.n = len(ranking.slots)
        found.slots[:n], found.features[:n] = ranking.slots, ranking.features
        nothing, hot = np.zeros(0, np.int64), knowledge.hot(kept[0].now_ms)
        request = Request(Query("", count=AT), ranking.row, ranking.now_ms, 0, nothing, hot)
        began_ns = time.perf_counter_ns()
        plan = selection.choose(request, found, ranking.scores, Arm.RANKER)
        took_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
        slots = ranking.slots[plan.places].tolist()
        places.append(slots.index(ranking.wanted) if ranking.wanted in slots else MISSED)
        shown += slots
        popular = ranking.features[plan.places, _PERCENTILE].mean()
        sums += plan.diversity, plan.genre_entropy, popular
    quality = Quality.of(np.array(places, np.int64))
    diversity, entropy, percentile = (sums / len(kept)).tolist()
    return {
        "hr_at_20": quality.hr_20,
        "ndcg_at_20": quality.ndcg_20,
        "diversity": diversity,
        "genre_entropy_bits": entropy,
        "popularity_percentile": percentile,
        "titles_shown": float(len(set(shown))),
        "p50_ms": float(np.median(took_ms)),
    }


def table_of(found: dict[str, dict[str, float]]) -> Table:
    """A line for each setting."""
    names = list(next(iter(found.values())))
    table = Table("setting", *names, title="the select stage by its settings")
    for setting, figures in found.items():
        table.add_row(setting, *(f"{figures[name]:.4f}" for name in names))
    return table


def main() -> None:
    """Measures, prints, and writes benchmarks/out/selection.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=2_000, help="slates of each setting")
    parser.add_argument("--data", type=Path, help="folder of datasets")
    wanted = parser.parse_args()
    folder = wanted.data or find_data_folder(FOLDERS, DATASET)
    dataset = open_dataset(DATASET, folder)
    columns = dataset.columns()
    with tempfile.TemporaryDirectory(prefix="headrace-") as bundles:
        train_bundle(dataset, Path(bundles), selection=Part(first_share=TRAIN_SHARE))
        bundle = load_current(Path(bundles))
    local = LocalFeatures(columns, dataset.catalogue())
    kept = list(rankings(local, bundle, tuned_on(columns, local, wanted.limit)))
    measured(kept[:5], local, SelectionConfig())  # has everything compiled
    found = {name: measured(kept, local, config) for name, config in SETTINGS}
    console.print(table_of(found))
    figures: dict[str, Any] = {
        f"{setting}/{name}": round(value, 5)
        for setting, figures in found.items()
        for name, value in figures.items()
    }
    report("selection", {"dataset": DATASET, "slates": len(kept)}, figures)


if __name__ == "__main__":
    main()
