"""The calls beside a plain slate: pages, repeated requests, batches, begun titles, explanations."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from headrace.v1 import events_pb2, ingest_pb2, recommender_pb2
from headrace.v1.ingest_pb2_grpc import IngestServiceStub
from headrace.v1.recommender_pb2_grpc import RecommendationServiceStub
from hypothesis import given, settings
from hypothesis import strategies as st

from features.vocabulary import Page
from serving.client import Filters, Request, RequestError
from serving.slate import Query, Slate, Viewer
from tests.serving.harness import FakeRecommender, FakeRows, Parts, at, eventually, row_at, served
from tests.serving.test_servicer import LONG, refusal


@pytest.fixture(scope="module")
def shared() -> Any:
    rows = FakeRows()
    rows.put(row_at("ann", offset=41))
    with served(Parts(rows=lambda: rows)) as (server, client):
        yield server, client


@pytest.fixture
def client(shared: Any) -> Any:
    return shared[1]


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"item_id": "tt1"}, "item_id must be given on context.page ITEM alone; got page UNSPECIFIED"),
    ({"item_id": LONG, "page": Page.ITEM}, "item_id must be at most 128 bytes"),
    (
        {"candidate_item_ids": ["tt1"], "page": Page.HOME},
        "candidate_item_ids must be given on context.page SEARCH alone; got page HOME",
    ),
    (
        {"candidate_item_ids": ["tt1"] * 501, "page": Page.SEARCH},
        "candidate_item_ids must be at most 500 values; got 501",
    ),
    (
        {"candidate_item_ids": [""], "page": Page.SEARCH},
        "candidate_item_ids[0] must be an id of 1..128 bytes; got an empty string",
    ),
    ({"serendipity": 1.5}, "serendipity must be within 0..1; got 1.5"),
    ({"serendipity": float("nan")}, "serendipity must be within 0..1; got nan"),
    ({"page_token": "no token"}, "page_token must be as an answer gave it; got something else"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_FIELDS)
def test_bad_field_is_refused_with_its_name_and_value(
    client: Any, fields: dict[str, Any], message: str
) -> None:
    code, said = refusal(client.recommend, **{"user_id": "ann", **fields})
    assert code == "INVALID_ARGUMENT"
    assert said.startswith(message)


def test_query_says_what_the_page_is_about() -> None:
    recorded: list[Query] = []
    with served(Parts(record=lambda decision: recorded.append(decision.query))) as (_, client):
        client.recommend("ann", page=Page.ITEM, item_id="tt2", serendipity=0.25)
        client.recommend("ann", page=Page.SEARCH, candidate_item_ids=["tt2", "tt3"])
        eventually(lambda: len(recorded) == 2)
    item, search = recorded
    assert (item.page, item.item_id, item.serendipity) == (Page.ITEM, "tt2", 0.25)
    assert (search.candidate_item_ids, search.serendipity) == (("tt2", "tt3"), None)


def test_pages_bring_every_title_once_and_end(client: Any) -> None:
    pages = list(client.pages(Request("ann", count=2, request_id="scroll")))
    assert [[item.item_id for item in page.items] for page in pages] == [["tt1", "tt2"], ["tt3"]]
    assert [page.request_id for page in pages] == ["scroll-0", "scroll-1"]
    assert pages[0].next_page_token
    assert pages[1].next_page_token == ""


def test_token_does_not_fit_another_viewer(client: Any) -> None:
    token = client.recommend("ann", count=1).next_page_token
    code, message = refusal(client.recommend, "bob", count=1, page_token=token)
    assert code == "INVALID_ARGUMENT"
    assert message.startswith("page_token must be sent with the request that it belongs to")


def test_repeated_request_gets_the_same_answer_and_one_decision() -> None:
    recommender, decisions = FakeRecommender(), []
    with served(Parts(recommender=recommender, record=decisions.append)) as (_, client):
        first = client.recommend("ann", request_id="r1")
        assert client.recommend("ann", request_id="r1") == first
        code, message = refusal(client.recommend, "ann", request_id="r1", count=2)
        assert (code, "'r1'" in message) == ("ALREADY_EXISTS", True)
        client.recommend("bob", request_id="r1")
        eventually(lambda: len(decisions) == 2)
    assert len(recommender.viewers) == 2


def test_retries_while_the_first_is_underway_share_its_answer() -> None:
    rows, decisions = FakeRows(), []
    with served(Parts(rows=lambda: rows, record=decisions.append)) as (_, client):
        request = Request("ann", request_id="r1", after=at(7), wait_ms=1_000)
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(client.ask, request) for _ in range(4)]
            eventually(lambda: rows.reads > 2)
            rows.put(row_at("ann", offset=7))
            found = {answer.result().request_id for answer in answers}
        assert found == {"r1"}
        assert len(decisions) == 1


def test_batch_answers_or_refuses_each_on_its_own(client: Any) -> None:
    answers = client.recommend_batch(
        [Request("ann", count=1), Request(""), Request("bob", count=101), Request("bob")]
    )
    assert isinstance(answers[1], RequestError)
    assert answers[1].code == "INVALID_ARGUMENT"
    assert answers[1].message.startswith("user_id must be")
    assert answers[2].message == "count must be within 0..100; got 101"
    assert [len(answer.items) for answer in (answers[0], answers[3])] == [1, 3]
    assert answers[0].freshness.included == (at(41),)


@pytest.mark.parametrize("n", [0, 65])
def test_batch_of_a_wrong_size_is_refused_whole(client: Any, n: int) -> None:
    code, message = refusal(client.recommend_batch, [Request("ann")] * n)
    assert (code, message) == ("INVALID_ARGUMENT", f"requests must be 1..64 values; got {n}")


def test_failure_in_a_batch_names_an_error_id_alone() -> None:
    recommender = FakeRecommender(failure=ValueError("secret of the house"))
    with served(Parts(recommender=recommender)) as (_, client):
        (answer,) = client.recommend_batch([Request("ann")])
    assert answer.code == "INTERNAL"
    assert "secret" not in answer.message


def test_other_calls_are_answered_while_a_batch_is() -> None:
    class Slow(FakeRecommender):
        def recommend(self, query: Query, viewer: Viewer, now_ms: int) -> Slate:
            order.append(query.user_id)
            self.takes_s = 0.01 if query.user_id == "batch" else 0.0
            begun.set()
            return super().recommend(query, viewer, now_ms)

    order: list[str] = []
    begun = threading.Event()
    with served(Parts(recommender=Slow())) as (_, client), ThreadPoolExecutor(1) as pool:
        batch = pool.submit(client.recommend_batch, [Request("batch")] * 64)
        begun.wait(10)
        client.recommend("single")
        assert len(batch.result()) == 64
    assert order.index("single") < 64


def test_begun_titles_come_with_progress_and_freshness(client: Any) -> None:
    begun = client.continue_watching("ann", count=1)
    assert [(item.item_id, item.progress) for item in begun.items] == [("tt3", 0.5)]
    assert begun.freshness.included == (at(41),)
    assert client.continue_watching("nobody").items == ()


def test_explanation_says_whether_and_why(client: Any) -> None:
    shown = client.explain(Request("ann"), "tt2")
    assert (shown.shown, shown.slot, shown.sources) == (True, 1, ("trending",))
    assert shown.item.features == {"item_trend": 1.0, "user_plays": 2.0}
    gone = client.explain(Request("ann", exclude_item_ids=["tt2"]), "tt2")
    assert (gone.shown, gone.removed_by) == (False, ("excluded",))
    assert refusal(client.explain, Request("ann"), "tt404")[0] == "NOT_FOUND"
    assert refusal(client.explain, Request(""), "tt1")[0] == "INVALID_ARGUMENT"
    assert refusal(client.explain, Request("ann"), "")[0] == "INVALID_ARGUMENT"


def test_explanations_are_not_recorded() -> None:
    parts = Parts()
    with served(parts) as (_, client):
        client.explain(Request("ann"), "tt2")
        client.recommend("ann")
        eventually(lambda: len(parts.decisions) == 1)


texts = st.one_of(
    st.text(max_size=20), st.just("tt1"), st.just("ann"), st.just("x" * 200), st.just("\0")
)
counts = st.one_of(st.integers(0, 101), st.sampled_from([2**31, 2**32 - 1, 1_000_000_000]))
signed = st.one_of(st.integers(-2, 2), st.sampled_from([-(2**31), 2**31 - 1]))
places = st.builds(
    events_pb2.Position,
    topic=st.one_of(st.just(""), texts),
    partition=signed,
    offset=st.integers(-(2**63), 2**63 - 1),
)
filters = st.builds(
    recommender_pb2.Filters,
    languages=st.lists(texts, max_size=3),
    categories=st.lists(texts, max_size=3),
    min_rating=st.floats(width=32),
    max_age=st.one_of(st.none(), counts),
    include_watched=st.booleans(),
    exclude_in_progress=st.booleans(),
)
slates = st.builds(
    recommender_pb2.RecommendRequest,
    user_id=texts,
    profile_id=texts,
    request_id=texts,
    count=counts,
    context=st.builds(
        events_pb2.Context,
        device=st.one_of(st.integers(0, 4), signed),
        page=st.one_of(st.integers(0, 4), signed),
        region=texts,
    ),
    exclude_item_ids=st.one_of(st.lists(texts, max_size=3), st.just(["tt1"] * 1_001)),
    genres=st.lists(texts, max_size=3),
    after=st.one_of(st.none(), places),
    wait_ms=st.one_of(st.just(1), st.just(1_001), st.just(2**32 - 1)),
    debug=st.booleans(),
    filters=st.one_of(st.none(), filters),
    page_token=st.one_of(st.just(""), texts),
    item_id=st.one_of(st.just(""), texts),
    candidate_item_ids=st.one_of(st.just([]), st.lists(texts, max_size=3)),
    serendipity=st.one_of(st.none(), st.floats(width=32)),
)
requests = st.one_of(
    slates,
    st.builds(recommender_pb2.RecommendBatchRequest, requests=st.lists(slates, max_size=3)),
    st.builds(recommender_pb2.SimilarItemsRequest, item_id=texts, count=counts),
    st.builds(
        recommender_pb2.TrendingRequest,
        count=counts,
        genres=st.lists(texts, max_size=3),
        region=texts,
    ),
    st.builds(
        recommender_pb2.ContinueWatchingRequest,
        user_id=texts,
        count=counts,
        wait_ms=st.just(1),
        after=st.one_of(st.none(), places),
    ),
    st.builds(recommender_pb2.ExplainRequest, request=slates, item_id=texts),
    st.builds(ingest_pb2.TrackRequest),
    st.binary(max_size=60),
)


def status_of(channel: grpc.Channel, request: Any) -> str:
    """What a call of the method that takes this request ends with; bytes go to Recommend."""
    name = "Recommend" if isinstance(request, bytes) else type(request).__name__[: -len("Request")]
    service = "IngestService" if name == "Track" else "RecommendationService"
    call = channel.unary_unary(f"/headrace.v1.{service}/{name}")
    data = request if isinstance(request, bytes) else request.SerializeToString()
    try:
        call(data, timeout=10)
    except grpc.RpcError as error:
        failed: Any = error
        return str(failed.code().name)
    return "OK"


@settings(max_examples=300, deadline=None)
@given(request=requests)
def test_no_request_however_odd_breaks_the_server(shared: Any, request: Any) -> None:
    server, _ = shared
    with server.channel() as channel:
        code = status_of(channel, request)
    assert code in {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "RESOURCE_EXHAUSTED"}


def test_largest_and_hostile_requests_are_refused_at_the_door(shared: Any) -> None:
    server, client = shared
    with server.channel() as channel:
        many = recommender_pb2.RecommendRequest(user_id="ann", exclude_item_ids=["tt1"] * 1_000_000)
        assert status_of(channel, many) == "RESOURCE_EXHAUSTED"
        stub: Any = RecommendationServiceStub(channel)  # type: ignore[no-untyped-call]
        assert stub.Recommend(recommender_pb2.RecommendRequest(user_id="ann")).items
        track: Any = IngestServiceStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
            track.Track(ingest_pb2.TrackRequest())
    assert refusal(client.recommend, "ann", count=1_000_000_000)[0] == "INVALID_ARGUMENT"
    assert client.recommend("ann", filters=Filters()).items
