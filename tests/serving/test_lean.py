"""The lean server: what gRPC's own client makes of it, and what it makes of those who play."""

# ruff: noqa: ARG002 (a handler takes its message and its context)

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any

import grpc
import pytest
import uvloop
from headrace.v1 import recommender_pb2
from headrace.v1.recommender_pb2_grpc import RecommendationServiceStub
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.raw_caller import RawCaller, header_block
from serving.lean import frames
from serving.lean.call import timeout_s
from serving.lean.connection import MAX_IDLE_FRAMES, Limits
from serving.lean.frames import frame, word_frame
from serving.lean.hpack import _CODES, END, Decoder, HeaderError, literal, unhuffed
from serving.lean.server import LeanServer
from serving.settings import ServingSettings
from tests.serving.harness import Parts, eventually, served

LARGEST = 100_000
PAYLOADS = [b"", b"x", bytes(16_384), bytes(70_000), bytes(1_000_000)]


class Services:
    """Methods of every kind."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.cancelled: list[str] = []
        self.taken = 0

    async def echo(self, message: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("told-bin", b"\x00\xff"), ("peer", context.peer())))
        return message

    async def large(self, message: bytes, context: Any) -> bytes:
        return bytes(int(message))

    async def say(self, message: bytes, context: Any) -> bytes:
        told = dict(context.invocation_metadata())
        return repr((told.get("word"), told.get("word-bin"))).encode()

    async def left(self, message: bytes, context: Any) -> bytes:
        return repr(context.time_remaining()).encode()

    async def refuse(self, message: bytes, context: Any) -> None:
        await context.abort(
            grpc.StatusCode.RESOURCE_EXHAUSTED, "später: 100 %", (("retry-after-ms", "5"),)
        )

    async def fail(self, message: bytes, context: Any) -> bytes:
        raise ValueError("a secret")

    async def wait(self, message: bytes, context: Any) -> bytes:
        try:
            while not self.may_end.is_set():
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.cancelled.append(message.decode())
            raise
        return message

    async def count(self, messages: AsyncIterator[bytes], context: Any) -> bytes:
        total = 0
        async for message in messages:
            total += len(message)
        return b"%d" % total

    async def many(self, message: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(int(message)):
            self.taken += 1
            yield bytes(50_000)

    async def each(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message

    def handlers(self) -> dict[str, Any]:
        kinds: dict[str, Callable[[Any], Any]] = {
            "count": grpc.stream_unary_rpc_method_handler,
            "many": grpc.unary_stream_rpc_method_handler,
            "each": grpc.stream_stream_rpc_method_handler,
        }
        unary = ("echo", "large", "say", "left", "refuse", "fail", "wait")
        return {
            name: kinds.get(name, grpc.unary_unary_rpc_method_handler)(
                getattr(self, name), response_serializer=bytes
            )
            for name in (*unary, *kinds)
        }


class Site:
    """A lean server in a thread."""

    def __init__(self) -> None:
        self.services = Services()
        self._port: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.port = self._port.result(30)
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{self.port}", [("grpc.max_receive_message_length", -1)]
        )

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as a server has it
            runner.run(self._main())

    def call(self, name: str, message: bytes = b"", **named: Any) -> bytes:
        return self.channel.unary_unary(f"/s/{name}")(
            message, timeout=named.pop("timeout", 20), **named
        )

    def stop(self) -> None:
        self.channel.close()
        self.services.may_end.set()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def begin_to_stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = LeanServer(
            options=[("grpc.max_receive_message_length", LARGEST)], maximum_concurrent_rpcs=20
        )
        server.add_registered_method_handlers("s", self.services.handlers())
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._port.set_result(port)
        await self._stop.wait()
        await server.stop(20.0)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    found = Site()
    yield found
    found.stop()


def status_of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def test_answers_come_as_they_were_sent_whatever_their_size(site: Site) -> None:
    for payload in PAYLOADS:
        if len(payload) <= LARGEST:
            assert site.call("echo", payload) == payload
        assert len(site.call("large", b"%d" % len(payload))) == len(payload)


def test_calls_beside_each_other_get_their_own_answers(site: Site) -> None:
    echo = site.channel.unary_unary("/s/echo")
    for _ in range(20):
        calls = [echo.future(b"%d" % k, timeout=20) for k in range(15)]
        assert [call.result() for call in calls] == [b"%d" % k for k in range(15)]


def test_metadata_goes_both_ways(site: Site) -> None:
    sent = (("word", "ü"), ("word-bin", b"\x00\x01\xff"))
    assert site.call("say", metadata=sent[1:]) == b"(None, b'\\x00\\x01\\xff')"
    _, call = site.channel.unary_unary("/s/echo").with_call(b"", timeout=20)
    told = dict(call.trailing_metadata())
    assert told["told-bin"] == b"\x00\xff"
    assert told["peer"].startswith("ipv4:127.0.0.1:")


def test_statuses_come_with_their_message_and_hints(site: Site) -> None:
    assert status_of(lambda: site.call("refuse")) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED, "später: 100 %",
    )  # fmt: skip
    with pytest.raises(grpc.RpcError) as caught:
        site.call("refuse")
    assert dict(caught.value.trailing_metadata())["retry-after-ms"] == "5"
    code, details = status_of(lambda: site.call("fail"))
    assert code == grpc.StatusCode.UNKNOWN
    assert "secret" not in details
    assert status_of(lambda: site.call("nothing"))[0] == grpc.StatusCode.UNIMPLEMENTED


def test_message_that_is_too_large_or_compressed_is_refused(site: Site) -> None:
    too_large = status_of(lambda: site.call("echo", bytes(LARGEST + 1)))
    assert too_large[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    compressed = status_of(
        lambda: site.call("echo", bytes(5_000), compression=grpc.Compression.Gzip)
    )
    assert compressed[0] == grpc.StatusCode.UNIMPLEMENTED


def test_deadline_is_told_and_ends_the_call(site: Site) -> None:
    assert 4 < float(site.call("left", timeout=5)) < 6
    assert site.call("left", timeout=None) == b"None"
    late = status_of(lambda: site.call("wait", b"late", timeout=0.05))
    assert late[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: "late" in site.services.cancelled)


def test_call_that_the_client_gives_up_is_cancelled(site: Site) -> None:
    call = site.channel.unary_unary("/s/wait").future(b"given up")
    assert site.call("echo", b"1") == b"1"
    call.cancel()
    eventually(lambda: "given up" in site.services.cancelled)


def test_too_many_calls_at_once_are_refused_and_not_kept(site: Site) -> None:
    wait = site.channel.unary_unary("/s/wait")
    calls = [wait.future(b"", timeout=20) for _ in range(30)]
    eventually(lambda: sum(call.done() for call in calls) == 10)
    refused = [call for call in calls if call.done()]
    assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    for call in calls:
        call.cancel()
    eventually(lambda: _works(site))


def _works(site: Site) -> bool:
    try:
        return site.call("echo", b"1") == b"1"
    except grpc.RpcError:
        return False


def test_streams_of_every_kind(site: Site) -> None:
    messages = [bytes(1_000)] * 500
    assert site.channel.stream_unary("/s/count")(iter(messages), timeout=20) == b"500000"
    assert sum(map(len, site.channel.unary_stream("/s/many")(b"40", timeout=20))) == 2_000_000
    words = [b"%d" % k for k in range(100)]
    assert list(site.channel.stream_stream("/s/each")(iter(words), timeout=20)) == words


def test_stream_that_is_not_read_is_not_made(site: Site) -> None:
    site.services.taken = 0
    stream = site.channel.unary_stream("/s/many")(b"10000")
    next(stream)
    assert _made_in_the_end(site) < 1_000
    stream.cancel()


def test_stream_of_a_client_with_boundless_windows_is_not_made_either(site: Site) -> None:
    site.services.taken = 0
    said = (
        frames.PREFACE
        + frames.settings((frames.INITIAL_WINDOW_SIZE, frames.LARGEST_WINDOW))
        + word_frame(frames.WINDOW_UPDATE, 0, frames.LARGEST_WINDOW - frames.WINDOW)
        + frame(frames.HEADERS, frames.END_HEADERS, 1, header_block("/s/many", "a"))
        + frame(frames.DATA, frames.END_STREAM, 1, b"\x00\x00\x00\x00\x0510000")
    )
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as client:
        client.sendall(said)
        eventually(lambda: site.services.taken > 0)
        assert _made_in_the_end(site) < 1_000
        assert site.call("echo", b"1") == b"1"


def _made_in_the_end(site: Site) -> int:
    """Messages of a stream that were made, once no more are."""
    before = -1
    while before != site.services.taken:
        before = site.services.taken
        time.sleep(0.1)
    return before


def test_drain_lets_calls_end_and_takes_no_new_ones() -> None:
    site = Site()
    running = site.channel.unary_unary("/s/wait").future(b"runs", timeout=20)
    assert site.call("echo", b"1") == b"1"
    site.begin_to_stop()
    eventually(lambda: not _connects(site.port))
    assert not running.done()
    site.services.may_end.set()
    assert running.result() == b"runs"
    site.stop()


def _connects(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_services_answer_over_the_lean_transport() -> None:
    parts = Parts(settings=ServingSettings(port=0, transport="lean"))
    with served(parts) as (server, client), server.channel() as channel:
        assert len(client.recommend("ann").items) == 3
        stub: Any = RecommendationServiceStub(channel)  # type: ignore[no-untyped-call]
        code, details = status_of(
            lambda: stub.Recommend(recommender_pb2.RecommendRequest(), timeout=20)
        )
    assert (code, details[:7]) == (grpc.StatusCode.INVALID_ARGUMENT, "user_id")


def test_raw_frames_of_the_benchmark_are_answered(site: Site) -> None:
    async def run() -> list[bytes]:
        caller = await RawCaller.connect(f"127.0.0.1:{site.port}", "/s/echo")
        answers = await asyncio.gather(*(caller.call(b"%d" % k) for k in range(10)))
        caller.close()
        return answers

    assert asyncio.run(run()) == [b"%d" % k for k in range(10)]


# Those who play with the protocol


def goaway_of(site: Site, *pieces: bytes) -> int | None:
    """The code with which the server ends a connection that says this; None: it says none."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as client:
        data = b""
        with contextlib.suppress(OSError):  # it may have ended already
            for piece in pieces:
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while chunk := client.recv(65_536):
                data += chunk
    at, code = 0, None
    while at + frames.HEAD_BYTES <= len(data):
        high, low, kind, _, _ = frames.HEAD.unpack_from(data, at)
        at += frames.HEAD_BYTES
        if kind == frames.GOAWAY:
            (code,) = struct.unpack_from(">4xI", data, at)
        at += high << 16 | low
    return code


