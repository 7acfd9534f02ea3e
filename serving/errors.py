"""What goes wrong, as the status that a client sees: one table, in one interceptor, for every call.

Errors that are expected say in their message which field, what was expected and what came, and the
client sees it. Of anything else it sees an error id alone; the log has the rest under that id.
"""

import asyncio
import inspect
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
import structlog

from serving import metrics
from serving.guard.refusals import (
    BusyError,
    OverloadedError,
    QuotaExceededError,
    ScopeMissingError,
    TooManyCallsError,
    UnauthenticatedError,
)
from serving.slate import UnknownItemError
from serving.track import BadInteractionError, LogUnavailableError, TooManyInFlightError

log = structlog.get_logger(__name__)

Handler = Any  # grpc.RpcMethodHandler: its stubs do not say what it is made of
Context = Any  # grpc.aio.ServicerContext


class InvalidRequestError(Exception):
    """A request that cannot be answered; the message names field, expectation and value."""

    def __init__(self, field: str, expectation: str, value: object) -> None:
        super().__init__(f"{field} must be {expectation}; got {value}")


class DeadlineSpentError(Exception):
    """The client no longer waits for the answer."""


class SilentStreamError(Exception):
    """A client opened a stream and stopped sending."""


STATUSES: Final[dict[type[Exception], grpc.StatusCode]] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    BadInteractionError: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownItemError: grpc.StatusCode.NOT_FOUND,
    TooManyInFlightError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    LogUnavailableError: grpc.StatusCode.UNAVAILABLE,
    DeadlineSpentError: grpc.StatusCode.DEADLINE_EXCEEDED,
    SilentStreamError: grpc.StatusCode.DEADLINE_EXCEEDED,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    ScopeMissingError: grpc.StatusCode.PERMISSION_DENIED,
    QuotaExceededError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TooManyCallsError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def status_of(error: Exception, method: str) -> tuple[grpc.StatusCode, str]:
    """The status and the message that a client gets for an error."""
    code = STATUSES.get(type(error))
    if code is not None:
        return code, str(error)
    error_id = uuid.uuid4().hex[:12]
    log.error("call_failed", method=method, error_id=error_id, exc_info=error)
    return grpc.StatusCode.INTERNAL, f"internal error {error_id}; the server's log says more"


def retry_metadata(error: Exception) -> tuple[tuple[str, str], ...]:
    """When a client's own retries should come, in gRPC's words (gRFC A6: pushback)."""
    if isinstance(error, BusyError):
        return (("grpc-retry-pushback-ms", str(error.retry_after_ms)),)
    return ()


class StatusInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Every call of every kind passes here: errors become statuses, outcomes become metrics.

    A wrapped handler is kept for as long as the handler inside is the same object, so that an
    interceptor further in that decides by call still decides each one.
    """

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler of a call, guarded; None for a method that nobody has."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        inner, wrapped = self._wrapped.get(method, (None, None))
        if inner is not handler:
            wrapped = _guarded(handler, method)
            self._wrapped[method] = handler, wrapped
        return wrapped


def _guarded(handler: Handler, method: str) -> Handler:
    """The handler with `_Outcome` around it, of the same kind."""
    kind = ("stream" if handler.request_streaming else "unary") + (
        "_stream" if handler.response_streaming else "_unary"
    )
    inner = getattr(handler, kind)
    if inspect.isasyncgenfunction(inner):
        behaviour = _guarded_generator(inner, method)
    else:
        behaviour = _guarded_coroutine(inner, method, is_timed=not handler.response_streaming)
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _guarded_coroutine(inner: Any, method: str, *, is_timed: bool) -> Any:
    async def call(request: Any, context: Context) -> Any:
        async with _Outcome(method, context, is_timed=is_timed):
            return await inner(request, context)

    return call


def _guarded_generator(inner: Any, method: str) -> Any:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        async with _Outcome(method, context, is_timed=False):
            async for answer in inner(request, context):
                yield answer

    return call


class _Outcome:
    """Around one call: counts its status, measures it, and ends it with a status on an error."""

    __slots__ = ("_context", "_is_timed", "_method", "_started_s")

    def __init__(self, method: str, context: Context, *, is_timed: bool) -> None:
        self._method = method
        self._context = context
        self._is_timed = is_timed
        self._started_s = 0.0

    async def __aenter__(self) -> None:
        self._started_s = time.perf_counter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if error is None:
            self._count(grpc.StatusCode.OK)
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            self._count(grpc.StatusCode.CANCELLED)
        elif isinstance(error, grpc.aio.AbortError):
            self._count(_named(self._context.code()))
        elif isinstance(error, Exception):
            code, message = status_of(error, self._method)
            self._count(code)
            await self._context.abort(code, message, retry_metadata(error))

    def _count(self, code: grpc.StatusCode) -> None:
        metrics.REQUESTS.labels(self._method, code.name).inc()
        if self._is_timed:
            metrics.LATENCY.labels(self._method).observe(time.perf_counter() - self._started_s)


def _named(code: object) -> grpc.StatusCode:
    """The status of a number, which is what a context holds."""
    for status in grpc.StatusCode:
        if code in {status, status.value[0]}:
            return status
    return grpc.StatusCode.UNKNOWN
