"""What processes told in the last minutes, in memory: the small part of Prometheus that we need.

    samples of a process --observe--> Series --latest, rate, quantile, points--> alerts, plots

Answers are Prometheus' own: a rate is extrapolated and steps over counters that began again, a
quantile is interpolated within its bucket, and a window has both its ends (Prometheus 3 leaves out
the first of two that are exactly as far apart as the window is long). A process that did not
answer has no values at that moment, not its old ones; like Prometheus, the series `up` says so.
"""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from infra.ops.scrape import Sample

HISTORY_S: Final = 900.0
STEP_S: Final = 2.0
MAX_SERIES: Final = 20_000
STALE_S: Final = 30.0  # what was told longer ago than this is not the latest of anything
PROCESS: Final = "process"
UP: Final = "up"

Where = str | tuple[str, ...]  # the value of a label, or any of several
Floats = NDArray[np.float64]
Key = tuple[str, tuple[tuple[str, str], ...]]  # a name, and labels in their order

AGGREGATIONS: Final[Mapping[str, Callable[[Iterable[float]], float]]] = {
    "sum": math.fsum,
    "max": max,
    "min": min,
}


@dataclass(frozen=True, slots=True)
class Window:
    """One series over a window: readings at `times_s`, ascending; at least one."""

    labels: dict[str, str]
    times_s: Floats
    values: Floats
    is_new: bool  # its process was read before and had no such series: a counter was 0 then


@dataclass(slots=True)
class _Process:
    """The readings of one process: a row of values each, a column for each series it ever told."""

    readings: deque[tuple[float, Floats]]
    columns: dict[Key, int] = field(default_factory=dict)
    labels: list[dict[str, str]] = field(default_factory=list)
    by_name: dict[str, list[int]] = field(default_factory=dict)

    def add(self, key: Key) -> None:
        """Gives a new series its column."""
        self.columns[key] = column = len(self.labels)
        self.labels.append(dict(key[1]))
        self.by_name.setdefault(key[0], []).append(column)

    def append(self, at_s: float, told: Mapping[Key, float], oldest_s: float) -> None:
        """Adds a reading of known series and drops those before `oldest_s`."""
        row = np.full(len(self.labels), np.nan)
        row[[self.columns[key] for key in told]] = list(told.values())
        self.readings.append((at_s, row))
        while self.readings[0][0] < oldest_s:
            self.readings.popleft()

    def forget_dead(self) -> None:
        """Drops series that no reading has any more. O(readings * series), so seldom."""
        width = len(self.labels)
        rows = [_wide(row, width) for _, row in self.readings]
        told = ~np.isnan(np.array(rows).reshape(-1, width))
        alive = {self.columns[key] for key in self.columns if key[0] == UP}
        alive |= set(np.flatnonzero(told.sum(axis=0)).tolist())
        kept = [key for key, column in self.columns.items() if column in alive]
        old = [self.columns[key] for key in kept]
        self.columns, self.labels, self.by_name = {}, [], {}
        for key in kept:
            self.add(key)
        times_s = [at_s for at_s, _ in self.readings]
        self.readings.clear()
        self.readings.extend((at_s, row[old]) for at_s, row in zip(times_s, rows, strict=True))

    def matching(self, name: str, where: Mapping[str, Where]) -> list[int]:
        """Columns of the series of a name whose labels are as asked for."""
        return [c for c in self.by_name.get(name, ()) if _matches(self.labels[c], where)]

    def window(self, columns: Sequence[int], from_s: float, to_s: float) -> Iterator[Window]:
        """What these series told from `from_s` to `to_s`, both included."""
        if not columns:
            return
        taken = [(at_s, row) for at_s, row in self.readings if from_s <= at_s <= to_s]
        if not taken:
            return
        times_s = np.array([at_s for at_s, _ in taken])
        rows = np.array([_wide(row, len(self.labels))[columns] for _, row in taken])
        before = [row for at_s, row in self.readings if at_s < from_s][-1:]
        for i, column in enumerate(columns):
            there = ~np.isnan(rows[:, i])
            if there.any():
                first = int(there.argmax())
                earlier = before if first == 0 else [_wide(taken[first - 1][1], len(self.labels))]
                is_new = bool(earlier) and self._was_up(earlier[0]) and _lacks(earlier[0], column)
                yield Window(self.labels[column], times_s[there], rows[there, i], is_new)

    def _was_up(self, row: Floats) -> bool:
        return bool(row[self.by_name[UP][0]] == 1)


