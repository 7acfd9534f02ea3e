"""The calls of the API as an ASGI application: translates, admits, limits, and nothing more.

A call is admitted by its key, its body read within its limits, made a message, and handed to the
servicer; whatever goes wrong on the way is a status and {"code", "message"}.
"""

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol

import grpc
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from features.tracing import TRACEPARENT
from serving import metrics
from serving.errors import (
    DeadlineSpentError,
    InvalidRequestError,
    Names,
    names_of,
    status_of,
    tell_refused,
    tell_slow,
)
from serving.http.calls import CALLS, Call, json_of, request_of
from serving.http.openapi import openapi

MAX_DEADLINE_MS: Final = 600_000
REFLECTION: Final = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
RETRY_MS: Final = 1_000  # where nothing better is known
STATUSES: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}  # all others: 500
CODES: Final = {  # of what Starlette refuses, and of the limits here
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    413: "RESOURCE_EXHAUSTED",
    415: "INVALID_ARGUMENT",
}


class Guards(Protocol):
    """Says who may call; `serving.guard.guard.Guard` is one."""

    def admit(
        self, method: str, presented_key: str | None, peer: str = ""
    ) -> AbstractContextManager[Any]:
        """Lets a call in, until the end of a `with`; raises what `status_of` knows."""


class Context:
    """What servicers ask of a call."""

    __slots__ = ("_metadata", "_until_s")

    def __init__(self, deadline_s: float | None, traceparent: str = "") -> None:
        self._metadata = ((TRACEPARENT, traceparent),) if traceparent else ()
        self._until_s = None if deadline_s is None else time.monotonic() + deadline_s

    def time_remaining(self) -> float | None:
        """Seconds until the client gives up; None where it set no deadline."""
        return None if self._until_s is None else max(self._until_s - time.monotonic(), 0.0)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """What the client says beside its message, as far as servicers look at it."""
        return self._metadata


