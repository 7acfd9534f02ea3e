"""Conditions over metrics: written once, read twice.

Each node is a small part of PromQL. `promql()` prints it for Prometheus, `read(series, now_s)`
works it out from what this process has scraped itself; tests hold both to the same answers with
promtool. A reading is a vector: numbers by their labels. Where a metric is not there the vector is
empty, and a comparison with it holds for nothing.
"""

import math
import operator
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from infra.ops.series import AGGREGATIONS, PROCESS, Series, Where, Window, increase_of

Labels = tuple[tuple[str, str], ...]  # names in the order in which they are asked for
Vector = dict[Labels, float]
Selector = tuple[tuple[str, Where], ...]

READY: Final = "headrace_ready"  # every process tells it with every reading
STARTED: Final = "process_start_time_seconds"
OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


OR, AND, COMPARE, ADD, DIVIDE, ALONE = range(6)  # how tightly PromQL binds


class Expression(Protocol):
    """A vector, for Prometheus and for ourselves."""

    binds: ClassVar[int]

    def promql(self) -> str:
        """As Prometheus reads it."""

    def read(self, series: Series, now_s: float) -> Vector:
        """What it is now."""

    def names(self) -> frozenset[str]:
        """The metrics that it looks at, as they stand in an exposition."""


def where(**labels: Where) -> Selector:
    """Labels to select by: a value, or any of several."""
    return tuple(labels.items())


@dataclass(frozen=True)
class Now:
    """The newest values of a metric, put together by `by`."""

    binds: ClassVar[int] = ALONE

    name: str
    by: tuple[str, ...] = ()
    agg: str = "max"
    where: Selector = ()

    def promql(self) -> str:
        """`max by (flow) (NAME{...})`."""
        return f"{self.agg}{_by(self.by)} ({self.name}{_braces(self.where)})"

    def read(self, series: Series, now_s: float) -> Vector:  # noqa: ARG002 (Expression)
        """O(series of the name)."""
        return _put_together(self.agg, self.by, series.latest(self.name, **dict(self.where)))

    def names(self) -> frozenset[str]:
        """The metric."""
        return frozenset({self.name})


@dataclass(frozen=True)
class Absent:
    """1 where nothing tells a metric with these labels."""

    binds: ClassVar[int] = ALONE

    name: str
    where: Selector = ()

    def promql(self) -> str:
        """`absent(NAME{...})`."""
        return f"absent({self.name}{_braces(self.where)})"

    def read(self, series: Series, now_s: float) -> Vector:  # noqa: ARG002 (Expression)
        """O(series of the name)."""
        if series.latest(self.name, **dict(self.where)):
            return {}
        return {tuple((name, str(value)) for name, value in self.where): 1.0}

    def names(self) -> frozenset[str]:
        """The metric."""
        return frozenset({self.name})


@dataclass(frozen=True)
class Rate:
    """How fast a counter grows, a second, summed by `by`."""

    binds: ClassVar[int] = ALONE

    name: str
    window_s: int
    by: tuple[str, ...] = ()
    where: Selector = ()

    def promql(self) -> str:
        """`sum by (method) (rate(NAME{...}[1m]))`."""
        window = f"{self.name}{_braces(self.where)}[{duration(self.window_s)}]"
        return f"sum{_by(self.by)} (rate({window}))"

    def read(self, series: Series, now_s: float) -> Vector:
        """O(readings in the window)."""
        found = series.rate(self.name, self.window_s, now_s, self.by, **dict(self.where))
        return _labelled(self.by, found)

    def names(self) -> frozenset[str]:
        """The metric."""
        return frozenset({self.name})


@dataclass(frozen=True)
class Growth:
    """What a counter grew by, summed by `by`; one that comes into being counts from zero.

    `increase` alone does not see the first value of a series, which is all there is of something
    that happened once. A series counts whole where its process was read at the beginning of the
    window and had none, or is itself younger than the window.
    """

    binds: ClassVar[int] = ALONE

    name: str
    window_s: int
    by: tuple[str, ...] = ()
    where: Selector = ()

    def promql(self) -> str:
        """New series whole, the others by `increase`."""
        name, span = f"{self.name}{_braces(self.where)}", duration(self.window_s)
        was_read = f"{READY} offset {span} or time() - {STARTED} < {self.window_s}"
        new = f"({name} unless {name} offset {span}) and on ({PROCESS}) ({was_read})"
        return f"sum{_by(self.by)} (({new}) or increase({name}[{span}]))"

    def read(self, series: Series, now_s: float) -> Vector:
        """O(readings in the window)."""
        grown = []
        for window in series.windows(self.name, self.window_s, now_s, **dict(self.where)):
            increase = (
                float(window.values[-1])
                if window.is_new
                else increase_of(window.times_s, window.values, now_s - self.window_s, now_s)
            )
            if increase is not None:
                grown.append((window.labels, increase))
        return _put_together("sum", self.by, grown)

    def names(self) -> frozenset[str]:
        """The metric, and what tells whether a series is new."""
        return frozenset({self.name, READY, STARTED})


