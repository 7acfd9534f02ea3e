"""The guard at gRPC's door: it sees every call of every kind before its message is read."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc

from serving import metrics
from serving.errors import SilentStreamError, retry_metadata, status_of
from serving.guard.guard import SCOPES, Admission, Guard
from serving.guard.probe import PROBE_HEADER, QueueProbe
from serving.guard.refusals import RefusalError

SILENT_CALLS: Final = 16  # whose message may be as long in coming as it likes

Handler = Any  # grpc.RpcMethodHandler: its stubs do not say what it is made of
Context = Any  # grpc.aio.ServicerContext


class GuardInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Admits calls, or ends them with a status; ends those that send nothing.

    A call counts from its headers on, whether its message comes or not. Where more than
    SILENT_CALLS have sent none yet, each further one must within `idle_s`, as streams must always.
    """

    def __init__(self, guard: Guard, probe: QueueProbe, *, idle_s: float) -> None:
        self._guard = guard
        self._probe = probe
        self._idle_s = idle_s
        self._silent: set[asyncio.Task[Any]] = set()
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler of a call; None for a method that nobody has, told to valid keys alone."""
        method = handler_call_details.method
        key, probe = _credentials(handler_call_details.invocation_metadata)
        if probe is not None and self._probe.begun(probe):
            return _PROBED
        try:
            admission = self._guard.admit(method, key)
        except RefusalError as refusal:
            return _refusing(refusal, method)
        task = _current_task()
        task.add_done_callback(lambda _: admission.release())
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        if handler.request_streaming:
            return self._paced(handler, admission)
        return self._heard(handler, method, task)

    def _heard(self, handler: Handler, method: str, task: "asyncio.Task[Any]") -> Handler:
        """The handler of one request, told to be quick where many calls are silent."""
        if len(self._silent) >= SILENT_CALLS and not handler.response_streaming:
            return _timed(handler, self._idle_s)
        self._silent.add(task)
        task.add_done_callback(self._silent.discard)
        inner, wrapped = self._wrapped.get(method, (None, None))
        if inner is not handler:
            wrapped = self._noting(handler)
            self._wrapped[method] = handler, wrapped
        return wrapped

    def _noting(self, handler: Handler) -> Handler:
        """The handler, which notes that the message has come."""
        silent = self._silent
        if handler.response_streaming:
            stream = handler.unary_stream

            async def begin_stream(request: Any, context: Context) -> Any:
                silent.discard(_current_task())
                async for answer in _answers(stream, request, context):
                    yield answer

            return _like(handler, grpc.unary_stream_rpc_method_handler, begin_stream)
        unary = handler.unary_unary

        async def begin(request: Any, context: Context) -> Any:
            silent.discard(_current_task())
            return await unary(request, context)

        return _like(handler, grpc.unary_unary_rpc_method_handler, begin)

    def _paced(self, handler: Handler, admission: Admission) -> Handler:
        """The handler of a stream, to which messages come at the rate of the client's quota."""
        guard, idle_s = self._guard, self._idle_s
        if handler.response_streaming:
            stream = handler.stream_stream

            async def begin_stream(requests: AsyncIterator[Any], context: Context) -> Any:
                async for answer in stream(paced(requests, guard, admission, idle_s), context):
                    yield answer

            return _like(handler, grpc.stream_stream_rpc_method_handler, begin_stream)
        unary = handler.stream_unary

        async def begin(requests: AsyncIterator[Any], context: Context) -> Any:
            return await unary(paced(requests, guard, admission, idle_s), context)

        return _like(handler, grpc.stream_unary_rpc_method_handler, begin)


async def paced(
    requests: AsyncIterator[Any], guard: Guard, admission: Admission, idle_s: float
) -> AsyncIterator[Any]:
    """The messages of a stream, none before its turn. Raises SilentStreamError."""
    iterator = aiter(requests)
    while True:
        try:
            async with asyncio.timeout(idle_s):
                request = await anext(iterator)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise SilentStreamError(f"a stream must send within {idle_s:g} s; it did not") from None
        while (wait_s := guard.wait_s(admission)) > 0:
            await asyncio.sleep(wait_s)
        yield request


async def _answers(stream: Any, request: Any, context: Context) -> AsyncIterator[Any]:
    """What a handler answers, whether it yields or writes."""
    answers = stream(request, context)
    if hasattr(answers, "__aiter__"):
        async for answer in answers:
            yield answer
    else:
        await answers


def _timed(handler: Handler, idle_s: float) -> Handler:
    """The handler of one request, which waits for it itself: gRPC would wait for ever."""
    unary = handler.unary_unary

    async def begin(requests: AsyncIterator[Any], context: Context) -> Any:
        try:
            async with asyncio.timeout(idle_s):
                request = await anext(aiter(requests))
        except (TimeoutError, StopAsyncIteration):
            message = f"a call must send its message within {idle_s:g} s; it did not"
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, message)
        return await unary(request, context)

    return _like(handler, grpc.stream_unary_rpc_method_handler, begin)


def _like(handler: Handler, make: Any, behaviour: Any) -> Handler:
    return make(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _refusing(refusal: RefusalError, method: str) -> Handler:
    """A handler that ends its call, of whatever kind, without waiting for a message."""
    code, message = status_of(refusal, method)
    known = method if method in SCOPES else "unknown"  # anybody may call anything: few labels
    metrics.REQUESTS.labels(known, code.name).inc()
    trailing = retry_metadata(refusal)

    async def refuse(_: Any, context: Context) -> None:
        await context.abort(code, message, trailing)

    return grpc.stream_unary_rpc_method_handler(refuse)


async def _nothing(_: Any, __: Context) -> bytes:
    return b""


_PROBED: Final = grpc.stream_unary_rpc_method_handler(_nothing)


def _credentials(metadata: Any) -> tuple[str | None, str | None]:
    """The key that came with a call, and the token of a probe."""
    key = probe = None
    for name, value in metadata or ():
        if name == "authorization":
            scheme, _, text = _text(value).partition(" ")
            key = text.strip() if scheme.lower() == "bearer" else key
        elif name == "x-api-key":
            key = _text(value)
        elif name == PROBE_HEADER:
            probe = _text(value)
    return key, probe


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")


def _current_task() -> "asyncio.Task[Any]":
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 (gRPC runs each call in a task)
    return task
