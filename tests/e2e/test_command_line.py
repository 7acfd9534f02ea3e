"""The command line as a stranger uses it: the demonstration, and a stack in the background."""

import json
import os
import subprocess
import sys

import pytest

from features.events import Interaction
from features.vocabulary import EventType
from serving.client import Client

DEMO_FIGURES = {
    "wall_s", "events", "events_per_s", "freshness_p50_ms", "freshness_p99_ms",
    "click_to_change_ms", "slate_before", "slate_after",
}  # fmt: skip


@pytest.fixture
def headrace(tmp_path):
    environment = {**os.environ, "HEADRACE_HOME": str(tmp_path), "HEADRACE_SERVING__PORT": "0"}

    def run(*words, check=True):
        return subprocess.run(
            [sys.executable, "-m", "infra.cli", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=check,
            timeout=290,
        )

    return run


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


@pytest.mark.slow
def test_a_stack_in_the_background_answers_tells_its_status_and_stops(headrace):
    assert headrace("status", check=False).returncode == 1
    headrace("up", "--detach")
    try:
        status = json.loads(headrace("status", "--json").stdout)
        assert status["healthy"]
        names = {process["name"] for process in status["processes"]}
        assert names == {"broker", "redis", "features", "learning", "serve"}
        with Client(status["addresses"]["grpc"], timeout_s=10) as client:
            client.wait_until_connected()
            position = client.track(Interaction("", "ann", "tt1", EventType.CLICK))
            slate = client.recommend("ann", after=position, wait_ms=1_000)
            assert slate.freshness.after_included
        second = headrace("up", check=False)
        assert second.returncode == 1
        assert "already runs" in second.stderr
    finally:
        headrace("down")
    assert "no stack runs" in headrace("status", check=False).stderr


def test_known_troubles_end_with_one_clear_line(headrace):
    refused = headrace("train", "nonsense", check=False)
    assert refused.returncode == 1
    assert "dataset must be one of movietweetings, movielens, kuairand" in refused.stderr
    assert "Traceback" not in refused.stderr
    alone = headrace("replay", "movietweetings", check=False)
    assert "no stack runs" in alone.stderr


def test_help_names_every_command(headrace):
    text = headrace("--help").stdout
    for command in ("up", "down", "status", "demo", "serve", "replay", "simulate", "train"):
        assert command in text
