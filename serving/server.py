"""The gRPC server: where it listens, whom it serves, what it refuses, how it ends.

start       listens; health says NOT_SERVING
warm        whoever calls knows that everything is loaded: health says SERVING
drain       health says NOT_SERVING; calls that run are finished, new ones go elsewhere
"""

import asyncio
import contextlib
import signal
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Protocol, Self

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from headrace.v1 import admin_pb2, ingest_pb2, recommender_pb2
from headrace.v1.admin_pb2_grpc import add_AdminServiceServicer_to_server
from headrace.v1.ingest_pb2_grpc import add_IngestServiceServicer_to_server
from headrace.v1.recommender_pb2_grpc import add_RecommendationServiceServicer_to_server

from serving.admin import AdminServicer
from serving.errors import StatusInterceptor
from serving.guard.guard import Guard
from serving.guard.interceptor import GuardInterceptor
from serving.guard.keys import KeyFile
from serving.guard.overload import DelayControl, LoadLevel
from serving.guard.probe import QueueProbe
from serving.handlers import add_service
from serving.lean.server import LeanServer
from serving.servicer import IngestServicer, RecommendationServicer
from serving.settings import ServingSettings

INGEST: Final[str] = ingest_pb2.DESCRIPTOR.services_by_name["IngestService"].full_name
RECOMMENDATIONS: Final[str] = recommender_pb2.DESCRIPTOR.services_by_name[
    "RecommendationService"
].full_name
ADMIN: Final[str] = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
SERVICES: Final = ("", INGEST, RECOMMENDATIONS)  # "" is the server as a whole
PROBED: Final = f"/{RECOMMENDATIONS}/Recommend"  # the method whose queue is watched
KEYS_EVERY_S: Final = 0.5

log = structlog.get_logger(__name__)


def server_credentials(settings: ServingSettings) -> grpc.ServerCredentials | None:
    """What to show clients and to ask of them; None without TLS. Raises OSError.

    Files that are replaced count from the next connection on.
    """
    files = CertificateFiles.of(settings)
    if files is None:
        return None
    renewed: Any = files.renewed  # None means no change, which the stubs do not know
    return grpc.dynamic_ssl_server_credentials(
        files.read(), renewed, settings.tls_client_ca is not None
    )


