"""Bundles that change while slates are served: seen, loaded beside the old one, tried, swapped.

    pointer changed -> load and check -> canary slates -> swap    a second's look, jittered
                         in a thread of its own            in the event loop, one reference

The thread shares the interpreter with the loop, so it must never hold it for long: what it does in
Python gives way every 0.5 ms, and files are read, hashed and checked by code that lets go of it. A
bundle that is broken, or whose slates are, is refused with its reason, and the old one stays.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Generic, TypeVar

import numpy as np
import structlog

from features.bundle_format import CURRENT, MANIFEST, read_pointer
from features.store import USERS
from serving import metrics
from serving.bundle import Bundle, BundleError, load_bundle
from serving.slate import Query, Slate, Viewer

LOOK_EVERY_S: Final = 1.0
GIVE_WAY_S: Final = 0.0005  # the interpreter's own default is ten times as long
N_LIKED: Final = 5
JITTER: Final = 0.25  # of the time between looks, either way

T = TypeVar("T")
Stamp = tuple[int, ...]

log = structlog.get_logger(__name__)


class CanaryError(Exception):
    """A bundle that could be read gives slates that may not be shown; the message says why."""


def canary_viewers(bundle: Bundle) -> list[Viewer]:
    """Somebody unknown, somebody new, and somebody who likes titles of the bundle."""
    fan = USERS.empty.copy()
    liked = bundle.models.ids[:N_LIKED]
    fan["viewing"]["titles"]["item"][0][: len(liked)] = liked
    return [Viewer(None), Viewer(USERS.empty), Viewer(fan)]


def try_out(recommend: Callable[[Query, Viewer, int], Slate], bundle: Bundle, now_ms: int) -> None:
    """Has slates made with a bundle. Raises CanaryError where one must not be shown."""
    for viewer in canary_viewers(bundle):
        check_slate(recommend(Query("canary"), viewer, now_ms), bundle.version)


def check_slate(slate: Slate, version: str) -> None:
    """Raises CanaryError unless there are titles, each once, with scores that are numbers."""
    if not slate.items:
        raise CanaryError("a canary's slate must not be empty; it is")
    if slate.bundle_version != version:
        raise CanaryError(f"a canary's slate must come from {version}; got {slate.bundle_version}")
    ids = [item.item_id for item in slate.items]
    if len(set(ids)) != len(ids):
        raise CanaryError("a canary's slate must have each title once; some are there twice")
    if not np.isfinite([item.score for item in slate.items]).all():
        raise CanaryError("scores of a canary's slate must be finite; got NaN or infinity")


class BundleWatcher(Generic[T]):
    """Takes the bundle that the pointer names into use. One load at a time, however often asked.

    `prepare` makes of a bundle whatever is swapped in, and tries it: it runs in a thread, and what
    it raises refuses the bundle. `swap` runs in the event loop, between two requests, and must only
    change references. `pause` comes before a load, so that the processes of a machine do not all
    load at once.
    """

    def __init__(
        self,
        bundles: Path,
        prepare: Callable[[Bundle], T],
        swap: Callable[[T], None],
        *,
        version: str,
        rng: np.random.Generator,
        every_s: float = LOOK_EVERY_S,
        spread_s: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._bundles = bundles
        self._prepare = prepare
        self._swap = swap
        self.version = version
        self._rng = rng
        self._every_s = every_s
        self._spread_s = spread_s
        self._sleep = sleep
        self._seen: Stamp | None = None
        self._loading = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "bundle")

    async def run(self) -> None:
        """Looks at the pointer until it is cancelled."""
        try:
            while True:
                await self._sleep(self._every_s * self._rng.uniform(1 - JITTER, 1 + JITTER))
                await self.look()
        finally:
            self._thread.shutdown(wait=False)

    async def look(self) -> bool:
        """Takes the current bundle into use where it is another; whether it was.

        One that was refused is tried again when the pointer or its manifest is written anew.
        """
        async with self._loading:
            stamp = _stamp(self._bundles)
            if stamp is None or stamp == self._seen:
                return False
            self._seen = stamp
            try:
                return await self._take()
            except (BundleError, CanaryError) as error:
                outcome = "broken" if isinstance(error, BundleError) else "canary"
                self._refuse(outcome, str(error))
            except Exception as error:
                self._refuse("failed", f"{type(error).__name__}: {error}")
            return False

    async def _take(self) -> bool:
        version = read_pointer(self._bundles)
        if version == self.version:
            return False
        began_s = time.perf_counter()
        if self._spread_s:
            await self._sleep(self._rng.uniform(0, self._spread_s))
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self._thread, self._load, version)
        self._swap(prepared)
        self.version = version
        seconds = time.perf_counter() - began_s
        metrics.RELOADS.labels("taken").inc()
        metrics.RELOAD_SECONDS.observe(seconds)
        log.info("bundle_taken", version=version, seconds=round(seconds, 3))
        return True

    def _load(self, version: str) -> T:
        with giving_way():
            return self._prepare(load_bundle(self._bundles / version))

    def _refuse(self, outcome: str, reason: str) -> None:
        metrics.RELOADS.labels(outcome).inc()
        log.error("bundle_refused", reason=reason, in_use=self.version)


@contextmanager
def giving_way() -> Iterator[None]:
    """Threads hand the interpreter over more often: the loop waits for it 0.5 ms at most."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(GIVE_WAY_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)


def _stamp(bundles: Path) -> Stamp | None:
    """What changes when the pointer is replaced, or the bundle behind it; None without one."""
    try:
        pointer = (bundles / CURRENT).stat()
    except OSError:
        return None
    try:
        manifest = (bundles / read_pointer(bundles) / MANIFEST).stat()
    except (OSError, BundleError):
        return pointer.st_ino, pointer.st_mtime_ns
    return pointer.st_ino, pointer.st_mtime_ns, manifest.st_ino, manifest.st_mtime_ns
