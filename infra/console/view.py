"""What panels are made from: what was observed, its short history, and what fires."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infra.console.journal import FIRING, Journal, Labels, labels_of
from infra.console.observed import Observed, ProcessSeen
from infra.console.processes import kind_of
from infra.console.trails import Trails
from infra.ops.alerts import Firing
from infra.ops.series import Series

WINDOW_S: Final = 60.0  # of rates and percentiles on the page
LONG_WINDOW_S: Final = 300.0  # of shares
STALE_S: Final = 10.0  # data older than this is shown in red

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Standing:
    """An alert that fires, or is about to."""

    name: str
    severity: str  # warn or page
    summary: str
    runbook: str  # name of the file in docs/runbooks, without .md
    labels: Labels
    value: float
    since_s: float  # since 1970
    is_firing: bool  # False: pending


def standing_of(firing: Firing) -> Standing:
    """An alert as the evaluator tells it."""
    alert = firing.alert
    return Standing(
        alert.name, alert.severity, alert.summary, Path(alert.runbook).stem,
        labels_of(dict(firing.labels)), float(firing.value), firing.since_s,
        firing.state == FIRING,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class View:
    """Everything that panels look at."""

    seen: Observed
    series: Series
    trails: Trails
    standing: Sequence[Standing]
    journal: Journal

    @property
    def now_s(self) -> float:
        """When this was seen."""
        return self.seen.now_s

    def of(self, name: str) -> list[ProcessSeen]:
        """Processes of a kind: `serve`, `serve-0`, ..."""
        return [one for one in self.seen.processes if kind_of(one.name) == name]

    def one(self, name: str, **labels: str) -> float | None:
        """The sum of the newest values of a metric; None where nobody tells it."""
        found = [value for _, value in self.series.latest(name, **labels)]
        return number(sum(found)) if found else None

    def rate(self, name: str, window_s: float = WINDOW_S, **labels: str) -> float | None:
        """What a counter grows by, a second, over all processes; None where nobody tells it."""
        found = self.series.rate(name, window_s, self.now_s, (), **labels)
        return number(sum(found.values())) if found else None

    def rates(
        self, name: str, by: str, window_s: float = WINDOW_S, **labels: str
    ) -> dict[str, float]:
        """The same by a label, without what stands still."""
        found = self.series.rate(name, window_s, self.now_s, by=(by,), **labels)
        return {group[0]: rate for group, rate in sorted(found.items()) if rate > 0}

    def percentiles(self, name: str, by: str, window_s: float = WINDOW_S) -> dict[str, Values]:
        """p50, p95 and p99 of a histogram, by a label."""
        found: dict[str, Values] = {}
        for q in (0.5, 0.95, 0.99):
            of_q = self.series.quantile(q, name, window_s, self.now_s, by=(by,))
            for group, value in of_q.items():
                found.setdefault(group[0], {})[f"p{q * 100:.0f}"] = number(value)
        rates = self.rates(f"{name}_count", by, window_s)
        return {of: {**found[of], "per_s": rates.get(of, 0.0)} for of in sorted(found)}

    def mean(self, name: str, window_s: float = LONG_WINDOW_S) -> float | None:
        """The mean of a histogram or summary; None where nothing was observed."""
        total = self.rate(f"{name}_sum", window_s)
        n = self.rate(f"{name}_count", window_s)
        return total / n if total is not None and n else None

    def plot(self, name: str) -> list[float | None]:
        """The last fifteen minutes of a figure."""
        return self.trails.plot(name, self.now_s)


def number(value: float) -> float | None:
    """A number that JSON has; None of NaN and infinities."""
    return value if math.isfinite(value) else None


def ms(at_s: float) -> int:
    """Milliseconds since 1970."""
    return round(1_000 * at_s)


def plain(value: Any) -> Any:
    """Values that JSON takes: no NaN, no infinities, six figures of each number.

    >>> plain({"lag": (1, float("nan"), 0.123456789)})
    {'lag': [1, None, 0.123457]}
    """
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) and abs(value) < 1e6 else number(value)
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value
