"""A small web server on loopback, beside whatever else an event loop does."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from infra.embedded import LOOPBACK

POLL_S: Final = 0.005
MAX_CONNECTIONS: Final = 64
# Of requests. A page elsewhere that lets its own name point here is refused (DNS rebinding).
OWN_NAMES: Final = Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"])


class _Quiet(uvicorn.Server):
    """Leaves signals to those who started it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


class LoopbackWeb:
    """Serves an application on 127.0.0.1; started and stopped in one event loop."""

    def __init__(self, app: Starlette, port: int = 0) -> None:
        self._server = _Quiet(
            uvicorn.Config(
                app,
                http="h11",  # which bounds the size of headers
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=1,
            )
        )
        self._port = port
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listens and returns the port. Raises OSError, which names it, where it cannot."""
        listening = _bound(self._port)
        self._serving = asyncio.create_task(self._server.serve([listening]))
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(POLL_S)
        if self._serving.done():
            await self._serving
        port: int = listening.getsockname()[1]
        return port

    async def stop(self) -> None:
        """Takes no more connections, and ends within a second or two."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving


def _bound(port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((LOOPBACK, port))
        found.setblocking(False)
    except OSError as error:
        found.close()
        raise OSError(f"cannot listen on {LOOPBACK}:{port}: {error.strerror}") from error
    return found
