"""`headrace models`: which versions there are, what is in one, and going back to one."""

import json
import os
import subprocess
import sys

import pytest

from features.clock import WallClock
from features.learning_codec import decode_learning_record, decode_snapshot
from features.log import LogConfig, read_to_end
from features.model_versions import LEARNED, RESTORED, kept_key, read_versions
from features.outcomes import Rollback
from infra.learned_parts import learners
from infra.models import ModelsError, list_versions, roll_back, show_version
from infra.overlays import readers
from serving.model_mirror import ModelMirror
from streams.learning import LearningParts, resumed
from tests.clock import START_MS, FakeClock
from tests.outcomes import LearningSite, assert_same, batch_of, random_outcomes
from tests.serving.harness import eventually


@pytest.fixture
def site(broker, redis_url, topic_prefix, tmp_path):
    return LearningSite(LogConfig(broker), redis_url, topic_prefix, tmp_path)


@pytest.fixture
def learnt(site, rng):
    """350 outcomes in the log, learnt and published."""
    outcomes = random_outcomes(rng, 350)
    site.send(outcomes)
    publisher = publisher_of(site)
    publisher.take([batch_of(outcomes)])
    publisher.finish()
    return site


def publisher_of(site):
    topics = site.topic("outcomes"), site.topic("models")
    return resumed(
        LearningParts(site.log, *topics, f"{site.prefix}g", learners, FakeClock(), 0.05, 1_000)
    )


@pytest.fixture
def headrace(site):
    def run(*words, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "infra.cli", "models", *words],
            env={**os.environ, "COLUMNS": "140", **site.settings().environment()},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    return run


@pytest.mark.usefixtures("learnt")
def test_versions_are_listed_shown_and_gone_back_to(headrace):
    rows = json.loads(headrace("list", "--json"))
    assert [row["sequence"] for row in rows] == [350, 301, 201, 101, 1]
    assert [row["in_use"] for row in rows] == [True, False, False, False, False]
    assert [row["outcomes"] for row in rows] == [350, 301, 201, 101, 1]
    shown = json.loads(headrace("show", "201", "--json"))
    assert {"rates/slots", "learner/outcomes"} <= {array["name"] for array in shown["arrays"]}
    assert sum(arm["slots"] for arm in shown["arms"]) > 100
    known = [arm for arm in shown["arms"] if arm["posterior_mean"] is not None]
    assert len(known) > 20
    assert all(0 < arm["posterior_mean"] < 1 < arm["posterior_weight"] for arm in known)
    assert "mean reward" in headrace("show", "201")
    told = headrace("rollback", "201", "--reason", "clicks were bots")
    assert "servers are given version 351, which is 201 again" in told
    newest = headrace("list").splitlines()[4]
    assert [cell.strip() for cell in newest.split("│")][1::4] == ["351", "201"]


@pytest.mark.usefixtures("learnt")
def test_what_cannot_be_done_is_said_clearly(headrace):
    assert "version 77 is not kept; there are: 1, 101, 201, 301" in headrace(
        "rollback", "77", "--reason", "x", code=1
    )
    assert "version 77 is not kept" in headrace("show", "77", code=1)
    assert "Missing option '--reason'" in headrace("rollback", "201", code=2)


def test_the_order_lies_in_the_log_and_servers_go_back_though_no_learner_runs(learnt):
    settings = learnt.settings()
    mirror = ModelMirror(learnt.log, learnt.topic("models"), readers("thompson"), WallClock())
    mirror.start()
    try:
        assert mirror.current.sequence == 350
        done = roll_back(settings, 101, "clicks were bots", FakeClock())
        eventually(lambda: mirror.current.sequence == 351)
        assert mirror.current.restored_from == 101
    finally:
        mirror.stop()
    assert (done.order.offset, done.sequence, done.restored_from) == (350, 351, 101)
    last = list(read_to_end(learnt.log, learnt.topic("outcomes")))[-1]
    assert decode_learning_record(last.value()) == Rollback(101, "clicks were bots", START_MS)


def test_the_learner_arrives_at_the_same_bytes_and_learns_on(learnt, rng):
    roll_back(learnt.settings(), 101, "bots", FakeClock())
    publisher = publisher_of(learnt)
    assert publisher.learner.sequence == 350
    publisher.take([batch_of([Rollback(101, "bots", START_MS)], 350)])
    publisher.finish()
    stored = read_versions(learnt.log, learnt.topic("models"))
    found = {key: decode_snapshot(stored[key].value) for key in (LEARNED, RESTORED, kept_key(351))}
    for version in found.values():
        assert (version.sequence, version.restored_from) == (351, 101)
        assert_same(version.arrays, found[RESTORED].arrays)
    learnt.send(random_outcomes(rng, 20))
    with learnt.running():
        learnt.assert_equals_clean_replay()


def test_versions_that_cannot_be_used_are_listed_with_the_reason(learnt):
    learnt.writer.append(learnt.topic("models"), kept_key(201).encode(), b"garbage")
    learnt.writer.flush()
    rows = {row.sequence: row for row in list_versions(learnt.settings())}
    assert "not a ModelSnapshot" in rows[201].problem
    with pytest.raises(ModelsError, match="version 201 cannot be used"):
        roll_back(learnt.settings(), 201, "x")
    with pytest.raises(ModelsError, match="version 201 cannot be used"):
        show_version(learnt.settings(), 201)
