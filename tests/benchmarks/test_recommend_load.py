"""What the benchmark of Recommend asks, and when."""

import numpy as np
import pytest
from headrace.v1 import recommender_pb2

from benchmarks.recommend_load import ASKED, CLICKS, UNKNOWN, Planned, sessions, strangers
from features.codec import decode_interaction
from features.vocabulary import EventType

RATE, SECONDS = 300.0, 30.0


def user_of(planned: Planned) -> str:
    return recommender_pb2.RecommendRequest.FromString(planned.message).user_id


@pytest.fixture(scope="module")
def plan() -> list[Planned]:
    return sessions(RATE, SECONDS, range(5_000), 1_000, np.random.default_rng(7))


def test_strangers_are_each_asked_for_once() -> None:
    planned = strangers(RATE, 10.0, range(3_000))
    assert len({user_of(call) for call in planned}) == len(planned) == 3_000
    assert [call.due_s for call in planned] == pytest.approx([k / RATE for k in range(3_000)])


def test_sessions_ask_at_the_rate_from_beginning_to_end(plan: list[Planned]) -> None:
    due_s = [call.due_s for call in plan if call.message]
    in_thirds, _ = np.histogram(due_s, 3, (0, SECONDS))
    assert in_thirds / (SECONDS / 3) == pytest.approx([RATE] * 3, rel=0.2)
    assert due_s == sorted(due_s)


def test_sessions_come_back_and_some_are_of_strangers(plan: list[Planned]) -> None:
    users = [user_of(call) for call in plan if call.message]
    unknown = sum(user.startswith("visitor") for user in users) / len(users)
    assert unknown == pytest.approx(UNKNOWN, abs=0.04)
    assert len(users) / len(set(users)) == pytest.approx(ASKED * 0.8, rel=0.2)  # cut at both ends


def test_known_viewers_click(plan: list[Planned]) -> None:
    clicks = [decode_interaction(event.value) for event in plan if event.value]
    asked = [user_of(call) for call in plan if call.message]
    known = sum(not user.startswith("visitor") for user in asked)
    assert len(clicks) / known == pytest.approx(CLICKS, rel=0.1)
    assert {click.type for click in clicks} == {EventType.CLICK}
    assert {click.user_id for click in clicks} <= set(asked) | {e.key.decode() for e in plan}
