"""Header blocks to headers (HPACK, https://www.rfc-editor.org/rfc/rfc7541).

Decoding is whole: static and dynamic table, Huffman. What is sent needs none of it: answers have
the same few headers each time, as literals.
"""

from collections import deque
from functools import lru_cache
from typing import Final

TABLE_BYTES: Final = 4_096  # of the dynamic table, which clients may make smaller
ENTRY_BYTES: Final = 32  # that an entry counts for, beside its text
MAX_LIST_BYTES: Final = 16_384  # of the headers of a call, counted likewise
_KEPT: Final = 4_096  # texts that were decoded lately

_STATIC_TEXT: Final = """
:authority
:method=GET
:method=POST
:path=/
:path=/index.html
:scheme=http
:scheme=https
:status=200
:status=204
:status=206
:status=304
:status=400
:status=404
:status=500
accept-charset
accept-encoding=gzip, deflate
accept-language accept-ranges accept access-control-allow-origin age allow authorization
cache-control content-disposition content-encoding content-language content-length content-location
content-range content-type cookie date etag expect expires from host if-match if-modified-since
if-none-match if-range if-unmodified-since last-modified link location max-forwards
proxy-authenticate proxy-authorization range referer refresh retry-after server set-cookie
strict-transport-security transfer-encoding user-agent vary via www-authenticate
"""


def _static() -> tuple[tuple[str, str], ...]:
    """The entries that every table begins with (RFC 7541, appendix A)."""
    found = []
    for line in _STATIC_TEXT.strip().splitlines():
        for word in [line] if "=" in line else line.split():
            name, _, value = word.partition("=")
            found.append((name, value))
    return tuple(found)


STATIC: Final = _static()

# Bits of each symbol's code, 0 to 255 and the end; the codes follow from them, since symbols of
# one length have successive codes, and shorter ones come first (RFC 7541, appendix B).
_BITS: Final = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b"
    "080606060505050606060606060607080f060c0a0d0607070707070707070707070707070707070707070707"
    "0807080d130d0e060f05060506050606060507070606060506070605050607070707070f0b0e0d1c14161414"
    "1616161716171717171718171818161718171717171516171617171816151416161717151716161815161717"
    "151516151716171714161616171616171a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a"
    "1c1b1b1b14181415161515171616191918181a171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)
END: Final = 256


class HeaderError(Exception):
    """A header block that cannot be read; what follows it cannot be either."""


def _canonical() -> list[tuple[int, int, list[int]]]:
    """Of each length: bits, the first code, and the symbols in order of their codes."""
    found, code, before = [], 0, 0
    for bits in sorted(set(_BITS)):
        symbols = [symbol for symbol in range(END + 1) if _BITS[symbol] == bits]
        code <<= bits - before
        found.append((bits, code, symbols))
        code, before = code + len(symbols), bits
    return found


_CODES: Final = _canonical()
_LONGEST: Final = 30


@lru_cache(_KEPT)
def unhuffed(data: bytes) -> str:
    """A text that is written in Huffman's code. Raises HeaderError.

    >>> unhuffed(bytes.fromhex("f1e3c2e5f23a6ba0ab90f4ff"))
    'www.example.com'
    """
    out, held, n_held, at = bytearray(), 0, 0, 0
    while True:
        while n_held < _LONGEST and at < len(data):
            held, n_held, at = held << 8 | data[at], n_held + 8, at + 1
        for bits, first, symbols in _CODES:
            if bits > n_held:
                if n_held > 7 or held != (1 << n_held) - 1:
                    raise HeaderError("a text must end with less than a byte of ones")
                return out.decode("utf-8", "replace")
            place = (held >> (n_held - bits)) - first
            if 0 <= place < len(symbols):
                break
        else:
            raise HeaderError("a text has a code that is none")
        if symbols[place] == END:
            raise HeaderError("a text has the code of the end")
        out.append(symbols[place])
        n_held -= bits
        held &= (1 << n_held) - 1


