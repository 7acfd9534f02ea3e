import numpy as np
import pytest

from online_models.evaluation import N_PANES, PANE, WindowedMetrics, log_losses
from online_models.segments import SEGMENTS, UNKNOWN, segments_of
from tests.online_models.click_outcomes import outcomes_of

ALL = np.zeros((1, 1), np.int64)


def example(rng, n):
    """Probabilities that are right, and labels drawn from them."""
    p = 1.0 / (1.0 + np.exp(-rng.normal(-1.0, 1.0, n)))
    return p, rng.random(n) < p


def exact_auc(p, labels):
    return float((p[labels][:, None] > p[~labels][None, :]).mean())


def figures(metrics):
    return {(f.series, f.segment): f for f in metrics.figures()}


def test_metrics_are_those_of_their_definitions(rng):
    p, labels = example(rng, 3_000)
    metrics = WindowedMetrics(("right", "too high"), ("all",))
    metrics.add(np.array([p, p + (1.0 - p) * 0.3]), labels, np.repeat(ALL, 3_000, axis=0))
    right, high = (figures(metrics)[name, "all"] for name in ("right", "too high"))
    assert right.n == 3_000
    assert right.click_rate == labels.mean()
    assert right.log_loss == pytest.approx(log_losses(p, labels).mean())
    assert right.roc_auc == pytest.approx(exact_auc(p, labels), abs=0.01)
    assert high.roc_auc == pytest.approx(right.roc_auc, abs=0.01)  # the order is the same
    assert right.calibration_error < 0.02
    assert high.calibration_error == pytest.approx(0.3 * (1.0 - p.mean()), abs=0.02)


def test_the_window_forgets_what_is_older_than_its_panes():
    metrics = WindowedMetrics(("one",), ("all",))
    n = N_PANES * PANE + 10
    bad = np.full((1, PANE), 0.999)
    metrics.add(bad, np.zeros(PANE, bool), np.repeat(ALL, PANE, axis=0))
    assert figures(metrics)["one", "all"].log_loss > 5
    good = np.full((1, n), 0.001)
    metrics.add(good, np.zeros(n, bool), np.repeat(ALL, n, axis=0))
    found = figures(metrics)["one", "all"]
    assert found.log_loss < 0.01
    assert (N_PANES - 1) * PANE <= found.n <= N_PANES * PANE
    assert np.isnan(found.roc_auc)  # nobody clicked


def test_each_outcome_counts_in_the_segments_it_lies_in_and_no_other(rng):
    outcomes = outcomes_of(rng, 2_000)
    outcomes["arm"][:100] = 255
    outcomes["context"][:100] = 65_535
    p, labels = example(rng, 2_000)
    metrics = WindowedMetrics(("one",), SEGMENTS)
    metrics.add(p[np.newaxis], labels, segments_of(outcomes))
    counts = {segment: f.n for (_, segment), f in figures(metrics).items()}
    assert counts["all"] == 2_000
    for kind in ("stage", "session", "saturation", "time", "week", "arm"):
        assert sum(n for name, n in counts.items() if name.startswith(f"{kind}:")) == 1_900
    assert (segments_of(outcomes)[:100, 1:] == UNKNOWN).all()


def test_figures_do_not_depend_on_batches(rng):
    p, labels = example(rng, 6_000)
    segments = segments_of(outcomes_of(rng, 6_000))
    at_once, in_parts = (WindowedMetrics(("one",), SEGMENTS) for _ in range(2))
    at_once.add(p[np.newaxis], labels, segments)
    for start in range(0, 6_000, 77):
        part = slice(start, start + 77)
        in_parts.add(p[np.newaxis, part], labels[part], segments[part])
    assert list(at_once.figures()) == pytest.approx(list(in_parts.figures()), nan_ok=True)
    again = WindowedMetrics(("one",), SEGMENTS)
    again.restore(in_parts.arrays())
    assert {n: a.tobytes() for n, a in again.arrays().items()} == {
        n: a.tobytes() for n, a in at_once.arrays().items()
    }
