"""The JSON door: the same answers as gRPC gives, statuses, limits, and a clean end."""

import asyncio
import json
import socket
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.embedded import free_port
from serving.guard.keys import KeyRing, Scope, new_key, write_keys
from serving.http.app import STATUSES, Door
from serving.http.calls import CALLS
from serving.http.openapi import openapi
from serving.settings import ServingSettings
from serving.slate import Query, Slate, Viewer
from tests.serving.harness import FakeRecommender, FakeRows, Parts, at, eventually, row_at, served

LIMIT = 4_096


@contextmanager
def opened(parts: Parts | None = None, **fields: Any) -> Any:
    """A server with both doors, a client of each, and the server itself."""
    port = free_port()
    parts = parts or Parts()
    named = {"port": 0, "http_port": port, "max_request_bytes": LIMIT, "stream_idle_s": 0.5}
    named |= {"delay_target_ms": 1_000, "delay_limit_ms": 10_000}  # a busy machine is no overload
    parts.settings = ServingSettings(**{**named, **fields})
    url = f"http://127.0.0.1:{port}"
    with served(parts) as (server, client), httpx.Client(base_url=url, timeout=10) as web:
        eventually(lambda: web.get("/readyz").status_code == 200)
        yield web, client, server


@pytest.fixture(scope="module")
def doors() -> Any:
    rows = FakeRows()
    rows.put(row_at("ann", offset=41))
    with opened(Parts(rows=lambda: rows)) as found:
        yield found


@pytest.fixture
def web(doors: Any) -> Any:
    return doors[0]


@pytest.fixture
def client(doors: Any) -> Any:
    return doors[1]


def test_answer_says_what_grpc_says(web: Any, client: Any) -> None:
    answer = web.post("/v1/recommend", json={"user_id": "ann", "count": 2, "request_id": "same"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "same"
    told, slate = answer.json(), client.recommend("ann", count=2, request_id="same")
    assert [item["item_id"] for item in told["items"]] == [item.item_id for item in slate.items]
    assert told["items"][0]["propensity"] == slate.items[0].propensity
    assert told["next_page_token"] == slate.next_page_token
    assert told["freshness"]["included"] == [{"topic": at(41).topic, "offset": "41"}]


def test_fields_may_be_named_in_either_way(web: Any) -> None:
    context = {"page": "PAGE_ITEM", "device": "DEVICE_TV"}
    one = {"user_id": "ann", "exclude_item_ids": ["tt1"], "item_id": "tt2", "context": context}
    other = {"userId": "ann", "excludeItemIds": ["tt1"], "itemId": "tt2", "context": context}
    found = [web.post("/v1/recommend", json=body).json()["items"] for body in (one, other)]
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_every_call_is_answered(web: Any) -> None:
    batch = {"requests": [{"user_id": "ann"}, {"user_id": ""}]}
    first, second = web.post("/v1/recommend:batch", json=batch).json()["results"]
    assert len(first["response"]["items"]) == 3
    assert second["error"]["status"] == "INVALID_ARGUMENT"
    assert len(web.post("/v1/similar-items", json={"item_id": "tt1"}).json()["items"]) == 2
    assert len(web.post("/v1/trending", json={"count": 1}).json()["items"]) == 1
    begun = web.post("/v1/continue-watching", json={"user_id": "ann"}).json()
    assert begun["items"][0]["progress"] == 0.5
    asked = {"request": {"user_id": "ann"}, "item_id": "tt1"}
    assert web.post("/v1/explain", json=asked).json()["shown"] is True


def test_event_that_the_log_does_not_take_is_unavailable(web: Any) -> None:
    event = {"user_id": "ann", "item_id": "tt1", "type": "INTERACTION_TYPE_CLICK"}
    answer = web.post("/v1/track", json={"interaction": event})
    assert answer.status_code == 503
    assert answer.json()["code"] == "UNAVAILABLE"
    assert int(answer.headers["retry-after"]) >= 1


def refusal(answer: Any) -> tuple[int, str, str]:
    found = answer.json()
    assert set(found) == {"code", "message"}
    return answer.status_code, found["code"], found["message"]


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/recommend", {}, (400, "INVALID_ARGUMENT", "user_id must be an id of 1..128 bytes")),
        (
            "/v1/recommend",
            {"user_id": "ann", "count": 1_000_000_000},
            (400, "INVALID_ARGUMENT", "count must be within 0..100; got 1000000000"),
        ),
        (
            "/v1/recommend",
            {"user_id": "ann", "serendipity": "NaN"},
            (400, "INVALID_ARGUMENT", "serendipity must be within 0..1; got nan"),
        ),
        (
            "/v1/recommend",
            {"user_id": "ann", "count": -1},
            (400, "INVALID_ARGUMENT", "the body must be a RecommendRequest as JSON; got"),
        ),
        (
            "/v1/recommend",
            {"user_id": "ann", "colour": "red"},
            (400, "INVALID_ARGUMENT", "the body must be a RecommendRequest as JSON; got"),
        ),
        (
            "/v1/similar-items",
            {"item_id": "tt404"},
            (404, "NOT_FOUND", "item_id must name a title"),
        ),
        ("/v1/nothing", {}, (404, "NOT_FOUND", "Not Found")),
    ],
)
def test_refusal_has_a_status_a_code_and_a_message(
    web: Any, path: str, body: Any, expected: tuple[int, str, str]
) -> None:
    status, code, message = refusal(web.post(path, json=body))
    assert (status, code) == expected[:2]
    assert message.startswith(expected[2])


