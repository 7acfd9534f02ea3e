"""One call: what its handler knows of it, and the handler run to its status."""

import asyncio
import base64
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import grpc
import structlog

from serving.lean.hpack import literal

if TYPE_CHECKING:
    from serving.lean.connection import Connection

PREFIX_BYTES: Final = 5  # before each message: whether it is compressed, and its length
UNITS_S: Final = {"H": 3_600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
ANSWER_HEADERS: Final = b"\x88\x0f\x10\x10application/grpc"  # :status 200, content-type
OK_TRAILERS: Final = literal("grpc-status", "0")
MAX_PENDING_BYTES: Final = 262_144  # of answers of a stream that the client does not take

Metadata = Sequence[tuple[str, str | bytes]]
Handler = Any  # grpc.RpcMethodHandler: its stubs do not say what it is made of

log = structlog.get_logger(__name__)


class Refusal(Exception):  # noqa: N818 (an answer, not a fault)
    """A call that ends with a status before or instead of its handler's answer."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code


def timeout_s(text: str) -> float | None:
    """Seconds of a `grpc-timeout`, None where it is none.

    >>> [timeout_s("250m"), timeout_s("3S"), timeout_s("soon")]
    [0.25, 3.0, None]
    """
    number, unit = text[:-1], text[-1:]
    if unit not in UNITS_S or not number.isascii() or not number.isdigit() or len(number) > 8:
        return None
    return int(number) * UNITS_S[unit]


def metadata_of(headers: Sequence[tuple[str, str]]) -> tuple[tuple[str, str | bytes], ...]:
    """What a client says beside its message; binary values as bytes."""
    found: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        if name.startswith((":", "grpc-")) or name in {"te", "content-type"}:
            continue
        found.append((name, _decoded(value) if name.endswith("-bin") else value))
    return tuple(found)


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4))
    except ValueError:
        return b""


def trailers(code: grpc.StatusCode, details: str, metadata: Metadata) -> bytes:
    """The header block that ends a call."""
    block = literal("grpc-status", str(code.value[0]))
    if details:
        block += literal(
            "grpc-message", quote(details[:2_048], safe=" !#$&'()*+,/:;=?@[]{}<>|\"^`")
        )
    for name, value in metadata:
        text = base64.b64encode(value).decode() if isinstance(value, bytes) else value
        block += literal(name.lower(), text)
    return block


class Context:
    """What a handler knows of its call and can do: of grpc.aio.ServicerContext what we use."""

    def __init__(self, call: "Call") -> None:
        self._call = call

    def time_remaining(self) -> float | None:
        """Seconds until the client gives up; None where it set no deadline."""
        due_s = self._call.due_s
        return None if due_s is None else max(due_s - self._call.loop.time(), 0.0)

    def invocation_metadata(self) -> Metadata:
        """What the client says beside its message."""
        return metadata_of(self._call.headers)

    def peer(self) -> str:
        """The client's address."""
        return self._call.connection.peer

    def auth_context(self) -> dict[str, list[bytes]]:
        """What the client's certificate says; empty without one."""
        return self._call.connection.auth_context

    def peer_identities(self) -> list[bytes] | None:
        """The names in the client's certificate."""
        return self.auth_context().get("x509_common_name")

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> None:
        """Ends the call with a status: raises grpc.aio.AbortError."""
        if trailing_metadata:
            self._call.trailing = tuple(trailing_metadata)
        self._call.code, self._call.details = code, details
        raise grpc.aio.AbortError("the call was ended with a status")

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status that the call will end with."""
        self._call.code = code

    def set_details(self, details: str) -> None:
        """What its message will be."""
        self._call.details = details

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """What is said after the answer."""
        self._call.trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> Metadata:
        """What will be said after the answer."""
        return self._call.trailing

    async def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """Says something before the answer."""
        self._call.send_headers(initial_metadata)

    def code(self) -> grpc.StatusCode:
        """The status so far."""
        return self._call.code

    def details(self) -> str:
        """Its message so far."""
        return self._call.details

    async def write(self, message: Any) -> None:
        """Sends one message of a stream."""
        await self._call.write(message)

    def cancelled(self) -> bool:
        """Whether the client has given the call up."""
        return self._call.is_reset

    def done(self) -> bool:
        """Whether the call has ended."""
        return self._call.is_over

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Has a function called when the call has ended."""
        self._call.done_callbacks.append(callback)


class Call:
    """A stream of a connection as a call: messages in, messages out, a status."""

    def __init__(
        self, connection: "Connection", stream: int, headers: list[tuple[str, str]], window: int
    ) -> None:
        self.connection = connection
        self.loop = connection.loop
        self.stream = stream
        self.headers = headers
        self.send_window = window
        self.pending = bytearray()  # of the answer, for want of a window
        self.unread = 0  # bytes that came and that no handler has taken
        self.body = bytearray()
        self.has_ended = False  # the client has sent everything
        self.is_reset = False
        self.is_over = False
        self.code = grpc.StatusCode.OK
        self.details = ""
        self.trailing: Metadata = ()
        self.done_callbacks: list[Callable[[Any], None]] = []
        self.due_s: float | None = None
        self.task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._has_sent_headers = False
        self._last: bytes | None = None  # the trailers, once everything else is written
        self._handler: Handler = None
        self._news: asyncio.Future[None] | None = None
        self._room: deque[asyncio.Future[None]] = deque()

    @property
    def path(self) -> str:
        """The method, as clients name it."""
        return next((value for name, value in self.headers if name == ":path"), "")

    def begin(self) -> None:
        """Runs the call, until its deadline at the latest."""
        text = next((value for name, value in self.headers if name == "grpc-timeout"), "")
        left_s = timeout_s(text) if text else None
        if left_s is not None:
            self.due_s = self.loop.time() + left_s
            self._timer = self.loop.call_at(self.due_s, self._run_out)
        self.task = self.loop.create_task(self._run())

    def take(self, data: bytes, *, is_last: bool) -> None:
        """Bytes of messages from the client."""
        self.body += data
        self.unread += len(data)
        self.has_ended = self.has_ended or is_last
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def reset(self) -> None:
        """The client has given the call up, or the connection has ended."""
        self.is_reset = True
        if self.task is not None:
            self.task.cancel()

    def make_room(self) -> None:
        """Sends what waited for a window."""
        if self.pending:
            sent = self.connection.send_data(self, bytes(self.pending))
            del self.pending[:sent]
        if not self.pending and self._last is not None:
            self._end(self._last)
        while self._room and len(self.pending) <= MAX_PENDING_BYTES:
            waiting = self._room.popleft()
            if not waiting.done():
                waiting.set_result(None)

    def send_headers(self, metadata: Metadata = ()) -> None:
        """The headers of the answer, once."""
        if not self._has_sent_headers:
            self._has_sent_headers = True
            block = ANSWER_HEADERS + b"".join(literal(n.lower(), str(v)) for n, v in metadata)
            self.connection.send_headers(self.stream, block, is_last=False)

    async def write(self, message: Any) -> None:
        """Sends a message; waits while the client does not take them."""
        self.send_headers()
        self._send(self._framed(message))
        while len(self.pending) > MAX_PENDING_BYTES and not self.is_reset:
            self._room.append(self.loop.create_future())
            await self._room[-1]

    def _framed(self, message: Any) -> bytes:
        serializer = self._handler.response_serializer
        data: bytes = serializer(message) if serializer else message
        return b"\x00" + len(data).to_bytes(4, "big") + data

    def _send(self, data: bytes) -> None:
        sent = 0 if self.pending else self.connection.send_data(self, data)
        self.pending += data[sent:]

    async def _run(self) -> None:
        try:
            await self._answer()
        except grpc.aio.AbortError:
            if self.code is grpc.StatusCode.OK:
                self.code = grpc.StatusCode.UNKNOWN
        except Refusal as refusal:
            self.code, self.details = refusal.code, str(refusal)
        except asyncio.CancelledError:
            if not self.is_reset and self.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                self.code, self.details = grpc.StatusCode.CANCELLED, "the server stops"
        except Exception as error:
            log.exception("handler_failed", method=self.path)
            self.code, self.details = grpc.StatusCode.UNKNOWN, f"unexpected {type(error).__name__}"
        finally:
            self._finish()

    async def _answer(self) -> None:
        """Finds the handler and runs it."""
        server = self.connection.server
        server.admit(self)
        handler = await server.handler_of(self.path, self)
        if handler is None:
            raise Refusal(grpc.StatusCode.UNIMPLEMENTED, f"there is no method {self.path}")
        self._handler, context = handler, Context(self)
        given = self._messages() if handler.request_streaming else await self._only_message()
        if not handler.response_streaming:
            behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
            answer = await behaviour(given, context)
            if self.code is grpc.StatusCode.OK:
                self.answer_with(self._framed(answer))
            return
        behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
        found = behaviour(given, context)
        if hasattr(found, "__aiter__"):
            async for message in found:
                await self.write(message)
        else:
            await found

    def answer_with(self, data: bytes) -> None:
        """The only message of an answer; where nothing is in the way, in one write with its end."""
        is_plain = not (self._has_sent_headers or self.trailing or self.details)
        if is_plain and self.connection.send_whole(self, ANSWER_HEADERS, data, OK_TRAILERS):
            self._has_sent_headers = self.is_over = True
        else:
            self.send_headers()
            self._send(data)

    async def _only_message(self) -> Any:
        message = await self._message()
        if message is None:
            raise Refusal(grpc.StatusCode.INTERNAL, "a call of one message came without it")
        return message

    async def _messages(self) -> AsyncIterator[Any]:
        while (message := await self._message()) is not None:
            yield message

    async def _message(self) -> Any:
        """The next message, None where the client has sent all."""
        while not self._is_whole():
            if self.has_ended:
                if self.body:
                    raise Refusal(grpc.StatusCode.INTERNAL, "a stream ended within a message")
                return None
            self._news = self.loop.create_future()
            await self._news
        size = int.from_bytes(self.body[1:PREFIX_BYTES], "big") + PREFIX_BYTES
        data = bytes(self.body[PREFIX_BYTES:size])
        del self.body[:size]
        self.connection.give_window(self, size)
        deserializer = self._handler.request_deserializer
        try:
            return deserializer(data) if deserializer else data
        except Exception as error:
            log.info("message_unreadable", method=self.path, reason=str(error))
            raise Refusal(grpc.StatusCode.INTERNAL, "the message cannot be read") from error

    def _is_whole(self) -> bool:
        if len(self.body) < PREFIX_BYTES:
            return False
        if self.body[0]:
            raise Refusal(grpc.StatusCode.UNIMPLEMENTED, "messages must not be compressed")
        size, most = int.from_bytes(self.body[1:PREFIX_BYTES], "big"), self._most_bytes
        if size > most:
            raise Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"a message must have at most {most} bytes"
            )
        return len(self.body) >= size + PREFIX_BYTES

    @property
    def _most_bytes(self) -> int:
        return self.connection.limits.max_message_bytes

    def _run_out(self) -> None:
        self.code, self.details = grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed"
        if self.task is not None:
            self.task.cancel()

    def _finish(self) -> None:
        """The status, once everything else is written; and whoever waits for the end is told."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.is_over and not self.is_reset:
            block = trailers(self.code, self.details, self.trailing)
            if not self._has_sent_headers:
                self._has_sent_headers = True
                block = ANSWER_HEADERS + block
            if self.pending:
                self._last = block
            else:
                self._end(block)
        if self.is_over or self.is_reset:
            self.connection.forget(self)
        for callback in self.done_callbacks:
            callback(self)

    def _end(self, block: bytes) -> None:
        self._last = None
        self.is_over = True
        self.connection.send_headers(self.stream, block, is_last=True)
        self.connection.forget(self)
