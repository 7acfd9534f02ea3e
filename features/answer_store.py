"""Answers that several servers of a deployment share for some minutes, in Redis.

Read over a connection of its own, beside the rows; written where nobody waits for it. Whatever
fails is as if there were no answer.
"""

import asyncio
from typing import Final

import hiredis
import redis

from features.redis_config import RedisConfig
from features.redis_pipe import Pipe, Reply

MAX_BYTES: Final = 1 << 20  # of an answer; a larger one is not stored


class RedisAnswers:
    """In one event loop; keys are bytes of any length."""

    def __init__(self, config: RedisConfig, *, timeout_s: float = 0.03) -> None:
        self._pipe = Pipe(config.url, config.options, timeout_s=timeout_s)
        self._head = f"{config.prefix}:answer:".encode()

    def look_up(self, key: bytes) -> "asyncio.Future[bytes | None]":
        """Asks for an answer at once; the future never fails."""
        found: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

        def settle(reply: "asyncio.Future[Reply]") -> None:
            answer = _told(reply)
            if not found.done():
                found.set_result(answer)

        self._pipe.call(hiredis.pack_command((b"GET", self._name(key)))).add_done_callback(settle)
        return found

    def keep(self, key: bytes, value: bytes, keep_s: float) -> None:
        """Stores an answer for so long where there is none yet; nobody waits for it."""
        if len(value) <= MAX_BYTES and keep_s > 0:
            milliseconds = b"%d" % round(1_000 * keep_s)
            words = (b"SET", self._name(key), value, b"PX", milliseconds, b"NX")
            self._pipe.call(hiredis.pack_command(words)).add_done_callback(_told)

    async def close(self) -> None:
        """Closes the connection."""
        await self._pipe.close()

    def _name(self, key: bytes) -> bytes:
        return self._head + key.hex().encode()


def _told(reply: "asyncio.Future[Reply]") -> bytes | None:
    """What Redis answered; None for a failure, which is looked at here so that nobody else must."""
    if reply.cancelled() or isinstance(reply.exception(), redis.RedisError | OSError):
        return None
    answer: bytes | None = reply.result()
    return answer
