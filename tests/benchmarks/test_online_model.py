import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from benchmarks.online_model import COLUMNS, Run, auc, by_hour, columns_from_the_past, play
from offline.datasets import KuaiRand

DAY_MS = 86_400_000


def exposures_of(rng, n, days=2.0):
    """Made-up exposures: what is clicked depends on the tab."""
    found = {
        "time_ms": np.sort(rng.integers(0, int(days * DAY_MS), n)) + 1_650_000_000_000,
        "user_id": rng.integers(0, 20, n),
        "video_id": rng.integers(0, 50, n),
        "author_id": rng.integers(0, 10, n),
        "tab": rng.integers(0, 5, n),
        "duration_ms": rng.integers(1_000, 60_000, n),
        "play_time_ms": rng.integers(0, 60_000, n),
    }
    found["is_click"] = (rng.random(n) < found["tab"] / 5).astype(np.int64)
    return found


def test_columns_know_nothing_of_the_exposure_itself_or_later(rng):
    exposures = exposures_of(rng, 300)
    other = {name: values.copy() for name, values in exposures.items()}
    other["is_click"][200:] = 1 - other["is_click"][200:]
    other["play_time_ms"][200:] = 0
    before, after = columns_from_the_past(exposures), columns_from_the_past(other)
    assert before.shape == (300, len(COLUMNS))
    assert (before[:201] == after[:201]).all()
    assert (before[201:] != after[201:]).any()


def test_rates_that_are_left_alone_take_nothing_in_from_there_on(rng):
    exposures = exposures_of(rng, 300)
    moving, still = columns_from_the_past(exposures), columns_from_the_past(exposures, stop=150)
    assert (moving[:151] == still[:151]).all()
    tab = COLUMNS.index("tab_rate")
    for value in range(5):
        rows = np.flatnonzero(exposures["tab"][150:] == value) + 150
        assert np.unique(still[rows, tab]).size == 1
        assert np.unique(moving[rows, tab]).size > 1


def test_auc_counts_ties_half():
    labels = np.array([False, True, False, True])
    assert auc(np.array([0.1, 0.9, 0.2, 0.8]), labels) == 1.0
    assert auc(np.array([0.5, 0.5, 0.5, 0.5]), labels) == 0.5
    assert np.isnan(auc(np.zeros(3), np.zeros(3, bool)))


def test_all_models_are_measured_on_the_same_exposures_after_the_first_day(rng):
    run = play(exposures_of(rng, 4_000))
    assert {len(found) for found in run.models.values()} == {len(run.labels)}
    assert run.time_ms[0] >= 1_650_000_000_000 + DAY_MS
    assert auc(run.models["online"], run.labels) > 0.7
    moments, series = by_hour(run)
    assert len(moments) == len(series["online"]["auc"]) > 20


def test_the_gain_is_zero_between_equal_models(rng):
    p, labels = rng.random(500), rng.random(500) < 0.5
    run = Run(np.arange(500) * 3_600_000, labels, {"online": p, "frozen": p}, 1.0)
    assert run.gain(rng) == (0.0, 0.0)


@pytest.fixture
def folder(tmp_path, rng):
    n = 40
    rows = {name: values for name, values in exposures_of(rng, n).items() if name != "author_id"}
    flags = ("is_like", "is_follow", "is_forward", "is_hate", "long_view")
    rows |= {name: np.zeros(n, np.int8) for name in flags}
    rows = {name: np.concatenate([values[::-1], values[:5]]) for name, values in rows.items()}
    parquet.write_table(pa.table(rows), tmp_path / "kuairand_exposures_some.parquet")
    videos = pa.table({"video_id": np.arange(40), "author_id": np.arange(40) + 1_000})
    parquet.write_table(videos, tmp_path / "kuairand_videos.parquet")
    return tmp_path


def test_exposures_come_once_in_order_of_time_with_their_author(folder):
    found = KuaiRand(folder, 0).exposures()
    assert len(found["time_ms"]) == 40
    assert (np.diff(found["time_ms"]) >= 0).all()
    known = found["video_id"] < 40
    assert (found["author_id"][known] == found["video_id"][known] + 1_000).all()
    assert (found["author_id"][~known] == -1).all()