HELLO = frames.PREFACE + frames.settings()
BLOCK = header_block("/s/wait", "a")
PING = frame(frames.PING, 0, 0, bytes(8))
OPEN = frame(frames.HEADERS, frames.END_HEADERS, 1, BLOCK)
RESETS = b"".join(
    frame(frames.HEADERS, frames.END_HEADERS, stream, BLOCK)
    + word_frame(frames.RST_STREAM, stream, frames.CANCEL)
    for stream in range(1, 4_001, 2)
)
PIECES = frame(frames.HEADERS, 0, 1, b"") + b"".join(
    frame(frames.CONTINUATION, 0, 1, literal("a", "b")) for _ in range(1_000)
)
HUGE = b"".join(literal(f"name-{k}", "x" * 100) for k in range(125))
TOO_MUCH = b"".join(frame(frames.DATA, 0, 1, b"\x00\x00\x01" + bytes(16_000)) for _ in range(20))


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", frames.PROTOCOL_ERROR),
        (HELLO + struct.pack(">BHBBI", 1, 0, 0, 0, 1), frames.FRAME_SIZE_ERROR),
        (HELLO + PING * (MAX_IDLE_FRAMES + 100), frames.ENHANCE_YOUR_CALM),
        (HELLO + frames.settings() * (MAX_IDLE_FRAMES + 100), frames.ENHANCE_YOUR_CALM),
        (HELLO + RESETS, frames.ENHANCE_YOUR_CALM),
        (HELLO + PIECES, frames.ENHANCE_YOUR_CALM),
        (HELLO + frame(frames.HEADERS, frames.END_HEADERS, 1, HUGE), frames.COMPRESSION_ERROR),
        (HELLO + frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff"), frames.COMPRESSION_ERROR),
        (HELLO + frame(frames.HEADERS, frames.END_HEADERS, 2, BLOCK), frames.PROTOCOL_ERROR),
        (HELLO + frame(frames.DATA, 0, 7, b"x"), frames.PROTOCOL_ERROR),
        (HELLO + word_frame(frames.WINDOW_UPDATE, 0, 0), frames.PROTOCOL_ERROR),
        (HELLO + word_frame(frames.WINDOW_UPDATE, 0, 2**31 - 1), frames.FLOW_CONTROL_ERROR),
        (HELLO + OPEN + TOO_MUCH, frames.FLOW_CONTROL_ERROR),
        (HELLO + frame(frames.PING, 0, 0, b"short"), frames.FRAME_SIZE_ERROR),
        (HELLO + frame(frames.PUSH_PROMISE, 0, 1, bytes(8)), frames.PROTOCOL_ERROR),
        (HELLO + frame(frames.DATA, frames.PADDED, 1, b""), frames.PROTOCOL_ERROR),
        (HELLO + frame(99, 0, 0, b"of a kind that nobody knows"), None),
    ],
)
def test_client_that_breaks_the_rules_loses_its_connection_and_nobody_elses(
    site: Site, said: bytes, code: int | None
) -> None:
    assert goaway_of(site, said) == code
    assert site.call("echo", b"1") == b"1"


