"""Events in over gRPC and Kafka, slates out, over a real stack of processes on both brokers."""

import json
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import httpx
import psutil
import pytest
from headrace.v1 import events_pb2, ingest_pb2, recommender_pb2
from headrace.v1.ingest_pb2_grpc import IngestServiceStub
from headrace.v1.recommender_pb2_grpc import RecommendationServiceStub
from typer.testing import CliRunner

from features.codec import encode_interaction_json
from features.events import CatalogItem, Interaction
from features.log import CONTENT_TYPE, JSON_TYPE, LogWriter, read_to_end
from features.rules import Rule, RuleKind, RuleScope
from features.vocabulary import ARM_NAMES, EventType
from infra import topics
from infra.cli import app
from infra.embedded import EmbeddedRedis
from infra.ops.scrape import samples_of
from infra.rebuild import rebuild
from infra.settings import Settings
from infra.stack import Stack
from offline.replay import publish_catalogue
from serving.client import Client, Filters, RequestError
from tests.flows import PATIENT, wait_until

TITLES = [
    CatalogItem(f"e{k}", f"Title {k}", 2000 + k % 20, ("Drama" if k % 2 else "Comedy",))
    for k in range(120)
]


@pytest.fixture(scope="module", params=["embedded", "kafka"])
def stack(request, tmp_path_factory):
    fixture = {"embedded": "embedded_broker", "kafka": "apache_kafka"}[request.param]
    bootstrap = request.getfixturevalue(fixture).bootstrap
    prefix = f"loop{uuid.uuid4().hex[:8]}-"
    home = tmp_path_factory.mktemp("home")
    settings = Settings(
        tracing={"endpoint": f"file:{home / 'spans.jsonl'}", "sample_ratio": 0},
        kafka={"bootstrap": bootstrap, "prefix": prefix},
        stream={"group": f"{prefix}features", "epoch_s": 0.2},
        serving={"port": 0, **PATIENT},
        home=home,
    )
    with Stack(settings) as running:
        log = running.settings.kafka.log_config()
        publish_catalogue(TITLES, LogWriter(log), prefix + topics.CATALOG)
        running.start_features()
        running.start_serve()
        yield running


@pytest.fixture
def client(stack):
    with Client(stack.addresses.grpc, timeout_s=10) as client:
        client.wait_until_connected()
        yield client


def watched(user_id, item_id):
    return Interaction("", user_id, item_id, EventType.COMPLETE)


def test_an_unknown_viewer_gets_a_full_slate(client):
    slate = client.recommend("nobody-yet", count=10)
    assert len({item.item_id for item in slate.items}) == 10
    assert slate.freshness.state_age_ms == -1


def spans_of(stack, trace_id):
    """Spans of a trace, and those that link to it, by name and start."""
    path = stack.settings.home / "spans.jsonl"
    spans = [json.loads(line) for line in path.read_text().splitlines()]
    own = [span for span in spans if span["context"]["trace_id"] == f"0x{trace_id}"]
    others = [
        span
        for span in spans
        if any(link["context"]["trace_id"] == f"0x{trace_id}" for link in span["links"])
    ]
    return sorted(own, key=lambda span: span["start_time"]), others


def test_an_event_is_one_trace_from_its_call_to_its_row_and_slates_that_wait_link_to_it(stack):
    trace_id, caller = uuid.uuid4().hex, "00f067aa0ba902b7"
    event = events_pb2.Interaction(user_id="tracy", item_id="e7", type=2)
    with grpc.insecure_channel(stack.addresses.grpc) as channel:
        tracked = IngestServiceStub(channel).Track(
            ingest_pb2.TrackRequest(interaction=event),
            metadata=(("traceparent", f"00-{trace_id}-{caller}-01"),),
            timeout=10,
        )
        RecommendationServiceStub(channel).Recommend(
            recommender_pb2.RecommendRequest(
                user_id="tracy", after=tracked.position, wait_ms=1_000, request_id="slate-of-tracy"
            ),
            timeout=10,
        )
    wait_until(lambda: len(spans_of(stack, trace_id)[0]) == 4)
    wait_until(lambda: {"Recommend"} <= {span["name"] for span in spans_of(stack, trace_id)[1]})
    own, others = spans_of(stack, trace_id)
    names = ["Track", "interactions publish", "features apply", "redis write"]
    assert [span["name"] for span in own] == names
    parents = [f"0x{caller}", *(span["context"]["span_id"] for span in own[:-1])]
    assert [span["parent_id"] for span in own] == parents
    assert own[0]["attributes"]["event_id"] == tracked.event_id
    assert own[2]["attributes"]["offset"] == tracked.position.offset
    assert {span["resource"]["attributes"]["service.name"] for span in own} == {
        "headrace-serve",
        "headrace-features",
    }
    requests = [s["attributes"]["request_id"] for s in others if s["name"] == "Recommend"]
    assert requests == ["slate-of-tracy"]
    assert "tracy" not in json.dumps(own)


