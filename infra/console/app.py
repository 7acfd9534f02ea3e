"""The console as an ASGI application: a page, snapshots, metrics, runbooks. Nothing can be changed.

It answers requests for its own names alone: a page elsewhere that makes its own name point to
127.0.0.1 (DNS rebinding) sends another Host, and gets nothing.
"""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.console.runbooks import index_of, page_of
from infra.console.streams import Streams, TooManyStreamsError

PAGE: Final = Path(__file__).with_name("page")
FILES: Final = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "dom.js": "text/javascript; charset=utf-8",
    "panels.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        b"img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class Tells(Protocol):
    """What the collector is to the page."""

    snapshot: tuple[int, bytes]


def app_of(
    collector: Tells,
    streams: Streams,
    registry: CollectorRegistry,
    *,
    runbooks: Path,
    hosts: frozenset[str] = LOOPBACK_NAMES,
    is_current: Callable[[], bool] = lambda: True,
) -> ASGIApp:
    """The application. `is_current`: whether the collector still makes snapshots."""

    async def snapshot(_: Request) -> Response:
        return Response(collector.snapshot[1], media_type="application/json")

    async def events(_: Request) -> Response:
        try:
            stream = streams.open(collector.snapshot)
        except TooManyStreamsError:
            text = "too many pages listen: this one asks every few seconds"
            return PlainTextResponse(text, 503, {"retry-after": "5"})
        return _Stream(stream, streams.leave)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def healthy(_: Request) -> Response:
        is_well = is_current()
        return PlainTextResponse("ok" if is_well else "no new snapshot", 200 if is_well else 503)

    async def runbook(request: Request) -> Response:
        found = page_of(runbooks, request.path_params["name"])
        if found is None:
            raise HTTPException(404, "there is no runbook of this name")
        return HTMLResponse(found)

    async def all_runbooks(_: Request) -> Response:
        return HTMLResponse(index_of(runbooks))

    routes = {
        "/": _index, "/page/{name}": _file, "/api/snapshot": snapshot, "/api/events": events,
        "/metrics": metrics, "/healthz": healthy, "/runbooks/": all_runbooks,
        "/runbooks/{name}": runbook,
    }  # fmt: skip
    inner = Starlette(routes=[Route(path, of, methods=["GET"]) for path, of in routes.items()])
    return Shield(inner, hosts)


async def _index(_: Request) -> Response:
    return HTMLResponse((PAGE / "index.html").read_bytes())


async def _file(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in FILES:
        raise HTTPException(404)
    return Response((PAGE / name).read_bytes(), headers={"content-type": FILES[name]})


class _Stream(StreamingResponse):
    """Server-sent events; however they end, their place becomes free."""

    def __init__(self, events: AsyncIterator[bytes], leave: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


class Shield:
    """Refuses requests for other hosts, and says to browsers what the page may not do."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name for name, _ in HEADERS}
                kept = [pair for pair in message.get("headers", []) if pair[0] not in known]
                message = {**message, "headers": [*kept, *HEADERS]}
            await send(message)

        if host_of(scope) not in self._hosts:
            refusal = PlainTextResponse("this host is not served here", 421)
            await refusal(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)


def host_of(scope: Scope) -> str:
    """The name in the one Host header, without its port; empty where there is none, or several.

    >>> host_of({"headers": [(b"host", b"127.0.0.1:9470")]})
    '127.0.0.1'
    >>> host_of({"headers": [(b"host", b"[::1]:9470")]})
    '[::1]'
    """
    found = [value for name, value in scope["headers"] if name == b"host"]
    if len(found) != 1:
        return ""
    host: str = found[0].decode("latin-1").lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
