"""Runs the console until it is told to end."""

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from infra.console.app import LOOPBACK_NAMES, app_of
from infra.console.collector import Collector
from infra.console.runbooks import FOLDER
from infra.console.streams import Streams
from infra.ops.exporter import OpsCollector
from infra.settings import Settings
from infra.telemetry import READY
from serving.http.hosting import Hosted, bound

POLL_S: Final = 0.1
OTHER_CONNECTIONS: Final = 64  # beside the streams: browsers keep several, each for 15 s
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
    try:
        listening = bound(settings.ops.host, settings.ops.port)
    except OSError as error:
        raise OSError(
            f"{error.strerror}; end what listens there, or name another port: --port, "
            "HEADRACE_OPS__PORT"
        ) from error
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
    page = Hosted(
        app,
        max_connections=settings.ops.max_streams + OTHER_CONNECTIONS, keep_alive_s=15, grace_s=1,
    )  # fmt: skip
    await page.start(listening)
    READY.set(1)
    host, port = listening.getsockname()[:2]
    told(Listening(host, port))
    while not stop.is_set() and not page.has_ended:
        await asyncio.sleep(POLL_S)
    READY.set(0)
    streams.end()
    await page.stop()


def hosts_of(settings: Settings) -> frozenset[str]:
    """Names by which the console may be called."""
    named = {name.strip().lower() for name in settings.ops.allowed_hosts.split(",")} - {""}
    return LOOPBACK_NAMES | named


def _is_current(collector: Collector) -> bool:
    seen = collector.observed
    return seen is not None and time.time() - seen.now_s < CURRENT_S
