"""Who computes now: one slate at a time, and between two of them the event loop looks round.

An event loop runs what is ready back to back. Where that is a dozen slates of some milliseconds
each, whatever arrives meanwhile waits for all of them, once for each thing that it awaits: to be
read, for the answer of Redis, to be computed; and answers of Redis that are there pass for late.
Here they wait in one line instead, each once, in the order in which they were ready.
"""

import asyncio
from collections import deque


class Turns:
    """A line of computations, of one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_taken = False

    @property
    def n_waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    async def take(self) -> None:
        """Returns when it is the caller's turn, which lasts until it awaits something. O(1)."""
        loop = asyncio.get_running_loop()
        if self._is_taken:
            turn = loop.create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():
                    self._next()
                raise
        self._is_taken = True
        loop.call_soon(self._next)  # runs once the caller has computed, and the loop looked round

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False