class Series:
    """Bounded history of what processes told.

    `history_s` at one reading each `step_s`; `max_series` series of all processes together, of
    which those beyond are left out and counted in `dropped`. 8 bytes a series and reading.
    """

    def __init__(
        self,
        history_s: float = HISTORY_S,
        step_s: float = STEP_S,
        max_series: int = MAX_SERIES,
        stale_s: float = STALE_S,
    ) -> None:
        self._history_s = history_s
        self._max_readings = math.ceil(history_s / step_s) + 1
        self._max_series = max_series
        self._stale_s = stale_s
        self._processes: dict[str, _Process] = {}
        self._now_s = -math.inf
        self.dropped = 0

    def __len__(self) -> int:
        """How many series are held."""
        return sum(len(process.columns) for process in self._processes.values())

    def observe(self, process: str, samples: Iterable[Sample], now_s: float) -> None:
        """Takes in one reading of a process; no samples at all mean that it did not answer.

        Give all processes of a round the same `now_s`, never less than before. A sample's own
        label `process` stays; one without it gets the name of the process.
        """
        told = {_key_of(sample, process): sample.value for sample in samples}
        up = (UP, ((PROCESS, process),))
        told[up] = float(bool(told))
        one = self._processes.get(process)
        if one is None:
            one = self._processes[process] = _Process(deque(maxlen=self._max_readings))
            one.add(up)
        self._now_s = max(self._now_s, now_s)
        one.append(now_s, self._known(one, told), now_s - self._history_s)

    def _known(self, one: _Process, told: dict[Key, float]) -> dict[Key, float]:
        """Those that there is room for; the series among them that are new get their columns."""
        new = [key for key in told if key not in one.columns]
        if len(new) > self._max_series - len(self):
            for process in self._processes.values():
                process.forget_dead()
            new = [key for key in told if key not in one.columns]
        room = max(self._max_series - len(self), 0)
        for key in new[:room]:
            one.add(key)
        for key in new[room:]:
            del told[key]
        self.dropped += len(new[room:])
        return told

    def latest(self, name: str, **labels: Where) -> list[tuple[dict[str, str], float]]:
        """The newest value of each series, if its process told it when it was last read."""
        found: list[tuple[dict[str, str], float]] = []
        for process in self._processes.values():
            at_s, row = process.readings[-1]
            if at_s < self._now_s - self._stale_s:
                continue
            found += [
                (dict(process.labels[column]), float(row[column]))
                for column in process.matching(name, labels)
                if not _lacks(row, column)
            ]
        return found

    def windows(
        self, name: str, window_s: float, now_s: float, **labels: Where
    ) -> Iterator[Window]:
        """Each series over the last `window_s`, if it has a reading there."""
        for process in self._processes.values():
            columns = process.matching(name, labels)
            yield from process.window(columns, now_s - window_s, now_s)

    def rate(
        self,
        name: str,
        window_s: float,
        now_s: float,
        by: tuple[str, ...] = (),
        **labels: Where,
    ) -> dict[tuple[str, ...], float]:
        """`sum by (BY) (rate(NAME[WINDOW]))`: a second; by the values of `by`.

        Series with fewer than two readings in the window have no rate. O(readings in the window).
        """
        found: dict[tuple[str, ...], float] = defaultdict(float)
        for window in self.windows(name, window_s, now_s, **labels):
            increase = increase_of(window.times_s, window.values, now_s - window_s, now_s)
            if increase is not None:
                found[_group(window.labels, by)] += increase / window_s
        return dict(found)

    def quantile(
        self,
        q: float,
        name: str,
        window_s: float,
        now_s: float,
        by: tuple[str, ...] = (),
        **labels: Where,
    ) -> dict[tuple[str, ...], float]:
        """`histogram_quantile(Q, sum by (BY, le) (rate(NAME_bucket[WINDOW])))`.

        `name` is the histogram's, without `_bucket`. Groups without observations are left out.
        """
        rates = self.rate(f"{name}_bucket", window_s, now_s, (*by, "le"), **labels)
        buckets: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
        for (*group, edge), rate in rates.items():
            buckets[tuple(group)].append((float(edge), rate))
        found = {group: quantile_of(q, sorted(edges)) for group, edges in buckets.items()}
        return {group: value for group, value in found.items() if not math.isnan(value)}

    def points(
        self, name: str, agg: str, since_s: float, **labels: Where
    ) -> list[tuple[float, float]]:
        """For small plots: (time, value) of each round of readings from the time `since_s` on.

        `agg` is `sum`, `max` or `min` over the series, or `rate`: the sum of what counters grew by
        since the reading before, a second.
        """
        at: dict[float, list[float]] = defaultdict(list)
        for window in self.windows(name, self._now_s - since_s, self._now_s, **labels):
            times_s, values = window.times_s, window.values
            if agg == "rate":
                values = _steps(values) / np.diff(times_s)
                times_s = times_s[1:]
            for at_s, value in zip(times_s.tolist(), values.tolist(), strict=True):
                at[at_s].append(value)
        combine = AGGREGATIONS["sum" if agg == "rate" else agg]
        return [(at_s, combine(values)) for at_s, values in sorted(at.items())]


