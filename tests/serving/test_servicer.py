"""Requests to answers: what is checked, what is answered, what a failure looks like."""

import threading
import time
from typing import Any

import pytest
from headrace.v1 import events_pb2, recommender_pb2
from headrace.v1.recommender_pb2_grpc import RecommendationServiceStub

from features.position import Position
from features.vocabulary import Device, Page
from serving.client import RequestError
from serving.slate import Query, Slate, Viewer
from serving.wire import encode_decision
from tests.clock import START_MS, FakeClock
from tests.serving.harness import FakeRecommender, FakeRows, Parts, at, eventually, row_at, served

LONG = "x" * 129


def refusal(call: Any, *args: Any, **named: Any) -> tuple[str, str]:
    """Status and message of a call that must fail."""
    with pytest.raises(RequestError) as caught:
        call(*args, **named)
    return caught.value.code, caught.value.message


def test_slate_comes_with_everything_the_contract_promises() -> None:
    rows = FakeRows()
    rows.put(row_at("ann", offset=41, logged_at_ms=START_MS - 250))
    with served(Parts(rows=lambda: rows)) as (_, client):
        slate = client.recommend("ann", count=2, debug=True)
    assert [item.title for item in slate.items] == ["Heat", "Ronin"]
    assert slate.items[0].reason == "because you watched Sneakers"
    assert dict(slate.items[0].features) == {"item_trend": 1.0, "user_plays": 2.0}
    assert slate.freshness.included == (at(41),)
    assert (slate.freshness.state_age_ms, slate.freshness.items_age_ms) == (250, 1_500)
    assert slate.freshness.after_included
    assert slate.freshness.waited_ms == 0
    assert (slate.degraded, slate.bundle_version, slate.n_candidates) == ((), "b1", 3)
    assert slate.request_id


def test_unknown_viewer_gets_a_slate_and_an_honest_freshness() -> None:
    with served() as (_, client):
        slate = client.recommend("nobody")
    assert len(slate.items) == 3
    assert (slate.freshness.included, slate.freshness.state_age_ms) == ((), -1)
    assert slate.degraded == ()


def test_features_are_shown_to_those_who_debug_alone() -> None:
    with served() as (_, client):
        assert client.recommend("ann").items[0].features == {}


def test_request_id_of_the_client_is_kept_and_every_other_one_is_new() -> None:
    with served() as (_, client):
        assert client.recommend("ann", request_id="r-1").request_id == "r-1"
        assert client.recommend("ann").request_id != client.recommend("ann").request_id


def test_query_says_what_the_request_said() -> None:
    recorded: list[Query] = []
    parts = Parts(record=lambda decision: recorded.append(decision.query))
    with served(parts) as (_, client):
        client.recommend(
            "ann",
            profile_id="kids",
            session_id="s1",
            request_id="r1",
            count=7,
            device=Device.TV,
            page=Page.HOME,
            region="DE",
            exclude_item_ids=["tt1"],
            genres=["Drama"],
            wait_ms=250,
        )
        eventually(lambda: len(recorded) == 1)
    assert recorded[0] == Query(
        user_id="ann",
        profile_id="kids",
        session_id="s1",
        request_id="r1",
        count=7,
        device=Device.TV,
        page=Page.HOME,
        region="DE",
        exclude_item_ids=("tt1",),
        genres=("Drama",),
        wait_ms=250,
    )


def test_decision_goes_to_the_log_as_it_was_served() -> None:
    rows = FakeRows()
    rows.put(row_at("ann", offset=3, partition=2))
    parts = Parts(rows=lambda: rows)
    with served(parts) as (_, client):
        slate = client.recommend("ann", region="DE", device=Device.TV, count=1)
        eventually(lambda: len(parts.decisions) == 1)
    impression = events_pb2.Impression.FromString(encode_decision(parts.decisions[0]))
    assert impression.request_id == slate.request_id
    assert (impression.user_id, impression.served_at_ms) == ("ann", START_MS)
    assert (impression.context.region, int(impression.context.device)) == ("DE", Device.TV)
    assert [p.offset for p in impression.included] == [3]
    assert (impression.bundle_version, impression.feature_version) == ("b1", "f1")
    (slot,) = impression.slots
    assert (slot.item_id, slot.source, slot.arm, slot.propensity) == (
        "tt1", "trending", "popular", 0.25,
    )  # fmt: skip
    assert list(slot.features) == [1.0, 2.0]
    assert impression.n_candidates == 3