def test_calls_through_the_json_door_go_on_with_the_trace_of_their_client(stack):
    trace_id = uuid.uuid4().hex
    answer = httpx.post(
        f"{stack.addresses.http}/v1/recommend",
        json={"user_id": "tracy"},
        headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"},
    )
    assert answer.status_code == 200
    wait_until(lambda: len(spans_of(stack, trace_id)[0]) == 2)
    assert [span["name"] for span in spans_of(stack, trace_id)[0]] == ["Recommend", "redis read"]


def test_what_was_just_watched_is_gone_from_the_next_slate(client):
    first = client.recommend("eve", count=5).items[0].item_id
    position = client.track(watched("eve", first))
    after = client.recommend("eve", count=100, after=position, wait_ms=1_000)
    assert after.freshness.after_included
    assert position in after.freshness.included
    assert first not in {item.item_id for item in after.items}


def test_what_many_watch_is_trending(client):
    for k in range(8):
        position = client.track(watched(f"fan{k}", "e7"))
    client.recommend("fan7", after=position, wait_ms=1_000)
    wait_until(lambda: [item.item_id for item in client.trending(count=1)] == ["e7"])


def test_an_event_as_json_straight_into_kafka_has_its_effect(stack, client):
    settings = stack.settings
    writer = LogWriter(settings.kafka.log_config())
    event = Interaction(uuid.uuid4().hex, "kim", "e3", EventType.DISLIKE)
    found = []
    writer.append(
        settings.kafka.prefix + topics.INTERACTIONS,
        b"kim",
        encode_interaction_json(event),
        headers=[(CONTENT_TYPE, JSON_TYPE)],
        delivered=lambda position, _: found.append(position),
    )
    writer.flush()
    slate = client.recommend("kim", count=100, after=found[0], wait_ms=1_000)
    assert slate.freshness.after_included
    assert "e3" not in {item.item_id for item in slate.items}


def test_the_server_tells_how_fresh_and_how_varied_its_slates_are(stack, client):
    position = client.track(watched("mia", "e5"))
    client.recommend("mia", count=10, after=position, wait_ms=1_000)
    url = stack.addresses.metrics["serve"]

    def told(name, **labels):
        found = samples_of(url)
        return [s.value for s in found if s.name == name and labels.items() <= s.labels.items()]

    assert sum(told("headrace_freshness_seconds_count", stage="served")) >= 1
    assert sum(told("headrace_freshness_seconds_sum", stage="served")) < 60
    for seen in ("novelty_bits", "long_tail_share"):
        wait_until(lambda name=seen: sum(told(f"headrace_slate_{name}_count")) >= 1)
    wait_until(lambda: 10 <= told("headrace_slate_coverage_titles")[0] <= len(TITLES))
    assert 0 <= told("headrace_slate_gini")[0] < 1
    assert told("headrace_serving_bundle_age_seconds") == [-1]
    ages = {
        s.labels["source"]: s.value
        for s in samples_of(url)
        if s.name == "headrace_source_age_seconds"
    }
    assert ages.keys() == {"mirror", "models", "catalogue", "rules", "log", "redis"}
    assert max(ages.values()) < 30


