"""What the console makes of what it sees: lags, the headline, ages, the journal, refusals."""

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from infra.console.app import app_of
from infra.console.headline import headline_of
from infra.console.journal import ALERT, FIRING, RESOLVED, Event, Journal
from infra.console.lags import STILL_S, Lag, Lags, Own, own_words
from infra.console.letters import letter_for_eyes
from infra.console.log_source import LogSeen
from infra.console.observed import Observed, ProcessSeen
from infra.console.panels import ALERTS as PANEL_OF_ALERT
from infra.console.panels import PANELS, panel_of
from infra.console.processes import named_targets, told_in
from infra.console.releases import Releases
from infra.console.remedies import REMEDIES, remedy_of
from infra.console.runbooks import FOLDER, page_of
from infra.console.streams import Streams, TooManyStreamsError
from infra.console.trails import Trails
from infra.console.view import Standing, View, plain
from infra.console.watch import Reading, Watch
from infra.ops.alerts import ALERTS
from infra.ops.dead_letters import DeadLetter
from infra.ops.exporter import OpsCollector
from infra.ops.scrape import Sample
from infra.ops.series import Series

NOW_S = 1_700_000_000.0
KEY = ("features", "interactions", 2)


def log_seen(end=100, committed=100, start=0, waiting_s=None):
    place = ("interactions", 2)
    return LogSeen(
        "c1", frozenset({"interactions"}), {place: end}, {place: start}, {KEY: committed},
        {} if waiting_s is None else {KEY: waiting_s},
    )  # fmt: skip


def process(name="features", text="headrace_ready 1.0\n", error="", at_s=NOW_S):
    reading = Reading(told_in(text), at_s, error, at_s if error else 0.0)
    return ProcessSeen(name, "http://127.0.0.1:1/metrics", reading, 0)


def view_of(seen=None, standing=(), series=None):
    seen = seen or Observed(NOW_S, (process(),))
    return View(seen, series or Series(), Trails(), standing, Journal("ops-events"))


def standing(name="HeadraceLagPage", severity="page", *, is_firing=True, labels=()):
    return Standing(
        name, severity, "a flow is behind", "lag", labels, 12_400.0, NOW_S - 40, is_firing
    )


def test_a_flow_is_believed_while_its_word_is_fresh_and_its_commits_move():
    lags = Lags()
    own = {KEY: Own(7, 0.5)}
    assert lags.step(log_seen(committed=60), NOW_S, own)[0] == Lag(*KEY, 7, 0.5, 100, 60, "applied")
    later = lags.step(log_seen(committed=60, waiting_s=11.0), NOW_S + STILL_S + 1, own)[0]
    assert (later.records, later.seconds, later.source) == (40, 11.0, "committed")
    moved = lags.step(log_seen(committed=61), NOW_S + STILL_S + 2, own)[0]
    assert moved.source == "applied"


def test_a_silent_flow_is_measured_by_its_commits_and_one_without_any_is_unknown():
    assert Lags().step(log_seen(committed=60), NOW_S, {})[0].records == 40
    assert Lags().step(log_seen(committed=-1), NOW_S, {})[0].records == -1
    assert Lags().step(log_seen(end=0, committed=-1), NOW_S, {})[0].records == 0


def test_old_words_of_a_flow_do_not_count():
    samples = (
        Sample("headrace_stream_lag", {"topic": "interactions", "partition": "2"}, 7.0),
        Sample("headrace_stream_lag_seconds",
               {"topic": "interactions", "partition": "2", "by": "ingestion"}, 0.25),
    )  # fmt: skip
    assert own_words("features-0", samples, 1.0) == {KEY: Own(7, 0.25)}
    assert own_words("features", samples, 60.0) == {}
    deaf = Sample("headrace_source_age_seconds", {"source": "log_end"}, 30.0)
    assert own_words("features", (*samples, deaf), 1.0) == {}


def test_a_watch_keeps_what_it_saw_and_says_since_when_it_sees_nothing():
    looks = iter([5, OSError("gone"), OSError("gone still"), 6])

    def look():
        found = next(looks)
        if isinstance(found, Exception):
            raise found
        return found

    watch = Watch("redis", look, 1.0, iter([10.0, 12.0, 16.0]).__next__)
    assert watch.look_once() == Reading(5, 10.0)
    assert watch.look_once() == Reading(5, 10.0, "gone", 12.0)
    assert watch.look_once() == Reading(5, 10.0, "gone still", 12.0)
    assert watch.look_once() == Reading(6, 16.0)
    assert watch.reading.age_s(20.0) == 4.0


