"""The guard at gRPC's door: it sees every call of every kind before its message is read."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc

from serving import metrics
from serving.errors import SilentStreamError, retry_metadata, status_of, tell_refused
from serving.guard.guard import SCOPES, Admission, Guard
from serving.guard.probe import PROBE_HEADER, QueueProbe
from serving.guard.refusals import RefusalError

SILENT_CALLS: Final = 16  # whose message may be as long in coming as it likes

Handler = Any  # grpc.RpcMethodHandler: its stubs do not say what it is made of
Context = Any  # grpc.aio.ServicerContext
Task = asyncio.Task[Any]


class GuardInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Admits calls, or ends them with a status; ends those that send nothing.

    A call counts as running once its first message is here. Where more than SILENT_CALLS have sent
    none yet, each further one must within `idle_s`, as streams must always; where there are more
    than `max_silent`, the oldest are ended: a call that means it is soon no longer silent.
    """

    def __init__(self, guard: Guard, probe: QueueProbe, *, idle_s: float, max_silent: int) -> None:
        self._guard = guard
        self._probe = probe
        self._idle_s = idle_s
        self._max_silent = max_silent
        self._calls: dict[Task, Admission] = {}
        self._silent: dict[Task, asyncio.Timeout | None] = {}  # in the order of their coming
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
            admission = self._guard.allow(method, key)
        except RefusalError as refusal:
            return _refusing(refusal, method)
        task = _current_task()
        self._calls[task] = admission
        task.add_done_callback(self._end)
        handler = await continuation(handler_call_details)
        return None if handler is None else self._watched(handler, method, task)

    def _end(self, task: Task) -> None:
        self._silent.pop(task, None)
        self._calls.pop(task).release()

    def _watched(self, handler: Handler, method: str, task: Task) -> Handler:
        """The handler, called when the message has come; for unary calls kept from call to call."""
        is_plain = not handler.request_streaming and not handler.response_streaming
        if not is_plain:
            return self._streamed(handler, method)
        if len(self._silent) >= SILENT_CALLS:
            return self._timed(handler, method)
        self._silent[task] = None
        inner, wrapped = self._wrapped.get(method, (None, None))
        if inner is not handler:
            wrapped = self._plain(handler, method)
            self._wrapped[method] = handler, wrapped
        return wrapped

    def _plain(self, handler: Handler, method: str) -> Handler:
        unary = handler.unary_unary

        async def begin(request: Any, context: Context) -> Any:
            await self._begin(method, context)
            return await unary(request, context)

        return _like(handler, grpc.unary_unary_rpc_method_handler, begin)

    def _timed(self, handler: Handler, method: str) -> Handler:
        """Waits for the one message itself: gRPC would wait for ever."""
        unary = handler.unary_unary

        async def begin(requests: AsyncIterator[Any], context: Context) -> Any:
            request = await self._only(requests, context)
            await self._begin(method, context)
            return await unary(request, context)

        return _like(handler, grpc.stream_unary_rpc_method_handler, begin)

    def _streamed(self, handler: Handler, method: str) -> Handler:
        """The handler of a stream; messages come to it at the rate of the client's quota."""
        if not handler.request_streaming:
            stream = handler.unary_stream

            async def begin_one(requests: AsyncIterator[Any], context: Context) -> Any:
                request = await self._only(requests, context)
                await self._begin(method, context)
                async for answer in _answers(stream, request, context):
                    yield answer

            return _like(handler, grpc.stream_stream_rpc_method_handler, begin_one)
        if handler.response_streaming:
            both = handler.stream_stream

            async def begin_both(requests: AsyncIterator[Any], context: Context) -> Any:
                async for answer in _answers(both, self._paced(requests), context):
                    yield answer

            return _like(handler, grpc.stream_stream_rpc_method_handler, begin_both)
        unary = handler.stream_unary

        async def begin(requests: AsyncIterator[Any], context: Context) -> Any:
            return await unary(self._paced(requests), context)

        return _like(handler, grpc.stream_unary_rpc_method_handler, begin)

    async def _begin(self, method: str, context: Context) -> None:
        """Counts the call as running, or ends it."""
        task = _current_task()
        self._silent.pop(task, None)
        try:
            self._guard.begun(self._calls[task])
        except RefusalError as refusal:
            code, message, trailing = _told(refusal, method)
            await context.abort(code, message, trailing)

    async def _only(self, requests: AsyncIterator[Any], context: Context) -> Any:
        """The one message of a call, or the call's end."""
        try:
            return await self._first(aiter(requests))
        except SilentStreamError as error:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, str(error))
        except StopAsyncIteration:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a call must have a message")

    async def _first(self, requests: AsyncIterator[Any]) -> Any:
        """The first message. Raises SilentStreamError, StopAsyncIteration where there is none."""
        task = _current_task()
        try:
            async with asyncio.timeout(self._idle_s) as limit:
                self._silent[task] = limit
                self._end_oldest()
                return await anext(requests)
        except TimeoutError:
            raise _silence(self._idle_s) from None
        finally:
            self._silent.pop(task, None)

    def _end_oldest(self) -> None:
        """Ends silent calls, oldest first, until there are no more than may be."""
        while len(self._silent) > self._max_silent:
            oldest = next((task for task, limit in self._silent.items() if limit is not None), None)
            limit = None if oldest is None else self._silent.pop(oldest)
            if limit is None:
                return
            if not limit.expired():  # else it is on its way out by itself
                limit.reschedule(asyncio.get_running_loop().time())

    async def _paced(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The messages of a stream, none before its turn. Raises RefusalError, SilentStreamError.

        Called within the task of the call.
        """
        admission = self._calls[_current_task()]
        iterator = aiter(requests)
        try:
            request = await self._first(iterator)
            self._guard.begun(admission)
            while True:
                while (wait_s := self._guard.wait_s(admission)) > 0:
                    await asyncio.sleep(wait_s)
                yield request
                async with asyncio.timeout(self._idle_s):
                    request = await anext(iterator)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise _silence(self._idle_s) from None


def _silence(idle_s: float) -> SilentStreamError:
    return SilentStreamError(f"a message must come within {idle_s:g} s; it did not")


async def _answers(stream: Any, request: Any, context: Context) -> AsyncIterator[Any]:
    """What a handler answers, whether it yields or writes."""
    answers = stream(request, context)
    if hasattr(answers, "__aiter__"):
        async for answer in answers:
            yield answer
    else:
        await answers


def _like(handler: Handler, make: Any, behaviour: Any) -> Handler:
    return make(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _told(
    refusal: RefusalError, method: str
) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """Status, message and trailing metadata of a refusal, which is counted."""
    code, message = status_of(refusal, method)
    known = method if method in SCOPES else "unknown"  # anybody may call anything: few labels
    metrics.REQUESTS.labels(known, code.name).inc()
    tell_refused(known, code, message, {})
    return code, message, retry_metadata(refusal)


def _refusing(refusal: RefusalError, method: str) -> Handler:
    """A handler that ends its call, of whatever kind, without waiting for a message."""
    code, message, trailing = _told(refusal, method)

    async def refuse(_: Any, context: Context) -> None:
        await context.abort(code, message, trailing)

    return grpc.stream_unary_rpc_method_handler(refuse)


async def _nothing(_: Any, __: Context) -> bytes:
    return b""


_PROBED: Final = grpc.stream_unary_rpc_method_handler(_nothing)


def author_of(guard: Guard, context: Context) -> str:
    """Whose key a call came with, where the server knows keys; else empty."""
    return guard.name_of(_credentials(context.invocation_metadata())[0])


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


def _current_task() -> Task:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 (gRPC runs each call in a task)
    return task
