"""The demonstration as a stranger runs it."""

import json

import pytest

DEMO_FIGURES = {
    "wall_s", "events", "events_per_s", "freshness_p50_ms", "freshness_p99_ms",
    "click_to_change_ms", "slate_before", "slate_after",
}  # fmt: skip


@pytest.mark.slow
def test_the_demo_ends_by_itself_with_a_changed_slate(headrace, tmp_path):
    printed = headrace("demo", "--dataset", "simulation", "--json").stdout
    summary = json.loads(printed)
    assert json.loads((tmp_path / "demo.json").read_text()) == summary
    assert summary.keys() >= DEMO_FIGURES
    assert summary["events"] == 100_000
    assert summary["changed_titles"] > 0
    assert summary["slate_before"] != summary["slate_after"]
    assert not (tmp_path / "run.json").exists()
    assert summary["outcomes_learnt"] >= 10 * summary["slates_answered"] > 1_000
    for arms in summary["arms"].values():
        assert sum(arm["slots"] for arm in arms.values()) > 100
        assert any(abs(arm["posterior_mean"] - 0.5) > 0.1 for arm in arms.values())
        assert any(abs(arm["chance_after"] - arm["chance_before"]) > 0.05 for arm in arms.values())