class Door:
    """Answers requests with what the servicers answer."""

    def __init__(
        self,
        servicers: tuple[Any, ...],
        guard: Guards | None,
        *,
        max_bytes: int,
        patience_s: float,
        tells_calls: bool,
        slow_s: float = float("inf"),
    ) -> None:
        self._slow_s = slow_s
        self._servicers = servicers
        self._guard = guard
        self._max_bytes = max_bytes
        self._patience_s = patience_s  # for a body to arrive
        self._tells_calls = tells_calls
        self._description = json.dumps(openapi(CALLS)).encode() + b"\n"
        self.is_ready = False

    def app(self) -> Starlette:
        """The application."""
        routes = [Route(call.path, self._endpoint(call), methods=["POST"]) for call in CALLS]
        routes += [
            Route("/healthz", _healthy, methods=["GET"]),
            Route("/readyz", self._ready, methods=["GET"]),
            Route("/openapi.json", self._describe, methods=["GET"]),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _odd})

    def _endpoint(self, call: Call) -> Callable[[Request], Awaitable[Response]]:
        name = call.descriptor.name
        behaviour = next(getattr(s, name) for s in self._servicers if hasattr(s, name))

        async def endpoint(request: Request) -> Response:
            started_s = time.perf_counter()
            names: Names = {}
            code, response = await self._outcome(call, behaviour, request, names)
            seconds = time.perf_counter() - started_s
            metrics.REQUESTS.labels(call.path, code).inc()
            metrics.LATENCY.labels(call.path).observe(seconds)
            if seconds > self._slow_s:
                tell_slow(call.path, seconds, names)
            return response

        return endpoint

    async def _outcome(
        self, call: Call, behaviour: Any, request: Request, names: Names
    ) -> tuple[str, Response]:
        """The name of the status, and the response; fills `names` once the message is read."""
        try:
            with self._admitted(call.method, request):
                return "OK", await self._answered(call, behaviour, request, names)
        except HTTPException as error:
            return CODES[error.status_code], _odd(request, error)
        except ClientDisconnect:
            return "CANCELLED", Response(status_code=400)
        except Exception as error:
            code, message = status_of(error, call.method, names)
            tell_refused(call.path, code, message, names)
            return code.name, _refusal(code, message, getattr(error, "retry_after_ms", RETRY_MS))

    async def _answered(
        self, call: Call, behaviour: Any, request: Request, names: Names
    ) -> Response:
        deadline_s = _deadline_s(request)
        context = Context(deadline_s, request.headers.get(TRACEPARENT, ""))
        try:
            async with asyncio.timeout(deadline_s):
                message = request_of(call, await self._body(request))
                name = _named(message, request.headers.get("x-request-id", ""))
                names.update(names_of(message))
                answer = json_of(call, await behaviour(message, context))
        except TimeoutError:
            raise DeadlineSpentError("the deadline of the call has passed") from None
        headers = {"x-request-id": name} if name.isascii() and name.isprintable() and name else {}
        return Response(answer, media_type="application/json", headers=headers)

    async def _body(self, request: Request) -> bytes:
        """The body, if it is JSON, small enough and here in time. Raises HTTPException."""
        if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
            raise HTTPException(415, "content-type must be application/json")
        too_large = HTTPException(413, f"the body must be at most {self._max_bytes} bytes")
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._max_bytes:
            raise too_large
        chunks, size = [], 0
        try:
            async with asyncio.timeout(self._patience_s):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > self._max_bytes:
                        raise too_large
                    chunks.append(chunk)
        except TimeoutError:
            raise HTTPException(408, f"the body must come within {self._patience_s:g} s") from None
        return b"".join(chunks)

    def _admitted(self, method: str, request: Request) -> AbstractContextManager[Any]:
        if self._guard is None:
            return nullcontext()
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        peer = "" if request.client is None else request.client.host
        presented = key.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key")
        return self._guard.admit(method, presented, peer)

    async def _ready(self, _: Request) -> Response:
        return Response(
            b"ready\n" if self.is_ready else b"not ready\n", 200 if self.is_ready else 503
        )

    async def _describe(self, request: Request) -> Response:
        if not self._tells_calls:
            raise HTTPException(404)
        try:
            with self._admitted(REFLECTION, request):
                return Response(self._description, media_type="application/json")
        except Exception as error:
            code, message = status_of(error, "openapi")
            return _refusal(code, message, getattr(error, "retry_after_ms", RETRY_MS))


async def _healthy(_: Request) -> Response:
    return Response(b"alive\n")


def _deadline_s(request: Request) -> float | None:
    """What the client says. Raises InvalidRequestError."""
    text = request.headers.get("x-deadline-ms")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MAX_DEADLINE_MS):
        expectation = f"within 1..{MAX_DEADLINE_MS}"
        raise InvalidRequestError("x-deadline-ms", expectation, repr(text[:32]))
    return int(text[:9]) / 1_000


def _named(message: Any, request_id: str) -> str:
    """The id of a request: its own, else that of the header, which it is given then."""
    if not hasattr(message, "request_id"):
        return request_id
    if request_id and not message.request_id:
        message.request_id = request_id
    return str(message.request_id)


def _refusal(code: grpc.StatusCode, message: str, retry_ms: int) -> Response:
    status = STATUSES.get(code, 500)
    headers = {}
    if status in {429, 503}:
        headers = {"retry-after": str(math.ceil(retry_ms / 1_000)), "x-retry-ms": str(retry_ms)}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return _told(status, code.name, message, headers)


def _odd(_: Request, error: Exception) -> Response:
    """What Starlette or a limit refuses, in the words of all other errors."""
    status, detail = getattr(error, "status_code", 500), getattr(error, "detail", "")
    headers = getattr(error, "headers", None)
    return _told(status, CODES.get(status, "UNKNOWN"), detail, dict(headers or {}))


def _told(status: int, code: str, message: str, headers: dict[str, str]) -> Response:
    body = json.dumps({"code": code, "message": message}).encode() + b"\n"
    return Response(body, status, headers, "application/json")