BAD_QUERIES: list[tuple[dict[str, Any], str]] = [
    ({"user_id": ""}, "user_id must be an id of 1..128 bytes; got an empty string"),
    ({"user_id": LONG}, "user_id must be at most 128 bytes; got 129 bytes"),
    ({"user_id": "ü" * 65}, "user_id must be at most 128 bytes; got 130 bytes"),
    ({"profile_id": LONG}, "profile_id must be at most 128 bytes"),
    ({"session_id": LONG}, "session_id must be at most 128 bytes"),
    ({"request_id": LONG}, "request_id must be at most 128 bytes"),
    ({"region": "x" * 17}, "context.region must be at most 16 bytes; got 17 bytes"),
    ({"device": 9}, "context.device must be within 0..4; got 9"),
    ({"page": -1}, "context.page must be within 0..4; got -1"),
    ({"count": 101}, "count must be within 0..100; got 101"),
    ({"count": 1_000_000_000}, "count must be within 0..100; got 1000000000"),
    ({"wait_ms": 1_001}, "wait_ms must be within 0..1000; got 1001"),
    ({"exclude_item_ids": ["tt1"] * 1_001}, "exclude_item_ids must be at most 1000 values"),
    ({"exclude_item_ids": ["tt1", ""]}, "exclude_item_ids[1] must be an id of 1..128 bytes"),
    ({"exclude_item_ids": [LONG]}, "exclude_item_ids[0] must be at most 128 bytes"),
    ({"genres": ["Drama"] * 33}, "genres must be at most 32 values; got 33"),
    ({"genres": [LONG]}, "genres[0] must be at most 128 bytes"),
    ({"after": Position("others", 0, 1)}, "after.topic must be 'interactions', or empty"),
    ({"after": at(-1)}, "after.offset must be zero or more; got -1"),
    ({"after": at(1, -1)}, "after.partition must be zero or more; got -1"),
]


@pytest.fixture(scope="module")
def client() -> Any:
    with served() as (_, client):
        yield client


@pytest.mark.parametrize(("fields", "message"), BAD_QUERIES)
def test_bad_field_is_refused_with_its_name_and_value(
    client: Any, fields: dict[str, Any], message: str
) -> None:
    code, said = refusal(client.recommend, **{"user_id": "ann", **fields})
    assert code == "INVALID_ARGUMENT"
    assert said.startswith(message)


@pytest.mark.parametrize(
    ("method", "fields", "message"),
    [
        ("similar_items", {"item_id": ""}, "item_id must be an id of 1..128 bytes"),
        ("similar_items", {"item_id": "tt1", "count": 101}, "count must be within 0..100; got 101"),
        ("trending", {"count": 4_000}, "count must be within 0..100; got 4000"),
        ("trending", {"genres": [""]}, "genres[0] must be an id of 1..128 bytes"),
    ],
)
def test_bad_field_of_the_other_calls_is_refused_too(
    client: Any, method: str, fields: dict[str, Any], message: str
) -> None:
    code, said = refusal(getattr(client, method), **fields)
    assert code == "INVALID_ARGUMENT"
    assert said.startswith(message)


def test_largest_allowed_request_is_answered(client: Any) -> None:
    slate = client.recommend(
        "u" * 128, count=100, exclude_item_ids=["x" * 128] * 1_000, genres=["Drama"] * 32
    )
    assert len(slate.items) == 3


def test_similar_items_and_trending(client: Any) -> None:
    assert [item.item_id for item in client.similar_items("tt2")] == ["tt1", "tt3"]
    assert len(client.similar_items("tt2", count=1)) == 1
    assert [item.title for item in client.trending(count=2)] == ["Heat", "Ronin"]
    assert client.trending(genres=["Cooking"]) == ()


def test_unknown_title_is_not_found(client: Any) -> None:
    code, message = refusal(client.similar_items, "tt404")
    assert code == "NOT_FOUND"
    assert "'tt404'" in message


