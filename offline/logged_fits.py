"""What a bundle learns from the engine's own log: weights of fusion, calibration, examination.

    outcomes (features, slot, label, propensity) -> what each part would have said -> fits

The ranker is that of the bundle. What click and watch models said is played again, test then train,
without the slot, as servers ask them. Fusion is fitted on the first 60 % of the slots by time,
clicks weighted by the inverse of how often their slot is looked at; calibration on the next 20 %,
unweighted, since it speaks of titles where they stand; both are measured on the last 20 %.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from features.compiled import Rows
from features.decode import Record
from features.learning_codec import decode_learning_batch
from features.outcomes import NO_ROLLBACK, OUTCOME
from features.ranking import N_COLUMNS
from offline.calibration import calibration_error, fit_calibration
from offline.fusion import Exposures, fit_fusion
from offline.position_bias import inverse_propensities, of_random_slots
from online_models.click_features import COLUMNS, N_FEATURES, columns_of
from online_models.click_model import ClickModel
from online_models.click_scorer import inverse_deviations, scale

FITTED, CALIBRATED = 0.6, 0.8  # shares of the slots, up to where
BLOCK: Final = 128  # slots that are predicted before any of them is learnt
BATCH: Final = 10_000
MOST_SLOTS: Final = 200_000  # the newest: about 450 bytes of memory each
LEAST_SLOTS: Final = 2_000
LEAST_PROPENSITY: Final = 0.01

Floats = NDArray[np.float64]


class TooFewOutcomesError(Exception):
    """There is not enough to fit on; the message says how much there is."""


@dataclass(frozen=True, slots=True)
class LoggedFits:
    """For the manifest of a bundle, and for people."""

    fusion: dict[str, float]
    calibration: dict[str, list[float]]
    examined: Floats  # (n_slots,) how often a slot is looked at, relative to the first
    figures: dict[str, float]


def outcomes_of_log(records: Iterable[Record]) -> Rows:
    """`(n,) OUTCOME` of slots with features, by offset: first features, newest label.

    At most the newest MOST_SLOTS. O(records), about 20 us each.
    """
    source, kept = iter(records), np.zeros(0, OUTCOME)
    while batch := list(islice(source, BATCH)):
        values = [record.value() or b"" for record in batch]
        offsets = [record.offset() or 0 for record in batch]
        found = decode_learning_batch(values, offsets).records
        found = found[(found["rollback_to"] == NO_ROLLBACK) & found["has_features"]]
        kept = _one_a_slot(np.concatenate([kept, found]))[-MOST_SLOTS:]
    return kept


def _one_a_slot(outcomes: Rows) -> Rows:
    keys = np.column_stack([outcomes["request"], outcomes["slot"].astype(np.uint64)])
    _, first, number = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    newest = np.zeros(len(first), np.int64)
    np.maximum.at(newest, number.ravel(), np.arange(len(outcomes)))
    found = outcomes[first]
    for name in ("label", "watch_share"):
        found[name] = outcomes[name][newest]
    return found[np.argsort(found["offset"], kind="stable")]


def fit_logged(outcomes: Rows, ranker: lightgbm.Booster) -> LoggedFits:
    """All fits, of slots in order of time. Raises TooFewOutcomesError."""
    labels = np.ascontiguousarray(outcomes["label"])
    if len(outcomes) < LEAST_SLOTS or not labels.any():
        raise TooFewOutcomesError(
            f"fits on the log need at least {LEAST_SLOTS:,} slots with features and a click; "
            f"got {len(outcomes):,} with {int(labels.sum()):,}"
        )
    slots = outcomes["slot"].astype(np.int64)
    examined = of_random_slots(slots, labels, _propensities(outcomes))
    click, watch = said_before(
        columns_of(outcomes["features"], outcomes["slot"]),
        labels,
        outcomes["watch_share"].astype(np.float64),
        ClickModel(COLUMNS),
        N_FEATURES,
    )
    parts = {"ranker": _ranked(outcomes["features"], ranker), "click": click, "watch": watch}
    weights = inverse_propensities(slots, labels, examined)
    fitted, calibrated = (round(len(outcomes) * share) for share in (FITTED, CALIBRATED))
    known = slice(0, fitted)
    fusion = fit_fusion(
        Exposures(parts["ranker"][known], click[known], watch[known], labels[known], weights[known])
    )
    scores = fused(fusion, parts)
    table = fit_calibration(scores[fitted:calibrated], labels[fitted:calibrated])
    figures = {"logged_slots": float(len(outcomes))}
    if table:
        said = np.interp(scores[calibrated:], table["scores"], table["probabilities"])
        figures["calibration_error"] = calibration_error(said, labels[calibrated:])
    return LoggedFits(fusion, table, examined, figures)


def _propensities(outcomes: Rows) -> Floats:
    """Of the arms that were given the slots; rare ones held, so that none outweighs the rest."""
    return np.asarray(np.clip(outcomes["propensity"], LEAST_PROPENSITY, 1.0))


def _ranked(features: NDArray[np.float32], ranker: lightgbm.Booster) -> Floats:
    """The ranker's scores, as if all stood in the first slot where it knows of slots."""
    if ranker.num_feature() > N_COLUMNS:
        features = np.column_stack([features, np.zeros(len(features), np.float32)])
    return np.asarray(ranker.predict(np.ascontiguousarray(features), num_threads=1))


def said_before(
    rows: Floats, labels: NDArray[np.bool_], shares: Floats, model: ClickModel, n_served: int
) -> tuple[Floats, Floats]:
    """`(n,)` logits of clicks and expected watched shares, each before its block was learnt.

    Columns from `n_served` on are learnt and not asked: they count as usual.
    """
    logits, watch = np.empty(len(rows)), np.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        state: dict[str, Any] = model.arrays()
        scaled = scale(rows[part], state["mean"], inverse_deviations(state["variance"]))
        scaled[:, n_served:] = 0.0
        logits[part] = scaled @ state["click"][:-1] + state["click"][-1]
        watch[part] = np.clip(scaled @ state["watch"][:-1] + state["watch"][-1], 0.0, 1.0)
        model.learn(rows[part], labels[part], shares[part])
    return logits, watch


def fused(fusion: dict[str, float], parts: dict[str, Floats]) -> Floats:
    """The final scores, as `serving.ranking.fusion` has them (a test holds the two together)."""
    mean, deviation = fusion.get("ranker_mean", 0.0), fusion.get("ranker_deviation", 1.0)
    ranker = fusion["ranker"] / deviation * (parts["ranker"] - mean)
    return np.asarray(ranker + fusion["click"] * parts["click"] + fusion["watch"] * parts["watch"])