def test_request_id_comes_from_the_header_where_the_body_has_none(web: Any) -> None:
    named = {"x-request-id": "r-of-the-proxy"}
    first = web.post("/v1/recommend", json={"user_id": "bob"}, headers=named)
    assert first.json()["request_id"] == first.headers["x-request-id"] == "r-of-the-proxy"
    again = web.post("/v1/recommend", json={"user_id": "bob"}, headers=named)
    assert again.content == first.content
    other = web.post("/v1/recommend", json={"user_id": "bob", "count": 1}, headers=named)
    assert refusal(other)[:2] == (409, "ALREADY_EXISTS")
    assert web.post("/v1/recommend", json={"user_id": "bob"}).headers.get("x-request-id") is None


def test_method_type_and_size_of_a_request_are_bounded(web: Any) -> None:
    assert refusal(web.get("/v1/recommend"))[:2] == (405, "UNIMPLEMENTED")
    plain = web.post("/v1/recommend", content=b"{}", headers={"content-type": "text/plain"})
    assert refusal(plain)[:2] == (415, "INVALID_ARGUMENT")
    json_type = {"content-type": "application/json; charset=utf-8"}
    large = b" " * (LIMIT + 1)
    for body in (large, iter([large[:-1], b" "])):  # with its length said, and without
        answer = web.post("/v1/recommend", content=body, headers=json_type)
        assert refusal(answer)[:2] == (413, "RESOURCE_EXHAUSTED")
    most = json.dumps({"user_id": "ann"}).encode().ljust(LIMIT)
    assert web.post("/v1/recommend", content=most, headers=json_type).status_code == 200


