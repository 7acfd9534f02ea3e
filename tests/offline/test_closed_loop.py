"""A world whose viewers answer, and policies that learn from them."""

import numpy as np
import pytest

from features.decision_context import CONTEXT_NAMES, N_CONTEXTS
from features.outcomes import NO_ANSWER_MS
from features.vocabulary import N_ARMS
from offline.closed_loop import Contender, Freshness, Pending, run, run_oracle
from offline.closed_loop_world import (
    NO_ANSWER_AFTER_MS,
    OPENING_BASE,
    PLAY,
    Answers,
    World,
    WorldConfig,
    examination,
    look_at,
    sigmoid,
    worth,
)
from online_models.bandits import PolicyOptions, policy_of
from online_models.beta_arms import BetaArms

N_SLOTS = 10
SMALL = WorldConfig(seed=3, n_decisions=600, slates_per_s=0.004, n_viewers=200, n_titles=120)


@pytest.fixture(scope="module")
def world():
    return World(SMALL)


def contender(name, learner=lambda: None):
    options = PolicyOptions(n_draws=100)
    return Contender(name, learner, lambda arrays: policy_of(name, arrays, options))


UNIFORM = contender("uniform")


def run_seeded(world, who, freshness=Freshness(0, 300)):  # noqa: B008 (frozen)
    return run(world, who, freshness, np.random.default_rng(1))


def test_the_same_seed_makes_the_same_world_and_the_same_run(world):
    first = run_seeded(world, UNIFORM)
    again = run_seeded(World(SMALL), UNIFORM)
    assert np.array_equal(first.rewards, again.rewards)
    assert np.array_equal(first.regret, again.regret)
    assert np.array_equal(first.contexts, again.contexts)
    other = World(WorldConfig(**{**as_dict(SMALL), "seed": 4}))
    assert not np.array_equal(run_seeded(other, UNIFORM).rewards, first.rewards)


def as_dict(config):
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def test_a_world_begins_anew_for_each_policy(world):
    first = run_seeded(world, UNIFORM)
    run_oracle(world)
    assert np.array_equal(run_seeded(world, UNIFORM).rewards, first.rewards)


def test_slots_further_down_are_opened_as_rarely_as_stated(world, rng):
    n = 20_000
    opened, rewards, appeal = np.zeros(N_SLOTS), np.zeros(N_SLOTS), 3.0
    for _ in range(n):
        told = answers_of_nobody()
        for slot in range(N_SLOTS):
            look_at(slot, appeal, rng.random(5), world.titles, world._truth, told)
        opened += told.opened
        rewards += told.reward
    stated = sigmoid(appeal - OPENING_BASE) * (1.0 + np.arange(N_SLOTS)) ** -0.7
    assert np.allclose(opened / n, stated, atol=5 * np.sqrt(0.25 / n))
    expected = worth(appeal, world._truth.rewards) * examination(N_SLOTS)
    assert np.allclose(rewards / n, expected, atol=5 * np.sqrt(0.5 / n))
    assert (told.watch_share >= 0).sum() <= told.opened.sum()
    assert PLAY < 1


def answers_of_nobody():
    return Answers(
        np.zeros(N_SLOTS, np.int64), np.zeros(N_SLOTS), np.full(N_SLOTS, -1.0),
        np.zeros(N_SLOTS, np.bool_), np.full(N_SLOTS, NO_ANSWER_AFTER_MS), np.zeros(N_SLOTS),
        np.zeros(N_SLOTS),
    )  # fmt: skip


def test_the_oracle_has_no_regret_and_everybody_else_has_some(world):
    oracle, even = run_oracle(world), run_seeded(world, UNIFORM)
    assert np.abs(oracle.regret).max() == 0.0
    assert even.regret.min() >= 0.0
    assert even.regret.mean() > 0.01
    assert oracle.expected.mean() > 1.2 * even.expected.mean()


def test_no_slate_has_a_title_twice_or_one_that_is_not_out_or_was_played(world, rng):
    world.restart()
    for decision in range(len(world)):
        viewer = world.schedule.viewer[decision]
        played = world.viewers.seen[viewer].copy()
        told = world.answer(decision, rng.integers(0, N_ARMS, N_SLOTS))
        assert len(set(told.title.tolist())) == N_SLOTS
        assert told.title.min() >= 0
        assert not played[told.title].any()
        assert (world.titles.born_ms[told.title] <= world.schedule.at_ms[decision]).all()


def test_contexts_are_those_of_the_engine(world):
    result = run_seeded(world, UNIFORM)
    assert 0 <= result.contexts.min() <= result.contexts.max() < N_CONTEXTS
    names = {CONTEXT_NAMES[code].split("/")[1] for code in result.contexts}
    assert names == {"start", "early", "deep"}
    evening = [k for k, at in enumerate(world.schedule.at_ms) if at // 3_600_000 % 24 >= 18]
    assert evening
    assert all("/evening/" in CONTEXT_NAMES[result.contexts[k]] for k in evening)


def test_what_learns_earns_more_than_even_shares():
    week = World(WorldConfig(seed=11, n_decisions=2_000, slates_per_s=2_000 / (7 * 86_400)))
    even = run_seeded(week, UNIFORM)
    learns = run_seeded(week, contender("thompson", BetaArms))
    assert learns.expected.mean() > 1.05 * even.expected.mean()
    assert learns.regret.mean() < even.regret.mean()


@pytest.mark.parametrize("delay_s", [0.0, 60.0, 1e7])
def test_no_delay_loses_an_outcome(world, delay_s):
    learner = BetaArms()
    who = contender("thompson", lambda: learner)
    result = run_seeded(world, who, Freshness(delay_s, 1.0))
    assert result.n_learnt == len(world) * N_SLOTS
    assert learner.counts == {"learnt": result.n_learnt, "skipped": 0}
    if delay_s > 1e6:
        assert result.n_versions == 1


def test_outcomes_come_in_the_order_in_which_they_are_due_and_not_before(world, rng):
    world.restart()
    pending = Pending(world)
    arms = rng.integers(0, N_ARMS, N_SLOTS)
    for decision in range(50):
        told = world.answer(decision, arms)
        pending.add(decision, 7, arms, np.full(N_SLOTS, 0.5), told, 2_000)
    assert len(pending) == 50 * N_SLOTS
    middle_ms = int(world.schedule.at_ms[25])
    early = pending.due(middle_ms)
    late = pending.due(1 << 62)
    for part in (early, late):
        ready_ms = part["decided_at_ms"] + 2_000
        assert (np.diff(ready_ms) >= 0).all()
    assert early["decided_at_ms"].max() + 2_000 <= middle_ms < late["decided_at_ms"].min() + 2_000
    assert len(early) + len(late) == 50 * N_SLOTS
    assert len(pending) == 0
    assert set(np.unique(late["delay_ms"][~late["label"]])) == {NO_ANSWER_MS}
    assert (late["context"] == 7).all()


def test_settings_that_make_no_world_are_refused():
    with pytest.raises(ValueError, match=r"world\.n_decisions must be positive; got 0"):
        WorldConfig(n_decisions=0)
    with pytest.raises(ValueError, match=r"world\.n_titles must be 100 or more; got 50"):
        WorldConfig(n_titles=50)
    with pytest.raises(ValueError, match=r"freshness\.delay_s must be 0 or more"):
        Freshness(-1.0)