@given(st.lists(st.binary(max_size=60), max_size=20))
@settings(max_examples=60, deadline=None)
def test_no_bytes_bring_the_server_down(site: Site, pieces: list[bytes]) -> None:
    address = "127.0.0.1", site.port
    with socket.create_connection(address, 20) as client, contextlib.suppress(OSError):
        client.sendall(HELLO + b"".join(frame(k % 10, 5, 1, p) for k, p in enumerate(pieces)))
    assert site.call("echo", b"1") == b"1"


# Header blocks


HUFFMAN = {
    symbol: format(first + place, f"0{bits}b")
    for bits, first, symbols in _CODES
    for place, symbol in enumerate(symbols)
}


def huffed(text: str) -> bytes:
    """A text in Huffman's code."""
    digits = "".join(HUFFMAN[byte] for byte in text.encode())
    digits += "1" * (-len(digits) % 8)
    return int(digits, 2).to_bytes(len(digits) // 8, "big") if digits else b""


@given(st.text(max_size=60))
def test_text_in_huffmans_code_is_read_as_it_was(text: str) -> None:
    assert unhuffed(huffed(text)) == text


def test_header_blocks_of_the_standard_are_read_as_it_says() -> None:
    decoder = Decoder()  # RFC 7541, appendix C.4
    first = [(":method", "GET"), (":scheme", "http"), (":path", "/")]
    host = (":authority", "www.example.com")
    assert decoder.decode(bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")) == [*first, host]
    block = bytes.fromhex("828684be5886a8eb10649cbf")
    assert decoder.decode(block) == [*first, host, ("cache-control", "no-cache")]
    last = bytes.fromhex("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf")
    assert decoder.decode(last)[-1] == ("custom-key", "custom-value")


def test_same_block_is_another_header_once_the_table_has_changed() -> None:
    decoder = Decoder()
    decoder.decode(b"\x40\x01a\x01b")
    assert decoder.decode(b"\xbe") == decoder.decode(b"\xbe") == [("a", "b")]
    decoder.decode(b"\x40\x01c\x01d")
    assert decoder.decode(b"\xbe\xbf") == [("c", "d"), ("a", "b")]
    decoder.decode(b"\x20")  # a table of no bytes
    with pytest.raises(HeaderError):
        decoder.decode(b"\xbe")


@given(st.binary(max_size=80))
@settings(max_examples=300)
def test_any_bytes_are_headers_or_a_header_error(block: bytes) -> None:
    with contextlib.suppress(HeaderError):
        assert isinstance(Decoder().decode(block), list)


def test_every_symbol_has_a_code_of_its_own() -> None:
    assert sorted(symbol for _, _, symbols in _CODES for symbol in symbols) == list(range(END + 1))
    assert sum(len(symbols) * 2.0**-bits for bits, _, symbols in _CODES) == 1.0


def test_timeouts_are_read_as_grpc_writes_them() -> None:
    assert [timeout_s(text) for text in ("1H", "2M", "3S", "4m", "5u", "6n")] == pytest.approx(
        [3_600, 120, 3, 4e-3, 5e-6, 6e-9]
    )
    assert [timeout_s(text) for text in ("", "5", "m", "x5m", "123456789S")] == [None] * 5
    assert Limits().window > Limits().max_message_bytes
