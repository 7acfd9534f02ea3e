"""One features flow for a Redis prefix: a lease in Redis, taken at the start, kept while it runs.

Two flows over the same rows would each write its own view of them. The lease is a key that expires;
a thread renews it. A flow that finds another's lease waits until it has passed, and refuses to
start when it does not. Where the holder is known to be dead, a process of this very machine that is
gone, the lease is taken over at once.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from features.redis_config import RedisConfig
from features.redis_store import LOST, note_error
from streams import metrics

TTL_S = 5.0
RENEW_EVERY_S = 1.0
LOOK_EVERY_S = 0.1

log = structlog.get_logger(__name__)


class LeaseError(Exception):
    """Another features flow holds the rows; the message says which process it is."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a lease, as nobody else can be it."""

    place: str  # machine, its boot and the name space of its process ids
    host: str
    pid: int
    started_s: float
    nonce: str
    what: str  # for people

    @staticmethod
    def myself(what: str) -> "Holder":
        """This process."""
        started_s = psutil.Process().create_time()
        return Holder(
            _place(), socket.gethostname(), os.getpid(), started_s, uuid.uuid4().hex, what
        )

    @staticmethod
    def decode(value: bytes | None) -> "Holder | None":
        """The holder in the value of a lease; None where there is none that can be read."""
        try:
            return Holder(**json.loads(value or b""))
        except (ValueError, TypeError):
            return None

    def encode(self) -> bytes:
        """The value of the lease."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    def is_known(self) -> bool:
        """Whether this machine can tell if the process lives."""
        return bool(self.place) and self.place == _place()

    def is_dead(self) -> bool:
        """Whether the process is known to have ended."""
        return self.is_known() and not _lives(self.pid, self.started_s)

    def __str__(self) -> str:
        return f"{self.what} (process {self.pid} on {self.host})"


def lease_key(config: RedisConfig, name: str = "features") -> str:
    """Key of the lease of the flow `name`."""
    return f"{config.prefix}:{name}:lease"


def holder_of(config: RedisConfig) -> Holder | None:
    """Who holds the lease now; None where nobody alive does. Raises redis.RedisError."""
    with _client(config) as client:
        value: Any = client.get(lease_key(config))
        holder = Holder.decode(value)
    return None if holder is None or holder.is_dead() else holder


class Lease:
    """Holds the rows under a prefix for this process, as a context manager.

    Entering waits for a lease to pass whose holder may be dead, and raises LeaseError where it is
    not. `check` raises LeaseError once somebody else has it.
    """

    def __init__(
        self,
        config: RedisConfig,
        what: str = "the features flow",
        give_up: Callable[[], bool] = lambda: False,
        *,
        ttl_s: float = TTL_S,
        name: str = "features",
    ) -> None:
        self._client = _client(config)
        self._key = lease_key(config, name)
        self._me = Holder.myself(what)
        self._value = self._me.encode()
        self._give_up = give_up
        self._ttl_s = ttl_s
        self._over = threading.Event()
        self._taken_by: str | None = None
        self._redis = metrics.AGES.source("redis")
        self._thread = threading.Thread(target=self._renew_all_along, name="lease", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._take()
        except BaseException:
            self._client.close()
            raise
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        try:
            self._replace(self._value, None)
        except redis.RedisError as trouble:
            log.warning("lease_not_given_back", reason=str(trouble))
        self._client.close()

    def check(self) -> None:
        """Raises LeaseError when this process no longer is the one that may write rows."""
        if self._taken_by is not None:
            raise LeaseError(f"the rows were taken over by {self._taken_by}")

    def _take(self) -> None:
        """Takes the lease, or raises LeaseError after the time in which a dead one passes."""
        deadline_s: float | None = None
        while True:
            try:
                value = self._holding()
            except LOST as error:
                if self._give_up():
                    raise
                log.warning("redis_away", error=str(error))
                self._over.wait(LOOK_EVERY_S)
                continue
            if value == self._value:
                return
            holder = Holder.decode(value)
            if holder is None or holder.is_dead():
                self._replace(value, self._value)
                continue
            now_s = time.monotonic()
            if deadline_s is None:
                deadline_s = now_s + 1.2 * self._ttl_s
                log.warning("rows_are_held", by=str(holder), waits_s=1.2 * self._ttl_s)
            if holder.is_known() or now_s > deadline_s or self._give_up():
                raise LeaseError(f"{holder} holds these rows; stop it, or choose another prefix")
            self._over.wait(LOOK_EVERY_S)

    def _holding(self) -> bytes:
        """The value of the lease, which is ours if nobody had it."""
        self._client.set(self._key, self._value, nx=True, px=self._ttl_ms)
        found: Any = self._client.get(self._key)
        self._redis.heard()
        return bytes(found or b"")

    @property
    def _ttl_ms(self) -> int:
        return int(1_000 * self._ttl_s)

    def _replace(self, old: bytes, new: bytes | None) -> None:
        """Puts another value, or none, in the place of `old`, if that still stands there."""
        with self._client.pipeline() as pipe:
            try:
                pipe.watch(self._key)  # type: ignore[no-untyped-call]
                if pipe.get(self._key) != old:
                    return
                pipe.multi()
                if new is None:
                    pipe.delete(self._key)
                else:
                    pipe.set(self._key, new, px=self._ttl_ms)
                pipe.execute()
            except redis.WatchError:
                return

    def _renew_all_along(self) -> None:
        while not self._over.wait(min(RENEW_EVERY_S, self._ttl_s / 4)):
            try:
                if self._holding() == self._value:
                    self._client.pexpire(self._key, self._ttl_ms)
                    continue
                holder = Holder.decode(self._holding())
            except redis.RedisError as error:
                note_error(error)
                log.warning("lease_not_renewed", reason=str(error))
                continue
            if holder is not None and holder.nonce != self._me.nonce:
                self._taken_by = str(holder)
                log.error("lease_lost", to=self._taken_by)
                return


def _client(config: RedisConfig) -> redis.Redis:
    return redis.Redis.from_url(
        config.url,
        socket_timeout=config.socket_timeout_s,
        socket_connect_timeout=config.socket_timeout_s,
        retry=Retry(NoBackoff(), 0),
        **config.options,
    )


def _lives(pid: int, started_s: float) -> bool:
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started_s) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _place() -> str:
    """What makes process ids comparable; empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
