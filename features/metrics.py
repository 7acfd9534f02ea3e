"""What processes of every kind tell: how fresh, how Redis does, and how old their knowledge is.

A gauge that nobody sets any more looks like one that stands still. So for each source of truth the
process remembers when it last heard from it, and the age is computed at the moment of a reading.
"""

import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Final

from prometheus_client import REGISTRY, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

AGE_NAME: Final = "headrace_source_age_seconds"
AGE_HELP: Final = "Seconds since a source of truth was last heard from, as of this reading"


class Source:
    """When a source of truth was last heard from; at first, when it was named."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._heard_s = monotonic_s()

    def heard(self) -> None:
        """It has answered just now. 0.1 us."""
        self._heard_s = self._monotonic_s()

    def age_s(self) -> float:
        """Seconds since then."""
        return max(self._monotonic_s() - self._heard_s, 0.0)


class SourceAges(Collector):
    """The ages of a process's sources by name, computed when they are read.

    Where several flows of a process have a source each under one name, the oldest is told.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._sources: dict[tuple[str, str], Source | Callable[[], float]] = {}
        if registry is not None:
            registry.register(self)

    def source(self, name: str, of: str = "") -> Source:
        """The source of this name, of this flow: the same one at each call."""
        with self._lock:
            found = self._sources.get((name, of))
            if not isinstance(found, Source):
                found = self._sources[name, of] = Source(self._monotonic_s)
            return found

    def follow(self, name: str, age_s: Callable[[], float]) -> None:
        """Tells the age of a source that keeps its own time; again for another one in its place."""
        with self._lock:
            self._sources[name, ""] = age_s

    def forget(self, name: str, of: str = "") -> None:
        """A flow has ended: nobody waits for its source any more."""
        with self._lock:
            self._sources.pop((name, of), None)

    def ages_s(self) -> dict[str, float]:
        """The oldest age of each name."""
        with self._lock:
            sources = list(self._sources.items())
        ages: dict[str, float] = {}
        for (name, _), source in sources:
            age_s = source.age_s() if isinstance(source, Source) else source()
            ages[name] = max(ages.get(name, 0.0), age_s)
        return ages

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The family without its samples."""
        yield GaugeMetricFamily(AGE_NAME, AGE_HELP, labels=["source"])

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One sample a source."""
        family = GaugeMetricFamily(AGE_NAME, AGE_HELP, labels=["source"])
        for name, age_s in sorted(self.ages_s().items()):
            family.add_metric([name], age_s)
        yield family


AGES = SourceAges(REGISTRY)
FRESHNESS_BY_STAGE = Histogram(
    "headrace_freshness_seconds",
    "From the log's receipt of an event to: applied, in the flow's rows; servable, its rows "
    "readable in Redis (newest event of each batch). served: from an event acknowledged by this "
    "server to the first slate of its viewer that includes it",
    ["stage"],
    buckets=[0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300],
)
REDIS_ERRORS = Counter(
    "headrace_redis_errors",
    "Commands that Redis did not answer, or refused: connection, timeout, loading, read_only, "
    "refused",
    ["kind"],
)
REDIS_RETRIES = Counter("headrace_redis_retries", "Commands sent to Redis once more")


class Nothing:
    """Stands for a metric that is switched off: takes everything, keeps nothing."""

    def __getattr__(self, _name: str) -> Any:
        return self

    def __call__(self, *_args: Any, **_named: Any) -> Any:
        """As any method of a metric."""
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_error: object) -> None:
        """As of a timer."""


def switch_off(*modules: ModuleType) -> None:
    """Puts `Nothing` in the place of every metric that these modules name.

    For measuring what metrics cost. Call it before anything that uses them is made.
    """
    for module in modules:
        for name, value in vars(module).copy().items():
            if is_metric(value):
                setattr(module, name, Nothing())
            elif isinstance(value, dict) and value and all(map(is_metric, value.values())):
                setattr(module, name, dict.fromkeys(value, Nothing()))


def is_metric(value: object) -> bool:
    """Whether this is a metric, or one series of a metric."""
    tells = hasattr(value, "collect") or hasattr(value, "observe")
    return tells and not isinstance(value, type)
