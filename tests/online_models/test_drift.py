import sys

import numpy as np
import pytest

from features.outcomes import OUTCOME, Drift
from online_models.click_learning import BLOCK, ClickLearner, ClickLearningSettings
from online_models.drift import BATCH, WARM_UP, Detector, DriftMonitor, Response
from online_models.evaluation import log_losses
from online_models.segments import SEGMENTS, segments_of
from tests.online_models.click_outcomes import USUAL, outcomes_of

CHANGE_AT = 12_032
WITH = ClickLearningSettings(challengers=False)
WITHOUT = ClickLearningSettings(challengers=False, responds=False)


def played(settings, planted, n_after=6_000):
    """Drifts before and after the change of taste, and the loss of late after each thousand."""
    rng = np.random.default_rng(3)
    learner, losses = ClickLearner(settings), []
    learner.learn(outcomes_of(rng, CHANGE_AT))
    before = learner.take_events()
    for start in range(CHANGE_AT, CHANGE_AT + n_after, 1_000):
        weights = -USUAL if planted else USUAL
        learner.learn(outcomes_of(rng, 1_000, start, weights=weights))
        losses.append(learner.report().recent_log_loss)
    return before, learner.take_events(), losses


def watched(monitor, rng, n, rate=0.27, first=0, stage=None):
    """Outcomes of a model that is right, shown to a monitor as a learner would."""
    outcomes = np.zeros(n, OUTCOME)
    outcomes["context"] = np.repeat(rng.integers(0, 144, n // 10 + 1), 10)[:n]
    if stage is not None:
        outcomes["context"] = outcomes["context"] % 48 + 48 * stage
    outcomes["arm"] = rng.integers(0, 8, n)
    p = 1.0 / (1.0 + np.exp(-rng.normal(np.log(rate / (1.0 - rate)), 1.0, n)))
    labels, segments = rng.random(n) < p, segments_of(outcomes)
    losses, found = log_losses(p, labels), []
    for start in range(0, n, BLOCK):
        part = slice(start, start + BLOCK)
        monitor.add(losses[part], labels[part], segments[part])
        found += monitor.check(first + start + BLOCK - 1)
    return found


def test_a_planted_change_is_found_soon_and_answered():
    quiet_before, events, losses = played(WITH, planted=True)
    _, _, losses_without = played(WITHOUT, planted=True)
    assert quiet_before == []
    first = next(e for e in events if e.what == "log_loss" and e.segment == "all")
    assert 0 < first.offset - CHANGE_AT <= 1_024  # outcomes until it is found
    assert first.after > 1.2 * first.before
    assert np.mean(losses[:5]) < np.mean(losses_without[:5]) - 0.03
    sys.stdout.write(f"found after {first.offset - CHANGE_AT} outcomes\n")


def test_without_a_change_nothing_is_found():
    before, after, _ = played(WITH, planted=False)
    assert before + after == []


def test_false_alarms_are_rare():
    """Sixty-eight detectors over 50,000 outcomes, twenty times: at most one alarm in all."""
    alarms = [
        len(watched(DriftMonitor(), np.random.default_rng(seed), 391 * BLOCK)) for seed in range(20)
    ]
    sys.stdout.write(f"false alarms in {20 * 391 * BLOCK:,} outcomes: {sum(alarms)}\n")
    assert sum(alarms) <= 1


def test_changes_of_rates_and_of_who_comes_are_found_by_segment(rng):
    monitor = DriftMonitor()
    assert watched(monitor, rng, 200 * BLOCK, stage=0) == []
    found = watched(monitor, rng, 100 * BLOCK, rate=0.5, first=200 * BLOCK, stage=2)
    kinds = {(event.what, event.segment) for event in found}
    assert ("label_rate", "all") in kinds
    assert {("share", "stage:new"), ("share", "stage:power")} <= kinds
    power = next(e for e in found if (e.what, e.segment) == ("share", "stage:power"))
    assert (power.before, power.after) == (0.0, pytest.approx(1.0, abs=0.9))
    assert power.offset >= 200 * BLOCK


def test_a_detector_takes_a_new_level_for_usual_and_begins_anew(rng):
    detector, found = Detector(), []
    for k in range(1_000):
        if detector.update(float(rng.normal(0.0 if k < 500 else 3.0, 1.0))):
            found.append((k, *detector.before_and_after()))
            detector.reset()
    assert len(found) == 1
    k, before, after = found[0]
    assert 500 <= k < 540
    assert before == pytest.approx(0.0, abs=0.3)
    assert after == pytest.approx(3.0, abs=1.0)


@pytest.mark.parametrize("n", [0, 1, WARM_UP, WARM_UP + 1, 100])
def test_a_detector_goes_on_as_if_never_stopped(rng, n):
    straight, restored = Detector("up"), Detector("up")
    for value in rng.normal(size=n).tolist():
        straight.update(value)
    restored.load(straight.state())
    assert np.isfinite(straight.state()).all()
    assert restored.state().tolist() == straight.state().tolist()
    later = [*rng.normal(size=50).tolist(), *rng.normal(4.0, 1.0, 50).tolist()]
    assert [restored.update(v) for v in later] == [straight.update(v) for v in later]
    assert restored.state().tolist() == straight.state().tolist()


def test_learning_is_faster_for_a_while_after_a_rise_of_loss_only():
    response = Response()
    response.on(Drift("share", "all", 0, 0.1, 0.2))
    assert response.pace == 1.0
    response.on(Drift("log_loss", "all", 0, 0.1, 0.2))
    assert response.pace > 1.0
    for _ in range(4_096 // BLOCK):
        assert response.pace > 1.0
        response.add(10.0, 20.0, BLOCK)
    assert response.pace == 1.0


def test_the_plain_rates_are_served_while_the_model_is_worse():
    response = Response()
    response.add(10.0, 20.0, BLOCK)
    assert not response.falls_back
    response.add(100.0, 40.0, BLOCK)
    assert response.falls_back
    for _ in range(100):
        response.add(20.0, 40.0, BLOCK)
    assert not response.falls_back
    assert BATCH <= BLOCK
    assert SEGMENTS[0] == "all"