@dataclass(frozen=True)
class Quantile:
    """A quantile of a histogram; `name` without `_bucket`."""

    binds: ClassVar[int] = ALONE

    q: float
    name: str
    window_s: int
    by: tuple[str, ...] = ()
    where: Selector = ()

    def promql(self) -> str:
        """`histogram_quantile(0.95, sum by (le) (rate(NAME_bucket[1m])))`."""
        buckets = Rate(f"{self.name}_bucket", self.window_s, (*self.by, "le"), self.where)
        return f"histogram_quantile({number(self.q)}, {buckets.promql()})"

    def read(self, series: Series, now_s: float) -> Vector:
        """O(readings of the buckets in the window)."""
        found = series.quantile(
            self.q, self.name, self.window_s, now_s, self.by, **dict(self.where)
        )
        return _labelled(self.by, found)

    def names(self) -> frozenset[str]:
        """The buckets."""
        return frozenset({f"{self.name}_bucket"})


def _lowest(window: Window) -> float:
    return float(window.values.min())


def _highest(window: Window) -> float:
    return float(window.values.max())


def _changes(window: Window) -> float:
    return float((window.values[1:] != window.values[:-1]).sum())


OVER_TIME: Final[Mapping[str, Callable[[Window], float]]] = {
    "min_over_time": _lowest,
    "max_over_time": _highest,
    "changes": _changes,
}


@dataclass(frozen=True)
class OverTime:
    """A function of each gauge's readings in a window, then put together by `by`."""

    binds: ClassVar[int] = ALONE

    function: str  # of OVER_TIME
    name: str
    window_s: int
    by: tuple[str, ...] = ()
    agg: str = "max"
    where: Selector = ()

    def promql(self) -> str:
        """`max by (topic) (changes(NAME[10s]))`."""
        window = f"{self.name}{_braces(self.where)}[{duration(self.window_s)}]"
        return f"{self.agg}{_by(self.by)} ({self.function}({window}))"

    def read(self, series: Series, now_s: float) -> Vector:
        """O(readings in the window)."""
        of = OVER_TIME[self.function]
        windows = series.windows(self.name, self.window_s, now_s, **dict(self.where))
        return _put_together(self.agg, self.by, [(window.labels, of(window)) for window in windows])

    def names(self) -> frozenset[str]:
        """The metric."""
        return frozenset({self.name})


@dataclass(frozen=True)
class Ratio:
    """One vector by another with the same labels; or by a single number, where that has none."""

    binds: ClassVar[int] = DIVIDE

    upper: Expression
    lower: Expression
    of_all: bool = False  # the lower one has no labels

    def promql(self) -> str:
        """`A / B`."""
        match = " on () group_left ()" if self.of_all else ""
        return f"{_part(self.upper, self.binds)} /{match} {_part(self.lower, ALONE)}"

    def read(self, series: Series, now_s: float) -> Vector:
        """Divides; by zero as floating point does."""
        lower = self.lower.read(series, now_s)
        pairs = (
            (labels, value, lower.get(() if self.of_all else labels))
            for labels, value in self.upper.read(series, now_s).items()
        )
        return {labels: _divide(a, b) for labels, a, b in pairs if b is not None}

    def names(self) -> frozenset[str]:
        """Those of both."""
        return self.upper.names() | self.lower.names()


@dataclass(frozen=True)
class Minus:
    """What one vector is above another with the same labels."""

    binds: ClassVar[int] = ADD

    left: Expression
    right: Expression

    def promql(self) -> str:
        """`A - B`."""
        return f"{_part(self.left, self.binds)} - {_part(self.right, DIVIDE)}"

    def read(self, series: Series, now_s: float) -> Vector:
        """Subtracts."""
        right = self.right.read(series, now_s)
        left = self.left.read(series, now_s).items()
        return {labels: value - right[labels] for labels, value in left if labels in right}

    def names(self) -> frozenset[str]:
        """Those of both."""
        return self.left.names() | self.right.names()


