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
from google.protobuf.message import DecodeError

from serving import metrics
from serving.guard.refusals import (
    BusyError,
    OverloadedError,
    QuotaExceededError,
    ScopeMissingError,
    TooManyCallsError,
    UnauthenticatedError,
)
from serving.rules.editor import BadRuleError, TooManyRulesError
from serving.slate import UnknownItemError
from serving.track import BadInteractionError, LogUnavailableError, TooManyInFlightError

MAX_NAME: Final = 128  # characters of an id in a line of log
MAX_REASON: Final = 200

log = structlog.get_logger(__name__)

Handler = Any  # grpc.RpcMethodHandler: its stubs do not say what it is made of
Context = Any  # grpc.aio.ServicerContext


class InvalidRequestError(Exception):
    """A request that cannot be answered; the message names field, expectation and value."""

    def __init__(self, field: str, expectation: str, value: object) -> None:
        super().__init__(f"{field} must be {expectation}; got {value}")


class RepeatedRequestIdError(Exception):
    """A request id that came a second time, with another request."""

    def __init__(self, request_id: str) -> None:
        super().__init__(
            "request_id must be new, or that of the very same request sent again; got "
            f"{request_id!r}, which another request of this viewer had"
        )


class DeadlineSpentError(Exception):
    """The client no longer waits for the answer."""


class SilentStreamError(Exception):
    """A client opened a stream and stopped sending."""


STATUSES: Final[dict[type[Exception], grpc.StatusCode]] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    BadInteractionError: grpc.StatusCode.INVALID_ARGUMENT,
    BadRuleError: grpc.StatusCode.INVALID_ARGUMENT,
    TooManyRulesError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    RepeatedRequestIdError: grpc.StatusCode.ALREADY_EXISTS,
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


Names = dict[str, str]  # of a call, as lines of log have them: request_id, event_id


def names_of(request: Any) -> Names:
    """By what a request is found again in the log; nothing that names a viewer."""
    event_id = getattr(getattr(request, "interaction", None), "event_id", "")
    names = {"request_id": getattr(request, "request_id", ""), "event_id": event_id}
    return {name: str(value)[:MAX_NAME] for name, value in names.items() if value}


def tell_refused(method: str, code: grpc.StatusCode, message: str, names: Names) -> None:
    """A line about a call that was refused or has failed; without the value that was wrong."""
    reason = message.partition("; got")[0][:MAX_REASON]
    log.info("call_refused", method=method, code=code.name, reason=reason, **names)


def tell_slow(method: str, seconds: float, names: Names) -> None:
    """A line about a call that took long."""
    log.warning("call_slow", method=method, seconds=round(seconds, 3), **names)


def status_of(
    error: Exception, method: str, names: Names | None = None
) -> tuple[grpc.StatusCode, str]:
    """The status and the message that a client gets for an error."""
    code = STATUSES.get(type(error))
    if code is not None:
        return code, str(error)
    error_id = uuid.uuid4().hex[:12]
    log.error("call_failed", method=method, error_id=error_id, exc_info=error, **(names or {}))
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

    def __init__(self, slow_s: float = float("inf")) -> None:
        self._slow_s = slow_s
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
            wrapped = _guarded(handler, method, self._slow_s)
            self._wrapped[method] = handler, wrapped
        return wrapped


def _guarded(handler: Handler, method: str, slow_s: float) -> Handler:
    """The handler with `_Outcomes` around it, of the same kind."""
    kind = ("stream" if handler.request_streaming else "unary") + (
        "_stream" if handler.response_streaming else "_unary"
    )
    inner = getattr(handler, kind)
    if inspect.isasyncgenfunction(inner):
        behaviour = _guarded_generator(inner, method)
    else:
        is_timed = not handler.response_streaming
        behaviour = _guarded_coroutine(inner, method, slow_s, is_timed=is_timed)
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(
        behaviour,
        request_deserializer=_parsing(handler.request_deserializer),
        response_serializer=handler.response_serializer,
    )


def _parsing(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A deserializer that answers with its error: gRPC would call it INTERNAL, and log it whole."""

    def parse(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError as error:
            return error

    return parse


def _readable(request: Any) -> Any:
    """A request, or the stream of them, of which none may be broken. Raises InvalidRequestError."""
    if isinstance(request, DecodeError):
        raise InvalidRequestError("the request", "a protobuf message of the method", "other bytes")
    return _all_readable(request) if hasattr(request, "__aiter__") else request


async def _all_readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _readable(request)


def _guarded_coroutine(inner: Any, method: str, slow_s: float, *, is_timed: bool) -> Any:
    outcomes = _Outcomes(method, slow_s, is_timed=is_timed)

    async def call(request: Any, context: Context) -> Any:
        started_s = time.perf_counter()
        try:
            answer = await inner(_readable(request), context)
        except BaseException as error:
            await outcomes.failed(error, context, started_s, request)
            raise
        outcomes.succeeded(started_s, request)
        return answer

    return call


def _guarded_generator(inner: Any, method: str) -> Any:
    outcomes = _Outcomes(method, is_timed=False)

    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        started_s = time.perf_counter()
        try:
            async for answer in inner(_readable(request), context):
                yield answer
        except BaseException as error:
            await outcomes.failed(error, context, started_s, request)
            raise
        outcomes.succeeded(started_s, request)

    return call


class _Outcomes:
    """What becomes of the calls of a method: counted, measured, and a status on an error."""

    def __init__(self, method: str, slow_s: float = float("inf"), *, is_timed: bool) -> None:
        self._method = method
        self._slow_s = slow_s
        self._ok = metrics.REQUESTS.labels(method, grpc.StatusCode.OK.name)
        self._latency = metrics.LATENCY.labels(method) if is_timed else None

    def succeeded(self, started_s: float, request: Any) -> None:
        """Notes a call that was answered."""
        self._ok.inc()
        seconds = self._measure(started_s)
        if seconds > self._slow_s:
            tell_slow(self._method, seconds, names_of(request))

    async def failed(
        self, error: BaseException, context: Context, started_s: float, request: Any
    ) -> None:
        """Notes a call that was not, and ends it with a status where it has none yet."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            self._count(grpc.StatusCode.CANCELLED, started_s)
        elif isinstance(error, grpc.aio.AbortError):
            self._count(_named(context.code()), started_s)
        elif isinstance(error, Exception):
            names = names_of(request)
            code, message = status_of(error, self._method, names)
            self._count(code, started_s)
            tell_refused(self._method, code, message, names)
            await context.abort(code, message, retry_metadata(error))

    def _count(self, code: grpc.StatusCode, started_s: float) -> None:
        metrics.REQUESTS.labels(self._method, code.name).inc()
        self._measure(started_s)

    def _measure(self, started_s: float) -> float:
        """Seconds since then, noted; 0 for streams, which last as long as their clients like."""
        if self._latency is None:
            return 0.0
        seconds = time.perf_counter() - started_s
        self._latency.observe(seconds)
        return seconds


def _named(code: object) -> grpc.StatusCode:
    """The status of a number, which is what a context holds."""
    for status in grpc.StatusCode:
        if code in {status, status.value[0]}:
            return status
    return grpc.StatusCode.UNKNOWN
