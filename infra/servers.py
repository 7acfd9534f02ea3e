"""Several servers on one port of this machine: started, watched, started again, drained together.

    run_servers --> server 0, server 1, ...    each a process of its own, with SO_REUSEPORT
         |
         +-- metrics of all of them on one endpoint, each with the label `process`

The kernel gives each new connection to one of them. They know nothing of each other, so one that
ends is started again while the others answer.
"""

import json
import os
import socket
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Final

import structlog
from prometheus_client import REGISTRY

from infra.embedded import LOOPBACK, ChildServer, StartError, free_port
from infra.settings import Settings
from infra.stack import (
    FIRST_BACKOFF_S,
    LAST_BACKOFF_S,
    START_TIMEOUT_S,
    STEADY_S,
    grace_s,
    is_ready,
)
from infra.telemetry import READY, serve_metrics
from infra.workers import WorkerMetrics, end_all, hand_over_metrics

SERVERS_FILE: Final = "servers.json"
METRICS: Final = (
    "headrace_serving", "headrace_track", "headrace_impressions", "headrace_slate",
    "headrace_freshness", "headrace_source", "headrace_redis",
)  # fmt: skip
WATCH_EVERY_S: Final = 0.2

log = structlog.get_logger(__name__)


def run_servers(settings: Settings, n_servers: int, stop: Event) -> None:
    """Runs `n_servers` processes until `stop` is set, then drains all of them at once.

    Ready when all are. Raises StartError where one cannot start the first time.
    """
    port = settings.serving.port or free_port()
    refuse_taken(settings.serving.host, port)
    metrics_port = settings.metrics.serve_port or free_port(1 + n_servers)
    serve_metrics(settings.metrics.host, metrics_port)
    with ExitStack() as cleanup, ThreadPoolExecutor(n_servers) as starters:
        servers = [_server(settings, k, port, metrics_port + 1 + k) for k in range(n_servers)]
        for server in servers:
            cleanup.callback(server.close)
        if not start_all(servers, starters, stop):
            end_all(servers, grace_s(settings))
            return
        urls = [_metrics_url(metrics_port + 1 + k) for k in range(n_servers)]
        hand_over_metrics()
        REGISTRY.register(WorkerMetrics(urls, METRICS, label="process"))
        supervisor = Supervisor(servers, starters, urls, settings.home / SERVERS_FILE)
        log.info("servers_ready", pids=[server.pid for server in servers], port=port)
        supervisor.run(stop)
        READY.set(0)
        end_all(servers, grace_s(settings))


def start_all(servers: list[ChildServer], starters: ThreadPoolExecutor, stop: Event) -> bool:
    """Starts all at the same time; whether all are ready, not so where `stop` is set meanwhile.

    Raises StartError.
    """
    starting = [starters.submit(server.start) for server in servers]
    while not all(future.done() for future in starting):
        if stop.wait(WATCH_EVERY_S):
            return False
    for future in starting:
        future.result()
    return True


def refuse_taken(host: str, port: int) -> None:
    """Raises StartError where somebody listens already: SO_REUSEPORT would share with them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _metrics_url(port: int) -> str:
    return f"http://{LOOPBACK}:{port}/metrics"


def _server(settings: Settings, number: int, port: int, metrics_port: int) -> ChildServer:
    name = f"serve-{number}"
    options = {**settings.kafka.options, "client.id": f"headrace-{name}"}
    return ChildServer(
        name,
        [sys.executable, "-m", "infra.cli", "serve", "--process", str(number)],
        ready=lambda: is_ready(_metrics_url(metrics_port)),
        directory=settings.home / "logs",
        env={
            **settings.environment(),
            "HEADRACE_KAFKA__OPTIONS": json.dumps(options),
            "HEADRACE_METRICS__HOST": LOOPBACK,
            "HEADRACE_METRICS__SERVE_PORT": str(metrics_port),
            "HEADRACE_SERVING__PORT": str(port),
            "HEADRACE_SERVING__SO_REUSEPORT": "true",
        },
        start_timeout_s=START_TIMEOUT_S,
        stop_grace_s=grace_s(settings),
    )


@dataclass(slots=True)
class Restart:
    """A server that has ended and is started again, after a pause."""

    at_s: float
    starting: "Future[ChildServer] | None" = None


class Supervisor:
    """Starts servers that end again, each after a pause of its own that grows from 0.5 to 30 s."""

    def __init__(
        self, servers: list[ChildServer], starters: ThreadPoolExecutor, urls: list[str], file: Path
    ) -> None:
        self._servers = servers
        self._starters = starters
        self._urls = urls
        self._file = file
        self._restarts: dict[int, Restart] = {}
        self._started_s = dict.fromkeys(range(len(servers)), time.monotonic())
        self._backoff_s = dict.fromkeys(range(len(servers)), FIRST_BACKOFF_S)

    def run(self, stop: Event) -> None:
        """Returns when `stop` is set; ready for as long as all servers run."""
        try:
            self._tell()
            while not stop.wait(WATCH_EVERY_S):
                self.watch(time.monotonic())
        finally:
            self._file.unlink(missing_ok=True)

    def watch(self, now_s: float) -> None:
        """Looks once at each server."""
        for k, server in enumerate(self._servers):
            restart = self._restarts.get(k)
            if restart is None:
                if not server.is_alive():
                    self._note_end(k, server, now_s)
            elif restart.starting is None:
                if now_s >= restart.at_s:
                    restart.starting = self._starters.submit(server.start)
            elif restart.starting.done():
                self._note_start(k, restart.starting, now_s)

    def _note_end(self, k: int, server: ChildServer, now_s: float) -> None:
        if now_s - self._started_s[k] > STEADY_S:
            self._backoff_s[k] = FIRST_BACKOFF_S
        pause_s = self._backoff_s[k]
        log.error("server_ended", server=k, status=server.exit_status, backoff_s=pause_s)
        self._backoff_s[k] = min(2 * pause_s, LAST_BACKOFF_S)
        self._restarts[k] = Restart(now_s + pause_s)
        self._tell()

    def _note_start(self, k: int, starting: "Future[ChildServer]", now_s: float) -> None:
        del self._restarts[k]
        self._started_s[k] = now_s
        error = starting.exception()
        if error is not None:  # the next look finds it ended, and waits longer
            log.error("server_did_not_start", server=k, reason=str(error))
        self._tell()

    def _tell(self) -> None:
        """Readiness for Prometheus, processes for `headrace status`."""
        READY.set(0 if self._restarts else 1)
        found: dict[str, Any] = {
            server.name: {"pid": server.pid if server.is_alive() else None, "metrics": url}
            for server, url in zip(self._servers, self._urls, strict=True)
        }
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text(json.dumps({"pid": os.getpid(), "servers": found}))
        temporary.replace(self._file)


def read_servers(home: Path, owner_pid: int | None) -> dict[str, dict[str, Any]]:
    """The servers of a process, by name: `pid` and `metrics`; none where it has no others."""
    try:
        found = json.loads((home / SERVERS_FILE).read_text())
    except (OSError, ValueError):
        return {}
    servers: dict[str, dict[str, Any]] = found["servers"]
    return servers if found["pid"] == owner_pid else {}
