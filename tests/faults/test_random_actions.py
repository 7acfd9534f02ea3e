"""Anything may happen in any order: whatever does, rows are those of a clean replay of the log.

A failure prints its seed and a short script that fails too, as Python, to be pasted below as a
test. `HEADRACE_SEED=123 make test-long` runs one seed again.
"""

import os

import pytest

from tests.faults.actions import (
    Erase,
    Kill,
    RestartRedis,
    Send,
    WrongError,
    random_script,
    run_script,
    worlds,
)
from tests.faults.shrinking import as_python, shrunk

SHORT_SEED, N_SHORT = 96, 40
LONG_SEEDS, N_LONG = (101, 102, 103, 104), 300
MAX_ATTEMPTS = 25


@pytest.fixture
def make_world(broker, topic_prefix, tmp_path):
    return worlds(broker, topic_prefix, tmp_path)


def run_seed(make_world, seed, n):
    """Runs the script of a seed; fails with the seed and a shrunken script."""
    script = random_script(seed, n)
    try:
        run_script(make_world, script)
    except WrongError as wrong:
        short = shrunk(script, lambda part: is_wrong(make_world, part), MAX_ATTEMPTS)
        pytest.fail(f"seed {seed}, {n} actions: {wrong}\nalso wrong:\n{as_python(short)}")


def is_wrong(make_world, script):
    try:
        run_script(make_world, script)
    except WrongError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.timeout(900)  # a failure takes its time to shrink
def test_rows_equal_a_clean_replay_whatever_happened(make_world):
    run_seed(make_world, int(os.environ.get("HEADRACE_SEED", SHORT_SEED)), N_SHORT)


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("seed", [int(os.environ.get("HEADRACE_SEED", s)) for s in LONG_SEEDS])
def test_rows_equal_a_clean_replay_after_hundreds_of_actions(make_world, seed):
    run_seed(make_world, seed, N_LONG)


def test_a_script_is_all_of_a_seed_and_can_be_pasted():
    script = random_script(5, 200)
    assert script == random_script(5, 200)
    assert script != random_script(6, 200)
    names = {type(action).__name__: type(action) for action in script}
    assert len(names) > 10
    pasted = []
    call = as_python(script).strip()
    known = {**names, "run_script": lambda _, it: pasted.extend(it), "make_world": None}
    eval(call, known)  # noqa: S307 (its own text)
    assert pasted == script


def test_a_failing_script_shrinks_to_what_it_fails_of():
    script = random_script(5, 200)
    tried = []

    def fails(part):
        tried.append(part)
        kinds = [type(action) for action in part]
        return Kill in kinds and RestartRedis in kinds[kinds.index(Kill) :]

    assert fails(script)
    short = shrunk(script, fails, 100)
    assert [type(action) for action in short] == [Kill, RestartRedis]
    assert len(tried) <= 101
    assert len(shrunk(script, fails, 3)) >= 25


def test_a_wrong_row_is_noticed(make_world):
    with make_world() as world:
        Send(1, 50).run(world)
        Erase(1).run(world)
        world.check()
        victim = next(iter(world.sent[0])).user_id
        world.spoil(victim)
        with pytest.raises(WrongError, match="table u, row"):
            world.check()