def test_every_slate_is_in_the_log_as_it_was_served(stack, client):
    slate = client.recommend("lou", count=4, request_id="slate-of-lou")
    topic = stack.settings.kafka.prefix + topics.IMPRESSIONS
    log = stack.settings.kafka.log_config()

    def recorded():
        found = [events_pb2.Impression.FromString(r.value()) for r in read_to_end(log, topic)]
        return [impression for impression in found if impression.request_id == "slate-of-lou"]

    wait_until(lambda: len(recorded()) == 1)
    impression = recorded()[0]
    assert [slot.item_id for slot in impression.slots] == [item.item_id for item in slate.items]
    assert all(0 < slot.propensity <= 1 and slot.arm in ARM_NAMES for slot in impression.slots)
    assert impression.user_id == "lou"


def test_bad_fields_are_refused_by_name_and_value(client):
    with pytest.raises(RequestError) as refused:
        client.track(Interaction("", "ann", "e1", EventType.RATE, rating=42.0))
    assert refused.value.code == "INVALID_ARGUMENT"
    assert "interaction.rating must be within 0..10; got 42" in str(refused.value)


def ids(slate):
    return [item.item_id for item in slate.items]


def test_an_erased_viewer_is_answered_like_a_new_one(client):
    position = client.track(watched("zoe", "e21"))
    client.track(watched("zed", "e22"))
    assert client.recommend("zoe", after=position, wait_ms=1_000).freshness.after_included
    erased = client.delete_user("zoe")
    slate = client.recommend("zoe", count=50, after=erased, wait_ms=1_000)
    assert slate.freshness.after_included
    wait_until(
        lambda: ids(client.recommend("zoe", count=50)) == ids(client.recommend("new", count=50))
    )
    assert "e22" not in ids(client.recommend("zed", count=100))


def test_nobody_is_erased_by_an_event_or_without_a_name(client):
    with pytest.raises(RequestError) as refused:
        client.track(Interaction("", "zed", "", EventType.ERASE))
    assert refused.value.code == "INVALID_ARGUMENT"
    assert "DeleteUser" in str(refused.value)
    with pytest.raises(RequestError) as refused:
        client.delete_user("")
    assert "user_id must be an id of 1..128 bytes" in str(refused.value)


def ids_of(client, user_id="rita", count=100, **fields):
    return ids(client.recommend(user_id, count=count, **fields))


def test_a_title_that_is_blocked_by_command_is_gone_and_back_when_the_rule_goes(stack, client):
    words = ["block", "--item", "e41", "--id", "no-e41", "--until", "+1h", "--reason", "licence"]
    put = json.loads(rules_command(stack, "put", *words, "--json"))
    assert put["rule"]["kind"] == "block"
    wait_until(lambda: [rule.rule_id for rule in client.list_rules()] == ["no-e41"], 5)
    slate = client.recommend("rita", count=100)
    assert "e41" not in ids(slate)
    assert "no-e41" in rules_command(stack, "list")
    rules_command(stack, "delete", "no-e41", "--reason", "renewed")
    wait_until(lambda: client.list_rules() == (), 5)
    history = json.loads(rules_command(stack, "history", "no-e41", "--json"))
    assert [(entry["what"], entry["reason"]) for entry in history] == [
        ("set", "licence"),
        ("taken away", "renewed"),
    ]


def test_a_title_that_is_pinned_by_command_stands_in_its_slot(stack, client):
    last = ids_of(client, count=100)[-1]
    words = ("pin", "--item", last, "--slot", "2", "--id", "second", "--until", "+1h")
    rules_command(stack, "put", *words)
    wait_until(lambda: len(client.list_rules()) == 1, 5)
    item = client.recommend("rita", count=5).items[2]
    assert (item.item_id, item.rule_id, item.source) == (last, "second", "editorial")
    rules_command(stack, "delete", "second")
    wait_until(lambda: client.list_rules() == (), 5)
    assert all(item.rule_id == "" for item in client.recommend("rita", count=5).items)