def test_a_watch_that_hangs_holds_nobody_up():
    begun, go_on = threading.Event(), threading.Event()

    def look():
        begun.set()
        return go_on.wait(60)

    watch = Watch("broker", look, 1.0, lambda: NOW_S).start()
    assert begun.wait(10)
    assert not watch.reading.is_well
    assert watch.reading.age_s(NOW_S) == float("inf")
    go_on.set()
    watch.join()
    assert watch.reading.value is True


def test_the_headline_says_how_far_since_when_who_and_what_to_do():
    seen = Observed(
        NOW_S, (process(),), lags=(Lag(*KEY, 12_400, 40.2, 20_000, 7_600, "committed"),)
    )
    found = headline_of(view_of(seen, [standing(), standing("HeadraceDrift", "warn")]))
    assert found["sentence"] == (
        "Behind by 12,400 records for 40 s: features, interactions[2]. 1 more alert below."
    )
    assert found["state"] == "page"
    assert found["since_ms"] == (NOW_S - 40) * 1_000
    assert "old state" in found["affected"]
    assert found["command"].startswith("headrace lag")
    assert found["runbook"] == "lag"


def test_a_cause_stands_before_its_effects_and_pending_alerts_make_no_headline():
    both = [standing(), standing("HeadraceRedisDown", labels=(("process", "features"),))]
    assert headline_of(view_of(standing=both))["sentence"].startswith("A flow is behind (features)")
    pending = [standing(is_firing=False)]
    found = headline_of(view_of(standing=pending))
    assert found["state"] == "ok"
    assert "Watching" in found["sentence"]
    assert headline_of(view_of(Observed(NOW_S)))["state"] == "blind"


def test_every_alert_has_a_remedy_and_a_panel():
    names = {alert.name for alert in ALERTS}
    assert names <= set(REMEDIES)
    assert names <= set(PANEL_OF_ALERT)
    assert set(PANEL_OF_ALERT.values()) <= set(PANELS)


def test_what_a_remedy_says_is_what_its_runbook_does():
    for alert in ALERTS:
        remedy = remedy_of(alert.name, {"process": "PROCESS", "flow": "features"})
        runbook = (FOLDER / f"{Path(alert.runbook).name}").read_text()
        for command in filter(None, (*remedy.command.split(" && "), remedy.cure)):
            assert command in runbook, (alert.name, command)


def test_every_panel_is_made_even_where_nothing_was_seen_and_says_that_it_is_old():
    nothing = view_of(Observed(NOW_S))
    found = {name: panel_of(name, nothing) for name in PANELS}
    json.dumps(plain(found), allow_nan=False)
    assert found["lag"]["is_stale"]
    assert found["serving"]["level"] == "stale"
    old = view_of(Observed(NOW_S, (process("serve", at_s=NOW_S - 60, error="timed out"),)))
    panel = panel_of("serving", old)
    assert (panel["at_ms"], panel["why"]) == ((NOW_S - 60) * 1_000, "serve: timed out")


def test_a_panel_shows_what_processes_told():
    series = Series()
    name = "headrace_freshness_seconds"
    for step, n in enumerate((0, 100, 200)):
        told = [Sample(f"{name}_bucket", {"stage": "servable", "le": edge}, share * n)
                for edge, share in (("0.01", 0.5), ("0.1", 1.0), ("+Inf", 1.0))]  # fmt: skip
        told.append(Sample("headrace_slate_slots_total", {"arm": "als"}, 3.0 * n))
        told.append(Sample("headrace_slate_slots_total", {"arm": "new"}, 1.0 * n))
        series.observe("features", told, NOW_S - 4 + 2 * step)
    view = view_of(series=series)
    assert panel_of("freshness", view)["stages"]["servable"]["p50"] == pytest.approx(0.01)
    shares = {one["arm"]: one["share"] for one in panel_of("bandits", view)["arms"]}
    assert shares == pytest.approx({"als": 0.75, "new": 0.25})


def test_a_dead_letter_is_shown_as_what_it_may_mean_and_as_bytes():
    letter = DeadLetter(
        3, 1, "no", "interactions", 0, 9, b"ann", b'{"user_id": "<script>"}', (), is_whole=True
    )
    found = letter_for_eyes(letter)
    assert (found.form, "<script>" in found.decoded) == ("JSON", True)
    assert found.dump.startswith("0000  7b 22")
    assert letter_for_eyes(replace(letter, value=b"\xff\x00")).form == "nothing"
    assert letter_for_eyes(replace(letter, value=None)).size == 0


