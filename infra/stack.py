"""The whole system on one machine: servers and processes, started in order, kept alive, stopped.

    broker, Redis -> topics -> features flow -> learning flow -> serve

The embedded broker forgets its log when it ends, so it and the embedded Redis go and come together:
positions in rows must never speak of a log that is gone. Apache Kafka and its Redis keep what they
have, so they are started again like any other process (infra/apache.py).
"""

import json
import os
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from redis import RedisError

from features.log import OffsetGoneError
from features.redis_store import RedisLink
from infra import topics
from infra.apache import ApacheKafka, apache_kafka, durable_redis, lasting
from infra.embedded import (
    LOOPBACK,
    ChildServer,
    EmbeddedBroker,
    EmbeddedRedis,
    StartError,
    free_port,
)
from infra.settings import KafkaSettings, Settings
from streams.preparation import read_marker

RUN_FILE = "run.json"
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.5, 30.0
START_TIMEOUT_S = 300.0  # the first start compiles the row functions
CLOSING_S = 5.0  # of a server, beyond its drain: log, store, threads
STEADY_S = 30.0  # a process that ran this long starts again without delay

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Addresses:
    """Where everything answers."""

    broker: str
    redis: str
    grpc: str
    http: str | None = None  # the JSON door
    lake: str | None = None
    agents: str | None = None  # views of the Faust agents
    metrics: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class ProcessStatus:
    """One process as `headrace status` shows it."""

    name: str
    pid: int | None
    healthy: bool
    restarts: int


