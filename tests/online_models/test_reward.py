"""The reward of a slot: what beats what, and that the order of answers is of no account."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.outcomes import UNKNOWN_SHARE
from features.vocabulary import EventType
from online_models.reward import Deed, answers_of, is_decisive, rating_reward
from online_models.reward_table import RewardError, RewardTable

TABLE = RewardTable()
TYPES = [t for t in EventType if t not in (EventType.UNSPECIFIED, EventType.ERASE)]

deeds = st.builds(
    Deed,
    type=st.sampled_from(TYPES).map(int),
    at_ms=st.integers(0, 5),
    event=st.integers(0, 5),
    rating=st.sampled_from([0.0, 4.0, 5.0, 7.5, 10.0]),
    watch_position_s=st.sampled_from([0.0, 10.0, 89.0, 90.0, 200.0]),
    watch_duration_s=st.sampled_from([0.0, 100.0]),
)


def told(*given_deeds, table=TABLE):
    answers = answers_of(given_deeds)
    return answers.label(), answers.reward(table), answers.watch_share


def deed(kind, at_ms=0, event=1, **numbers):
    return Deed(kind, at_ms, event, **numbers)


def watched(position_s, duration_s=100.0):
    return deed(EventType.PROGRESS, watch_position_s=position_s, watch_duration_s=duration_s)


@given(st.lists(deeds, max_size=8).flatmap(lambda d: st.tuples(st.just(d), st.permutations(d))))
def test_any_order_of_the_same_answers_gives_the_same(case):
    in_order, shuffled = case
    assert told(*in_order) == told(*shuffled)


@given(st.lists(deeds, max_size=8))
def test_answers_that_come_twice_count_once(some):
    assert told(*some) == told(*some, *some)


@given(st.lists(deeds, max_size=8))
def test_rewards_stay_within_their_bounds(some):
    _, reward, share = told(*some)
    assert -1.0 <= reward <= 1.0
    assert share == UNKNOWN_SHARE or 0.0 <= share <= 1.0


@pytest.mark.parametrize(
    ("kind", "label", "reward"),
    [
        (EventType.IMPRESSION, False, 0.0),
        (EventType.CLICK, True, 0.1),
        (EventType.PLAY, True, 0.1),
        (EventType.COMPLETE, True, 1.0),
        (EventType.LIKE, True, 0.8),
        (EventType.DISLIKE, False, -1.0),
        (EventType.SKIP, False, -0.5),
        (EventType.ADD, True, 0.5),
        (EventType.SHARE, True, 0.6),
        (EventType.SEARCH, True, 0.1),
    ],
)
def test_each_deed_alone_is_worth_what_the_table_says(kind, label, reward):
    assert told(deed(kind))[:2] == (label, reward)


def test_a_partial_watch_earns_its_share_and_nearly_all_is_all():
    assert told(watched(25.0)) == (True, 0.25, 0.25)
    assert told(watched(90.0)) == (True, 1.0, 0.9)
    assert told(watched(25.0), watched(60.0)) == (True, 0.6, 0.6)
    assert told(watched(500.0)) == (True, 1.0, 1.0)
    assert told(watched(25.0, 0.0)) == (True, 0.1, UNKNOWN_SHARE)  # of how much is not known
    assert told(watched(50.0), table=RewardTable(complete=0.5))[1] == 0.25


def test_ratings_are_linear_around_the_middle_of_the_scale():
    assert [rating_reward(r) for r in (0, 2.5, 5, 7.5, 10)] == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert told(deed(EventType.RATE, rating=7.5))[:2] == (True, 0.5)
    assert told(deed(EventType.RATE, rating=2.5))[:2] == (False, -0.5)


def test_the_newest_verdict_beats_everything_else():
    complete, like = deed(EventType.COMPLETE), deed(EventType.LIKE, at_ms=5)
    dislike = deed(EventType.DISLIKE, at_ms=6)
    assert told(complete, dislike, like)[1] == -1.0
    assert told(complete, deed(EventType.DISLIKE, at_ms=4), like)[1] == 0.8
    # Of equally old ones the event's hash decides.
    assert told(deed(EventType.LIKE, event=2), deed(EventType.DISLIKE, event=1))[1] == 0.8


def test_a_skip_counts_only_where_nothing_was_done():
    assert told(deed(EventType.SKIP), deed(EventType.CLICK))[1] == 0.1
    assert told(deed(EventType.SKIP), watched(20.0))[1] == 0.2


def test_verdicts_completions_and_skips_are_told_at_once():
    decisive = {kind for kind in TYPES if is_decisive(deed(kind))}
    assert decisive == {
        EventType.COMPLETE, EventType.LIKE, EventType.DISLIKE, EventType.RATE, EventType.SKIP,
    }  # fmt: skip
    assert is_decisive(watched(95.0))
    assert not is_decisive(watched(50.0))


@pytest.mark.parametrize("value", [1.5, -1.01, float("nan"), float("inf")])
def test_a_reward_out_of_bounds_is_named(value):
    with pytest.raises(RewardError, match=r"rewards\.skip must be within -1\.\.1; got"):
        RewardTable(skip=value)
