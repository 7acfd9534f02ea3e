"""The final score on real exposures against its parts alone: KuaiRand, in order of time.

    python -m benchmarks.fusion [--quick]

Will this video be clicked? The parts see the same columns, made of what came before an exposure
(benchmarks/online_model.py). The ranker is LambdaMART over the lists of a viewer's day, trained on
the first 40 % and then left alone, as a bundle's is. Click and watch models learn on, in blocks of
BLOCK exposures, each predicted before it is learnt. The weights of the final score and its
calibration are fitted on the next 20 %; all figures are of the last 40 %. NDCG@10 is over lists of
a viewer's day with at least one click and one exposure without.
"""

from dataclasses import dataclass
from typing import Any, Final

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
from online_models.click_model import ClickModel
from online_models.click_scorer import inverse_deviations, scale, sigmoid
from serving.ranking.calibration import Calibration
from serving.ranking.fusion import Fusion, logits

TRAINED, FITTED = 0.4, 0.6  # shares of the exposures, up to where
BLOCK: Final = 100
DAY_MS: Final = 86_400_000
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


def lists_of(exposures: Exposures) -> NDArray[np.int64]:
    """`(n,)` numbers of lists: a viewer's day each."""
    pairs = np.column_stack([exposures["user_id"], exposures["time_ms"] // DAY_MS])
    return np.asarray(np.unique(pairs, axis=0, return_inverse=True)[1], np.int64).ravel()


def ranker_scores(rows: Floats, labels: Bools, lists: NDArray[np.int64], stop: int) -> Floats:
    """Of all exposures, by trees that have seen those before `stop`."""
    order = np.argsort(lists[:stop], kind="stable")
    sizes = np.unique(lists[:stop][order], return_counts=True)[1]
    data = lightgbm.Dataset(
        rows[order], labels[order].astype(np.int8), group=sizes, params={"verbose": -1}
    )
    parameters = {
        "objective": "lambdarank", "num_leaves": 15, "learning_rate": 0.1, "min_data_in_leaf": 50,
        "label_gain": [0, 1], "num_threads": 1, "verbose": -1, "seed": 3, "deterministic": True,
        "force_row_wise": True,
    }  # fmt: skip
    booster = lightgbm.train(parameters, data, 60)
    return np.asarray(booster.predict(rows, num_threads=1))


def learned_scores(rows: Floats, labels: Bools, shares: Floats) -> tuple[Floats, Floats]:
    """Click probabilities and expected watched shares of all exposures, test then train."""
    model = ClickModel(COLUMNS)
    clicks, watch = np.empty(len(rows)), np.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        arrays: dict[str, Any] = model.arrays()
        scaled = scale(rows[part], arrays["mean"], inverse_deviations(arrays["variance"]))
        clicks[part] = sigmoid(scaled @ arrays["click"][:-1] + arrays["click"][-1])
        watch[part] = np.clip(scaled @ arrays["watch"][:-1] + arrays["watch"][-1], 0, 1)
        model.learn(rows[part], labels[part], shares[part])
    return clicks, watch


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
    labels = exposures["is_click"].astype(bool)
    shares = np.minimum(exposures["play_time_ms"] / np.maximum(exposures["duration_ms"], 1), 1.0)
    rows, lists = columns_from_the_past(exposures), lists_of(exposures)
    trained, fitted = (round(len(rows) * share) for share in (TRAINED, FITTED))
    parts = Parts(
        ranker_scores(rows, labels, lists, trained), *learned_scores(rows, labels, shares)
    )
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
