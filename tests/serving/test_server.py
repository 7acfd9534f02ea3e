"""The server around the services: health, reflection, limits, TLS, and a clean end."""

import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from headrace.v1 import ingest_pb2, recommender_pb2
from headrace.v1.ingest_pb2_grpc import IngestServiceStub
from headrace.v1.recommender_pb2_grpc import RecommendationServiceStub
from prometheus_client import REGISTRY
from pydantic import ValidationError

from serving.client import Client, RequestError
from serving.server import INGEST, RECOMMENDATIONS, SERVICES, server_credentials
from serving.settings import ServingSettings
from tests.apache_kafka import REPOSITORY
from tests.certificates import self_signed
from tests.serving.harness import (
    FakeRecommender,
    FakeRows,
    Parts,
    Running,
    at,
    eventually,
    running,
    served,
)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health_of(channel: grpc.Channel, service: str) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status


def requests_counted(method: str, code: str) -> float:
    labels = {"method": method, "code": code}
    return REGISTRY.get_sample_value("headrace_serving_requests_total", labels) or 0.0


def test_health_says_serving_when_warm_and_not_serving_at_the_end() -> None:
    parts = Parts(settings=ServingSettings(port=0, drain_notice_s=0.3))
    parts.may_be_warm.clear()
    rows = FakeRows()
    parts.rows = lambda: rows
    with running(parts) as server, server.channel() as channel:
        assert {health_of(channel, name) for name in SERVICES} == {NOT_SERVING}
        parts.may_be_warm.set()
        eventually(lambda: {health_of(channel, name) for name in SERVICES} == {SERVING})
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=RECOMMENDATIONS), timeout=30)
        assert next(watch).status == SERVING
        server.stop()
        assert next(watch).status == NOT_SERVING
        watch.cancel()


def test_unknown_service_has_no_health(shared: Running) -> None:
    with shared.channel() as channel, pytest.raises(grpc.RpcError) as caught:
        health_of(channel, "headrace.v1.Nothing")
    assert _code(caught.value) == grpc.StatusCode.NOT_FOUND


@pytest.fixture(scope="module")
def shared() -> Any:
    with running() as server:
        yield server


def _code(error: Any) -> grpc.StatusCode:
    code: grpc.StatusCode = error.code()
    return code


def reflected(channel: grpc.Channel) -> set[str]:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=10)
    return {service.name for service in answer.list_services_response.service}


def test_reflection_is_on_on_loopback() -> None:
    with running() as server, server.channel() as channel:
        assert {INGEST, RECOMMENDATIONS, "grpc.health.v1.Health"} <= reflected(channel)


def test_reflection_can_be_switched_off() -> None:
    parts = Parts(settings=ServingSettings(port=0, reflection=False))
    with running(parts) as server, server.channel() as channel:
        with pytest.raises(grpc.RpcError) as caught:
            reflected(channel)
        assert _code(caught.value) == grpc.StatusCode.UNIMPLEMENTED


def test_oversized_message_is_refused_and_the_connection_lives_on(
    shared: Running,
) -> None:
    with shared.channel() as channel:
        stub: Any = RecommendationServiceStub(channel)  # type: ignore[no-untyped-call]
        request = recommender_pb2.RecommendRequest(user_id="ann", genres=["x" * 300_000])
        with pytest.raises(grpc.RpcError) as caught:
            stub.Recommend(request, timeout=10)
        assert _code(caught.value) == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.Recommend(recommender_pb2.RecommendRequest(user_id="ann"), timeout=10).items


def test_message_that_is_no_request_is_never_answered(shared: Running) -> None:
    with shared.channel() as channel:
        method = "/headrace.v1.RecommendationService/Recommend"
        call: Any = channel.unary_unary(method, bytes, bytes)
        with pytest.raises(grpc.RpcError):
            call(b"\xff\xff\xff", timeout=10)
        stub: Any = RecommendationServiceStub(channel)  # type: ignore[no-untyped-call]
        assert stub.Recommend(recommender_pb2.RecommendRequest(user_id="ann"), timeout=10).items