@dataclass(frozen=True)
class Compare:
    """The numbers for which a comparison with a threshold holds."""

    binds: ClassVar[int] = COMPARE

    left: Expression
    operator: str  # of OPERATORS
    threshold: float

    def promql(self) -> str:
        """`A > 1000`."""
        return f"{_part(self.left, ADD)} {self.operator} {number(self.threshold)}"

    def read(self, series: Series, now_s: float) -> Vector:
        """Leaves what holds."""
        holds = OPERATORS[self.operator]
        found = self.left.read(series, now_s).items()
        return {labels: value for labels, value in found if holds(value, self.threshold)}

    def names(self) -> frozenset[str]:
        """Those of the left side."""
        return self.left.names()


@dataclass(frozen=True)
class Matched(ABC):
    """Two vectors matched by the labels `on`; what becomes of them is the word's."""

    binds: ClassVar[int] = AND
    word: ClassVar[str]

    first: Expression
    second: Expression
    on: tuple[str, ...] = ()

    def promql(self) -> str:
        """`A and on (topic) B`; what stands on the left is done first."""
        first, second = _part(self.first, self.binds), _part(self.second, self.binds + 1)
        return f"{first} {self.word} on ({', '.join(self.on)}) {second}"

    def read(self, series: Series, now_s: float) -> Vector:
        """Reads both and matches them."""
        return self._match(self.first.read(series, now_s), self.second.read(series, now_s))

    def names(self) -> frozenset[str]:
        """Those of both."""
        return self.first.names() | self.second.names()

    @abstractmethod
    def _match(self, first: Vector, second: Vector) -> Vector:
        """What becomes of the two."""

    def _left(self, vector: Vector, other: Vector, *, has_match: bool) -> Vector:
        """Of a vector, what has a match in the other, or what has none."""
        marks = {_only(labels, self.on) for labels in other}
        return {
            labels: value
            for labels, value in vector.items()
            if (_only(labels, self.on) in marks) == has_match
        }


class And(Matched):
    """Of the first, what some number of the other has the same labels `on` as."""

    word = "and"

    def _match(self, first: Vector, second: Vector) -> Vector:
        return self._left(first, second, has_match=True)


class Unless(Matched):
    """Of the first, what nothing of the other has the same labels `on` as."""

    word = "unless"

    def _match(self, first: Vector, second: Vector) -> Vector:
        return self._left(first, second, has_match=False)


class Or(Matched):
    """The first, and of the second what nothing in the first has the same labels `on` as."""

    binds = OR
    word = "or"

    def _match(self, first: Vector, second: Vector) -> Vector:
        return first | self._left(second, first, has_match=False)


def _part(expression: Expression, binds: int) -> str:
    """An operand, in parentheses where it binds less tightly than it must."""
    text = expression.promql()
    return text if expression.binds >= binds else f"({text})"


def duration(seconds: int) -> str:
    """As PromQL writes it.

    >>> duration(90), duration(600)
    ('90s', '10m')
    """
    for unit, length_s in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds and seconds % length_s == 0:
            return f"{seconds // length_s}{unit}"
    return f"{seconds}s"


def number(value: float) -> str:
    """As PromQL writes it: whole numbers without a point.

    >>> number(10_000.0), number(0.05)
    ('10000', '0.05')
    """
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _by(by: tuple[str, ...]) -> str:
    return f" by ({', '.join(by)})" if by else ""


def _braces(selector: Selector) -> str:
    """PromQL's braces: `{flow="features", code=~"INTERNAL|UNKNOWN"}`."""
    if not selector:
        return ""
    parts = [
        f'{name}="{value}"' if isinstance(value, str) else f'{name}=~"{"|".join(value)}"'
        for name, value in selector
    ]
    return "{" + ", ".join(parts) + "}"


def _put_together(
    agg: str, by: tuple[str, ...], values: Iterable[tuple[dict[str, str], float]]
) -> Vector:
    groups: dict[Labels, list[float]] = defaultdict(list)
    for labels, value in values:
        groups[_pick(labels, by)].append(value)
    combine = AGGREGATIONS[agg]
    return {group: combine(found) for group, found in groups.items()}


def _labelled(by: tuple[str, ...], found: Mapping[tuple[str, ...], float]) -> Vector:
    return {_pick(dict(zip(by, group, strict=True)), by): v for group, v in found.items()}


def _pick(labels: Mapping[str, str], by: tuple[str, ...]) -> Labels:
    """The labels asked for; as in Prometheus an empty one is none."""
    return tuple((name, labels[name]) for name in by if labels.get(name))


def _only(labels: Labels, names: tuple[str, ...]) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in labels if name in names)


def _divide(a: float, b: float) -> float:
    if b != 0:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)
