"""Unary gRPC calls for next to nothing: prepared frames out, frames counted in.

A caller that shares the server's cores must be cheap: gRPC's own client takes about as much CPU for
a call as the server does. This one speaks as much HTTP/2 (https://www.rfc-editor.org/rfc/rfc9113)
as a call of one message needs: every request has the same header block, of literals alone, and of
an answer nothing is read but where its stream ends and its message.
"""

import asyncio
import struct
from typing import Any, Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE: Final = 4
WINDOW: Final = 1 << 24
HEAD: Final = struct.Struct(">BHBBI")  # length in three bytes, type, flags, stream
HEAD_BYTES, MESSAGE_HEAD_BYTES = 9, 5


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2."""
    size = len(payload)
    return HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def header_block(path: str, authority: str) -> bytes:
    """The headers of a call, without the dynamic table: the same bytes each time."""

    def literal(name: bytes, value: str) -> bytes:
        return name + bytes([len(value)]) + value.encode()

    return b"".join((
        b"\x83\x86",  # :method POST, :scheme http
        literal(b"\x04", path),
        literal(b"\x01", authority),
        literal(b"\x0f\x10", "application/grpc"),  # content-type
        literal(b"\x00\x02te", "trailers"),
    ))  # fmt: skip


class RawCaller(asyncio.Protocol):
    """One connection to a gRPC server, for calls of one method."""

    def __init__(self, path: str, authority: str) -> None:
        self._headers = header_block(path, authority)
        self._transport: Any = None
        self._buffer = bytearray()
        self._stream = 1
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._messages: dict[int, bytearray] = {}
        self._consumed = 0
        self._unsent: list[bytes] = []

    @classmethod
    async def connect(cls, target: str, path: str) -> "RawCaller":
        """A caller of a method at `host:port`."""
        host, port = target.rsplit(":", 1)
        loop = asyncio.get_running_loop()
        _, caller = await loop.create_connection(lambda: cls(path, target), host, int(port))
        return caller

    def call(self, message: bytes) -> "asyncio.Future[bytes]":
        """Sends a message; the answer's, empty where the call failed."""
        stream, self._stream = self._stream, self._stream + 2
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers[stream], self._messages[stream] = answer, bytearray()
        body = b"\x00" + len(message).to_bytes(4, "big") + message
        self._transport.write(
            frame(HEADERS, END_HEADERS, stream, self._headers)
            + frame(DATA, END_STREAM, stream, body)
        )
        return answer

    def close(self) -> None:
        """Ends the connection."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduces itself, with room for large answers."""
        self._transport = transport
        window = struct.pack(">HI", INITIAL_WINDOW_SIZE, WINDOW)
        self._transport.write(
            PREFACE
            + frame(SETTINGS, 0, 0, window)
            + frame(WINDOW_UPDATE, 0, 0, WINDOW.to_bytes(4, "big"))
        )

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """All calls that wait have failed."""
        for stream in list(self._answers):
            self._messages[stream].clear()
            self._finish(stream)

    def data_received(self, data: bytes) -> None:
        """Frames, as they come."""
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= HEAD_BYTES:
            high, low, kind, flags, stream = HEAD.unpack_from(buffer, at)
            end = at + HEAD_BYTES + (high << 16 | low)
            if end > len(buffer):
                break
            self._take(kind, flags, stream, buffer[at + HEAD_BYTES : end])
            at = end
        del buffer[:at]

    def _take(self, kind: int, flags: int, stream: int, payload: bytearray) -> None:
        if kind == DATA:
            self._messages[stream] += payload
            self._consume(len(payload))
        elif kind == SETTINGS and not flags & ACK:
            self._transport.write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._transport.write(frame(PING, ACK, 0, bytes(payload)))
        elif kind == RST_STREAM and stream in self._messages:
            self._messages[stream].clear()
        if kind == RST_STREAM or (kind in {DATA, HEADERS} and flags & END_STREAM):
            self._finish(stream)

    def _consume(self, n_bytes: int) -> None:
        """Lets the server send on."""
        self._consumed += n_bytes
        if self._consumed > WINDOW // 2:
            more = self._consumed.to_bytes(4, "big")
            self._transport.write(frame(WINDOW_UPDATE, 0, 0, more))
            self._consumed = 0

    def _finish(self, stream: int) -> None:
        answer, message = self._answers.pop(stream, None), self._messages.pop(stream, bytearray())
        if answer is not None and not answer.done():
            answer.set_result(bytes(message[MESSAGE_HEAD_BYTES:]))