class Decoder:
    """Reads the header blocks of one connection, in order; each may add to the table."""

    def __init__(self) -> None:
        self._table: deque[tuple[str, str]] = deque()
        self._table_bytes = 0
        self._limit = TABLE_BYTES
        self._read: dict[bytes, list[tuple[str, str]]] = {}  # blocks read with the table as it is

    def decode(self, block: bytes) -> list[tuple[str, str]]:
        """Names and values. Raises HeaderError."""
        known = self._read.get(block)
        if known is not None:
            return known
        try:
            headers, has_changed = self._decode(block)
        except IndexError:
            raise HeaderError("a header block must not end within a header") from None
        if has_changed or len(self._read) > 64:
            self._read.clear()
        if not has_changed:
            self._read[block] = headers
        return headers

    def _decode(self, block: bytes) -> tuple[list[tuple[str, str]], bool]:
        headers, at, size, has_changed = [], 0, 0, False
        while at < len(block):
            first = block[at]
            if first & 0x80:
                index, at = _integer(block, at, 7)
                header = self._entry(index)
            elif first & 0xE0 == 0x20:
                limit, at = _integer(block, at, 5)
                self._resize(limit)
                has_changed = True
                continue
            else:
                is_kept = bool(first & 0x40)
                header, at = self._literal(block, at, 6 if is_kept else 4)
                if is_kept:
                    self._add(header)
                    has_changed = True
            size += ENTRY_BYTES + len(header[0]) + len(header[1])
            if size > MAX_LIST_BYTES:
                raise HeaderError(f"headers must have at most {MAX_LIST_BYTES} bytes")
            headers.append(header)
        return headers, has_changed

    def _literal(self, block: bytes, at: int, prefix: int) -> tuple[tuple[str, str], int]:
        index, at = _integer(block, at, prefix)
        if index:
            name = self._entry(index)[0]
        else:
            name, at = _text(block, at)
        value, at = _text(block, at)
        return (name, value), at

    def _entry(self, index: int) -> tuple[str, str]:
        if 0 < index <= len(STATIC):
            return STATIC[index - 1]
        if index == 0 or index - len(STATIC) > len(self._table):
            raise HeaderError(f"the table of headers has no entry {index}")
        return self._table[index - len(STATIC) - 1]

    def _add(self, header: tuple[str, str]) -> None:
        self._table_bytes += _size(header)
        self._table.appendleft(header)
        self._evict()

    def _resize(self, limit: int) -> None:
        if limit > TABLE_BYTES:
            raise HeaderError(f"the table of headers must have at most {TABLE_BYTES} bytes")
        self._limit = limit
        self._evict()

    def _evict(self) -> None:
        while self._table_bytes > self._limit:
            self._table_bytes -= _size(self._table.pop())


def literal(name: str, value: str) -> bytes:
    """A header as it goes out: by name and value, kept in no table.

    >>> literal("grpc-status", "0").hex()
    '000b677270632d7374617475730130'
    """
    return b"\x00" + _sized(name.encode()) + _sized(value.encode())


def _sized(data: bytes) -> bytes:
    size = len(data)
    if size < 0x7F:
        return bytes([size]) + data
    rest, head = size - 0x7F, bytearray([0x7F])
    while rest >= 0x80:
        head.append(rest & 0x7F | 0x80)
        rest >>= 7
    head.append(rest)
    return bytes(head) + data


def _size(header: tuple[str, str]) -> int:
    return ENTRY_BYTES + len(header[0].encode()) + len(header[1].encode())


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """A number that begins within a byte, and where the next thing begins."""
    most = (1 << prefix) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in (0, 7, 14, 21):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise HeaderError("a number in a header block is too large")


def _text(block: bytes, at: int) -> tuple[str, int]:
    is_huffman = block[at] & 0x80
    size, at = _integer(block, at, 7)
    end = at + size
    if end > len(block):
        raise HeaderError("a header block must not end within a text")
    data = block[at:end]
    return (unhuffed(data) if is_huffman else data.decode("utf-8", "replace")), end
