"""The final score on real exposures against its parts alone: KuaiRand, in order of time.

    python -m benchmarks.fusion [--quick]

Will this video be clicked? Exposures of a viewer on a tab with at most PAUSE_MS between them are
taken for a slate of at most MOST_SLOTS, and its columns (those of benchmarks/online_model.py) are
made of what came before the slate. The ranker is trees trained on the clicks of the first 40 % and
then left alone, as a bundle's is. Click and watch models learn on, in blocks of 128 exposures,
each predicted before it is learnt. The weights of the final score and its calibration are fitted on
the next 20 %; all figures are of the last 40 %. NDCG@10 is of slates with a click and one without.
"""

from dataclasses import dataclass
from typing import Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from benchmarks import common
from benchmarks.online_model import COLUMNS, Exposures, auc, columns_from_the_past
from infra.producers import data_folders
from infra.settings import Settings
from offline import fusion as offline_fusion
from offline.calibration import calibration_error, fit_calibration
from offline.datasets import KuaiRand, find_data_folder
from offline.fusion import fit_fusion
from offline.logged_fits import said_before
from online_models.click_model import ClickModel
from online_models.click_scorer import sigmoid
from serving.ranking.calibration import Calibration
from serving.ranking.fusion import Fusion, logits

TRAINED, FITTED = 0.4, 0.6  # shares of the exposures, up to where
PAUSE_MS: Final = 600_000
MOST_SLOTS: Final = 20
AT: Final = 10

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Parts:
    """What each part said of each exposure before it was answered, `(n,)` each."""

    ranker: Floats
    click: Floats
    watch: Floats

    def rows(self, part: slice) -> "Parts":
        """Some of the exposures."""
        return Parts(self.ranker[part], self.click[part], self.watch[part])


def by_slate(exposures: Exposures) -> tuple[Exposures, NDArray[np.int64]]:
    """Exposures with those of a slate together, slates in order of their start; their numbers."""
    at_ms = exposures["time_ms"]
    order = np.lexsort((at_ms, exposures["tab"], exposures["user_id"]))
    goes_on = np.diff(at_ms[order]) <= PAUSE_MS
    for name in ("user_id", "tab"):
        goes_on &= np.diff(exposures[name][order]) == 0
    slots = np.zeros(len(order), np.int64)
    for k in range(1, len(order)):
        slots[k] = (slots[k - 1] + 1) % MOST_SLOTS if goes_on[k - 1] else 0
    number = np.cumsum(slots == 0) - 1
    starts = at_ms[order][slots == 0]
    by_start = np.lexsort((number, starts[number]))
    rows = order[by_start]
    return {name: values[rows] for name, values in exposures.items()}, number[by_start]


def ranker_scores(rows: Floats, labels: Bools, stop: int) -> Floats:
    """Of all exposures, by trees that have seen those before `stop`."""
    data = lightgbm.Dataset(rows[:stop].copy(), labels[:stop].astype(np.int8))
    parameters = {
        "objective": "binary", "num_leaves": 15, "learning_rate": 0.1, "min_data_in_leaf": 50,
        "num_threads": 1, "verbose": -1, "seed": 3, "deterministic": True, "force_row_wise": True,
    }  # fmt: skip
    booster = lightgbm.train(parameters, data, 60)
    return np.asarray(booster.predict(rows, raw_score=True, num_threads=1))


def ndcg(scores: Floats, labels: Bools, lists: NDArray[np.int64]) -> float:
    """Mean NDCG@10 of the lists that can be ordered wrongly."""
    order = np.lexsort((-scores, lists))
    clicked = labels[order].astype(np.float64)
    parts = np.split(clicked, np.flatnonzero(np.diff(lists[order])) + 1)
    discounts = 1.0 / np.log2(np.arange(AT) + 2)
    found = [
        (part[:AT] @ discounts[: len(part[:AT])])
        / (np.sort(part)[::-1][:AT] @ discounts[: len(part[:AT])])
        for part in parts
        if 0 < part.sum() < len(part)
    ]
    return float(np.mean(found))


def play(exposures: Exposures) -> dict[str, float]:
    """The figures."""
    exposures, lists = by_slate(exposures)
    labels = exposures["is_click"].astype(bool)
    shares = np.minimum(exposures["play_time_ms"] / np.maximum(exposures["duration_ms"], 1), 1.0)
    rows = columns_from_the_past(exposures, slates=lists)
    trained, fitted = (round(len(rows) * share) for share in (TRAINED, FITTED))
    said, watch = said_before(rows, labels, shares, ClickModel(COLUMNS), len(COLUMNS))
    parts = Parts(ranker_scores(rows, labels, trained), sigmoid(said), watch)
    known, new = slice(trained, fitted), slice(fitted, len(rows))
    weights, table = _fit(parts.rows(known), labels[known])
    of = parts.rows(new)
    final = weights.scores(of.ranker, of.click, of.watch)
    chances = table.probabilities(final)
    found: dict[str, float] = {}
    named = {"final": final, "ranker": of.ranker, "click": of.click, "watch": of.watch}
    for name, scores in named.items():
        found[f"auc_{name}"] = round(auc(scores, labels[new]), 4)
        found[f"ndcg_{name}"] = round(ndcg(scores, labels[new], lists[new]), 4)
    found["calibration_error_final"] = round(calibration_error(chances, labels[new]), 4)
    found["calibration_error_click"] = round(calibration_error(of.click, labels[new]), 4)
    found |= {
        f"weight_{name}": round(getattr(weights, name), 3) for name in named if name != "final"
    }
    return found | {"measured": len(final)}


def _fit(parts: Parts, labels: Bools) -> tuple[Fusion, Calibration]:
    """Weights and table from exposures that neither is measured on."""
    weights = Fusion.of(
        fit_fusion(offline_fusion.Exposures(parts.ranker, logits(parts.click), parts.watch, labels))
    )
    scores = weights.scores(parts.ranker, parts.click, parts.watch)
    table = Calibration.of(fit_calibration(scores, labels))
    if table is None:
        raise SystemExit(f"calibration needs more than {len(labels)} exposures")
    return weights, table


def main() -> None:
    """Prints a table; writes `benchmarks/out/fusion.json`."""
    arguments = common.arguments(__doc__)
    exposures = KuaiRand(find_data_folder(data_folders(Settings()), KuaiRand.name), 0).exposures()
    if arguments.quick:
        n = len(exposures["time_ms"]) // 2
        exposures = {name: values[:n] for name, values in exposures.items()}
    common.report("fusion", {"exposures": len(exposures["time_ms"])}, play(exposures))


if __name__ == "__main__":
    main()
