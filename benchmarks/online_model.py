"""A model that learns from each outcome against the same model left alone after its first day.

KuaiRand's exposures in order of time, each once: will this video be clicked? Before an exposure is
learnt, its columns are taken from running rates of what came before it (the viewer, the video, its
author, the tab, the viewer on this tab, the hour), and the model is asked. Both models see the same
columns, fresh to the last exposure: what differs is only whether weights and scales go on moving.
Measured from the second day on. A third line leaves the running rates alone as well.

The answer to an exposure counts as known at once; in truth it takes as long as the video plays.

    python -m benchmarks.online_model [--quick]
"""

import copy
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import common
from infra.producers import data_folders
from infra.settings import Settings
from offline.datasets import CHINA, KuaiRand, find_data_folder
from online_models.click_learning import BLOCK
from online_models.click_model import ClickModel
from online_models.drift import DriftMonitor
from online_models.evaluation import log_losses

HOUR_MS = 3_600_000
DAY_HOURS = 24
PRIOR = 10.0  # exposures that the wider rate counts for
N_RESAMPLES = 200
PICTURE = common.OUT / "online_model.png"

COLUMNS = (
    "viewer_rate", "video_rate", "author_rate", "tab_rate", "viewer_tab_rate", "hour_rate",
    "viewer_watched", "video_watched", "ln_viewer_shown", "ln_video_shown", "ln_duration",
    "is_short", "hour_sine", "hour_cosine", "tab_main", "tab_other", "viewer_by_video",
)  # fmt: skip

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Exposures = dict[str, NDArray[np.int64]]


class Rates:
    """Mean of what was seen by key, drawn towards a wider mean."""

    def __init__(self) -> None:
        self.counts: defaultdict[Any, float] = defaultdict(float)
        self.sums: defaultdict[Any, float] = defaultdict(float)

    def of(self, key: Any, wider: float) -> float:
        """The mean for a key; unseen keys add nothing."""
        n = self.counts.get(key, 0.0)
        return (self.sums.get(key, 0.0) + PRIOR * wider) / (n + PRIOR)

    def add(self, key: Any, value: float) -> None:
        """One more."""
        self.counts[key] += 1.0
        self.sums[key] += value


def columns_from_the_past(
    exposures: Exposures, stop: int | None = None, slates: NDArray[np.int64] | None = None
) -> Floats:
    """`(n, len(COLUMNS))`: of each exposure, from those before it; none counts from `stop` on.

    With `slates`, `(n,)`, whose numbers stand together: from those before its slate.
    """
    n = len(exposures["time_ms"])
    names = ("user_id", "video_id", "author_id", "tab", "time_ms", "duration_ms", "play_time_ms")
    lists = [exposures[name].tolist() for name in (*names, "is_click")]
    clicks = {name: Rates() for name in ("viewer", "video", "author", "tab", "both", "hour")}
    watched = {name: Rates() for name in ("viewer", "video")}
    everything, found = Rates(), np.zeros((n, len(COLUMNS)))
    pending: list[tuple[list[tuple[str, Any]], int, float]] = []
    for i, (user, video, author, tab, at_ms, length, played, click) in enumerate(
        zip(*lists, strict=True)
    ):
        if slates is None or i == 0 or slates[i] != slates[i - 1]:
            for pairs, clicked, part in pending:
                for name, key in pairs:
                    clicks[name].add(key, clicked)
                everything.add("clicks", clicked)
                everything.add("watched", part)
                watched["viewer"].add(pairs[0][1], part)
                watched["video"].add(pairs[1][1], part)
            pending.clear()
        hour = at_ms // HOUR_MS % DAY_HOURS
        keys = {"viewer": user, "video": video, "author": author, "tab": tab, "hour": hour}
        base = everything.of("clicks", 0.5)
        of_tab = clicks["tab"].of(tab, base)
        rates = {name: clicks[name].of(key, base) for name, key in keys.items()}
        share = everything.of("watched", 0.5)
        angle = 2.0 * np.pi * hour / DAY_HOURS
        found[i] = (
            rates["viewer"], rates["video"], rates["author"], of_tab,
            clicks["both"].of((user, tab), of_tab), rates["hour"],
            watched["viewer"].of(user, share), watched["video"].of(video, share),
            np.log1p(clicks["viewer"].counts.get(user, 0.0)),
            np.log1p(clicks["video"].counts.get(video, 0.0)),
            np.log1p(length), length < 18_000, np.sin(angle), np.cos(angle), tab == 1,
            tab not in (0, 1, 4, 6), (rates["viewer"] - base) * (rates["video"] - base),
        )  # fmt: skip
        if stop is None or i < stop:
            pairs = [*keys.items(), ("both", (user, tab))]
            pending.append((pairs, click, watched_share(played, length)))
    return found


def watched_share(played_ms: int, length_ms: int) -> float:
    """Of a video, 0..1."""
    return min(played_ms / max(length_ms, 1), 1.0)


