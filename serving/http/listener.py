"""Where the JSON door listens: uvicorn in the event loop that gRPC has, begun and ended with it."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator

import structlog
import uvicorn

from serving.http.app import Door, Guards
from serving.servicer import IngestServicer, RecommendationServicer
from serving.settings import ServingSettings

POLL_S = 0.005

log = structlog.get_logger(__name__)


class HttpListener:
    """One port that speaks JSON; made, started and drained in one event loop.

    TLS and client certificates are those of the gRPC port.
    """

    def __init__(
        self,
        settings: ServingSettings,
        ingest: IngestServicer,
        recommendations: RecommendationServicer,
        guard: Guards | None = None,
    ) -> None:
        self._settings = settings
        self._door = Door(
            (recommendations, ingest),
            guard,
            max_bytes=settings.max_request_bytes,
            patience_s=settings.stream_idle_s,
            tells_calls=settings.has_reflection,
            slow_s=settings.slow_call_ms / 1_000,
        )
        self._server = _Quiet(_config(settings, self._door))
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listens and returns the port. Raises OSError where it cannot."""
        listening = _bound(self._settings)
        self._serving = asyncio.create_task(self._server.serve([listening]))
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(POLL_S)
        if self._serving.done():
            await self._serving
        port: int = listening.getsockname()[1]
        log.info("http_listens", host=self._settings.host, port=port)
        return port

    def mark_ready(self, *, is_ready: bool) -> None:
        """What `/readyz` says."""
        self._door.is_ready = is_ready

    async def drain(self) -> None:
        """Takes no more connections, lets running calls finish within the grace, and ends."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving


class _Quiet(uvicorn.Server):
    """Leaves signals to those who started it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


def _config(settings: ServingSettings, door: Door) -> uvicorn.Config:
    return uvicorn.Config(
        door.app(),
        http="h11",  # which bounds the size of headers
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=4 * settings.max_concurrent,
        timeout_keep_alive=min(settings.connection_idle_s, 60),
        timeout_graceful_shutdown=max(round(settings.drain_grace_s), 1),
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        ssl_ca_certs=settings.tls_client_ca,
        ssl_cert_reqs=ssl.CERT_NONE if settings.tls_client_ca is None else ssl.CERT_REQUIRED,
    )


def _bound(settings: ServingSettings) -> socket.socket:
    """A socket on the port of the settings. Raises OSError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.so_reuseport:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind((settings.host, settings.http_port or 0))
        found.setblocking(False)
    except OSError:
        found.close()
        raise
    return found
