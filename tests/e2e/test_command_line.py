"""The command line as a stranger uses it: a stack in the background, help, errors."""

import json

import pytest

from features.events import Interaction
from features.vocabulary import EventType
from serving.client import Client


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
