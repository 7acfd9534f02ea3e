"""Hands each snapshot to the browsers that listen: from the collector's thread to their loop."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

HEARTBEAT_S: Final = 10.0  # a line without meaning, so that dead connections are noticed
RETRY_MS: Final = 2_000


class TooManyStreamsError(Exception):
    """As many browsers listen as may."""


class Streams:
    """Server-sent events of one event loop; at most `limit` at a time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._n = 0
        self._newest: tuple[int, bytes] = (0, b"{}")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._is_ending = False

    def begin(self) -> None:
        """Call it in the loop that answers."""
        self._loop = asyncio.get_running_loop()

    def end(self) -> None:
        """Lets all streams end."""
        self._is_ending = True
        self._changed.set()

    def publish(self, sequence: int, snapshot: bytes) -> None:
        """A new snapshot, from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, sequence, snapshot)

    def _take(self, sequence: int, snapshot: bytes) -> None:
        self._newest = (sequence, snapshot)
        self._changed.set()
        self._changed = asyncio.Event()

    def open(self, newest: tuple[int, bytes]) -> AsyncIterator[bytes]:
        """A stream that begins with `newest`. Raises TooManyStreamsError."""
        if self._n >= self._limit:
            raise TooManyStreamsError
        self._n += 1
        return self._events(newest)

    def leave(self) -> None:
        """A stream has ended."""
        self._n -= 1

    async def _events(self, newest: tuple[int, bytes]) -> AsyncIterator[bytes]:
        """A slow browser misses snapshots, and never has two of them waiting."""
        sequence, snapshot = newest
        yield b"retry: %d\n\n" % RETRY_MS
        yield _event(sequence, snapshot)
        while not self._is_ending:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._changed.wait()
            except TimeoutError:
                yield b": still here\n\n"
                continue
            if self._newest[0] > sequence:
                sequence, snapshot = self._newest
                yield _event(sequence, snapshot)


def _event(sequence: int, snapshot: bytes) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (sequence, snapshot)