def auc(scores: Floats, labels: Bools) -> float:
    """ROC AUC, ties counted half; NaN where all labels are alike."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


@dataclass(frozen=True)
class Run:
    """Exposures after the first day, and what each model said of them before."""

    time_ms: NDArray[np.int64]
    labels: Bools
    models: dict[str, Floats]  # online, frozen, frozen_rates, video_rate
    rows_per_s: float

    def gain(self, rng: np.random.Generator) -> tuple[float, float]:
        """95 % interval of the gain in AUC, online over frozen, over resampled hours."""
        hours = self.time_ms // HOUR_MS
        rows_of = [np.flatnonzero(hours == hour) for hour in np.unique(hours)]
        gains = []
        for _ in range(N_RESAMPLES):
            chosen = rng.integers(0, len(rows_of), len(rows_of))
            rows = np.concatenate([rows_of[k] for k in chosen])
            of = [auc(self.models[name][rows], self.labels[rows]) for name in ("online", "frozen")]
            gains.append(of[0] - of[1])
        low, high = np.percentile(gains, [2.5, 97.5])
        return float(low), float(high)


def play(exposures: Exposures) -> Run:
    """Learns all exposures in order, and keeps a copy as of the end of the first day."""
    labels = exposures["is_click"].astype(bool)
    shares = np.minimum(exposures["play_time_ms"] / np.maximum(exposures["duration_ms"], 1), 1.0)
    first_day = exposures["time_ms"][0] + DAY_HOURS * HOUR_MS
    start = int(np.searchsorted(exposures["time_ms"], first_day))
    rows = columns_from_the_past(exposures)
    old_rows = columns_from_the_past(exposures, stop=start)
    model = ClickModel(COLUMNS)
    began_s = time.process_time()
    model.learn(rows[:start], labels[:start], shares[:start])
    frozen = copy.deepcopy(model.arrays())
    online = model.learn(rows[start:], labels[start:], shares[start:])
    rows_per_s = len(rows) / (time.process_time() - began_s)
    model.restore(frozen)
    models = {
        "online": online,
        "frozen": model.probabilities(rows[start:]),
        "frozen_rates": model.probabilities(old_rows[start:]),
        "video_rate": rows[start:, COLUMNS.index("video_rate")],
    }
    return Run(exposures["time_ms"][start:], labels[start:], models, rows_per_s)


def drifts_of(run: Run) -> int:
    """Changes of the model's loss or of the click rate that detectors find in real traffic."""
    monitor, found = DriftMonitor(), 0
    everything = np.zeros((len(run.labels), 1), np.int64)
    losses = log_losses(run.models["online"], run.labels)
    for start in range(0, len(losses), BLOCK):
        part = slice(start, start + BLOCK)
        monitor.add(losses[part], run.labels[part], everything[part])
        found += len(monitor.check(start))
    return found


def by_hour(run: Run, least: int = 50) -> tuple[list[datetime], dict[str, dict[str, list[float]]]]:
    """AUC and log loss of each hour with enough exposures, by model."""
    hours = run.time_ms // HOUR_MS
    moments: list[datetime] = []
    series: dict[str, dict[str, list[float]]] = {
        name: {"auc": [], "log_loss": []} for name in ("online", "frozen")
    }
    for hour in np.unique(hours).tolist():
        rows = hours == hour
        if rows.sum() < least:
            continue
        moments.append(datetime.fromtimestamp(hour * HOUR_MS / 1_000, CHINA))
        for name, found in series.items():
            found["auc"].append(auc(run.models[name][rows], run.labels[rows]))
            found["log_loss"].append(
                float(log_losses(run.models[name][rows], run.labels[rows]).mean())
            )
    return moments, series


def draw(run: Run, path: Path) -> None:
    """A picture of both models, hour by hour."""
    import matplotlib as mpl  # noqa: PLC0415 (a second that other benchmarks need not wait)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    moments, series = by_hour(run)
    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(11, 7))
    for axis, figure_name in zip(axes, ("auc", "log_loss"), strict=True):
        for name, found in series.items():
            axis.plot(moments, found[figure_name], label=name, linewidth=1.2)
        axis.set_ylabel({"auc": "ROC AUC", "log_loss": "log loss"}[figure_name])
        axis.grid(alpha=0.3)
    axes[0].set_title("P(click) on KuaiRand, by hour: learning on, and frozen after the first day")
    axes[0].legend()
    figure.autofmt_xdate()
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Prints a table; writes `benchmarks/out/online_model.json` and the picture."""
    arguments = common.arguments(__doc__)
    folder = find_data_folder(data_folders(Settings()), KuaiRand.name)
    exposures = KuaiRand(folder, 0).exposures()
    if arguments.quick:
        n = len(exposures["time_ms"]) // 2
        exposures = {name: values[:n] for name, values in exposures.items()}
    run = play(exposures)
    draw(run, PICTURE)
    low, high = run.gain(np.random.default_rng(7))
    figures: dict[str, Any] = {}
    for name, found in run.models.items():
        figures[f"auc_{name}"] = round(auc(found, run.labels), 4)
        figures[f"log_loss_{name}"] = round(float(log_losses(found, run.labels).mean()), 4)
    figures |= {"auc_gain_low": round(low, 4), "auc_gain_high": round(high, 4)}
    figures["drifts_found"] = drifts_of(run)
    figures |= {"learnt_per_cpu_s": round(run.rows_per_s), "picture": PICTURE.name}
    load = {"exposures": len(exposures["time_ms"]), "measured": len(run.labels)}
    common.report("online_model", load, figures)


if __name__ == "__main__":
    main()
