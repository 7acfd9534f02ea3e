"""Listens, and runs the handlers: what `grpc.aio.server` offers, as far as Headrace uses it."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc
import structlog

from serving.lean.call import Call, Handler, Refusal, metadata_of
from serving.lean.connection import Connection, Limits

BACKLOG = 1_024
TURNS_TO_END = 3  # of the loop, in which connections that were cut are closed

Find = Callable[["CallDetails"], Awaitable[Handler | None]]

log = structlog.get_logger(__name__)


class CallDetails(grpc.HandlerCallDetails):
    """What an interceptor is told of a call."""

    def __init__(self, call: Call) -> None:
        self.method = call.path
        self.invocation_metadata = metadata_of(call.headers)


class LeanServer:
    """A gRPC server within one event loop.

    Unary calls and streams of every kind, deadlines, metadata, interceptors and TLS; messages are
    not compressed. A call beyond `maximum_concurrent_rpcs` is answered with RESOURCE_EXHAUSTED.
    """

    def __init__(
        self,
        *,
        interceptors: Sequence[Any] = (),
        options: Sequence[tuple[str, int]] = (),
        maximum_concurrent_rpcs: int | None = None,
    ) -> None:
        self._interceptors = tuple(interceptors)
        self._options = dict(options)
        self._most = maximum_concurrent_rpcs
        self._handlers: dict[str, Handler] = {}
        self._listening: list[tuple[socket.socket, ssl.SSLContext | None]] = []
        self._paths: list[str] = []
        self._servers: list[asyncio.Server] = []
        self._find = self._chain()
        self._running = 0
        self._is_stopping = False
        self.connections: set[Connection] = set()

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Nothing: the same handlers come by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """The methods of a service."""
        for name, handler in handlers.items():
            self._handlers[f"/{service}/{name}"] = handler

    def add_insecure_port(self, address: str) -> int:
        """Listens at `host:port` from `start` on; the port. Raises RuntimeError where it cannot.

        At `unix:path` there is no port: 0.
        """
        return self._bind(address, None)

    def add_tls_port(self, address: str, context: ssl.SSLContext) -> int:
        """The same, with TLS; the context offers `h2`."""
        return self._bind(address, context)

    async def start(self) -> None:
        """Takes connections."""
        loop, limits = asyncio.get_running_loop(), self._limits()
        for path in self._paths:
            self._servers.append(
                await loop.create_unix_server(lambda: Connection(self, limits), path)
            )
        for listener, context in self._listening:
            self._servers.append(
                await loop.create_server(
                    lambda: Connection(self, limits),
                    sock=listener,
                    backlog=BACKLOG,
                    ssl=context,
                    ssl_handshake_timeout=None if context is None else limits.handshake_s,
                )
            )

    async def stop(self, grace: float | None) -> None:
        """Takes no more connections and calls; those that run may end within the grace."""
        self._is_stopping = True
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.leave()
        await self._wait_until_quiet(grace or 0.0)
        for connection in list(self.connections):
            connection.cancel_calls()
        await self._wait_until_quiet(1.0 if self.connections else 0.0)
        for connection in list(self.connections):
            connection.cut()
        for _ in range(TURNS_TO_END):
            await asyncio.sleep(0)

    async def _wait_until_quiet(self, limit_s: float) -> None:
        deadline_s = asyncio.get_running_loop().time() + limit_s
        while self.connections and asyncio.get_running_loop().time() < deadline_s:
            await asyncio.sleep(0.005)

    def admit(self, call: Call) -> None:
        """Counts a call until it is done. Raises Refusal where there are too many."""
        if self._most is not None and self._running >= self._most:
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls run; try later")
        self._running += 1
        call.done_callbacks.append(self._release)

    def has_room(self) -> bool:
        """Whether another connection may be taken."""
        if self._is_stopping:
            return False
        most = self._options.get("grpc.max_allowed_incoming_connections")
        return most is None or len(self.connections) < most

    def _release(self, _: Call) -> None:
        self._running -= 1

    async def handler_of(self, path: str, call: Call) -> Handler | None:
        """The handler of a method, as the interceptors leave it; None where there is none."""
        if not self._interceptors:
            return self._handlers.get(path)
        return await self._find(CallDetails(call))

    def _chain(self) -> Find:
        """The interceptors around the look-up, the first outermost."""

        async def look_up(details: CallDetails) -> Handler | None:
            return self._handlers.get(details.method)

        find: Find = look_up
        for interceptor in reversed(self._interceptors):
            find = _around(interceptor, find)
        return find

    def _bind(self, address: str, context: ssl.SSLContext | None) -> int:
        if address.startswith("unix:"):
            self._paths.append(address.removeprefix("unix:"))
            return 0
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._options.get("grpc.so_reuseport"):
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((host, int(port)))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise RuntimeError(f"cannot listen on {address}") from error
        self._listening.append((listener, context))
        bound: int = listener.getsockname()[1]
        return bound

    def _limits(self) -> Limits:
        standard, told = Limits(), self._options
        return Limits(
            told.get("grpc.max_receive_message_length", standard.max_message_bytes),
            told.get("grpc.max_concurrent_streams", standard.max_streams),
            told.get("grpc.max_connection_idle_ms", 1_000 * standard.idle_s) / 1_000,
            told.get("grpc.max_connection_age_ms", 1_000 * standard.age_s) / 1_000,
            told.get("grpc.max_connection_age_grace_ms", 1_000 * standard.age_grace_s) / 1_000,
            told.get("grpc.server_handshake_timeout_ms", 1_000 * standard.handshake_s) / 1_000,
        )


def _around(interceptor: Any, find: Find) -> Find:
    async def intercepted(details: CallDetails) -> Handler | None:
        return await interceptor.intercept_service(find, details)

    return intercepted
