import hashlib
import subprocess
import sys

import numpy as np
import pytest
from river import linear_model, optim, preprocessing

from features.model_snapshot import SnapshotError, pack, require_finite, unpack
from online_models.click_features import COLUMNS, N_FEATURES, columns_of, features_of
from online_models.click_learning import ClickLearner, ClickLearningSettings
from online_models.click_model import ClickModel, ClickSettings
from online_models.click_scorer import ClickScorer
from online_models.drift import ResponseSettings
from online_models.evaluation import log_losses
from tests.online_models.click_outcomes import chances_of, in_batches, outcomes_of

NAMES = ("one", "two", "three")
QUICK = ClickLearningSettings(challengers=False)
ALWAYS_THE_MODEL = ClickLearningSettings(
    challengers=False, response=ResponseSettings(margin=float("inf"))
)


def example(rng, n):
    """Rows of NAMES, labels that depend on the first, watch shares that are known for half."""
    rows = rng.normal(size=(n, 3)) * (1.0, 100.0, 0.01) + (5.0, 0.0, 0.0)
    labels = rng.random(n) < 1.0 / (1.0 + np.exp(-2.0 * (rows[:, 0] - 5.0)))
    return rows, labels, np.where(rng.random(n) < 0.5, rng.random(n), -1.0)


def named(row, names=COLUMNS):
    return dict(zip(names, row.tolist(), strict=True))


def cut(scaled):
    return {name: min(max(value, -5.0), 5.0) for name, value in scaled.items()}


def same(one, other):
    """The same arrays under the same names, bit for bit."""
    assert sorted(one) == sorted(other)
    assert [name for name in one if one[name].tobytes() != other[name].tobytes()] == []


def test_while_all_rows_are_scaled_it_is_the_pipeline_of_river_row_for_row(rng):
    rows, labels, shares = example(rng, 400)
    settings = ClickSettings(first_rate=0.02, last_rate=0.02)  # constant
    scaler = preprocessing.StandardScaler()
    click = linear_model.LogisticRegression(optim.SGD(0.02), intercept_lr=0.02)
    expected = []
    for row, label in zip(rows, labels.tolist(), strict=True):
        x = cut(scaler.transform_one(named(row, NAMES)))
        expected.append(click.predict_proba_one(x)[True])
        click.learn_one(x, label)
        scaler.learn_one(named(row, NAMES))
    found = ClickModel(NAMES, settings).learn(rows, labels, shares)
    assert np.abs(found - expected).max() < 1e-9


def test_what_servers_compute_is_what_river_says(rng):
    learner = ClickLearner(ALWAYS_THE_MODEL)
    learner.learn(outcomes_of(rng, 3_000))
    shown = outcomes_of(rng, 50)
    scorer = ClickScorer.of(learner.arrays())
    assert not scorer.falls_back
    model = learner._model
    usual_slot = model._scaler.means["slot"]
    clicks, shares = [], []
    for row in features_of(shown["features"]):
        x = cut(model._scaler.transform_one(named(np.append(row, usual_slot))))
        clicks.append(model._click.predict_proba_one(x)[True])
        shares.append(model._watch.predict_one(x))
    features = shown["features"]
    assert np.abs(scorer.click_probabilities(features) - clicks).max() < 1e-9
    assert np.abs(scorer.watch_shares(features) - np.clip(shares, 0.0, 1.0)).max() < 1e-9
    assert np.std(clicks) > 0.05
    assert np.std(shares) > 0.001


def test_the_slot_explains_clicks_while_learning_and_is_unknown_at_serving(rng):
    weights = np.zeros(len(COLUMNS))
    weights[-1] = -1.5
    learner = ClickLearner(ALWAYS_THE_MODEL)
    learner.learn(outcomes_of(rng, 10_000, weights=weights, bias=1.0))
    assert learner.arrays()["click.click"][len(COLUMNS) - 1] < -0.5
    shown = outcomes_of(rng, 500)
    scores = ClickScorer.of(learner.arrays()).click_probabilities(shown["features"])
    assert scores.std() < 0.08  # nothing else matters in this world


def test_expected_watch_shares_are_learnt(rng):
    rows = rng.normal(size=(20_000, 3))
    shares = np.clip(0.5 + 0.1 * rows[:, 1], 0.0, 1.0)
    model = ClickModel(NAMES)
    model.learn(rows, np.ones(len(rows), bool), shares)
    watch = model.arrays()["watch"]
    assert np.abs(watch - (0.0, 0.1, 0.0, 0.5)).max() < 0.02


def test_state_does_not_depend_on_how_rows_come_in_batches(rng):
    outcomes = outcomes_of(rng, 5_000)
    at_once, in_parts = ClickLearner(), ClickLearner()
    at_once.learn(outcomes)
    for batch in in_batches(rng, outcomes):
        in_parts.learn(batch)
    same(at_once.arrays(), in_parts.arrays())