def rules_command(stack, *words):
    """What `headrace rules` prints, asked of the server of a stack."""
    address = () if words[0] == "history" else ("--address", stack.addresses.grpc)
    environment = {"COLUMNS": "160", **stack.settings.environment()}
    done = CliRunner().invoke(app, ["rules", *words, *address], env=environment)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_ceiling_holds_for_its_profile_alone_until_it_is_taken_away(client):
    kids = RuleScope(user_id="rosa", profile_id="kids")
    ceiling, _ = client.put_rule(Rule("", RuleKind.CEILING, scope=kids, max_age=12))
    wait_until(lambda: len(client.list_rules()) == 1, 5)
    assert ids_of(client, "rosa", profile_id="kids") == []  # no title here says for what age it is
    assert len(ids_of(client, "rosa", 20)) == 20
    client.delete_rule(ceiling.rule_id)
    wait_until(lambda: len(ids_of(client, "rosa", 20, profile_id="kids")) == 20, 5)


def test_a_rule_that_cannot_be_used_is_refused_by_field_and_value(client):
    with pytest.raises(RequestError) as refused:
        client.put_rule(Rule("r", RuleKind.BOOST, ("e1",), boost=7.0))
    assert refused.value.code == "INVALID_ARGUMENT"
    assert "rule.boost must be within -1..1, not 0; got 7.0" in str(refused.value)
    with pytest.raises(RequestError, match=r"filters.max_age must be within 0\.\.21; got 99"):
        client.recommend("rita", filters=Filters(max_age=99))
    assert client.list_rules() == ()


def test_titles_come_and_go_while_the_server_answers(stack, client):
    prefix = stack.settings.kafka.prefix
    writer = LogWriter(stack.settings.kafka.log_config())

    def is_known():
        try:
            return bool(client.similar_items("fresh", count=3))
        except RequestError:
            return False

    fresh = CatalogItem("fresh", "Fresh", 2024, ("Drama",))
    publish_catalogue([fresh], writer, prefix + topics.CATALOG)
    wait_until(is_known)
    assert "fresh" in ids(client.recommend("pia", count=100, genres=("Drama",)))
    publish_catalogue([replace(fresh, removed=True)], writer, prefix + topics.CATALOG)
    wait_until(lambda: not is_known())
    assert "fresh" not in ids(client.recommend("pia", count=100, genres=("Drama",)))


def test_slates_go_on_while_all_rows_are_built_anew(stack, client):
    position = client.track(watched("pam", "e31"))
    assert client.recommend("pam", after=position, wait_ms=1_000).freshness.after_included
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(rebuild, stack.settings, wait=True, progress=lambda *_: None)
        while not done.done():
            slate = client.recommend("pam", count=10)
            assert len(slate.items) == 10
            assert slate.degraded == ("bundle",)
        assert done.result().is_done
    assert "e31" not in ids(client.recommend("pam", count=100))


def test_slates_go_on_while_redis_is_away_and_recover(stack, client):
    redis = stack.redis
    assert isinstance(redis, EmbeddedRedis)
    position = client.track(watched("mia", "e9"))
    assert client.recommend("mia", after=position, wait_ms=1_000).freshness.after_included
    redis.kill()
    poor = client.recommend("mia", count=10)
    assert len(poor.items) == 10
    assert "redis" in poor.degraded
    redis.start()
    wait_until(lambda: "redis" not in client.recommend("mia").degraded)
    position = client.track(watched("mia", "e10"))
    slate = client.recommend("mia", count=100, after=position, wait_ms=1_000)
    assert slate.freshness.after_included
    assert {"e9", "e10"}.isdisjoint(item.item_id for item in slate.items)


def test_a_killed_process_is_started_again_and_nothing_is_lost(stack, client):
    psutil.Process(stack.process("features").pid).send_signal(signal.SIGKILL)
    position = client.track(watched("ned", "e11"))
    wait_until(lambda: not stack.process("features").is_alive())
    stack.watch()
    deadline_s = time.monotonic() + 60
    while not client.recommend("ned", after=position, wait_ms=1_000).freshness.after_included:
        assert time.monotonic() < deadline_s
    slate = client.recommend("ned", count=100)
    assert "e11" not in {item.item_id for item in slate.items}
