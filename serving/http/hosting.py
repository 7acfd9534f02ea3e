"""An ASGI application on a port: uvicorn in an event loop that others have."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Final

import uvicorn

POLL_S: Final = 0.005


class Hosted:
    """Serves an application over HTTP/1.1; started and stopped in one event loop.

    Beyond `max_connections` a call is answered 503. A connection that says nothing for
    `keep_alive_s` is closed. `tls` are uvicorn's `ssl_...` settings.
    """

    def __init__(
        self, app: Any, *, max_connections: int, keep_alive_s: int, grace_s: int, **tls: Any
    ) -> None:
        self._server = _Quiet(
            uvicorn.Config(
                app,
                http="h11",  # which bounds the size of headers
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=max_connections,
                timeout_keep_alive=keep_alive_s,
                timeout_graceful_shutdown=grace_s,
                **tls,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it was started and does not serve any more."""
        return self._serving is not None and self._serving.done()

    async def start(self, listening: socket.socket) -> int:
        """Answers at a bound socket; the port."""
        self._serving = asyncio.create_task(self._server.serve([listening]))
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(POLL_S)
        if self._serving.done():
            await self._serving
        port: int = listening.getsockname()[1]
        return port

    async def stop(self) -> None:
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


def bound(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """A socket that can listen; `is_shared` with other processes. Raises OSError, which names both.

    Port 0 is any that is free.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind((host, port))
        found.setblocking(False)
    except OSError as error:
        found.close()
        raise OSError(
            error.errno, f"cannot listen on {host}:{port}: {error.strerror or error}"
        ) from error
    return found
