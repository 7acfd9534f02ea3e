"""Where the JSON door listens: beside gRPC, with the same TLS, begun and drained with it."""

import ssl

import structlog

from serving.http.app import Door, Guards
from serving.http.hosting import Hosted, bound
from serving.servicer import IngestServicer, RecommendationServicer
from serving.settings import ServingSettings

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
        self._hosted = Hosted(
            self._door.app(),
            max_connections=4 * settings.max_concurrent,
            keep_alive_s=min(settings.connection_idle_s, 60),
            grace_s=max(round(settings.drain_grace_s), 1),
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
            ssl_ca_certs=settings.tls_client_ca,
            ssl_cert_reqs=ssl.CERT_NONE if settings.tls_client_ca is None else ssl.CERT_REQUIRED,
        )

    async def start(self) -> int:
        """Listens and returns the port. Raises OSError where it cannot."""
        settings = self._settings
        listening = bound(settings.host, settings.http_port or 0, is_shared=settings.so_reuseport)
        port = await self._hosted.start(listening)
        log.info("http_listens", host=settings.host, port=port)
        return port

    def mark_ready(self, *, is_ready: bool) -> None:
        """What `/readyz` says."""
        self._door.is_ready = is_ready

    async def drain(self) -> None:
        """Takes no more connections, lets running calls finish within the grace, and ends."""
        await self._hosted.stop()
