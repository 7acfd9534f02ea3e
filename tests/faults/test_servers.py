"""Several servers on one port: one may be killed, and all are told to end, while clients call."""

import json
import signal
import socket
import sys
import threading
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from features.events import CatalogItem
from features.log import LogWriter
from infra import topics
from infra.embedded import LOOPBACK, ChildServer, StartError, free_port
from infra.servers import SERVERS_FILE, read_servers, refuse_taken
from infra.settings import Settings
from infra.stack import create_topics, is_ready
from offline.replay import publish_catalogue
from serving.client import Client, RequestError
from tests.flows import wait_until

TITLES = [CatalogItem(f"e{k}", f"Title {k}", 2000, ("Drama",)) for k in range(40)]


@pytest.fixture
def settings(broker, redis_url, tmp_path):
    settings = Settings(
        kafka={"bootstrap": broker, "prefix": f"servers{uuid.uuid4().hex[:8]}-"},
        redis={"url": redis_url},
        serving={"port": free_port(), "processes": 2, "drain_notice_s": 0.2},
        metrics={"serve_port": free_port(3)},
        home=tmp_path,
    )
    create_topics(settings.kafka)
    catalogue = settings.kafka.prefix + topics.CATALOG
    publish_catalogue(TITLES, LogWriter(settings.kafka.log_config()), catalogue)
    return settings


class Calls:
    """Clients that call without a pause, each over connections of its own; answers and failures."""

    def __init__(self, target: str) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._target = target
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(2)
        self._running = [self._pool.submit(self._call, k) for k in range(2)]

    def _call(self, number: int) -> None:
        while not self._ended.is_set():
            with Client(self._target, timeout_s=20) as client:
                for k in range(10):
                    try:
                        assert len(client.recommend(f"u{number}-{k}", count=5).items) == 5
                        self.answered += 1
                    except RequestError as error:
                        self.failures.append(str(error))

    def end(self) -> None:
        self._ended.set()
        for call in self._running:
            call.result(60)
        self._pool.shutdown()


def ready(port: int) -> bool:
    return is_ready(f"http://{LOOPBACK}:{port}/metrics")


@pytest.mark.slow
def test_servers_share_a_port_are_started_again_and_drain_together(settings):
    metrics_port, target = settings.metrics.serve_port, f"{LOOPBACK}:{settings.serving.port}"
    parent = ChildServer(
        "serve",
        [sys.executable, "-m", "infra.cli", "serve"],
        ready=lambda: ready(metrics_port),
        directory=settings.home / "logs",
        env=settings.environment(),
        start_timeout_s=280,
        stop_grace_s=30,
    )
    with parent:
        assert [ready(metrics_port + 1 + k) for k in range(2)] == [True, True]
        servers = read_servers(settings.home, parent.pid)
        assert sorted(servers) == ["serve-0", "serve-1"]
        calls = Calls(target)
        wait_until(lambda: calls.answered > 50)
        psutil.Process(servers["serve-0"]["pid"]).kill()
        wait_until(lambda: not ready(metrics_port))
        before = calls.answered
        wait_until(lambda: calls.answered > before + 50)
        wait_until(lambda: ready(metrics_port), timeout_s=120)
        again = read_servers(settings.home, parent.pid)
        assert again["serve-0"]["pid"] not in (None, servers["serve-0"]["pid"])
        assert again["serve-1"]["pid"] == servers["serve-1"]["pid"]
        wait_until(lambda: both_answer(metrics_port))
        calls.end()
        # What the killed one held is reset; for how long clients notice depends on the machine.
        assert all(failure.startswith("UNAVAILABLE") for failure in calls.failures), calls.failures
        assert len(calls.failures) < calls.answered
        with Client(target, timeout_s=20) as client, ThreadPoolExecutor(1) as pool:
            client.recommend("ann")
            psutil.Process(parent.pid).send_signal(signal.SIGTERM)
            last = pool.submit(client.recommend, "ann")
            assert last.result(30).items
            assert parent.wait(60) == 0
        assert not (settings.home / SERVERS_FILE).exists()
        assert not any(psutil.pid_exists(again[name]["pid"]) for name in again)


def both_answer(metrics_port: int) -> bool:
    """Whether the one endpoint has answered calls of both processes."""
    url = f"http://{LOOPBACK}:{metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    answered = [line for line in lines if line.startswith("headrace_serving_requests_total")]
    return all(any(f'process="{k}"' in line for line in answered) for k in range(2))


def test_a_port_that_somebody_has_is_not_shared_with_them():
    port = free_port()
    refuse_taken(LOOPBACK, port)
    expected = f"cannot listen on {LOOPBACK}:{port}"
    with socket.create_server((LOOPBACK, port)), pytest.raises(StartError, match=expected):
        refuse_taken(LOOPBACK, port)


def test_servers_of_another_parent_are_not_listed(tmp_path):
    assert read_servers(tmp_path, 7) == {}
    found = {"pid": 7, "servers": {"serve-0": {"pid": 8, "metrics": "http://x"}}}
    (tmp_path / SERVERS_FILE).write_text(json.dumps(found))
    assert read_servers(tmp_path, 7) == found["servers"]
    assert read_servers(tmp_path, 9) == {}
