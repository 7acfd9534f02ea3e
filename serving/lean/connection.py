"""One client's connection: frames in, streams apart, windows kept, limits held.

A client that breaks the rules, or plays with them (streams begun and reset, settings and pings
without end, headers without end), loses its connection. What a client does not read is kept up to a
bound; beyond it nothing more is read from that client.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from serving.lean import frames
from serving.lean.call import Call
from serving.lean.frames import ConnectionLost, frame, word_frame
from serving.lean.hpack import MAX_LIST_BYTES, Decoder, HeaderError

if TYPE_CHECKING:
    from serving.lean.server import LeanServer

MAX_BLOCK_BYTES: Final = 32_768  # of headers in several frames
MAX_IDLE_FRAMES: Final = 200  # settings, pings and the like within a second, without resets
MAX_UNSENT_BYTES: Final = 65_536  # of one turn of the loop
CONNECTION_WINDOW: Final = 4 << 20
_SECOND: Final = 1.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may do."""

    max_message_bytes: int = 262_144
    max_streams: int = 1_024
    idle_s: float = 300.0
    age_s: float = 1_800.0
    age_grace_s: float = 60.0
    handshake_s: float = 10.0  # for TLS, and for the first words of HTTP/2

    @property
    def window(self) -> int:
        """Of a stream: a message fits whole, so that none waits for the handler to read."""
        return self.max_message_bytes + frames.WINDOW


