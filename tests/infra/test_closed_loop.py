"""Simulated viewers against a real stack: every slate answered, every answer in the log."""

import pytest

from features.codec import decode_interaction
from features.events import Interaction
from features.log import LogWriter, read_to_end
from features.vocabulary import EventType
from infra import topics
from infra.closed_loop import (
    Audience,
    ClosedLoopError,
    LoopPlan,
    LoopSummary,
    count_slate,
    run_closed_loop,
)
from infra.settings import Settings
from infra.stack import Stack
from offline.replay import publish_catalogue
from offline.simulator import SimulationConfig, Simulator
from serving.client import Client, Freshness, Recommendations, Recommended

WORLD = SimulationConfig(n_users=50, n_items=200, seed=5)


@pytest.fixture(scope="module")
def stack(embedded_broker, tmp_path_factory):
    settings = Settings(
        kafka={"bootstrap": embedded_broker.bootstrap, "prefix": "answers-"},
        stream={"group": "answers-features", "epoch_s": 0.2},
        serving={"port": 0},
        home=tmp_path_factory.mktemp("home"),
    )
    with Stack(settings) as running:
        writer = LogWriter(running.settings.kafka.log_config())
        titles = Simulator(WORLD).catalogue()[:-10]
        publish_catalogue(titles, writer, "answers-" + topics.CATALOG)
        running.start_features()
        running.start_serve()
        yield running


def interactions_in(stack):
    log = stack.settings.kafka.log_config()
    records = read_to_end(log, "answers-" + topics.INTERACTIONS)
    return [decode_interaction(record.value()) for record in records]


@pytest.mark.slow
def test_viewers_answer_what_they_are_shown_and_the_log_has_every_answer(stack):
    simulator = Simulator(WORLD)
    released = []
    with Client(stack.addresses.grpc, timeout_s=10) as client:
        client.wait_until_connected()
        summary = run_closed_loop(
            client, simulator, LoopPlan(events=600, slates_per_s=1e6, count=10),
            release=released.append, held_back=simulator.catalogue()[-10:],
        )  # fmt: skip
    assert summary.succeeded
    told = interactions_in(stack)
    assert len(told) == summary.events >= 600
    assert {event.request_id for event in told} != {""}
    assert len({event.request_id for event in told}) == summary.slates
    clicks = [event for event in told if event.type == EventType.CLICK]
    assert len(clicks) == summary.total.taken_up > 0
    shown = {(e.request_id, e.slot, e.item_id) for e in told if e.type == EventType.IMPRESSION}
    assert {(e.request_id, e.slot, e.item_id) for e in clicks} <= shown
    assert 5 <= summary.released == len(released) <= 10
    assert summary.by_slot[0].click_through > summary.by_slot[9].click_through


def test_a_stack_that_does_not_answer_ends_the_loop_with_its_reason():
    with (
        Client("127.0.0.1:1", timeout_s=0.2) as client,
        pytest.raises(ClosedLoopError, match="10 calls in a row: "),
    ):
        run_closed_loop(client, Simulator(WORLD), LoopPlan(events=10, slates_per_s=1e6))


def slate_of(*arms):
    items = tuple(Recommended(f"i{k}", "", 0.0, "", arm=arm) for k, arm in enumerate(arms))
    return Recommendations("r", items, Freshness(False, (), 0, 0, 0), (), "", 0)


def test_slots_are_rewarded_by_the_table_by_arm_and_by_slot():
    def event(kind, slot, position_s=0.0):
        return Interaction(
            f"{kind}{slot}", "u", f"i{slot}", kind, 1, slot=slot, request_id="r",
            watch_position_s=position_s, watch_duration_s=100.0,
        )  # fmt: skip

    summary = LoopSummary()
    told = [event(EventType.IMPRESSION, slot) for slot in range(4)]
    told += [event(EventType.CLICK, 0), event(EventType.COMPLETE, 0, 100.0)]
    told += [event(EventType.CLICK, 1), event(EventType.PROGRESS, 1, 40.0)]
    told += [event(EventType.DISLIKE, 2)]
    count_slate(summary, slate_of("als", "als", "new", "new"), told)
    assert summary.by_arm["als"].reward == pytest.approx(1.4)
    assert summary.by_arm["als"].taken_up == 2
    assert summary.by_arm["new"].reward == pytest.approx(-1.0)
    assert summary.by_slot[3].shown == 1
    assert summary.by_slot[3].reward == 0.0
    assert summary.total.mean_reward == pytest.approx(0.1)


def test_a_loop_without_slates_has_not_succeeded():
    assert not LoopSummary().succeeded


def test_viewers_come_in_sessions_the_same_ones_each_time():
    first, second = Audience(1_000, seed=4), Audience(1_000, seed=4)
    asked = [first.next() for _ in range(400)]
    assert [viewer for viewer, _ in asked] == [second.next()[0] for _ in range(400)]
    sessions = {session for _, session in asked}
    assert 60 < len(sessions) < 180
    by_session = {session: {v for v, s in asked if s == session} for session in sessions}
    assert all(len(viewers) == 1 for viewers in by_session.values())


@pytest.mark.parametrize(("name", "value"), [("events", 0), ("slates_per_s", 0.0), ("count", -1)])
def test_a_plan_that_cannot_be_fulfilled_is_refused(name, value):
    with pytest.raises(ValueError, match=f"closed_loop.{name} must be positive"):
        LoopPlan(**{name: value})
