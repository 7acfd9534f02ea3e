import numpy as np

from benchmarks.fusion import MOST_SLOTS, PAUSE_MS, by_slate, ndcg, play
from benchmarks.online_model import columns_from_the_past
from tests.benchmarks.test_online_model import exposures_of


def test_a_slate_is_of_one_viewer_and_tab_without_a_pause_and_not_too_long(rng):
    exposures, slates = by_slate(exposures_of(rng, 3_000, days=0.2))
    assert (np.diff(slates) != 0).sum() == len(np.unique(slates)) - 1  # those of one stand together
    starts = []
    for slate in np.unique(slates):
        rows = slates == slate
        assert rows.sum() <= MOST_SLOTS
        for name in ("user_id", "tab"):
            assert len(np.unique(exposures[name][rows])) == 1
        assert (np.diff(exposures["time_ms"][rows]) <= PAUSE_MS).all()
        starts.append((exposures["time_ms"][rows][0], np.flatnonzero(rows)[0]))
    assert sorted(starts) == sorted(starts, key=lambda pair: pair[1])


def test_columns_of_a_slate_know_nothing_of_its_own_clicks(rng):
    exposures, slates = by_slate(exposures_of(rng, 2_000, days=0.1))
    last = slates == slates[-1]
    other = {name: values.copy() for name, values in exposures.items()}
    other["is_click"][last] = 1 - other["is_click"][last]
    before, after = (columns_from_the_past(e, slates=slates) for e in (exposures, other))
    assert (before == after).all()
    alone = columns_from_the_past(exposures, slates=np.arange(len(slates)))
    assert (alone == columns_from_the_past(exposures)).all()


def test_ndcg_is_of_slates_that_can_be_ordered_wrongly():
    slates = np.array([0, 0, 1, 1, 2])
    labels = np.array([True, False, True, True, False])
    assert ndcg(np.array([2.0, 1, 0, 0, 0]), labels, slates) == 1.0
    assert ndcg(np.array([1.0, 2, 0, 0, 0]), labels, slates) == 1 / np.log2(3)


def test_the_final_score_is_measured_beside_its_parts(rng):
    found = play(exposures_of(rng, 6_000))
    assert found["measured"] == 2_400
    parts = [found[f"auc_{name}"] for name in ("ranker", "click", "watch")]
    assert found["auc_final"] > max(parts) - 0.02 > 0.6
    assert 0 <= found["calibration_error_final"] < 0.1
