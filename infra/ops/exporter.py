"""What the console measured itself, for Prometheus: independent of the flows' own word."""

import math
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from infra.console.observed import Observed
from infra.ops.scrape import Sample


class OpsCollector(Collector):
    """Tells Prometheus what was observed last."""

    def __init__(self, observed: Callable[[], Observed | None]) -> None:
        self._observed = observed

    def collect(self) -> Iterator[Metric]:
        """One family a name; nothing before the first look."""
        found = self._observed()
        if found is not None:
            yield from families_of(found)


def samples_of(found: Observed) -> Iterator[Sample]:
    """The same for alerts and plots of this process."""
    for family in families_of(found):
        for sample in family.samples:
            yield Sample(sample.name, dict(sample.labels), float(sample.value))


def families_of(found: Observed) -> Iterator[Metric]:
    """All families. A source that is away has no figures, not its old ones."""
    yield from _processes(found)
    yield _one("headrace_ops_broker_up", "Whether the broker answers", _flag(found.log.is_well))
    yield _one("headrace_ops_redis_up", "Whether Redis answers", _flag(found.store.is_well))
    yield from _log(found)
    store = found.store.value
    if found.store.is_well and store is not None:
        yield _one("headrace_ops_redis_memory_bytes", "Memory in use by Redis", store.memory_bytes)
        yield _one(
            "headrace_ops_redis_memory_limit_bytes",
            "maxmemory of Redis, or the machine's memory where it has no limit",
            store.memory_limit_bytes,
        )
    probe = found.probe
    if probe is not None and probe.is_well and probe.value is not None:
        yield _one(
            "headrace_ops_probe_freshness_seconds",
            "From before a probe event was sent to its row read in Redis, newest probe",
            probe.value.seconds,
        )


def _processes(found: Observed) -> Iterator[Metric]:
    yield _by(
        "headrace_ops_up",
        "1 where the process answers its scrape and is ready",
        ["process"],
        (((one.name,), _flag(one.is_up)) for one in found.processes),
    )
    yield _by(
        "headrace_ops_scrape_age_seconds",
        "Since the process last answered its scrape",
        ["process"],
        (
            ((one.name,), age_s)
            for one in found.processes
            if math.isfinite(age_s := one.reading.age_s(found.now_s))
        ),
    )


def _log(found: Observed) -> Iterator[Metric]:
    seen = found.log.value
    if not found.log.is_well or seen is None:
        return
    yield _one(
        "headrace_ops_log_age_seconds",
        "Since the broker was last asked where topics end and what is committed",
        found.log.age_s(found.now_s),
    )
    labels = ["flow", "topic", "partition"]
    known = [lag for lag in found.lags if lag.records >= 0]
    yield _by(
        "headrace_ops_lag",
        "Records that are not applied; not committed, where a flow is silent",
        labels,
        (((lag.flow, lag.topic, str(lag.partition)), lag.records) for lag in known),
    )
    yield _by(
        "headrace_ops_lag_seconds",
        "Age of the oldest record that waits, by the log's receipt; 0 where none does",
        labels,
        (
            ((lag.flow, lag.topic, str(lag.partition)), lag.seconds)
            for lag in known
            if lag.seconds >= 0
        ),
    )
    yield _by(
        "headrace_ops_committed_offset",
        "What the flow's group has committed, as the broker tells it",
        labels,
        ((tuple(map(str, key)), at) for key, at in sorted(seen.committed.items()) if at >= 0),
    )
    yield _by(
        "headrace_ops_log_end_offset",
        "Offset behind the last record, as the broker tells it",
        ["topic", "partition"],
        (((topic, str(partition)), end) for (topic, partition), end in seen.ends.items()),
    )
    yield _one("headrace_ops_dead_letters", "Records in dead-letters", found.n_dead_letters)


def _flag(value: bool) -> float:
    return 1.0 if value else 0.0


def _one(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _by(
    name: str, text: str, labels: list[str], values: Iterable[tuple[tuple[str, ...], float]]
) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for of, value in values:
        family.add_metric(list(of), value)
    return family
