"""The agents' views are what the log says, however often they are made; a stall is told."""

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from headrace.v1 import events_pb2

from features.clock import WallClock
from features.events import BadRecord
from features.log import LogConfig, LogWriter
from features.outcomes import Drift
from infra import topics
from infra.agents import views_app
from infra.embedded import ChildServer, free_port
from infra.settings import AgentsSettings, KafkaSettings, MetricsSettings, Settings
from infra.stack import is_ready
from streams.dead_letters import dead_letter
from streams.learning_news import drift_event
from streams.ops_agents import AgentTopics, LogEnds, OpsAgents, Progress
from streams.ops_views import (
    MAX_EXPOSURES,
    MAX_KINDS,
    DeadLetterView,
    ExposureView,
    OpsEventView,
    Seen,
    account_number,
)

PATIENCE_S = 0.3
TIMEOUT_S = 20.0
VIEWS = ("dead-letters", "drift", "alerts", "experiments")
LOSS = Drift("log_loss", "all", 800, 0.3, 0.5)


def names_of(prefix: str) -> AgentTopics:
    return AgentTopics(
        prefix + topics.DEAD_LETTERS, prefix + topics.OPS_EVENTS, prefix + topics.IMPRESSIONS
    )


def agents_over(broker: str, prefix: str) -> OpsAgents:
    return OpsAgents(LogConfig(broker), names_of(prefix), 2, 10_000, WallClock().now_ms)


def impression(*arms: str, user: str = "ann", policy: str = "thompson", cached=False) -> bytes:
    return events_pb2.Impression(
        request_id="r1",
        user_id=user,
        slots=[events_pb2.SlateSlot(item_id="i", arm=arm) for arm in arms],
        policy=policy,
        bundle_version="b7",
        cached=cached,
    ).SerializeToString()


def alert(state: str, value: float = 1_200.0) -> bytes:
    labels = {"topic": "interactions"}
    found = {"kind": "alert", "name": "HeadraceLag", "state": state, "labels": labels}
    return json.dumps({**found, "value": value}).encode()


@asynccontextmanager
async def running(agents: OpsAgents, folder: object) -> AsyncIterator[object]:
    """The agents, reading, with somebody who asks where the log ends."""
    names = agents.topics
    ends = LogEnds(agents.config, (names.dead_letters, names.ops_events, names.impressions))
    app = agents.app("test-agents", str(folder))
    await app.start()

    async def ask() -> None:
        while True:
            agents.progress.ends(await asyncio.to_thread(ends.read))
            await asyncio.sleep(0.05)

    asking = asyncio.create_task(ask())
    try:
        yield app
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await app.stop()
        ends.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0.02)


def fill(broker: str, prefix: str) -> None:
    """Two dead letters, an alert that comes and goes, a drift told twice, three slates."""
    names = names_of(prefix)
    writer = LogWriter(LogConfig(broker))
    for offset, (user, rating) in enumerate([(b"ann", 42), (b"bob", -1)]):
        reason = f"interaction.rating must be within 0..10; got {rating}"
        bad = BadRecord(reason, "interactions", 0, offset, user, b"raw")
        letter = dead_letter(bad, names.dead_letters)
        writer.append(letter.topic, letter.key, letter.value, headers=letter.headers)
    drift = drift_event(LOSS)
    for value in (alert("firing"), alert("resolved"), drift, drift, b"no event", alert("firing")):
        writer.append(names.ops_events, b"", value)
    writer.flush()
    servers = LogWriter(LogConfig(broker), **{"compression.type": "lz4"})  # as servers write
    for user, arms in (("ann", ("new", "taste")), ("bob", ("taste",)), ("cid", ("taste",))):
        servers.append(names.impressions, user.encode(), impression(*arms))
    servers.flush()


def client_of(agents: OpsAgents) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(views_app(agents, PATIENCE_S))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")