class Connection(asyncio.Protocol):
    """Frames to calls, and what calls say to frames."""

    def __init__(self, server: "LeanServer", limits: Limits) -> None:
        self.server = server
        self.loop = asyncio.get_running_loop()
        self.limits = limits
        self.peer = ""
        self.auth_context: dict[str, list[bytes]] = {}
        self._transport: Any = None
        self._buffer = bytearray()
        self._decoder = Decoder()
        self._calls: dict[int, Call] = {}
        self._last_stream = 0
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags, what has come
        self._has_preface = False
        self._unsent: list[bytes] = []
        self._n_unsent = 0
        self._send_window = frames.WINDOW
        self._their_window = frames.WINDOW  # of a new stream
        self._their_frame = frames.FRAME_BYTES
        self._given = 0  # bytes that were read and not told yet
        self._idle_frames: deque[float] = deque()
        self._resets: deque[float] = deque()
        self._is_leaving = False
        self._timers: list[asyncio.TimerHandle] = []
        self._is_lost = self._is_paused = False
        self._takers = {
            frames.DATA: self._take_data,
            frames.HEADERS: self._begin_block,
            frames.CONTINUATION: self._go_on_with_block,
            frames.WINDOW_UPDATE: self._take_window,
            frames.RST_STREAM: self._take_reset,
            frames.SETTINGS: self._take_settings,
            frames.PING: self._take_ping,
            frames.GOAWAY: self._take_goaway,
        }

    # The protocol of asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Says what is offered."""
        self._transport = transport
        if not self.server.has_room():
            self._is_lost = True
            self._transport.abort()
            return
        self.server.connections.add(self)
        address = transport.get_extra_info("peername")
        self.peer = _named(address)
        self.auth_context = _names(transport.get_extra_info("peercert"))
        self._transport.write(
            frames.settings(
                (frames.MAX_CONCURRENT_STREAMS, self.limits.max_streams),
                (frames.INITIAL_WINDOW_SIZE, self.limits.window),
                (frames.MAX_HEADER_LIST_SIZE, MAX_LIST_BYTES),
            )
            + word_frame(frames.WINDOW_UPDATE, 0, CONNECTION_WINDOW - frames.WINDOW)
        )
        self._timers = [
            self.loop.call_later(self.limits.age_s, self.leave),
            self.loop.call_later(self.limits.idle_s, self._look_idle),
            self.loop.call_later(self.limits.handshake_s, self._look_silent),
        ]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Ends all calls."""
        self._is_lost = True
        self.server.connections.discard(self)
        for timer in self._timers:
            timer.cancel()
        for call in list(self._calls.values()):
            call.reset()
        self._calls.clear()

    def pause_writing(self) -> None:
        """The client does not read: neither do we, and what is to be sent waits."""
        self._is_paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._is_paused = False
        self._transport.resume_reading()
        for call in list(self._calls.values()):
            call.make_room()

    def data_received(self, data: bytes) -> None:
        """Frames, as they come."""
        self._buffer += data
        try:
            self._read()
        except ConnectionLost as error:
            self._end(error.code, str(error))
        except HeaderError as error:
            self._end(frames.COMPRESSION_ERROR, str(error))

    # What calls say

    def send_headers(self, stream: int, block: bytes, *, is_last: bool) -> None:
        """A header block, whole: ours are small."""
        flags = frames.END_HEADERS | (frames.END_STREAM if is_last else 0)
        self._write(frame(frames.HEADERS, flags, stream, block))

    def send_data(self, call: Call, data: bytes) -> int:
        """Sends what the windows let through; how many bytes that was."""
        most = min(len(data), self._send_window, call.send_window)
        if most <= 0 or self._is_paused:
            return 0
        self._send_window -= most
        call.send_window -= most
        size = self._their_frame
        self._write(
            b"".join(
                frame(frames.DATA, 0, call.stream, data[at : min(at + size, most)])
                for at in range(0, most, size)
            )
        )
        return most

    def send_whole(self, call: Call, headers: bytes, data: bytes, trailers: bytes) -> bool:
        """A whole answer in one write; False where the windows or its size do not let it."""
        size = len(data)
        most = min(self._send_window, call.send_window, self._their_frame)
        if size > most or call.pending or self._is_paused:
            return False
        self._send_window -= size
        stream, ends = call.stream, frames.END_HEADERS
        self._write(
            frame(frames.HEADERS, ends, stream, headers)
            + frame(frames.DATA, 0, stream, data)
            + frame(frames.HEADERS, ends | frames.END_STREAM, stream, trailers)
        )
        return True

    def give_window(self, call: Call, n_bytes: int) -> None:
        """Lets the client send as much again as was read."""
        call.unread -= n_bytes
        self._give_back(n_bytes)
        if not call.has_ended:
            self._write(word_frame(frames.WINDOW_UPDATE, call.stream, n_bytes))

    def forget(self, call: Call) -> None:
        """A call is over."""
        if self._calls.pop(call.stream, None) is None:
            return
        if call.unread:
            self._give_back(call.unread)
            call.unread = 0
        if not call.has_ended and not call.is_reset:  # the rest of the request is of no use
            self._write(word_frame(frames.RST_STREAM, call.stream, frames.NO_ERROR))
        if not self._calls:
            self._look_over()

    # Ends

    @property
    def is_quiet(self) -> bool:
        """Whether no call runs here."""
        return not self._calls

    def leave(self) -> None:
        """Takes no new calls; ends once those that run are over, or after the grace."""
        if self._is_leaving or self._is_lost:
            return
        self._is_leaving = True
        self._write(
            frame(frames.GOAWAY, 0, 0, frames.WORD.pack(self._last_stream) + frames.WORD.pack(0))
        )
        self._timers.append(self.loop.call_later(self.limits.age_grace_s, self._close))
        self._look_over()

    def cut(self) -> None:
        """Ends at once, calls and all."""
        if self._transport is not None:
            self._transport.abort()

    def cancel_calls(self) -> None:
        """Ends the calls with a status."""
        for call in list(self._calls.values()):
            if call.task is not None:
                call.task.cancel()

    def _look_over(self) -> None:
        if self._is_leaving and not self._calls and not self._is_lost:
            self._close()

    def _look_silent(self) -> None:
        if not self._has_preface:
            self.cut()

    def _look_idle(self) -> None:
        """Leaves a client that has had no call running for long."""
        if not self._calls:
            self.leave()
        else:
            self._timers[1] = self.loop.call_later(self.limits.idle_s, self._look_idle)

    def _end(self, code: int, reason: str) -> None:
        log.info("connection_ended", peer=self.peer, code=code, reason=reason)
        self._write(
            frame(frames.GOAWAY, 0, 0, frames.WORD.pack(self._last_stream) + frames.WORD.pack(code))
        )
        self._buffer.clear()
        self._close()

    def _write(self, data: bytes) -> None:
        """Sends; small things that are said within one turn of the loop go out together."""
        if not self._unsent:
            self.loop.call_soon(self._flush)
        self._unsent.append(data)
        self._n_unsent += len(data)
        if self._n_unsent > MAX_UNSENT_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._unsent and not self._is_lost:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()
        self._n_unsent = 0

    def _close(self) -> None:
        """Ends the connection once everything is sent."""
        self._flush()
        self._transport.close()

    def _give_back(self, n_bytes: int) -> None:
        self._given += n_bytes
        if self._given > CONNECTION_WINDOW // 4:
            self._write(word_frame(frames.WINDOW_UPDATE, 0, self._given))
            self._given = 0

    # Frames

    def _read(self) -> None:
        buffer, at = self._buffer, 0
        if not self._has_preface:
            if not frames.PREFACE.startswith(bytes(buffer[: len(frames.PREFACE)])):
                raise ConnectionLost(frames.PROTOCOL_ERROR, "this is not HTTP/2")
            if len(buffer) < len(frames.PREFACE):
                return
            self._has_preface, at = True, len(frames.PREFACE)
        while len(buffer) - at >= frames.HEAD_BYTES:
            high, low, kind, flags, stream = frames.HEAD.unpack_from(buffer, at)
            size = high << 16 | low
            if size > frames.FRAME_BYTES:
                raise ConnectionLost(frames.FRAME_SIZE_ERROR, "a frame is too large")
            end = at + frames.HEAD_BYTES + size
            if end > len(buffer):
                break
            self._take(kind, flags, stream & frames.LARGEST_WINDOW,
                       bytes(buffer[at + frames.HEAD_BYTES : end]))  # fmt: skip
            if self._transport.is_closing():
                return
            at = end
        del buffer[:at]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and (kind != frames.CONTINUATION or stream != self._block[0]):
            raise ConnectionLost(frames.PROTOCOL_ERROR, "headers must come in one piece")
        if kind == frames.PUSH_PROMISE:
            raise ConnectionLost(frames.PROTOCOL_ERROR, "clients must not push")
        take = self._takers.get(kind)
        if take is not None:  # kinds that nobody knows are to be ignored
            take(flags, stream, payload)

    def _take_reset(self, _: int, stream: int, payload: bytes) -> None:  # noqa: ARG002
        self._note(self._resets, self.limits.max_streams + MAX_IDLE_FRAMES)
        call = self._calls.pop(stream, None)
        if call is not None:
            self._give_back(call.unread)
            call.reset()
            self._look_over()

    def _take_goaway(self, _: int, stream: int, payload: bytes) -> None:  # noqa: ARG002
        self._is_leaving = True
        self._look_over()

    def _begin_block(self, flags: int, stream: int, payload: bytes) -> None:
        block = frames.unpadded(flags, payload)
        if flags & frames.END_HEADERS:
            self._take_headers(flags, stream, block)
        else:
            self._block = (stream, flags, bytearray(block))

    def _go_on_with_block(self, flags: int, _: int, payload: bytes) -> None:
        if self._block is None:
            raise ConnectionLost(frames.PROTOCOL_ERROR, "there are no headers to go on with")
        stream, first_flags, block = self._block
        block += payload
        self._note_idle()
        if len(block) > MAX_BLOCK_BYTES:
            raise ConnectionLost(frames.ENHANCE_YOUR_CALM, "headers are too large")
        if flags & frames.END_HEADERS:
            self._block = None
            self._take_headers(first_flags, stream, bytes(block))

    def _take_headers(self, flags: int, stream: int, block: bytes) -> None:
        headers = self._decoder.decode(block)
        call = self._calls.get(stream)
        if call is not None:  # trailers of a request say nothing to us
            call.take(b"", is_last=True)
            return
        if stream <= self._last_stream or stream % 2 == 0:
            raise ConnectionLost(frames.PROTOCOL_ERROR, "streams must be odd and rise")
        self._last_stream = stream
        if self._is_leaving or len(self._calls) >= self.limits.max_streams:
            self._write(word_frame(frames.RST_STREAM, stream, frames.REFUSED_STREAM))
            return
        begun = self._calls[stream] = Call(self, stream, headers, self._their_window)
        begun.has_ended = bool(flags & frames.END_STREAM)
        begun.begin()

    def _take_data(self, flags: int, stream: int, payload: bytes) -> None:
        call = self._calls.get(stream)
        if call is None:
            if stream > self._last_stream:
                raise ConnectionLost(frames.PROTOCOL_ERROR, "data must follow headers")
            self._give_back(len(payload))  # of a call that is over
            return
        if call.unread + len(payload) > self.limits.window:
            raise ConnectionLost(frames.FLOW_CONTROL_ERROR, "more was sent than the window lets")
        data = frames.unpadded(flags & frames.PADDED, payload)
        self._give_back(len(payload) - len(data))
        if not data and not flags & frames.END_STREAM:
            self._note_idle()
        call.take(data, is_last=bool(flags & frames.END_STREAM))

    def _take_window(self, _: int, stream: int, payload: bytes) -> None:
        more = _word(payload)
        if more == 0:
            raise ConnectionLost(frames.PROTOCOL_ERROR, "a window must grow by something")
        if stream == 0:
            self._send_window += more
            if self._send_window > frames.LARGEST_WINDOW:
                raise ConnectionLost(frames.FLOW_CONTROL_ERROR, "the window is too large")
            for call in list(self._calls.values()):
                call.make_room()
        elif (found := self._calls.get(stream)) is not None:
            found.send_window += more
            if found.send_window > frames.LARGEST_WINDOW:
                raise ConnectionLost(frames.FLOW_CONTROL_ERROR, "the window is too large")
            found.make_room()

    def _take_settings(self, flags: int, _: int, payload: bytes) -> None:
        self._note_idle()
        if flags & frames.ACK:
            return
        if len(payload) % frames.SETTING.size:
            raise ConnectionLost(frames.FRAME_SIZE_ERROR, "settings have six bytes each")
        for name, value in frames.SETTING.iter_unpack(payload):
            if name == frames.INITIAL_WINDOW_SIZE:
                self._resize(value)
            elif name == frames.MAX_FRAME_SIZE:
                self._their_frame = min(max(value, frames.FRAME_BYTES), 1 << 20)
        self._write(frame(frames.SETTINGS, frames.ACK, 0))

    def _resize(self, window: int) -> None:
        """Another window for streams, those of now too (it may leave less than nothing)."""
        if window > frames.LARGEST_WINDOW:
            raise ConnectionLost(frames.FLOW_CONTROL_ERROR, "the window is too large")
        more, self._their_window = window - self._their_window, window
        for call in list(self._calls.values()):
            call.send_window += more
            call.make_room()

    def _take_ping(self, flags: int, _: int, payload: bytes) -> None:
        self._note_idle()
        if len(payload) != 8:
            raise ConnectionLost(frames.FRAME_SIZE_ERROR, "a ping has eight bytes")
        if not flags & frames.ACK:
            self._write(frame(frames.PING, frames.ACK, 0, payload))

    def _note_idle(self) -> None:
        """Counts a frame that asks for nothing. Raises ConnectionLost for too many."""
        self._note(self._idle_frames, MAX_IDLE_FRAMES)

    def _note(self, times: deque[float], most: int) -> None:
        """Notes that it is now. Raises ConnectionLost where it was often within a second."""
        now_s = self.loop.time()
        times.append(now_s)
        while times[0] < now_s - _SECOND:
            times.popleft()
        if len(times) > most:
            raise ConnectionLost(frames.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")


def _named(address: Any) -> str:
    """The other end of a socket, as gRPC names it.

    >>> [_named(("127.0.0.1", 5)), _named(("::1", 5, 0, 0)), _named("")]
    ['ipv4:127.0.0.1:5', 'ipv6:[::1]:5', 'unix:']
    """
    if not isinstance(address, tuple):
        return "unix:"
    host, port = address[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def _word(payload: bytes) -> int:
    if len(payload) != frames.WORD.size:
        raise ConnectionLost(frames.FRAME_SIZE_ERROR, "a number has four bytes")
    value: int = frames.WORD.unpack(payload)[0] & frames.LARGEST_WINDOW
    return value


def _names(certificate: Any) -> dict[str, list[bytes]]:
    """What a client's certificate says of it, as gRPC names it."""
    if not certificate:
        return {}
    subject = {name: value for part in certificate.get("subject", ()) for name, value in part}
    alternatives = [value.encode() for _, value in certificate.get("subjectAltName", ())]
    return {
        "transport_security_type": [b"ssl"],
        "x509_common_name": [subject.get("commonName", "").encode()],
        "x509_subject_alternative_name": alternatives,
    }
