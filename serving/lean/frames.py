"""What goes over a connection (HTTP/2, https://www.rfc-editor.org/rfc/rfc9113)."""

import struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20

NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED = 0, 1, 3, 5
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 6, 7, 8, 9, 11

HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 3, 4, 5
MAX_HEADER_LIST_SIZE: Final = 6

FRAME_BYTES: Final = 16_384  # the largest that is taken, and sent
WINDOW: Final = 65_535  # of a stream and of a connection, unless told
LARGEST_WINDOW: Final = (1 << 31) - 1
HEAD: Final = struct.Struct(">BHBBI")  # length in three bytes, kind, flags, stream
HEAD_BYTES: Final = 9
SETTING: Final = struct.Struct(">HI")
WORD: Final = struct.Struct(">I")


class ConnectionLost(Exception):  # noqa: N818 (what happens, not what is wrong)
    """A client that breaks the rules: its connection ends, with this code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame as it goes out.

    >>> frame(PING, ACK, 0, bytes(8)).hex()
    '0000080601000000000000000000000000'
    """
    size = len(payload)
    return HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    """A frame of settings."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*pair) for pair in pairs))


def word_frame(kind: int, stream: int, value: int) -> bytes:
    """A frame of one number: RST_STREAM, WINDOW_UPDATE."""
    return frame(kind, 0, stream, WORD.pack(value))


def unpadded(flags: int, payload: bytes) -> bytes:
    """What a frame holds, without padding and priority. Raises ConnectionLost."""
    start, padding = 0, 0
    if flags & PADDED:
        start, padding = 1, payload[0] if payload else 256
    if flags & HAS_PRIORITY:
        start += 5
    if start + padding > len(payload):
        raise ConnectionLost(PROTOCOL_ERROR, "a frame must be longer than its padding")
    return payload[start : len(payload) - padding]