def increase_of(times_s: Floats, values: Floats, from_s: float, to_s: float) -> float | None:
    """What a counter grew by in a window, as Prometheus' `increase` extrapolates it; None: unknown.

    A value below the one before means that the counter began again at 0.
    """
    if len(values) < 2:
        return None
    grown = float(_steps(values).sum())
    between_s = float(times_s[-1] - times_s[0])
    average_s = between_s / (len(values) - 1)
    before_s, after_s = float(times_s[0] - from_s), float(to_s - times_s[-1])
    if grown > 0 and values[0] >= 0:
        before_s = min(before_s, between_s * float(values[0]) / grown)  # it was never below 0
    beyond_s = sum(s if s < 1.1 * average_s else average_s / 2 for s in (before_s, after_s))
    return grown * (between_s + beyond_s) / between_s


def _steps(values: Floats) -> Floats:
    """What a counter grew by from reading to reading."""
    steps = np.diff(values)
    return np.where(steps < 0, values[1:], steps)


def quantile_of(q: float, buckets: Sequence[tuple[float, float]]) -> float:
    """Prometheus' `histogram_quantile`: (upper edge, cumulative count), ascending; NaN: none.

    >>> quantile_of(0.5, [(0.1, 2.0), (0.2, 4.0), (math.inf, 4.0)])
    0.1
    """
    if not 0 < q <= 1:
        raise ValueError(f"a quantile must be above 0 and at most 1; got {q}")
    if len(buckets) < 2 or not math.isinf(buckets[-1][0]):
        return math.nan
    counts = np.maximum.accumulate([count for _, count in buckets])
    if counts[-1] == 0:
        return math.nan
    rank = q * float(counts[-1])
    at = min(int(np.searchsorted(counts[:-1], rank)), len(buckets) - 1)
    edge = buckets[at][0]
    if math.isinf(edge):
        return buckets[-2][0]
    if at == 0:
        return edge if edge <= 0 else edge * rank / float(counts[0])
    below, start = float(counts[at - 1]), buckets[at - 1][0]
    return start + (edge - start) * (rank - below) / (float(counts[at]) - below)


def _key_of(sample: Sample, process: str) -> Key:
    labels = sample.labels if PROCESS in sample.labels else {**sample.labels, PROCESS: process}
    return sample.name, tuple(sorted(labels.items()))


def _matches(labels: Mapping[str, str], where: Mapping[str, Where]) -> bool:
    return all(
        labels.get(name, "") == value if isinstance(value, str) else labels.get(name, "") in value
        for name, value in where.items()
    )


def _group(labels: Mapping[str, str], by: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(labels.get(name, "") for name in by)


def _wide(row: Floats, width: int) -> Floats:
    """A row of before some series came, with NaN for them."""
    if len(row) == width:
        return row
    return np.concatenate([row, np.full(width - len(row), np.nan)])


def _lacks(row: Floats, column: int) -> bool:
    return column >= len(row) or bool(np.isnan(row[column]))
