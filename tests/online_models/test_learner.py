"""Learned state is a function of the log, whatever the batches, restarts and rollbacks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.model_snapshot import SnapshotError
from features.outcomes import Rollback
from features.vocabulary import Arm
from online_models.learner import MAX_KEPT, RECENT, Learner, arrays_of, thinned
from online_models.rates import ArmRates
from tests.clock import START_MS
from tests.outcomes import assert_same, batch_of, random_outcomes

MINUTE_MS = 60_000


class Recency:
    """Moves towards each reward: state in which the order of outcomes counts."""

    def __init__(self) -> None:
        self.level = np.zeros(1)
        self.runs: list[int] = []

    def learn(self, outcomes):
        self.runs.append(len(outcomes))
        for outcome in outcomes:
            self.level[0] += 0.3 * (outcome["reward"] - self.level[0])

    def arrays(self):
        return {"level": self.level.copy()}

    def restore(self, arrays):
        if arrays.get("level", np.zeros(0)).shape != (1,):
            raise SnapshotError("level must be one number")
        self.level = arrays["level"]  # which moves on with the state: not to be lent by anybody


def new_learner(**parts):
    return Learner(parts or {"rates": ArmRates(), "recency": Recency()})


def with_orders(outcomes, orders):
    """Outcomes with rollbacks and nonsense put in between at some places."""
    records = list(outcomes)
    for place, record in sorted(orders.items(), reverse=True):
        records.insert(place, record)
    return records


def learnt(records, sizes):
    """A learner that took the records in batches of these sizes, over and over."""
    learner, at, k = new_learner(), 0, 0
    while at < len(records):
        size = sizes[k % len(sizes)]
        learner.learn(batch_of(records[at : at + size], at))
        at, k = at + size, k + 1
    return learner


@pytest.fixture
def records(rng):
    outcomes = random_outcomes(rng, 300, every_ms=4_000)
    orders = {100: Rollback(61), 180: b"nonsense", 200: Rollback(16, "bots"), 250: Rollback(77_777)}
    return with_orders(outcomes, orders)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 90), min_size=1, max_size=5))
def test_batches_do_not_matter(sizes):
    outcomes = random_outcomes(np.random.default_rng(3), 160, every_ms=7_000)
    records = with_orders(outcomes, {40: Rollback(1), 41: Rollback(18), 90: b"x", 120: Rollback(9)})
    one_by_one, found = learnt(records, [1]), learnt(records, sizes)
    assert_same(found.version().arrays, one_by_one.version().arrays)
    assert found.sequence == one_by_one.sequence == len(records)
    assert list(found.kept) == list(one_by_one.kept)
    for sequence, version in found.kept.items():
        assert_same(version.arrays, one_by_one.kept[sequence].arrays)
        assert version.kept == one_by_one.kept[sequence].kept


@pytest.mark.parametrize("cut", [1, 61, 100, 101, 180, 181, 201, 302])
def test_going_on_from_a_version_is_as_never_having_stopped(records, cut):
    expected = learnt(records, [40])
    first = learnt(records[:cut], [13])
    second = new_learner()
    second.resume(first.version(), first.kept.values())
    assert_same(second.version().arrays, first.version().arrays)
    second.learn(batch_of(records[cut:], cut))
    assert_same(second.version().arrays, expected.version().arrays)
    assert list(second.kept) == list(expected.kept)
    assert second.sequence == expected.sequence


def test_a_rollback_brings_a_kept_version_back_and_learning_goes_on_from_there(rng):
    outcomes = random_outcomes(rng, 100, every_ms=4_000)
    learner = new_learner()
    learner.learn(batch_of(outcomes))
    origin = list(learner.kept)[2]
    learner.learn(batch_of([Rollback(origin)], 100))
    assert learner.version().restored_from == origin
    assert_same(learner.version().arrays, learner.kept[origin].arrays)
    assert (learner.sequence, learner.counts.rollbacks) == (101, 1)
    assert 101 in learner.kept
    more = random_outcomes(rng, 10, START_MS + 400_000)
    learner.learn(batch_of(more, 101))
    other = new_learner()
    other.learn(batch_of(outcomes[:origin]))
    other.learn(batch_of(more, origin))
    assert_same(learner.version().arrays, other.version().arrays)
    assert learner.version().restored_from == 0


def test_a_rollback_can_be_taken_back(rng):
    learner = new_learner()
    learner.learn(batch_of(random_outcomes(rng, 100, every_ms=4_000)))
    origin, newest = list(learner.kept)[2], list(learner.kept)[-1]
    learner.learn(batch_of([Rollback(origin), Rollback(newest)], 100))
    assert_same(learner.version().arrays, learner.kept[newest].arrays)


def test_an_order_to_an_unknown_version_is_counted_and_left_behind(rng):
    learner = new_learner()
    learner.learn(batch_of(random_outcomes(rng, 20)))
    before = learner.version()
    learner.learn(batch_of([Rollback(7_777)], 20))
    assert_same(learner.version().arrays, before.arrays)
    assert (learner.sequence, learner.counts.refused_rollbacks) == (21, 1)


def test_records_that_are_included_already_change_nothing(rng):
    records = random_outcomes(rng, 50, every_ms=4_000)
    learner = new_learner()
    learner.learn(batch_of(records))
    learner.learn(batch_of(records[20:], 20))
    learner.learn(batch_of([]))
    assert_same(learner.version().arrays, learnt(records, [50]).version().arrays)
    assert (learner.counts.outcomes, learner.sequence) == (50, 50)


def test_bad_records_move_the_sequence_and_no_more(rng):
    records = random_outcomes(rng, 10)
    learner = new_learner()
    learner.learn(batch_of([*records, b"nonsense", b""]))
    assert (learner.sequence, learner.counts.bad) == (12, 2)
    assert_same(learner.version().arrays, learnt(records, [10]).version().arrays)


def test_a_version_is_kept_behind_the_first_outcome_of_each_minute(rng):
    records = random_outcomes(rng, 10, START_MS - START_MS % MINUTE_MS, every_ms=25_000)
    assert list(learnt(records, [10]).kept) == [1, 4, 6, 9]  # at 0, 75, 125 and 200 s


def test_outcomes_reach_parts_in_runs_as_long_as_can_be(rng):
    recency = Recency()
    learner = Learner({"recency": recency})
    records = random_outcomes(rng, 30, START_MS - START_MS % MINUTE_MS, every_ms=0)
    learner.learn(batch_of([*records[:20], Rollback(1), *records[20:]]))
    assert recency.runs == [1, 19, 10]


def test_kept_versions_thin_out_with_age_and_never_exceed_the_limit():
    kept: list[int] = []
    for sequence in range(1, 5_000):
        kept = thinned([*kept, sequence])
        assert len(kept) <= MAX_KEPT
    assert kept[0] == 1
    assert kept[-RECENT:] == list(range(5_000 - RECENT, 5_000))
    assert max(np.diff(kept[len(kept) // 2 :])) < max(np.diff(kept[: len(kept) // 2]))


def test_versions_that_are_not_sound_are_not_kept(rng):
    recency = Recency()
    learner = Learner({"recency": recency})
    recency.level[0] = np.nan
    learner.learn(batch_of(random_outcomes(rng, 5)))
    assert learner.kept == {}


@pytest.mark.parametrize("broken", ["recency/level", "rates/slots", "learner/period"])
def test_a_version_that_does_not_fit_leaves_the_state_as_it_was(rng, broken):
    first = new_learner()
    first.learn(batch_of(random_outcomes(rng, 50)))
    version = first.version()
    arrays = {name: values for name, values in version.arrays.items() if name != broken}
    second = new_learner()
    with pytest.raises(SnapshotError):
        second.resume(type(version)(50, arrays), ())
    assert_same(second.version().arrays, new_learner().version().arrays)
    assert second.sequence == 0


@pytest.mark.parametrize("name", ["", "a/b", "learner"])
def test_names_of_parts_are_name_spaces(name):
    with pytest.raises(ValueError, match="names of parts"):
        Learner({name: ArmRates()})


def test_rates_are_exact_sums_and_corrections_undo_what_they_correct(rng):
    outcomes = random_outcomes(rng, 400)
    rates = ArmRates()
    records = batch_of(outcomes).records
    rates.learn(records)
    assert rates.slots.sum() == sum(outcome.revision == 0 for outcome in outcomes)
    first = records[records["revision"] == 0][:1]
    before = rates.arrays()
    rates.learn(first)
    undone = first.copy()
    undone["revision"], undone["previous_label"] = 1, first["label"]
    undone["previous_reward"], undone["label"], undone["reward"] = first["reward"], False, 0.0
    rates.learn(undone)
    np.testing.assert_array_equal(rates.taken, before["taken"])
    np.testing.assert_array_equal(rates.reward_micros, before["reward_micros"])
    assert rates.slots.sum() == before["slots"].sum() + 1


def test_rates_tell_shares_and_means_by_context(rng):
    rates = ArmRates()
    (record,) = (batch_of(random_outcomes(rng, 1)).records.copy(),)
    record["context"], record["arm"], record["revision"] = 3, Arm.NEW, 0
    record["label"], record["reward"] = True, 0.5
    rates.learn(record)
    record["arm"], record["reward"] = Arm.ALS, -0.25
    rates.learn(record)
    rates.learn(record)
    np.testing.assert_allclose(rates.shares()[3, [Arm.NEW, Arm.ALS]], [1 / 3, 2 / 3])
    np.testing.assert_allclose(rates.mean_rewards()[3, [Arm.NEW, Arm.ALS]], [0.5, -0.25])
    assert ArmRates.of(rates.arrays()).shares().sum() == pytest.approx(1.0)
    with pytest.raises(SnapshotError, match="slots must be"):
        ArmRates.of(arrays_of("rates", {"rates/slots": np.zeros(3)}))
