"""Callers without a right, with too many calls, or who hang up: the server refuses and goes on."""

import asyncio
import importlib
import pkgutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import grpc
import headrace.v1
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from headrace.v1 import ingest_pb2, recommender_pb2
from headrace.v1.ingest_pb2_grpc import IngestServiceStub
from headrace.v1.recommender_pb2_grpc import RecommendationServiceStub

from features.compiled import Rows
from features.ids import viewer_hash
from serving.client import Client, RequestError
from serving.guard.guard import SCOPES, Guard
from serving.guard.keys import KeyRing, Scope, new_key, read_keys, write_keys
from serving.settings import ServingSettings
from tests.serving.harness import FakeRows, Parts, Running, eventually, running

REFUSED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}

PATIENT = {"delay_target_ms": 1_000, "delay_limit_ms": 10_000}  # a busy machine is no overload


def methods() -> list[str]:
    """Every method of every service that a server may have, from the descriptors."""
    names = [f"headrace.v1.{m.name}" for m in pkgutil.iter_modules(headrace.v1.__path__)]
    files: list[Any] = [importlib.import_module(n) for n in names if n.endswith("_pb2")]
    return [
        f"/{service.full_name}/{method.name}"
        for file in (*files, health_pb2, reflection_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]


def status_of(channel: grpc.Channel, method: str, key: str | None) -> grpc.StatusCode:
    """How an empty call ends; as bytes, any kind of call is a stream of both sides."""
    metadata = () if key is None else (("authorization", f"Bearer {key}"),)
    call: Any = channel.stream_stream(method)(iter([b""]), timeout=1, metadata=metadata)
    try:
        next(call, None)
    except grpc.RpcError:
        pass
    else:
        call.cancel()  # it answers, and would go on
        return grpc.StatusCode.OK
    code: grpc.StatusCode = call.code()
    return code


class Keyed:
    """A server with keys, and their texts by scope."""

    def __init__(self, server: Running, path: Path, texts: dict[str, str]) -> None:
        self.server, self.path, self.texts = server, path, texts


@pytest.fixture(scope="module", params=["grpc", "lean"])
def keyed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Keyed]:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    keys = {str(scope): new_key("backend", [scope]) for scope in Scope}
    keys["expired"] = new_key("backend", list(Scope), expires_ms=1)
    keys["stream"] = new_key("streamer", [Scope.INGEST], rate=20.0)
    keys["slow"] = new_key("slow", [Scope.INGEST, Scope.RECOMMEND], rate=2.0, burst=2)
    write_keys(path, KeyRing(key for key, _ in keys.values()))
    settings = ServingSettings(
        port=0,
        keys_file=path,
        health_open=False,
        transport=request.param,
        **PATIENT,
    )
    with running(Parts(settings=settings)) as server:
        yield Keyed(server, path, {name: text for name, (_, text) in keys.items()})


def test_every_method_of_every_service_has_a_scope() -> None:
    assert [method for method in methods() if method not in SCOPES] == []


@pytest.mark.parametrize("method", methods())
def test_no_method_answers_without_the_right_key(keyed: Keyed, method: str) -> None:
    needed = SCOPES[method]
    with keyed.server.channel() as channel:
        for key in (None, "", "hr_000000000000_guessed", keyed.texts["expired"]):
            assert status_of(channel, method, key) == grpc.StatusCode.UNAUTHENTICATED
        for scope in Scope:
            code = status_of(channel, method, keyed.texts[scope])
            if needed in (scope, "any"):
                assert code not in REFUSED
            else:
                assert code == grpc.StatusCode.PERMISSION_DENIED


def test_a_method_that_nobody_has_is_not_told_from_others_without_a_key(keyed: Keyed) -> None:
    with keyed.server.channel() as channel:
        assert status_of(channel, "/x.Y/Z", None) == grpc.StatusCode.UNAUTHENTICATED
        code = status_of(channel, "/x.Y/Z", keyed.texts["admin"])
        assert code == grpc.StatusCode.UNIMPLEMENTED


def test_a_running_server_takes_new_keys_and_drops_revoked_ones(keyed: Keyed) -> None:
    key, text = new_key("late", [Scope.RECOMMEND])
    with Client(keyed.server.target, timeout_s=10, api_key=text) as client:

        def answers() -> bool:
            try:
                return bool(client.recommend("ann").items)
            except RequestError as error:
                if error.code != "UNAUTHENTICATED":
                    raise
                return False

        assert not answers()
        write_keys(keyed.path, read_keys(keyed.path).plus(key))
        eventually(answers)
        write_keys(keyed.path, read_keys(keyed.path).without(key.id))
        eventually(lambda: not answers())


def test_a_client_beyond_its_quota_is_told_when_to_come_again(keyed: Keyed) -> None:
    with Client(keyed.server.target, timeout_s=10, api_key=keyed.texts["slow"]) as client:

        def ask_often() -> None:
            for _ in range(50):  # fewer than two a second would take 25 s
                client.recommend("ann")

        with pytest.raises(RequestError, match="quota of 2 calls a second is used up") as caught:
            ask_often()
        assert caught.value.code == "RESOURCE_EXHAUSTED"
        assert 0 < (caught.value.retry_after_ms or 0) <= 500
    with Client(keyed.server.target, timeout_s=10, api_key=keyed.texts["recommend"]) as other:
        assert other.recommend("ann").items


def test_messages_of_a_stream_come_at_the_rate_of_the_quota(keyed: Keyed) -> None:
    with keyed.server.channel() as channel:
        stub: Any = IngestServiceStub(channel)  # type: ignore[no-untyped-call]
        began_s = time.monotonic()
        answer = stub.TrackMany(
            iter([ingest_pb2.TrackRequest()] * 8),
            timeout=60,
            metadata=(("x-api-key", keyed.texts["stream"]),),
        )
        assert answer.refused == 8  # they are empty
        assert time.monotonic() - began_s > 7 / 20


class StuckRows(FakeRows):
    """Rows that never come for the viewers of whom it is not told `free`."""

    free = viewer_hash("ann")

    async def read(self, id_: int) -> Rows | None:
        self.seen.add(id_)
        if id_ != self.free:
            await asyncio.Event().wait()
        return None


@pytest.mark.parametrize("transport", ["grpc", "lean"])
def test_deadlines_that_pass_and_calls_that_are_cancelled_leave_nothing_behind(
    transport: Literal["grpc", "lean"],
) -> None:
    rows, guard = StuckRows(), Guard()
    settings = ServingSettings(port=0, transport=transport, **PATIENT)
    parts = Parts(settings=settings, rows=lambda: rows, guard=guard)
    with running(parts) as server, Client(server.target, timeout_s=10) as client:
        assert client.recommend("ann").items
        eventually(lambda: guard.running == 0)
        tasks_before = server.n_tasks()
        for k in range(100):
            with pytest.raises(RequestError, match="DEADLINE_EXCEEDED"):
                client.recommend(f"u{k}", timeout_s=0.005)
        with server.channel() as channel:
            stub: Any = RecommendationServiceStub(channel)  # type: ignore[no-untyped-call]
            requests = [recommender_pb2.RecommendRequest(user_id=f"v{k}") for k in range(50)]
            calls = [stub.Recommend.future(request) for request in requests]
            eventually(lambda: {viewer_hash(f"v{k}") for k in range(50)} <= rows.seen)
            assert guard.running >= 50
            for call in calls:
                call.cancel()
            eventually(lambda: guard.running == 0)
        eventually(lambda: server.n_tasks() <= tasks_before)
        assert len(parts.recommender.viewers) == 1, "work went on that nobody waited for"
        assert client.recommend("ann").items