def test_more_calls_than_allowed_are_refused_at_once() -> None:
    settings = ServingSettings(port=0, max_concurrent=2)
    with served(Parts(settings=settings)) as (server, _), ThreadPoolExecutor(6) as pool:
        clients = [Client(server.target, timeout_s=10) for _ in range(6)]

        def code_of(client: Client) -> str:
            try:
                client.recommend("ann", after=at(9), wait_ms=500)
            except RequestError as error:
                return error.code
            return "OK"

        codes = list(pool.map(code_of, clients))
        for client in clients:
            client.close()
    assert set(codes) == {"OK", "RESOURCE_EXHAUSTED"}
    assert codes.count("OK") >= 2


def test_stream_that_goes_silent_is_ended() -> None:
    settings = ServingSettings(port=0, stream_idle_s=0.1)
    silence = threading.Event()

    def requests() -> Any:
        silence.wait(30)
        yield ingest_pb2.TrackRequest()

    with running(Parts(settings=settings)) as server, server.channel() as channel:
        stub: Any = IngestServiceStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError) as caught:
            stub.TrackMany(requests(), timeout=30)
        silence.set()
    assert _code(caught.value) == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "within 0.1 s" in (caught.value.details() or "")


def test_every_outcome_is_counted_by_method_and_status() -> None:
    method = f"/{RECOMMENDATIONS}/Recommend"
    codes = ("OK", "INVALID_ARGUMENT", "INTERNAL")
    before = [requests_counted(method, code) for code in codes]
    recommender = FakeRecommender()
    with served(Parts(recommender=recommender)) as (_, client):
        client.recommend("ann")
        with pytest.raises(RequestError):
            client.recommend("")
        recommender.failure = KeyError("x")
        with pytest.raises(RequestError):
            client.recommend("ann")
    assert [requests_counted(method, code) for code in codes] == [n + 1 for n in before]