class Stack:
    """All servers and processes of one machine, as a context manager."""

    def __init__(self, settings: Settings) -> None:
        self._settings = lasting(settings) if settings.apache.enabled else settings
        self._cleanup = ExitStack()
        self._home = settings.home
        self._processes: dict[str, ChildServer] = {}
        self._restarts: dict[str, int] = {}
        self._backoff_s: dict[str, float] = {}
        self._started_s: dict[str, float] = {}
        self._waits_for_rebuild = False
        self.broker: EmbeddedBroker | ApacheKafka | None = None
        self.redis: EmbeddedRedis | None = None
        self.addresses = Addresses(settings.kafka.bootstrap, settings.redis.url, "")

    def __enter__(self) -> Self:
        logs = self._home / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        try:
            self._start_servers(logs)
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cleanup.close()
        (self._home / RUN_FILE).unlink(missing_ok=True)

    def _start_servers(self, logs: Path) -> None:
        settings, stays = self._settings, self._settings.apache.enabled
        if stays and settings.kafka.bootstrap:
            raise StartError(
                "HEADRACE_KAFKA__BOOTSTRAP names a broker, so none is to be started: unset it, or "
                "leave --kafka apache out"
            )
        if not settings.kafka.bootstrap:
            folder = logs / "broker"
            broker: EmbeddedBroker | ApacheKafka
            broker = apache_kafka(settings, folder) if stays else EmbeddedBroker(folder)
            self._cleanup.enter_context(broker)
            self.broker, self.addresses.broker = broker, broker.bootstrap
        if not settings.redis.url:
            folder = logs / "redis"
            store = durable_redis(settings, folder) if stays else EmbeddedRedis(folder)
            self.redis = self._cleanup.enter_context(store)
            self.addresses.redis = self.redis.url
        for server in self._servers():
            self._restarts[server.name] = 0
            self._started_s[server.name] = time.monotonic()
        self.create_topics()

    def _servers(self) -> list[EmbeddedBroker | ApacheKafka | EmbeddedRedis]:
        """The broker and the Redis that were started here."""
        return [server for server in (self.broker, self.redis) if server is not None]

    @property
    def settings(self) -> Settings:
        """The settings with the addresses of what was started."""
        settings = self._settings
        return settings.model_copy(
            update={
                "kafka": settings.kafka.model_copy(update={"bootstrap": self.addresses.broker}),
                "redis": settings.redis.model_copy(update={"url": self.addresses.redis}),
                "home": settings.home.resolve(),
            }
        )

    def create_topics(self) -> None:
        """Creates what is missing; see infra.topics."""
        create_topics(self.settings.kafka)

    def start_features(self) -> None:
        """Starts the features flow and waits until it reads."""
        workers = self._settings.stream.workers
        port = self._settings.metrics.features_port or free_port(1 + workers)
        self.addresses.metrics["features"] = self._metrics_url(port)
        environment = {"HEADRACE_METRICS__FEATURES_PORT": str(port)}
        self._start("features", ["stream", "features"], environment)

    def start_serve(self) -> None:
        """Starts the gRPC server and waits until it is warm."""
        serving = self._settings.serving
        metrics_port = self._settings.metrics.serve_port or free_port(1 + serving.processes)
        port = serving.port or free_port()
        self.addresses.grpc = f"{serving.host}:{port}"
        self.addresses.metrics["serve"] = self._metrics_url(metrics_port)
        environment = {
            "HEADRACE_METRICS__SERVE_PORT": str(metrics_port),
            "HEADRACE_SERVING__PORT": str(port),
        }
        if has_json_door():
            http_port = serving.http_port or free_port()
            scheme = "http" if serving.tls_cert is None else "https"
            self.addresses.http = f"{scheme}://{serving.host}:{http_port}"
            environment["HEADRACE_SERVING__HTTP_PORT"] = str(http_port)
        self._start("serve", ["serve"], environment, 2 * grace_s(self._settings))

    def start_archive(self) -> None:
        """Starts the archive flow. An embedded log, new at each start, gets a lake of its own."""
        port = self._settings.metrics.archive_port or free_port()
        folder = self._settings.lake()
        if isinstance(self.broker, EmbeddedBroker) and self._settings.archive.folder is None:
            folder = folder / f"{datetime.now(UTC):%Y-%m-%dT%H%M%S}"
        self.addresses.lake = str(folder.resolve())
        self.addresses.metrics["archive"] = self._metrics_url(port)
        environment = {
            "HEADRACE_METRICS__ARCHIVE_PORT": str(port),
            "HEADRACE_ARCHIVE__FOLDER": self.addresses.lake,
        }
        self._start("archive", ["stream", "archive"], environment)

    def start_learning(self) -> None:
        """Starts the learning flow and waits until it reads."""
        port = self._settings.metrics.learning_port or free_port()
        self.addresses.metrics["learning"] = self._metrics_url(port)
        environment = {"HEADRACE_METRICS__LEARNING_PORT": str(port)}
        self._start("learning", ["stream", "learning"], environment)

    def start_agents(self) -> None:
        """Starts the Faust agents and waits until their views are made."""
        port = self._settings.metrics.agents_port or free_port()
        views = self._settings.agents.port or free_port()
        self.addresses.agents = f"http://{LOOPBACK}:{views}"
        self.addresses.metrics["agents"] = self._metrics_url(port)
        environment = {
            "HEADRACE_METRICS__AGENTS_PORT": str(port),
            "HEADRACE_AGENTS__PORT": str(views),
        }
        self._start("agents", ["stream", "agents"], environment)

    def _metrics_url(self, port: int) -> str:
        host = self._settings.metrics.host
        return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/metrics"

    def _start(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        stop_grace_s: float = 10.0,
    ) -> None:
        url = self.addresses.metrics[name]
        process = ChildServer(
            name,
            [sys.executable, "-m", "infra.cli", *command],
            ready=lambda: is_ready(url),
            directory=self._home / "logs",
            env={**self.settings.environment(), **environment},
            start_timeout_s=START_TIMEOUT_S,
            stop_grace_s=stop_grace_s,
        )
        self._processes[name] = self._cleanup.enter_context(process)
        self._restarts[name] = 0
        self._started_s[name] = time.monotonic()
        self.write_run_file()

    def process(self, name: str) -> ChildServer:
        """One of the processes, for fault tests and for its pid."""
        return self._processes[name]

    def watch(self) -> None:
        """Starts what has ended again, after a growing pause. Call it about once a second.

        Raises StartError when the embedded broker has ended: the log is gone, so the whole stack
        must start anew. Rows that an embedded Redis has lost, the flow has in memory or the log.
        """
        for server in self._servers():
            if server.is_alive():
                continue
            if isinstance(server, EmbeddedBroker):
                raise StartError(f"{server.name} has ended; its data is gone: start the stack anew")
            self._restart(server.name, server)
        for name, process in self._processes.items():
            if not process.is_alive() and self._is_worth_starting(name, process):
                self._restart(name, process)

    def _is_worth_starting(self, name: str, process: ChildServer) -> bool:
        """Whether another start may go better; says once when it may not.

        A features flow whose place in the log is gone waits for `headrace rebuild`.
        """
        if name != "features" or process.exit_status != OffsetGoneError.exit_status:
            return True
        if rebuild_is_asked(self.settings):
            self._waits_for_rebuild = False
            return True
        if not self._waits_for_rebuild:
            self._waits_for_rebuild = True
            log.error("process_waits_for_rebuild", process=name, see=str(process.log_path))
            self.write_run_file()
        return False

    def _restart(self, name: str, process: ChildServer) -> None:
        now_s = time.monotonic()
        steady = now_s - self._started_s[name] > STEADY_S
        backoff_s = FIRST_BACKOFF_S if steady else self._backoff_s.get(name, FIRST_BACKOFF_S)
        log.error("process_ended", process=name, status=process.exit_status, backoff_s=backoff_s)
        time.sleep(backoff_s)
        self._backoff_s[name] = min(2 * backoff_s, LAST_BACKOFF_S)
        self._restarts[name] += 1
        try:
            process.start()
        except StartError as error:
            log.error("process_did_not_start", process=name, reason=str(error))
        self._started_s[name] = time.monotonic()
        self.write_run_file()

    def status(self) -> list[ProcessStatus]:
        """Every server and process, and whether it answers."""
        found = [
            ProcessStatus(
                server.name,
                server.pid if server.is_alive() else None,
                server.answers(),
                self._restarts[server.name],
            )
            for server in self._servers()
        ]
        for name, process in self._processes.items():
            pid = process.pid if process.is_alive() else None
            healthy = is_ready(self.addresses.metrics[name])
            found.append(ProcessStatus(name, pid, healthy, self._restarts[name]))
        return found

    def write_run_file(self) -> None:
        """Tells `headrace status` and `headrace down` what runs here."""
        found = {
            "pid": os.getpid(),
            "addresses": asdict(self.addresses),
            "processes": {
                name: {"pid": process.pid if process.is_alive() else None}
                for name, process in self._processes.items()
            },
        }
        for server in self._servers():
            pid = server.pid if server.is_alive() else None
            found["processes"][server.name] = {"pid": pid}  # type: ignore[index]
        path = self._home / RUN_FILE
        temporary = path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(found, file, indent=2)  # for this user alone: addresses may hold passwords
        temporary.replace(path)