async def told(agents: OpsAgents) -> dict[str, object]:
    """Every view, as the pages give it."""
    async with client_of(agents) as client:
        return {view: (await client.get(f"/views/{view}.json")).json() for view in VIEWS}


def test_views_say_what_the_log_says_and_say_it_again_after_a_restart(
    any_broker, topic_prefix, tmp_path
):
    topics.ensure_topics({"bootstrap.servers": any_broker}, topics.topics(topic_prefix))
    fill(any_broker, topic_prefix)

    async def read() -> dict[str, object]:
        agents = agents_over(any_broker, topic_prefix)
        async with running(agents, tmp_path):
            await until(agents.progress.is_rebuilt)
            await until(lambda: not any(agents.progress.lags().values()))
            return await told(agents)

    first, again = (asyncio.run(read()) for _ in range(2))
    assert first == again
    letters = first["dead-letters"]
    assert letters["total"] == 2
    assert [row["count"] for row in letters["by_reason"]] == [2]
    assert {row["producer"] for row in letters["by_producer"]} == {
        account_number(b"ann"),
        account_number(b"bob"),
    }
    assert [d["offset"] for d in first["drift"]["drifts"]] == [LOSS.offset]
    states = [t["state"] for t in first["alerts"]["transitions"]]
    assert states == ["firing", "resolved", "firing"]
    assert [row["name"] for row in first["alerts"]["firing"]] == ["HeadraceLag"]
    assert first["alerts"]["unreadable"] == 1
    (day,) = first["experiments"]["days"]
    assert day["is_complete"]
    assert [(row["arm"], row["slates"], row["slots"]) for row in day["exposures"]] == [
        ("taste", 3, 3),
        ("new", 1, 1),
    ]
    assert "ann" not in json.dumps(first)


def test_agents_that_stand_still_before_records_are_not_live_until_they_go_on(
    broker, topic_prefix, tmp_path
):
    topics.ensure_topics({"bootstrap.servers": broker}, topics.topics(topic_prefix))
    agents = agents_over(broker, topic_prefix)
    writer = LogWriter(LogConfig(broker))

    async def health() -> httpx.Response:
        async with client_of(agents) as client:
            return await client.get("/healthz")

    async def stall_and_go_on() -> None:
        async with running(agents, tmp_path) as app:
            await until(agents.progress.is_rebuilt)
            assert (await health()).status_code == 200
            app.consumer.stop_flow()  # as Faust does, and at times for ever, when it rebalances
            for _ in range(3):
                writer.append(agents.topics.ops_events, b"", alert("firing"))
                writer.flush()
            await until(lambda: agents.progress.stalled(PATIENCE_S))
            answer = await health()
            assert answer.status_code == 503
            assert answer.json()["stalled"] == [[agents.topics.ops_events, 0]]
            app.consumer.resume_flow()
            await until(lambda: not any(agents.progress.lags().values()))
            assert (await health()).status_code == 200
            assert len(agents.events.alerts()["firing"]) == 1

    asyncio.run(stall_and_go_on())


@pytest.fixture
def agents(topic_prefix) -> OpsAgents:
    """Agents that read nothing: their pages alone are looked at."""
    return agents_over("127.0.0.1:1", topic_prefix)


def test_the_pages_are_the_views_and_nothing_else(agents):
    meant = ["/healthz", *(f"/views/{view}.json" for view in VIEWS)]
    others = ["/", "/table", "/table/x/", "/stats/", "/metrics", "/router/", "/views", "/docs"]
    others += ["/views/", "/views/../table", "/openapi.json", "/production_index/", "/views/x.json"]

    async def walk() -> None:
        async with client_of(agents) as client:
            assert {(await client.get(path)).status_code for path in meant} == {200}
            assert (await client.get("/readyz")).status_code == 503  # the log was not asked yet
            assert {(await client.get(path)).status_code for path in others} == {404}
            assert {(await client.post(path)).status_code for path in meant} == {405}
            strange = await client.get("/healthz", headers={"host": "evil.example"})
            assert strange.status_code == 400

    asyncio.run(walk())