def test_calls_that_run_are_finished_when_the_server_drains() -> None:
    rows = FakeRows()
    with (
        running(Parts(rows=lambda: rows)) as server,
        Client(server.target, timeout_s=10) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        calls = [pool.submit(client.recommend, f"u{i}", after=at(9), wait_ms=400) for i in range(8)]
        eventually(lambda: len(rows.seen) == 8)
        server.stop()
        for call in calls:
            assert len(call.result(30).items) == 3
        server.join()
        with pytest.raises(RequestError, match="UNAVAILABLE"):
            client.recommend("ann", timeout_s=1)


def test_no_call_fails_behind_two_replicas_while_one_drains() -> None:
    counts = [threading.Event(), threading.Event()]
    parts = [Parts(record=lambda _, told=told: told.set()) for told in counts]
    with running(parts[0]) as first, running(parts[1]) as second, ThreadPoolExecutor(3) as pool:
        target = f"ipv4:127.0.0.1:{first.port},127.0.0.1:{second.port}"
        gone = threading.Event()

        def call_until_one_is_gone() -> int:
            answered, left = 0, 50
            with Client(target, timeout_s=10) as client:
                while left:
                    assert client.recommend("ann").items
                    answered += 1
                    left -= gone.is_set()
            return answered

        calls = [pool.submit(call_until_one_is_gone) for _ in range(3)]
        eventually(lambda: all(told.is_set() for told in counts))  # both are called, in turn
        first.stop()
        first.join()
        gone.set()
        assert all(call.result(60) >= 50 for call in calls)


def test_sigterm_lets_running_calls_finish_and_ends_the_process() -> None:
    program = "from tests.serving.harness import run_until_signal; run_until_signal()"
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process, ThreadPoolExecutor(1) as pool:
        port = next(int(line[5:]) for line in process.stdout if line.startswith("port "))
        with Client(f"127.0.0.1:{port}", timeout_s=10) as client:
            client.recommend("ann")
            call = pool.submit(client.recommend, "ann", after=at(9), wait_ms=1_000)
            line = next(line for line in process.stdout if line.startswith("waiting"))
            assert line
            process.send_signal(signal.SIGTERM)
            assert not call.result(30).freshness.after_included
            assert process.wait(30) == 0


def test_address_that_is_taken_is_an_error_that_names_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            Running(Parts(settings=ServingSettings(port=port)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"host": "0.0.0.0"}, "host must be a loopback address without tls_cert, tls_key and keys"),
        (
            {"host": "0.0.0.0", "tls_cert": Path("c.pem"), "tls_key": Path("k.pem")},
            "a file that `headrace keys create` makes",
        ),
        ({"host": "example.org"}, "host must be a loopback address"),
        ({"host": "::"}, "host must be a loopback address"),
        ({"tls_cert": Path("c.pem")}, "tls_cert and tls_key must be given together"),
        ({"tls_client_ca": Path("c.pem")}, "tls_client_ca needs tls_cert and tls_key"),
        ({"port": 65_536}, "less than or equal to 65535"),
        ({"delay_limit_ms": 20}, "delay_limit_ms must be above delay_target_ms, 20; got 20"),
        ({"max_concurrent": 0}, "greater than or equal to 1"),
        ({"clock": "sundial"}, "'wall' or 'stream'"),
        ({"colour": "red"}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ServingSettings(**fields)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_tls_and_has_reflection(host: str) -> None:
    settings = ServingSettings(host=host)
    assert settings.has_reflection
    assert server_credentials(settings) is None


def test_reflection_is_off_where_others_can_reach_the_server() -> None:
    tls = {"tls_cert": Path("c.pem"), "tls_key": Path("k.pem"), "keys_file": Path("keys.json")}
    assert not ServingSettings(host="0.0.0.0", **tls).has_reflection
    assert ServingSettings(host="::1").address == "[::1]:50051"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of localhost, signed by itself, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


def test_tls_answers_those_who_trust_its_certificate(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    settings = ServingSettings(port=0, tls_cert=cert, tls_key=key)
    with running(Parts(settings=settings)) as server:
        trusting = grpc.ssl_channel_credentials(cert.read_bytes())
        target = f"localhost:{server.port}"
        with Client(target, timeout_s=10, credentials=trusting) as client:
            assert client.recommend("ann").items
        with Client(target, timeout_s=1) as plain, pytest.raises(RequestError):
            plain.recommend("ann")


def test_mutual_tls_answers_those_alone_who_show_a_certificate(
    certificate: tuple[Path, Path],
) -> None:
    cert, key = certificate
    settings = ServingSettings(port=0, tls_cert=cert, tls_key=key, tls_client_ca=cert)
    with running(Parts(settings=settings)) as server:
        target, root = f"localhost:{server.port}", cert.read_bytes()
        known = grpc.ssl_channel_credentials(root, key.read_bytes(), root)
        with Client(target, timeout_s=10, credentials=known) as client:
            assert client.recommend("ann").items
        unknown = grpc.ssl_channel_credentials(root)
        with (
            Client(target, timeout_s=1, credentials=unknown) as client,
            pytest.raises(RequestError),
        ):
            client.recommend("ann")


def test_a_certificate_that_is_replaced_counts_from_the_next_connection_on(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    settings = ServingSettings(port=0, tls_cert=cert, tls_key=key)
    with running(Parts(settings=settings)) as server:
        old_root = cert.read_bytes()
        new_cert, new_key = self_signed(tmp_path, "next")
        new_key.replace(key)
        new_cert.replace(cert)
        for root, answers in ((cert.read_bytes(), True), (old_root, False)):
            trusting = grpc.ssl_channel_credentials(root)
            with Client(f"localhost:{server.port}", timeout_s=5, credentials=trusting) as client:
                if answers:
                    assert client.recommend("ann").items
                else:
                    with pytest.raises(RequestError, match=r"UNAVAILABLE|DEADLINE"):
                        client.recommend("ann", timeout_s=1)
