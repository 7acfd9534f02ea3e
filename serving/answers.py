"""Answers to requests that came with an id of their client's: asked again, answered the same.

A retry must not become a second slate: the viewer would see another one, and the log would hold
two decisions for what was shown once. So an answer stays for some minutes, by viewer and request
id, and the same request gets these very bytes. While the first is being answered, others wait for
it. Kept in the memory of the process and, where there is a shared store, there too for the other
processes: read at the same time as the viewer's row, written after the answer has gone.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol, Self, TypeVar

from serving.errors import RepeatedRequestIdError
from serving.pages import DIGEST_BYTES, digest_of
from serving.settings import ServingSettings

MAX_ANSWERS: Final = 10_000
MAX_BYTES: Final = 64 * 1_024 * 1_024
KEEP_S: Final = 300.0

T = TypeVar("T")


class SharedAnswers(Protocol):
    """Answers that all processes of a deployment see; failures are absences."""

    def look_up(self, key: bytes) -> Awaitable[bytes | None]:
        """Asks for an entry at once; the result can be awaited later."""

    def keep(self, key: bytes, value: bytes, keep_s: float) -> None:
        """Stores an entry where there is none, some time soon."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as answers are kept by."""

    viewer: tuple[str, str]  # account and profile
    request_id: str
    digest: bytes  # of the whole request

    @property
    def key(self) -> bytes:
        """What it is stored under: 16 bytes, from which no name can be read back."""
        parts = [part.encode() for part in (*self.viewer, self.request_id)]
        return digest_of(b"".join(b"%d:%b" % (len(part), part) for part in parts))


@dataclass(frozen=True, slots=True)
class _Kept:
    digest: bytes
    answer: bytes
    until_s: float


class Answers:
    """The last answers, within limits of age, number and bytes. In one event loop."""

    def __init__(
        self,
        *,
        keep_s: float = KEEP_S,
        max_answers: int = MAX_ANSWERS,
        max_bytes: int = MAX_BYTES,
        shared: SharedAnswers | None = None,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keep_s = keep_s
        self._max_answers = max_answers
        self._max_bytes = max_bytes
        self._shared = shared
        self._steady_s = steady_s
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()  # the oldest first
        self._underway: dict[bytes, tuple[bytes, asyncio.Future[None]]] = {}
        self._n_bytes = 0

    @classmethod
    def of(cls, settings: ServingSettings, shared: SharedAnswers | None = None) -> Self:
        """As the settings say."""
        return cls(
            keep_s=settings.answers_kept_s,
            max_answers=settings.answers_kept,
            max_bytes=settings.answers_kept_mib * 1_048_576,
            shared=shared,
        )

    async def once(
        self, asked: Asked, prepare: Callable[[], Awaitable[T]], make: Callable[[T], bytes]
    ) -> bytes:
        """The answer to a request: the one it had, or what is made now of what was prepared.

        Raises RepeatedRequestIdError, and what `prepare` and `make` raise: then nothing is kept.
        """
        key = asked.key
        while (underway := self._underway.get(key)) is not None:
            digest, done = underway
            _check(asked, digest)
            await asyncio.shield(done)
        if (kept := self._current(key)) is not None:
            _check(asked, kept.digest)
            return kept.answer
        done = asyncio.get_running_loop().create_future()
        self._underway[key] = asked.digest, done
        try:
            answer = await self._found_or_made(key, asked, prepare, make)
            self._keep(key, _Kept(asked.digest, answer, self._steady_s() + self._keep_s))
        finally:
            del self._underway[key]
            done.set_result(None)
        return answer

    async def _found_or_made(
        self,
        key: bytes,
        asked: Asked,
        prepare: Callable[[], Awaitable[T]],
        make: Callable[[T], bytes],
    ) -> bytes:
        """The answer that another process gave, or a new one."""
        shared = self._shared
        if shared is None:
            return make(await prepare())
        look_up = shared.look_up(key)
        prepared = await prepare()
        if (found := await look_up) is not None:
            _check(asked, found[:DIGEST_BYTES])
            return found[DIGEST_BYTES:]
        answer = make(prepared)
        loop = asyncio.get_running_loop()
        loop.call_soon(shared.keep, key, asked.digest + answer, self._keep_s)
        return answer

    def _current(self, key: bytes) -> _Kept | None:
        kept = self._kept.get(key)
        return None if kept is None or kept.until_s < self._steady_s() else kept

    def _keep(self, key: bytes, kept: _Kept) -> None:
        if (old := self._kept.pop(key, None)) is not None:
            self._n_bytes -= len(old.answer)
        self._kept[key] = kept
        self._n_bytes += len(kept.answer)
        now_s = self._steady_s()
        while self._kept and (self._is_full() or next(iter(self._kept.values())).until_s < now_s):
            _, oldest = self._kept.popitem(last=False)
            self._n_bytes -= len(oldest.answer)

    def _is_full(self) -> bool:
        return len(self._kept) > self._max_answers or self._n_bytes > self._max_bytes


def _check(asked: Asked, digest: bytes) -> None:
    if digest != asked.digest:
        raise RepeatedRequestIdError(asked.request_id)