def create_topics(kafka: KafkaSettings) -> None:
    """Creates the topics of these settings where they are missing."""
    config = {"bootstrap.servers": kafka.bootstrap, **kafka.options}
    topics.ensure_topics(config, topics.topics(kafka.prefix, kafka.partitions))


def rebuild_is_asked(settings: Settings) -> bool:
    """Whether somebody wants the rows built anew, or nothing says any more what they are."""
    redis = settings.redis.config()
    link = RedisLink(redis, give_up_after_s=0)
    try:
        marker = read_marker(redis, link)
    except RedisError:
        return False
    finally:
        link.close()
    return marker is None or bool(marker.request)


def has_json_door() -> bool:
    """Whether the packages of the extra `http` are here."""
    return find_spec("uvicorn") is not None and find_spec("starlette") is not None


def grace_s(settings: Settings) -> float:
    """Seconds that a server may take from SIGTERM to its end."""
    return settings.serving.drain_notice_s + settings.serving.drain_grace_s + CLOSING_S


def is_ready(metrics_url: str) -> bool:
    """Whether a process answers on its metrics endpoint that it is ready."""
    try:
        with urllib.request.urlopen(metrics_url, timeout=0.5) as answer:  # noqa: S310 (loopback)
            return b"headrace_ready 1.0" in answer.read()
    except OSError:
        return False