def test_the_journal_knows_which_alerts_are_open_from_what_the_topic_holds():
    journal = Journal("ops-events")
    began = Event(ALERT, "HeadraceLag", FIRING, (("flow", "features"),), 5.0, NOW_S, "warn")
    ended = replace(began, name="HeadraceDrift", state=RESOLVED, at_s=NOW_S + 1)
    journal.learn([began, replace(ended, state=FIRING, at_s=NOW_S), ended])
    journal.note(replace(began, labels=()))
    assert set(journal.open_alerts()) == {("HeadraceLag", began.labels), ("HeadraceLag", ())}
    assert [one.at_s for one in journal.newest(ALERT)] == [NOW_S + 1, NOW_S, NOW_S, NOW_S]


def test_a_process_that_began_again_and_another_bundle_are_deployments():
    releases = Releases()

    def seen(started_s, version):
        text = (f"process_start_time_seconds {started_s}\n"
                f'headrace_serving_bundle_info{{version="{version}"}} 1.0\n')  # fmt: skip
        return Observed(NOW_S, (process("serve", text),))

    assert [(e.name, e.state) for e in releases.step(seen(100.0, "b1"))] == [("process", "started")]
    assert list(releases.step(seen(100.0, "b1"))) == []
    found = [(e.name, e.state) for e in releases.step(seen(200.0, "b2"))]
    assert found == [("process", "started again"), ("served bundle", "b2")]
    assert releases.restarts("serve") == 1


def test_the_exporter_tells_what_was_measured_and_nothing_of_what_is_away():
    seen = Observed(
        NOW_S,
        (process(), process("serve", error="refused")),
        log=Reading(log_seen(committed=60), NOW_S),
        store=Reading(None, 0.0, "refused", NOW_S),
        lags=(Lag(*KEY, 40, 1.5, 100, 60, "committed"),),
        n_dead_letters=3,
    )
    registry = CollectorRegistry()
    registry.register(OpsCollector(lambda: seen))
    text = generate_latest(registry).decode()
    assert 'headrace_ops_lag{flow="features",partition="2",topic="interactions"} 40.0' in text
    assert 'headrace_ops_up{process="serve"} 0.0' in text
    assert "headrace_ops_redis_up 0.0" in text
    assert "headrace_ops_dead_letters 3.0" in text
    assert "headrace_ops_redis_memory_bytes" not in text


class Snapshots:
    """A collector that has made one snapshot."""

    snapshot = (1, b'{"sequence":1}')


@pytest.fixture
def client(tmp_path):
    (tmp_path / "lag.md").write_text(
        "# Lag\n\n<script>x</script> see [more](drift.md)\n\n    headrace lag\n"
    )
    app = app_of(Snapshots(), Streams(1), CollectorRegistry(), runbooks=tmp_path)

    async def call(method, path, headers):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:9470") as one:
            return await one.request(method, path, headers=headers)

    return lambda path, method="GET", headers=None: asyncio.run(call(method, path, headers))


def test_the_page_is_served_to_its_own_names_alone(client):
    assert client("/").status_code == 200
    assert client("/", headers={"host": "localhost:9470"}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "", "127.0.0.1@evil"):
        assert client("/api/snapshot", headers={"host": host}).status_code == 421


def test_the_page_says_what_it_may_not_do_and_nothing_can_be_changed(client):
    answer = client("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>" not in answer.text
    assert "style=" not in answer.text
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert client("/api/snapshot", method).status_code == 405
    for path in (
        "/page/../app.py",
        "/page/index.html",
        "/page/%2e%2e%2fapp.py",
        "/runbooks/..%2fREADME",
    ):
        assert client(path).status_code == 404


def test_runbooks_are_readable_and_what_is_written_in_them_cannot_run(client, tmp_path):
    text = client("/runbooks/lag").text
    assert "&lt;script&gt;" in text
    assert '<a href="/runbooks/drift">more</a>' in text
    assert "<pre><code>headrace lag" in text
    assert "/runbooks/lag" in client("/runbooks/").text
    assert page_of(tmp_path, "../lag") is None


def test_streams_are_limited_and_a_place_becomes_free_when_one_ends():
    async def listen():
        streams = Streams(1)
        streams.begin()
        stream = streams.open((1, b"{}"))
        with pytest.raises(TooManyStreamsError):
            streams.open((1, b"{}"))
        assert await anext(stream) == b"retry: 2000\n\n"
        assert await anext(stream) == b"id: 1\ndata: {}\n\n"
        streams.publish(2, b'{"a":1}')
        assert await anext(stream) == b'id: 2\ndata: {"a":1}\n\n'
        streams.leave()
        streams.open((2, b"{}"))
        streams.end()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    asyncio.run(listen())


def test_targets_are_refused_with_what_was_expected():
    assert named_targets("a=http://h:1/metrics, b=http://h:2/metrics")["b"] == "http://h:2/metrics"
    for text in ("a", "a=file:///etc/passwd", "a=https://h/metrics"):
        with pytest.raises(ValueError, match=r"ops\.targets must be"):
            named_targets(text)
