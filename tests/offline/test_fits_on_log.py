"""Fits on the engine's own log of outcomes."""

import lightgbm
import numpy as np
import pytest

from features.learning_codec import encode_outcome
from features.outcomes import Outcome
from features.ranking import N_COLUMNS, RANKING_COLUMNS
from features.registry import feature_version
from offline.logged_fits import (
    LEAST_SLOTS,
    TooFewOutcomesError,
    fit_logged,
    fused,
    outcomes_of_log,
)
from serving.ranking.fusion import Fusion
from tests.online_models.click_outcomes import SLOTS, outcomes_of


@pytest.fixture(scope="module")
def ranker() -> lightgbm.Booster:
    """Trees that know a column on which clicks depend, and none of the others."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(2_000, N_COLUMNS)).astype(np.float32)
    data = lightgbm.Dataset(rows, rows[:, 0].copy(), feature_name=list(RANKING_COLUMNS))
    return lightgbm.train({"num_leaves": 8, "num_threads": 1, "verbose": -1}, data, 10)


def test_what_models_learnt_has_a_say_and_what_is_said_comes_true(rng, ranker):
    outcomes = outcomes_of(rng, 12_000)
    outcomes["propensity"] = 1.0
    fits = fit_logged(outcomes, ranker)
    assert Fusion.of(fits.fusion).click > 0.5  # the click model knows more than these trees
    assert fits.figures["logged_slots"] == 12_000
    assert fits.figures["calibration_error"] < 0.04
    assert len(fits.examined) == SLOTS
    assert fits.examined[0] == 1
    assert fits.examined[-1] < 0.8  # lower slots are clicked less


def test_fused_offline_is_fused_in_service(rng):
    weights = {
        "ranker": 0.5, "click": 2.0, "watch": 0.3, "ranker_mean": 0.4, "ranker_deviation": 3.0,
    }  # fmt: skip
    parts = {name: rng.normal(size=9) for name in ("ranker", "click", "watch")}
    chances = 1 / (1 + np.exp(-parts["click"]))
    served = Fusion.of(weights).scores(parts["ranker"], chances, parts["watch"])
    np.testing.assert_allclose(fused(weights, parts), served, rtol=1e-9)


def test_a_short_log_is_refused_with_what_it_has(rng, ranker):
    outcomes = outcomes_of(rng, LEAST_SLOTS - 1)
    with pytest.raises(TooFewOutcomesError, match=r"at least 2,000 slots .*; got 1,999 with"):
        fit_logged(outcomes, ranker)


class Logged:
    """A record of a log."""

    def __init__(self, value: bytes, offset: int) -> None:
        self.value, self.offset = (lambda: value), (lambda: offset)


def test_of_a_slot_the_newest_label_counts_once_in_the_place_of_the_first():
    features = tuple(float(k) for k in range(N_COLUMNS))

    def outcome(request: str, label: bool, **more: object) -> bytes:
        version = feature_version()
        return encode_outcome(
            Outcome(request, 0, "ann", "t1", label, float(label), feature_version=version,
                    features=features, **more)
        )  # fmt: skip

    values = [
        outcome("r1", False),
        outcome("r2", True),
        outcome("r1", True, revision=1, watch_share=0.5),
        b"nonsense",
    ]
    found = outcomes_of_log([Logged(value, k) for k, value in enumerate(values)])
    assert found["offset"].tolist() == [0, 1]
    assert found["label"].tolist() == [True, True]
    assert found["watch_share"].tolist() == [0.5, -1.0]
    assert len(outcomes_of_log([])) == 0