def test_body_that_does_not_come_is_not_waited_for(web: Any) -> None:
    address = (web.base_url.host, web.base_url.port)
    with socket.create_connection(address, timeout=10) as slow:
        slow.sendall(
            b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: 10\r\n\r\n{"
        )
        assert slow.recv(64).startswith(b"HTTP/1.1 408 ")


def test_deadline_of_a_header_ends_the_wait(web: Any) -> None:
    body = {"user_id": "ann", "after": {"offset": "99"}, "wait_ms": 1_000}
    answer = web.post("/v1/recommend", json=body, headers={"x-deadline-ms": "200"})
    assert answer.status_code in {200, 504}  # the wait leaves time for the answer, mostly
    if answer.status_code == 200:
        assert int(answer.json()["freshness"]["waited_ms"]) <= 200
    for text in ("0", "-1", "soon", "600001", "1e3"):
        answer = web.post("/v1/recommend", json=body, headers={"x-deadline-ms": text})
        assert refusal(answer)[0] == 400
        assert refusal(answer)[2].startswith("x-deadline-ms must be within 1..600000; got ")


def test_deadline_that_passes_is_told() -> None:
    class Slow(FakeRows):
        async def read(self, id_: int) -> Any:
            await asyncio.sleep(60)
            return await super().read(id_)

    with opened(Parts(rows=Slow)) as (web, _, _):
        answer = web.post("/v1/recommend", json={"user_id": "ann"}, headers={"x-deadline-ms": "30"})
        assert refusal(answer)[:2] == (504, "DEADLINE_EXCEEDED")


def test_failure_leaks_nothing_but_an_error_id() -> None:
    recommender = FakeRecommender(failure=ValueError("secret of the house"))
    with opened(Parts(recommender=recommender)) as (web, _, _):
        status, code, message = refusal(web.post("/v1/recommend", json={"user_id": "ann"}))
    assert (status, code) == (500, "INTERNAL")
    assert message.startswith("internal error ")
    assert "secret" not in message


def test_health_readiness_and_description(web: Any) -> None:
    assert (web.get("/healthz").status_code, web.get("/readyz").text) == (200, "ready\n")
    told = web.get("/openapi.json").json()
    assert told == openapi(CALLS)
    assert set(told["paths"]) == {call.path for call in CALLS}
    fields = told["components"]["schemas"]["RecommendRequest"]["properties"]
    assert fields["exclude_item_ids"] == {"type": "array", "items": {"type": "string"}}
    assert fields["context"] == {"$ref": "#/components/schemas/Context"}
    features = told["components"]["schemas"]["RecommendedItem"]["properties"]["features"]
    assert features["additionalProperties"] == {"type": "number", "format": "float"}


def test_description_is_for_those_who_may_reflect() -> None:
    with opened(reflection=False) as (web, _, _):
        assert refusal(web.get("/openapi.json"))[:2] == (404, "NOT_FOUND")


def test_every_status_has_its_number() -> None:
    assert set(STATUSES.values()) >= {400, 401, 403, 404, 409, 429, 503, 504}


class BusyError(Exception):
    retry_after_ms = 1_500


class OneKey:
    """Lets in whoever has the key."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []

    def admit(self, method: str, presented_key: str | None, peer: str = "") -> Any:
        assert peer
        self.asked.append((method, presented_key))
        if presented_key != "the key":
            raise PermissionError
        return memoryview(b"")  # anything with an end


def test_guard_is_asked_before_the_body_is_read() -> None:
    async def test() -> None:
        guard = OneKey()
        door = Door((Everything(),), guard, max_bytes=10, patience_s=1.0, tells_calls=True)
        transport = httpx.ASGITransport(door.app(), client=("10.0.0.7", 1))
        key, body = {"authorization": "Bearer the key"}, {"user_id": "a" * 100}
        async with httpx.AsyncClient(transport=transport, base_url="http://headrace") as web:
            assert (await web.post("/v1/recommend", json=body)).status_code == 500
            assert (await web.post("/v1/recommend", json=body, headers=key)).status_code == 413
            assert guard.asked[0] == ("/headrace.v1.RecommendationService/Recommend", None)
            assert (await web.get("/openapi.json", headers=key)).status_code == 200
            assert (await web.get("/openapi.json")).status_code == 500

    asyncio.run(test())


def test_keys_scopes_and_quotas_hold_at_this_door_too(tmp_path: Path) -> None:
    slates, slate_key = new_key("shop", [Scope.RECOMMEND])
    few, few_key = new_key("few", [Scope.RECOMMEND], rate=0.001, burst=1)
    path = tmp_path / "keys.json"
    write_keys(path, KeyRing([slates, few]))
    with opened(keys_file=path) as (web, _, _):
        body = {"user_id": "ann"}

        def asked(key: str, where: str = "/v1/recommend") -> Any:
            return web.post(where, json=body, headers={"authorization": f"Bearer {key}"})

        missing = web.post("/v1/recommend", json=body)
        assert refusal(missing)[:2] == (401, "UNAUTHENTICATED")
        assert missing.headers["www-authenticate"] == "Bearer"
        assert refusal(asked("hr_no_key"))[:2] == (401, "UNAUTHENTICATED")
        assert refusal(asked(slate_key, "/v1/track"))[:2] == (403, "PERMISSION_DENIED")
        assert refusal(web.get("/openapi.json"))[:2] == (401, "UNAUTHENTICATED")
        assert asked(slate_key).status_code == 200
        assert (
            web.post("/v1/recommend", json=body, headers={"x-api-key": slate_key}).status_code
            == 200
        )
        assert asked(few_key).status_code == 200
        busy = asked(few_key)
        assert refusal(busy)[:2] == (429, "RESOURCE_EXHAUSTED")
        assert int(busy.headers["retry-after"]) >= 1
        assert int(busy.headers["x-retry-ms"]) > 0
        assert web.get("/healthz").status_code == 200


class Everything:
    """A servicer with every method."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return None


def test_running_call_is_finished_at_the_end() -> None:
    begun, may_end = threading.Event(), threading.Event()

    class Waiting(FakeRecommender):
        def recommend(self, query: Query, viewer: Viewer, now_ms: int) -> Slate:
            begun.set()
            may_end.wait(10)
            return super().recommend(query, viewer, now_ms)

    with opened(Parts(recommender=Waiting())) as (web, _, server):
        found: list[int] = []
        body = {"user_id": "ann"}
        caller = threading.Thread(
            target=lambda: found.append(web.post("/v1/recommend", json=body).status_code)
        )
        caller.start()
        begun.wait(10)
        server.stop()
        may_end.set()
        server.join()
        caller.join(10)
    assert found == [200]


names = st.sampled_from(
    ["user_id", "count", "context", "page", "after", "offset", "filters", "min_rating", "genres",
     "requests", "request", "item_id", "serendipity", "debug", "interaction", "odd"]
)  # fmt: skip
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(call=st.sampled_from(CALLS), body=st.one_of(junk.map(json.dumps), st.text(max_size=30)))
def test_no_body_however_odd_breaks_the_door(doors: Any, call: Any, body: str) -> None:
    answer = doors[0].post(
        call.path,
        content=body.encode(errors="surrogatepass"),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code in {200, 400, 404, 409}


def test_bodies_that_have_broken_others(web: Any) -> None:
    deep = b'{"filters":' * 200 + b"1" + b"}" * 200
    for body in (deep, b"[" * 4_000, b"\xff\xfe", b'{"user_id": "\\ud800"}', b"null", b"[]", b"1"):
        answer = web.post(
            "/v1/recommend", content=body, headers={"content-type": "application/json"}
        )
        assert refusal(answer)[:2] == (400, "INVALID_ARGUMENT")
