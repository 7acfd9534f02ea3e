"""Whether a call may be made, for any transport: by key, scope, load, quota, concurrency.

with guard.admit("/headrace.v1.RecommendationService/Recommend", "hr_...", "10.0.0.7"):
...   # the call counts as running until here
"""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

import numpy as np
import structlog

from features.clock import Clock, WallClock
from serving import metrics
from serving.guard.keys import ApiKey, KeyFile, Scope
from serving.guard.overload import REFUSE, Concurrency, LoadLevel
from serving.guard.quotas import Quotas
from serving.guard.refusals import (
    OverloadedError,
    RefusalError,
    ScopeMissingError,
    UnauthenticatedError,
)

ANY_KEY: Final = "any"  # of whatever scope

_RECOMMENDATIONS = "/headrace.v1.RecommendationService/"
HEALTH: Final = "/grpc.health.v1.Health/"

# Every method of every service, and the scope that its caller's key must have. A method that is
# missing here needs ADMIN, and fails a test.
SCOPES: Final[Mapping[str, str]] = {
    **{
        _RECOMMENDATIONS + name: Scope.RECOMMEND
        for name in (
            "Recommend",
            "RecommendBatch",
            "SimilarItems",
            "Trending",
            "ContinueWatching",
            "Explain",
        )
    },
    "/headrace.v1.IngestService/Track": Scope.INGEST,
    "/headrace.v1.IngestService/TrackMany": Scope.INGEST,
    "/headrace.v1.AdminService/DeleteUser": Scope.ADMIN,
    "/headrace.v1.AdminService/PutRule": Scope.ADMIN,
    "/headrace.v1.AdminService/DeleteRule": Scope.ADMIN,
    "/headrace.v1.AdminService/ListRules": Scope.ADMIN,
    HEALTH + "Check": ANY_KEY,
    HEALTH + "List": ANY_KEY,
    HEALTH + "Watch": ANY_KEY,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Scope.ADMIN,
}
RETRY_MS: Final = (50, 150)  # between these, so that clients do not come back all at once

log = structlog.get_logger(__name__)


class Admission:
    """A call that may be made. From `begin` on it counts as running, until `release`."""

    __slots__ = ("_concurrency", "_retry_ms", "_runs", "key")

    def __init__(self, key: ApiKey | None, concurrency: Concurrency, retry_ms: int) -> None:
        self.key = key
        self._concurrency = concurrency
        self._retry_ms = retry_ms
        self._runs = False

    def begin(self) -> Self:
        """All of the request is here. Raises TooManyCallsError."""
        self._concurrency.enter(self._retry_ms)
        self._runs = True
        return self

    def release(self) -> None:
        """The call has ended; saying so twice is harmless."""
        if self._runs:
            self._concurrency.leave()
            self._runs = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class Guard:
    """Admits calls or refuses them. In one event loop; O(1) and about 5 us a call.

    Without keys everybody may do everything, as often as they like: for loopback alone.
    """

    def __init__(
        self,
        keys: KeyFile | None = None,
        *,
        load: LoadLevel | None = None,
        max_concurrent: int = 256,
        n_processes: int = 1,
        is_health_open: bool = True,
        wall: Clock | None = None,
        steady_s: Callable[[], float] = time.monotonic,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.load = load or LoadLevel()
        self._keys = keys
        self._quotas = Quotas(n_processes)
        self._concurrency = Concurrency(max_concurrent)
        self._health = Concurrency(max_concurrent)
        self._is_health_open = is_health_open
        self._wall = wall or WallClock()
        self._steady_s = steady_s
        self._rng = rng or np.random.default_rng()

    @property
    def has_keys(self) -> bool:
        """Whether callers must say who they are."""
        return self._keys is not None

    @property
    def running(self) -> int:
        """Calls that were admitted and not released."""
        return self._concurrency.running

    def admit(self, method: str, presented_key: str | None, peer: str = "") -> Admission:
        """Lets a call in whose request is here. Raises RefusalError; see serving.guard.refusals.

        `method` is gRPC's full name of it, whatever the transport. Calls for health are not charged
        and have a limit of their own: a server that is full still says that it lives.
        """
        return self.begun(self.allow(method, presented_key, peer))

    def allow(self, method: str, presented_key: str | None, peer: str = "") -> Admission:
        """The same for a call whose request is still on its way; `begun` must follow."""
        try:
            return self._allow(method, presented_key, peer)
        except RefusalError as refusal:
            metrics.REFUSED.labels(refusal.reason).inc()
            raise

    def begun(self, admission: Admission) -> Admission:
        """Counts a call as running. Raises TooManyCallsError."""
        try:
            return admission.begin()
        except RefusalError as refusal:
            metrics.REFUSED.labels(refusal.reason).inc()
            raise

    def wait_s(self, admission: Admission) -> float:
        """Charges a further message of a stream; seconds until it may be taken, 0: now."""
        key = admission.key
        return 0.0 if key is None else self._quotas.wait_s(key, self._steady_s())

    def name_of(self, presented_key: str | None) -> str:
        """Client and id of a key that counts, for the history of what was done; else empty."""
        if self._keys is None:
            return ""
        key = self._keys.ring.find(presented_key, self._wall.now_ms())
        return "" if key is None else f"{key.client}/{key.id}"

    def refresh(self) -> None:
        """Takes over a changed file of keys; call it twice a second."""
        if self._keys is not None and self._keys.refresh():
            self._quotas.keep({(key.client, key.rate, key.burst) for key in self._keys.ring})

    def _allow(self, method: str, presented_key: str | None, peer: str) -> Admission:
        key = self._authorised(method, presented_key)
        if method.startswith(HEALTH):
            return Admission(key, self._health, RETRY_MS[0])
        scope = SCOPES.get(method, Scope.ADMIN)
        if scope == Scope.ADMIN:
            log.info("admin_call", method=method, key=key and key.id, peer=peer)
        if scope == Scope.RECOMMEND:
            self._shed(method)
        if key is not None:
            self._quotas.charge(key, self._steady_s())
        return Admission(key, self._concurrency, self._retry_ms())

    def _authorised(self, method: str, presented: str | None) -> ApiKey | None:
        if self._keys is None or (self._is_health_open and method.startswith(HEALTH)):
            return None
        key = self._keys.ring.find(presented, self._wall.now_ms())
        if key is None:
            raise UnauthenticatedError
        scope = SCOPES.get(method, Scope.ADMIN)
        if scope != ANY_KEY and scope not in key.scopes:
            raise ScopeMissingError(scope)
        return key

    def _shed(self, method: str) -> None:
        """Refuses what cannot be answered in time; counts what is answered more cheaply."""
        level = self.load.level
        if level:
            metrics.SHED.labels(method, str(level)).inc()
        if level >= REFUSE and self._rng.random() < self.load.refused_share:
            raise OverloadedError("more is asked than can be answered", self._retry_ms())

    def _retry_ms(self) -> int:
        return int(self._rng.integers(*RETRY_MS))