class CertificateFiles:
    """A certificate chain, its private key, and whose clients' certificates are good."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._stamp: tuple[int, ...] = ()

    @classmethod
    def of(cls, settings: ServingSettings) -> Self | None:
        """Those of the settings; None without TLS."""
        if settings.tls_cert is None or settings.tls_key is None:
            return None
        return cls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)

    def read(self) -> grpc.ServerCertificateConfiguration:
        """What the files hold now. Raises OSError."""
        self._stamp = self._stamped()
        return grpc.ssl_server_certificate_configuration(
            [(self._key.read_bytes(), self._cert.read_bytes())],
            None if self._client_ca is None else self._client_ca.read_bytes(),
        )

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """The same where a file has changed since, else None; gRPC asks at each connection."""
        try:
            return None if self._stamped() == self._stamp else self.read()
        except OSError as error:
            log.error("certificate_kept", reason=str(error))
            return None

    def _stamped(self) -> tuple[int, ...]:
        files = (self._cert, self._key, self._client_ca)
        found = [path.stat() for path in files if path is not None]
        return tuple(number for stat in found for number in (stat.st_ino, stat.st_mtime_ns))


def guard_of(settings: ServingSettings) -> Guard:
    """Who may call, by the settings. Raises KeyFileError."""
    return Guard(
        None if settings.keys_file is None else KeyFile(settings.keys_file),
        max_concurrent=settings.max_concurrent,
        n_processes=settings.processes,
        is_health_open=settings.is_health_open,
    )


def tls_context(settings: ServingSettings, files: CertificateFiles) -> ssl.SSLContext:
    """The same for a socket of Python's own. Raises OSError."""
    files.read()
    current = _context(settings)

    def renew(connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        nonlocal current
        if files.renewed() is not None:
            current = _context(settings)
        connection.context = current

    current.sni_callback = renew
    return current


def _context(settings: ServingSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(str(settings.tls_cert), str(settings.tls_key))
    if settings.tls_client_ca is not None:
        context.load_verify_locations(str(settings.tls_client_ca))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Listens(Protocol):
    """Another port of the same server; `serving.http.listener.HttpListener` is one."""

    async def start(self) -> int:
        """Listens and returns the port. Raises OSError where it cannot."""

    def mark_ready(self, *, is_ready: bool) -> None:
        """What it says of the server."""

    async def drain(self) -> None:
        """Lets running calls finish, and ends."""


class Server:
    """One gRPC server; made, started and stopped in one event loop."""

    def __init__(
        self,
        settings: ServingSettings,
        ingest: IngestServicer,
        recommendations: RecommendationServicer,
        admin: AdminServicer | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._settings = settings
        self.guard = guard or guard_of(settings)
        self._http = _json_door(settings, ingest, recommendations, self.guard)
        self._probe = QueueProbe(_delay_control(settings, self.guard.load), PROBED)
        watchful = GuardInterceptor(
            self.guard,
            self._probe,
            idle_s=settings.stream_idle_s,
            max_silent=settings.max_concurrent,
        )
        make: Any = LeanServer if settings.transport == "lean" else grpc.aio.server
        self._server: Any = make(
            interceptors=[watchful, StatusInterceptor(settings.slow_call_ms / 1_000)],
            options=channel_options(settings),
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._cleanup = ExitStack()
        add_service(add_RecommendationServiceServicer_to_server, recommendations, self._server)
        add_service(add_IngestServiceServicer_to_server, ingest, self._server)
        if admin is not None:
            add_service(add_AdminServiceServicer_to_server, admin, self._server)
        self._health: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.has_reflection:
            admins = () if admin is None else (ADMIN,)
            names = (INGEST, RECOMMENDATIONS, *admins, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
                reflection.aio.ReflectionServicer(names),  # type: ignore[attr-defined]
                self._server,
            )

    async def start(self) -> int:
        """Listens and returns the port. Raises OSError where it cannot."""
        await self._tell(health_pb2.HealthCheckResponse.NOT_SERVING)
        folder = tempfile.TemporaryDirectory(prefix="headrace-serve-")
        # Where the server calls itself: of several that share a port, it must be this one.
        own_address = f"unix:{self._cleanup.enter_context(folder)}/self"
        try:
            port = self._listen(own_address)
        except BaseException:
            self._cleanup.close()
            raise
        await self._server.start()
        if self._http is not None:
            await self._http.start()
        self._tasks = [
            asyncio.create_task(self._measure_delay(own_address)),
            asyncio.create_task(self._keep_keys_current()),
        ]
        log.info("server_listens", host=self._settings.host, port=port)
        return port

    async def mark_ready(self) -> None:
        """Tells that everything is loaded and warm."""
        await self._tell(health_pb2.HealthCheckResponse.SERVING)
        if self._http is not None:
            self._http.mark_ready(is_ready=True)

    async def drain(self) -> None:
        """Turns new calls away, lets running ones finish within the grace, and stops."""
        log.info("server_drains", grace_s=self._settings.drain_grace_s)
        await self._health.enter_graceful_shutdown()
        if self._http is not None:
            self._http.mark_ready(is_ready=False)
        await asyncio.sleep(self._settings.drain_notice_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        ending = [self._server.stop(self._settings.drain_grace_s)]
        if self._http is not None:
            ending.append(self._http.drain())
        await asyncio.gather(*ending)
        self._cleanup.close()

    async def _measure_delay(self, own_address: str) -> None:
        """How long calls wait: in gRPC's queue, or in the event loop where there is no other."""
        if isinstance(self._server, LeanServer):
            await self._probe.watch_loop()
        else:
            await self._probe.run(own_address)

    async def _keep_keys_current(self) -> None:
        while True:
            await asyncio.sleep(KEYS_EVERY_S)
            self.guard.refresh()

    def _listen(self, own_address: str) -> int:
        address, credentials = self._settings.address, server_credentials(self._settings)
        try:
            if credentials is None:
                port: int = self._server.add_insecure_port(address)
            elif isinstance(self._server, LeanServer):
                files = CertificateFiles.of(self._settings)
                assert files is not None  # noqa: S101 (there are credentials)
                port = self._server.add_tls_port(address, tls_context(self._settings, files))
            else:
                port = self._server.add_secure_port(address, credentials)
            self._server.add_insecure_port(own_address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: is the port taken?") from error
        return port

    async def _tell(self, status: "health_pb2.HealthCheckResponse.ServingStatus.ValueType") -> None:
        for service in SERVICES:
            await self._health.set(service, status)


def _json_door(
    settings: ServingSettings,
    ingest: IngestServicer,
    recommendations: RecommendationServicer,
    guard: Guard,
) -> Listens | None:
    """The port that speaks JSON, where the settings ask for one. Raises OSError."""
    if settings.http_port is None:
        return None
    try:
        from serving.http.listener import HttpListener  # noqa: PLC0415 (optional packages)
    except ImportError as error:
        raise OSError(f"http_port needs the extra http of the package headrace: {error}") from error
    return HttpListener(settings, ingest, recommendations, guard)


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
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.server_handshake_timeout_ms", 10_000),
        # In gRPC's core, before Python has seen the call: where not even refusals keep up, calls
        # end there, at hardly any cost, as CANCELLED. From the first number on some, from the
        # second on all.
        ("grpc.server.max_pending_requests", settings.max_waiting),
        ("grpc.server.max_pending_requests_hard_limit", 2 * settings.max_waiting),
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


def _delay_control(settings: ServingSettings, load: LoadLevel) -> DelayControl:
    return DelayControl(load, settings.delay_target_ms / 1_000, settings.delay_limit_ms / 1_000)