def test_after_a_restore_learning_goes_on_as_if_nothing_had_happened(rng):
    outcomes = outcomes_of(rng, 6_000)
    straight, first = ClickLearner(), ClickLearner()
    straight.learn(outcomes)
    first.learn(outcomes[:3_333])
    payload = pack(first.arrays())
    first.learn(outcomes[:100])  # whatever it does later is no part of the version
    second = ClickLearner()
    second.learn(outcomes[:50])  # nor is what was there before
    arrays = unpack(payload, hashlib.sha256(payload).digest())
    require_finite(arrays)
    second.restore(arrays)
    same(second.arrays(), arrays)
    second.learn(outcomes[3_333:])
    same(second.arrays(), straight.arrays())
    assert second.report() == straight.report()


def test_a_new_learner_can_be_restored_before_it_has_seen_anything(rng):
    new, other = ClickLearner(), ClickLearner()
    other.learn(outcomes_of(rng, 700))
    require_finite(new.arrays())
    other.restore(new.arrays())
    same(other.arrays(), new.arrays())


@pytest.mark.parametrize("name", ["counts", "click.mean", "rates.item", "drift.detectors"])
def test_a_version_without_a_part_is_refused(name):
    arrays = ClickLearner(QUICK).arrays()
    del arrays[name]
    with pytest.raises(SnapshotError, match=name.rsplit(".", maxsplit=1)[-1]):
        ClickLearner(QUICK).restore(arrays)


def test_a_version_of_another_shape_is_refused():
    arrays = ClickLearner(QUICK).arrays()
    arrays["click.click"] = arrays["click.click"][:-1]
    with pytest.raises(SnapshotError, match="click must have the shape"):
        ClickScorer.of(arrays)


def test_a_correction_that_turns_the_label_is_learnt_once_more_and_not_measured(rng):
    outcomes = outcomes_of(rng, 1_000)
    turned = outcomes[:10].copy()
    turned["revision"], turned["previous_label"] = 1, turned["label"]
    turned["label"] = ~turned["label"]
    same_label = outcomes[10:20].copy()
    same_label["revision"], same_label["previous_label"] = 1, same_label["label"]
    learner = ClickLearner(QUICK)
    learner.learn(outcomes)
    before = learner.arrays()
    learner.learn(same_label)
    assert learner.report().left_alone == 10
    same({n: a for n, a in learner.arrays().items() if n != "counts"},
         {n: a for n, a in before.items() if n != "counts"})  # fmt: skip
    learner.learn(turned)
    report, after = learner.report(), learner.arrays()
    assert report.learnt == 1_010
    assert {f.n for f in report.served if f.segment == "all"} == {1_000}
    assert (after["click.click"] != before["click.click"]).all()


def test_outcomes_without_features_are_left_alone(rng):
    outcomes = outcomes_of(rng, 100)
    outcomes["has_features"] = False
    learner = ClickLearner(QUICK)
    learner.learn(outcomes)
    assert (learner.report().learnt, learner.report().left_alone) == (0, 100)


def test_what_is_not_a_number_counts_as_usual_and_harms_nothing(rng):
    outcomes = outcomes_of(rng, 2_000)
    outcomes["features"][100] = np.nan
    outcomes["features"][200] = np.inf
    learner = ClickLearner(ALWAYS_THE_MODEL)
    learner.learn(outcomes)
    require_finite(learner.arrays())
    scorer = ClickScorer.of(learner.arrays())
    unknown = np.full_like(outcomes["features"][:1], np.nan)
    usual = 1.0 / (1.0 + np.exp(-scorer.click[-1]))
    assert scorer.click_probabilities(unknown)[0] == pytest.approx(usual)


def test_plain_rates_are_served_until_the_model_is_better(rng):
    learner, outcomes = ClickLearner(QUICK), outcomes_of(rng, 10_000)
    learner.learn(outcomes[:100])
    shown = outcomes[:20]
    early = ClickScorer.of(learner.arrays())
    assert early.falls_back
    everything = early.click_probabilities(shown["features"])
    assert np.unique(everything).tolist() == [early.rates.global_rate]
    by_item = early.click_probabilities(shown["features"], shown["item"])
    assert by_item.tolist() == early.rates.rates_of(shown["item"]).tolist()
    learner.learn(outcomes[100:])
    assert not ClickScorer.of(learner.arrays()).falls_back


def test_the_model_beats_both_baselines_where_features_matter(rng):
    learner, outcomes = ClickLearner(QUICK), outcomes_of(rng, 15_000)
    learner.learn(outcomes)
    best = log_losses(chances_of(outcomes), outcomes["label"]).mean()
    found = {f.series: f for f in learner.report().served if f.segment == "all"}
    assert found["click_model"].log_loss < 0.95 * found["item_rate"].log_loss
    assert found["click_model"].log_loss < 0.95 * found["global_rate"].log_loss
    assert found["click_model"].log_loss < best + 0.02
    assert found["click_model"].roc_auc > found["item_rate"].roc_auc + 0.15
    assert found["click_model"].calibration_error < 0.02
    assert found["global_rate"].calibration_error < 0.02


def test_servers_score_without_river():
    code = "import sys, online_models.click_scorer; sys.exit('river' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_columns_are_those_named_and_the_slot(rng):
    outcomes = outcomes_of(rng, 30)
    columns = columns_of(outcomes["features"], outcomes["slot"])
    assert columns.shape == (30, N_FEATURES + 1)
    assert columns[:, -1].tolist() == np.log1p(outcomes["slot"].astype(float)).tolist()
    assert np.isfinite(columns).all()