def test_a_flood_of_kinds_arms_and_accounts_stays_within_its_bounds():
    letters, exposures, events = DeadLetterView(), ExposureView(2), OpsEventView()
    for k in range(1_500):
        name = "".join(chr(97 + int(digit)) for digit in str(k))
        headers = {"reason": f"{name} is required".encode()}
        letters.take(Seen(0, k, k, f"u{k}".encode(), b"", headers))
        exposures.take(Seen(0, k, 1, b"", impression(f"arm-{k}")))
        firing = {"kind": "alert", "name": f"A{k}", "state": "firing"}
        events.take(Seen(0, k, k, None, json.dumps(firing).encode()))
    told_letters = letters.told()
    assert told_letters["total"] == 1_500
    n_kinds = len(told_letters["by_reason"])
    assert MAX_KINDS / 2 < n_kinds <= MAX_KINDS
    assert told_letters["not_told"]["reasons"] == 1_500 - n_kinds
    assert len(exposures.told()["days"][0]["exposures"]) == MAX_EXPOSURES + 1  # all others as one
    assert len(events.alerts()["firing"]) == 500


def test_days_that_are_over_give_way_and_late_records_do_not_bring_them_back():
    view, day_ms = ExposureView(2), 86_400_000
    for day in (10, 11, 12, 10):
        view.take(Seen(0, day, day * day_ms + 5, None, impression("new", cached=day == 12)))
    days = view.told()["days"]
    assert [day["day_ms"] // day_ms for day in days] == [12, 11]
    assert [day["exposures"][0]["slates_shown_again"] for day in days] == [1, 0]


def test_what_was_never_asked_of_the_log_is_not_called_rebuilt():
    now_s = [0.0]
    progress = Progress(lambda: now_s[0])
    assert not progress.is_rebuilt()
    progress.begin(("t", 0), 5)
    progress.ends({("t", 0): 7})
    now_s[0] = 10.0
    assert (progress.is_rebuilt(), progress.stalled(9.0)) == (False, [("t", 0)])
    progress.applied(("t", 0), 5)
    assert progress.stalled(9.0) == []  # it moves
    progress.applied(("t", 0), 6)
    now_s[0] = 99.0
    assert (progress.is_rebuilt(), progress.stalled(9.0)) == (True, [])  # nothing is left


def test_the_command_tells_its_views_on_loopback_and_ends_at_sigterm(
    broker, topic_prefix, tmp_path
):
    topics.ensure_topics({"bootstrap.servers": broker}, topics.topics(topic_prefix))
    fill(broker, topic_prefix)
    port = free_port(2)
    settings = Settings(
        kafka=KafkaSettings(bootstrap=broker, prefix=topic_prefix),
        agents=AgentsSettings(port=port),
        metrics=MetricsSettings(agents_port=port + 1),
        home=tmp_path,
    )
    process = ChildServer(
        "agents",
        [sys.executable, "-m", "infra.cli", "stream", "agents"],
        ready=lambda: is_ready(f"http://127.0.0.1:{port + 1}/metrics"),
        directory=tmp_path,
        env=settings.environment(),
    )
    with process:
        base = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{base}/healthz").json()["is_live"]
        assert httpx.get(f"{base}/views/dead-letters.json").json()["total"] == 2
        assert httpx.get(f"{base}/table").status_code == 404
        process.stop()
        assert process.exit_status == 0


def test_no_thread_of_the_agents_outlives_them(broker, topic_prefix, tmp_path):
    topics.ensure_topics({"bootstrap.servers": broker}, topics.topics(topic_prefix))
    before = set(threading.enumerate())

    async def run_once() -> None:
        agents = agents_over(broker, topic_prefix)
        async with running(agents, tmp_path):
            await until(agents.progress.is_rebuilt)

    asyncio.run(run_once())
    left = {thread for thread in threading.enumerate() if thread.is_alive()} - before
    assert left == set()