def test_failing_recommender_leaks_nothing_but_an_error_id() -> None:
    recommender = FakeRecommender(failure=ValueError("secret of the house"))
    with served(Parts(recommender=recommender)) as (_, client):
        for call in (lambda: client.recommend("ann"), client.trending):
            code, message = refusal(call)
            assert code == "INTERNAL"
            assert message.startswith("internal error ")
            assert "secret" not in message
        recommender.failure = None
        assert client.recommend("ann").items


def test_row_that_arrives_while_waiting_is_awaited() -> None:
    rows = FakeRows()
    rows.put(row_at("ann", offset=6))
    with served(Parts(rows=lambda: rows)) as (_, client):
        client.recommend("ann")
        timer = threading.Timer(0.02, lambda: rows.put(row_at("ann", offset=7)))
        timer.start()
        slate = client.recommend("ann", after=at(7), wait_ms=1_000)
        timer.join()
    assert slate.freshness.after_included
    assert slate.freshness.included == (at(7),)
    assert 0 < slate.freshness.waited_ms < 1_000


def test_wait_that_reaches_its_limit_answers_with_what_there_is() -> None:
    rows = FakeRows()
    rows.put(row_at("ann", offset=6))
    with served(Parts(rows=lambda: rows)) as (_, client):
        slate = client.recommend("ann", after=at(7), wait_ms=30)
        elsewhere = client.recommend("ann", after=at(3, partition=1), wait_ms=1)
    assert len(slate.items) == 3
    assert not slate.freshness.after_included
    assert slate.freshness.included == (at(6),)
    assert slate.freshness.waited_ms >= 29
    assert not elsewhere.freshness.after_included


def test_wait_leaves_time_for_the_answer_within_the_deadline() -> None:
    with served() as (_, client):
        client.recommend("ann")
        slate = client.recommend("ann", after=at(7), wait_ms=1_000, timeout_s=0.5)
    assert not slate.freshness.after_included
    assert slate.freshness.waited_ms <= 500


def test_event_that_is_included_already_costs_no_wait() -> None:
    rows = FakeRows()
    rows.put(row_at("ann", offset=9))
    with served(Parts(rows=lambda: rows)) as (_, client):
        slate = client.recommend("ann", after=at(7))
    assert slate.freshness.after_included
    assert (slate.freshness.waited_ms, rows.reads) == (0, 1)


def test_cancelled_call_stops_reading() -> None:
    rows = FakeRows()
    with served(Parts(rows=lambda: rows)) as (server, _), server.channel() as channel:
        stub: Any = RecommendationServiceStub(channel)  # type: ignore[no-untyped-call]
        request = recommender_pb2.RecommendRequest(user_id="ann", wait_ms=1_000)
        request.after.offset = 5
        call = stub.Recommend.future(request)
        eventually(lambda: rows.reads > 3)
        call.cancel()
        time.sleep(0.05)  # what was under way when the cancellation came
        reads = rows.reads
        time.sleep(0.05)
        assert rows.reads == reads
        assert server.parts.decisions == []


def test_age_never_turns_negative_when_clocks_disagree() -> None:
    rows, clock = FakeRows(), FakeClock()
    rows.put(row_at("ann", offset=1, logged_at_ms=START_MS + 5_000))
    with served(Parts(rows=lambda: rows, clock=clock)) as (_, client):
        assert client.recommend("ann").freshness.state_age_ms == 0


def test_viewer_reaches_the_recommender_as_read() -> None:
    recommender = FakeRecommender()
    rows = FakeRows()
    rows.put(row_at("ann", offset=1))
    with served(Parts(rows=lambda: rows, recommender=recommender)) as (_, client):
        client.recommend("ann")
        client.recommend("bob")
    known, unknown = recommender.viewers
    assert known.row is not None
    assert unknown == Viewer(None)


def test_what_is_missing_is_named_once() -> None:
    class Poorer(FakeRecommender):
        def recommend(self, query: Query, viewer: Viewer, now_ms: int) -> Slate:
            del query, viewer, now_ms
            return Slate((), "b1", "f1", 0, degraded=("ranker", "redis"))

    rows = FakeRows(failure=ConnectionError("gone"))
    with served(Parts(rows=lambda: rows, recommender=Poorer())) as (_, client):
        assert client.recommend("ann").degraded == ("redis", "ranker")
