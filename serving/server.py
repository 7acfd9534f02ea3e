"""The gRPC server: where it listens, whom it serves, what it refuses, how it ends.

start       listens; health says NOT_SERVING
warm        whoever calls knows that everything is loaded: health says SERVING
drain       health says NOT_SERVING; calls that run are finished, new ones go elsewhere
"""

import asyncio
import contextlib
import ipaddress
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Literal, Self

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from headrace.v1 import ingest_pb2, recommender_pb2
from headrace.v1.ingest_pb2_grpc import add_IngestServiceServicer_to_server
from headrace.v1.recommender_pb2_grpc import add_RecommendationServiceServicer_to_server
from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.errors import StatusInterceptor
from serving.servicer import IngestServicer, RecommendationServicer

INGEST: Final[str] = ingest_pb2.DESCRIPTOR.services_by_name["IngestService"].full_name
RECOMMENDATIONS: Final[str] = recommender_pb2.DESCRIPTOR.services_by_name[
    "RecommendationService"
].full_name
SERVICES: Final = ("", INGEST, RECOMMENDATIONS)  # "" is the server as a whole

log = structlog.get_logger(__name__)


class ServingSettings(BaseModel):
    """The serving tier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="other than loopback needs TLS")
    port: int = Field(50_051, ge=0, le=65_535, description="0: a free one, see headrace status")
    tls_cert: Path | None = Field(None, description="PEM file: certificate chain of the server")
    tls_key: Path | None = Field(None, description="PEM file: private key of the server")
    tls_client_ca: Path | None = Field(
        None, description="PEM file: clients must show a certificate signed by it"
    )
    reflection: bool | None = Field(None, description="empty: on loopback alone")
    so_reuseport: bool = Field(False, description="several processes share the port")
    max_concurrent: int = Field(256, ge=1, le=10_000, description="calls; more are refused")
    max_request_bytes: int = Field(262_144, ge=1_024, le=4_194_304)
    connection_idle_s: int = Field(300, ge=1, description="a connection without calls is closed")
    connection_age_s: int = Field(1_800, ge=1, description="a connection is renewed, for balance")
    stream_idle_s: float = Field(30.0, gt=0, le=3_600, description="longest pause of a stream")
    drain_notice_s: float = Field(0.0, ge=0, le=60, description="from NOT_SERVING to refusing")
    drain_grace_s: float = Field(5.0, ge=0, le=300, description="for calls that run at the end")
    default_wait_ms: int = Field(100, ge=1, le=1_000, description="where a request names none")
    redis_timeout_ms: int = Field(30, ge=1, le=1_000, description="then without the viewer's row")
    track_timeout_ms: int = Field(2_000, ge=10, le=30_000, description="for the log to acknowledge")
    track_max_in_flight: int = Field(2_000, ge=1, le=50_000, description="events; more are refused")
    clock: Literal["wall", "stream"] = Field("wall", description="stream: the time of the events")

    @model_validator(mode="after")
    def _is_safe_to_open(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key must be given together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        if self.tls_cert is None and not self.is_loopback:
            raise ValueError(
                f"host must be a loopback address without tls_cert and tls_key; got {self.host!r}"
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether nobody but this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def address(self) -> str:
        """What to listen on, as gRPC writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def has_reflection(self) -> bool:
        """Whether the server tells its services to whoever asks."""
        return self.is_loopback if self.reflection is None else self.reflection

    def credentials(self) -> grpc.ServerCredentials | None:
        """What to show clients and to ask of them; None without TLS. Raises OSError."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        roots = None if self.tls_client_ca is None else self.tls_client_ca.read_bytes()
        return grpc.ssl_server_credentials(
            [(self.tls_key.read_bytes(), self.tls_cert.read_bytes())],
            root_certificates=roots,
            require_client_auth=roots is not None,
        )


class Server:
    """One gRPC server; made, started and stopped in one event loop."""

    def __init__(
        self,
        settings: ServingSettings,
        ingest: IngestServicer,
        recommendations: RecommendationServicer,
    ) -> None:
        self._settings = settings
        self._server: Any = grpc.aio.server(
            interceptors=[StatusInterceptor()],
            options=channel_options(settings),
            maximum_concurrent_rpcs=settings.max_concurrent,
        )
        add_IngestServiceServicer_to_server(ingest, self._server)  # type: ignore[no-untyped-call]
        add_RecommendationServiceServicer_to_server(  # type: ignore[no-untyped-call]
            recommendations, self._server
        )
        self._health: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.has_reflection:
            names = (INGEST, RECOMMENDATIONS, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)

    async def start(self) -> int:
        """Listens and returns the port. Raises OSError where it cannot."""
        await self._tell(health_pb2.HealthCheckResponse.NOT_SERVING)
        port = self._listen()
        await self._server.start()
        log.info("server_listens", host=self._settings.host, port=port)
        return port

    async def mark_ready(self) -> None:
        """Tells that everything is loaded and warm."""
        await self._tell(health_pb2.HealthCheckResponse.SERVING)

    async def drain(self) -> None:
        """Turns new calls away, lets running ones finish within the grace, and stops."""
        log.info("server_drains", grace_s=self._settings.drain_grace_s)
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self._settings.drain_notice_s)
        await self._server.stop(self._settings.drain_grace_s)

    def _listen(self) -> int:
        address, credentials = self._settings.address, self._settings.credentials()
        try:
            port: int = (
                self._server.add_insecure_port(address)
                if credentials is None
                else self._server.add_secure_port(address, credentials)
            )
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: is the port taken?") from error
        return port

    async def _tell(self, status: "health_pb2.HealthCheckResponse.ServingStatus.ValueType") -> None:
        for service in SERVICES:
            await self._health.set(service, status)


async def serve(
    server: Server,
    *,
    warm: Callable[[], Awaitable[None]] | None = None,
    listening: Callable[[int], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Runs a server until SIGTERM, SIGINT or `stop`, then drains it.

    `listening` is told the port; `warm` loads whatever answers need before health says SERVING.
    Raises OSError where it cannot listen, and what `warm` raises.
    """
    stop = stop or asyncio.Event()
    with _stop_signals(stop):
        port = await server.start()
        if listening is not None:
            listening(port)
        try:
            if warm is not None:
                await warm()
            await server.mark_ready()
            await stop.wait()
        finally:
            await server.drain()


@contextlib.contextmanager
def _stop_signals(stop: asyncio.Event) -> Any:
    """Has SIGTERM and SIGINT set `stop` while the server runs; only the main thread can."""
    loop = asyncio.get_running_loop()
    handled = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError, RuntimeError):
            loop.add_signal_handler(number, stop.set)
            handled.append(number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


def channel_options(settings: ServingSettings) -> list[tuple[str, int]]:
    """Limits on what one connection may do, against the careless and the hostile.

    Pings: a client may send one every 30 s, with calls or without, and is cut off after three that
    come faster. A connection that goes quiet is asked for a sign of life and closed without one.
    """
    return [
        ("grpc.so_reuseport", int(settings.so_reuseport)),
        ("grpc.max_receive_message_length", settings.max_request_bytes),
        # Above the limit of the server, which refuses; a limit here lets clients queue unseen.
        ("grpc.max_concurrent_streams", 4 * settings.max_concurrent),
        ("grpc.max_connection_idle_ms", 1_000 * settings.connection_idle_s),
        ("grpc.max_connection_age_ms", 1_000 * settings.connection_age_s),
        ("grpc.max_connection_age_grace_ms", 60_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),
        ("grpc.http2.max_ping_strikes", 3),
    ]
