"""Runs the console until it is told to end."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event
from typing import Final

import structlog
import uvicorn
from prometheus_client import CollectorRegistry

from infra.console.app import LOOPBACK_NAMES, app_of
from infra.console.collector import Collector
from infra.console.runbooks import FOLDER
from infra.console.streams import Streams
from infra.ops.exporter import OpsCollector
from infra.settings import Settings
from infra.telemetry import READY

POLL_S: Final = 0.1
CURRENT_S: Final = 15.0  # without a new snapshot for so long, /healthz says so

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the console answers."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Of the page."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}/"


def run_console(
    settings: Settings, stop: Event, *, probes: bool, told: Callable[[Listening], None]
) -> None:
    """Runs until `stop` is set; `told` hears where it listens. Raises OSError where it cannot."""
    listening = _bound(settings.ops.host, settings.ops.port)
    collector = Collector(settings, probes=probes, writes=True)
    try:
        asyncio.run(_serve(settings, collector, listening, stop, told))
    finally:
        collector.close()
        listening.close()


async def _serve(
    settings: Settings,
    collector: Collector,
    listening: socket.socket,
    stop: Event,
    told: Callable[[Listening], None],
) -> None:
    streams = Streams(settings.ops.max_streams)
    streams.begin()
    collector.listen(streams.publish)
    collector.start()
    registry = CollectorRegistry()
    registry.register(OpsCollector(lambda: collector.observed))
    registry.register(READY)
    app = app_of(
        collector, streams, registry,
        runbooks=settings.ops.runbooks or FOLDER,
        hosts=hosts_of(settings),
        is_current=lambda: _is_current(collector),
    )  # fmt: skip
    server = _Quiet(_config(app, settings))
    serving = asyncio.create_task(server.serve([listening]))
    while not server.started and not serving.done():
        await asyncio.sleep(POLL_S)
    READY.set(1)
    host, port = listening.getsockname()[:2]
    told(Listening(host, port))
    while not stop.is_set() and not serving.done():
        await asyncio.sleep(POLL_S)
    READY.set(0)
    streams.end()
    server.should_exit = True
    await serving


def hosts_of(settings: Settings) -> frozenset[str]:
    """Names by which the console may be called."""
    named = {name.strip().lower() for name in settings.ops.allowed_hosts.split(",")} - {""}
    return LOOPBACK_NAMES | named


def _is_current(collector: Collector) -> bool:
    seen = collector.observed
    return seen is not None and time.time() - seen.now_s < CURRENT_S


class _Quiet(uvicorn.Server):
    """Leaves signals to those who started it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


def _config(app: object, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=4 * settings.ops.max_streams,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=1,
    )


def _bound(host: str, port: int) -> socket.socket:
    """A socket that will listen. Raises OSError, which names host and port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.setblocking(False)
    except OSError as error:
        found.close()
        raise OSError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; end what listens there, "
            "or name another port: --port, HEADRACE_OPS__PORT"
        ) from error
    return found
