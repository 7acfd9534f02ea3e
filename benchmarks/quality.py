"""Quality on real data: the last fifth of MovieTweetings, test-then-train through the engine.

The table of `headrace evaluate replay movietweetings` as figures, with the charts, ItemKNN, EASE
and ALS refitted daily, the engine with its state frozen at the split, and a plot of NDCG@20 day by
day, `benchmarks/out/quality.png`. Full ranking, 17,615 slates. Of the run on one core about a third
is training, a third the two replays of the engine, a third the daily refits (34 days; EASE over the
4,000 titles with most viewers, the other two over all). A quick run takes the first 300 slates.
"""

from pathlib import Path
from typing import Any

from benchmarks.common import OUT, arguments, console, report
from infra.evaluate import draw_over_time, evaluate_replay, slates_table_of, table_of
from infra.producers import dataset
from infra.settings import Settings
from offline.train import TrainConfig

DATASET = "movietweetings"
QUICK_SLATES = 300
QUICK = TrainConfig(max_queries=2_500, n_held_out=300)
PICTURE = Path("quality.png")


def main() -> None:
    """Evaluates, and says what was trained on and how long it took."""
    options = arguments(__doc__)
    limit, config = (QUICK_SLATES, QUICK) if options.quick else (None, TrainConfig())
    source = dataset(Settings(), DATASET)
    found = evaluate_replay(source, limit=limit, config=config)
    console.print(table_of(found))
    console.print(slates_table_of(found))
    OUT.mkdir(exist_ok=True)
    draw_over_time(found, OUT / PICTURE)
    figures: dict[str, Any] = {
        **{name: round(value, 4) for name, value in found.figures().items()},
        "recommend_ms_p50": round(found.recommend_ms_p50, 2),
        "recommend_ms_p99": round(found.recommend_ms_p99, 2),
        "candidates_mean": round(found.n_candidates_mean),
        "train_s": round(found.train_s),
        "replay_s": round(found.replay_s),
        "hits_by_source": found.by_source,
    }
    report("quality", {"dataset": found.dataset, "slates": found.n_slates}, figures)


if __name__ == "__main__":
    main()
