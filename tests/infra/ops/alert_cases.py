"""What processes tell in the course of some seconds, and which alerts must fire at the end of it.

Each case is played to our own Evaluator and, by promtool, to Prometheus.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from infra.ops.scrape import Sample

STEP_S, LONG_STEP_S = 2, 20  # between readings; the long one saves time where minutes pass
LONG_S = 720  # long enough for every alert that waits
STARTED_S = -3_600  # before the first second of a case
WELL = ("features", "learning", "serve", "ops")

Told = float | Callable[[int], float | None]  # by second; None: not told
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Line:
    """One series of one process."""

    process: str
    name: str
    value: Told
    labels: dict[str, str] = field(default_factory=dict)

    def at(self, second: int) -> float | None:
        return self.value(second) if callable(self.value) else self.value


@dataclass(frozen=True)
class Case:
    """Lines, processes that fall silent at a second, and what fires at second `at_s`."""

    title: str
    lines: tuple[Line, ...]
    fires: tuple[tuple[str, Labels], ...] = ()
    at_s: int = 40
    gone: dict[str, int] = field(default_factory=dict)
    processes: tuple[str, ...] = WELL

    @property
    def step_s(self) -> int:
        """Between two readings."""
        return STEP_S if self.at_s <= 100 else LONG_STEP_S

    def all_lines(self) -> list[Line]:
        """With what every process tells."""
        usual = [
            Line(process, name, value)
            for process in self.processes
            for name, value in (
                ("headrace_ready", 1.0),
                ("process_start_time_seconds", float(STARTED_S)),
            )
            if (process, name) not in {(line.process, line.name) for line in self.lines}
        ]
        return [*usual, *self.lines]

    def value(self, line: Line, second: int) -> float | None:
        """What is told at a second; None where the process is gone."""
        is_gone = second >= self.gone.get(line.process, self.at_s + 1)
        return None if is_gone else line.at(second)

    def samples(self, process: str, second: int) -> list[Sample]:
        """One reading of a process."""
        values = [
            (line, self.value(line, second)) for line in self.all_lines() if line.process == process
        ]
        return [
            Sample(line.name, line.labels, value) for line, value in values if value is not None
        ]


def fired(alert: str, **labels: str) -> tuple[str, Labels]:
    return alert, tuple(sorted(labels.items()))


def lag(records: Told, flow: str = "features", topic: str = "interactions", partition: str = "0"):
    place = {"flow": flow, "topic": topic, "partition": partition}
    return Line("ops", "headrace_ops_lag", records, place)


def waits(seconds: Told, flow: str = "features", topic: str = "interactions") -> Line:
    place = {"flow": flow, "topic": topic, "partition": "0"}
    return Line("ops", "headrace_ops_lag_seconds", seconds, place)


def committed(
    offset: Told, flow: str = "features", topic: str = "interactions", age_s: Told = 1.0
) -> tuple[Line, ...]:
    place = {"flow": flow, "topic": topic, "partition": "0"}
    return (
        Line("ops", "headrace_ops_committed_offset", offset, place),
        Line("ops", "headrace_ops_log_age_seconds", age_s),
    )


def own(name: str, value: Told, **labels: str) -> Line:
    place = {"topic": "interactions", "partition": "0", **labels}
    return Line("features", f"headrace_stream_{name}", value, place)


def per_s(rate: float) -> Callable[[int], float]:
    return lambda second: rate * second


def from_s(begins: int, value: Told) -> Callable[[int], float | None]:
    """A series that is not there before."""
    whole = value if callable(value) else lambda _: value
    return lambda second: whole(second) if second >= begins else None


def histogram(process: str, name: str, rates: dict[str, float], **labels: str) -> list[Line]:
    """Cumulative counts a second by upper edge."""
    lines = [
        Line(process, f"{name}_bucket", per_s(rate), {"le": edge, **labels})
        for edge, rate in rates.items()
    ]
    return [*lines, Line(process, f"{name}_count", per_s(rates["+Inf"]), labels)]


def freshness(slow: float) -> tuple[Line, ...]:
    name = "headrace_stream_freshness_seconds"
    return tuple(histogram("features", name, {"0.1": 1 - slow, "0.25": 1.0, "+Inf": 1.0}))


def latency(slow: float, calls: float = 10) -> tuple[Line, ...]:
    name = "headrace_serving_latency_seconds"
    edges = {"0.1": (1 - slow) * calls, "0.5": calls, "+Inf": calls}
    return (*histogram("serve", name, edges, method="Recommend"), requests(calls))


def requests(rate: float, code: str = "OK") -> Line:
    labels = {"method": "Recommend", "code": code}
    return Line("serve", "headrace_serving_requests_total", per_s(rate), labels)


def refused(value: Told, reason: str = "interaction.rating must be within 0..10") -> Line:
    return Line("features", "headrace_stream_bad_records_total", value, {"reason": reason})


def events(value: Told) -> Line:
    return Line("features", "headrace_stream_events_total", value, {"effect": "applied"})


def rows(rate: float, outcome: str) -> Line:
    labels = {"table": "u", "outcome": outcome}
    return Line("features", "headrace_stream_row_cache_total", per_s(rate), labels)


def slots(rate: float, arm: str) -> Line:
    return Line("serve", "headrace_slate_slots_total", per_s(rate), {"arm": arm})


def diversity(mean: float, slates: float = 1) -> tuple[Line, ...]:
    name = "headrace_slate_diversity"
    return (
        Line("serve", f"{name}_sum", per_s(mean * slates)),
        Line("serve", f"{name}_count", per_s(slates)),
        slots(20 * slates, "popular"),
        slots(20 * slates, "similar"),
    )


def ages(in_use: float, newest: float, bundle: float = 60) -> tuple[Line, ...]:
    return (
        Line("serve", "headrace_serving_model_age_seconds", in_use),
        Line("learning", "headrace_learning_version_age_seconds", newest),
        Line("serve", "headrace_serving_bundle_age_seconds", bundle),
    )


def source(name: str, age: Told, process: str = "features") -> Line:
    return Line(process, "headrace_source_age_seconds", age, {"source": name})


FLOW = {"flow": "features", "topic": "interactions"}
OWN = {"process": "features", "topic": "interactions"}
LAGS = (
    Case("a thousand records behind are well", (lag(1_000),)),
    Case("over a thousand are a warning", (lag(1_001),), (fired("HeadraceLag", **FLOW),)),
    Case(
        "over ten thousand wake somebody, the worst partition counts",
        (lag(10_001), lag(0, partition="1"), *committed(per_s(5))),
        (fired("HeadraceLag", **FLOW), fired("HeadraceLagPage", **FLOW)),
    ),
    Case(
        "the flow's own word where nobody asks the broker",
        (own("lag", 5_000), own("applied_offset", per_s(5))),
        (fired("HeadraceLag", **OWN),),
    ),
    Case(
        "the broker's word counts where it is known",
        (own("lag", 5_000), lag(0), own("applied_offset", per_s(5))),
    ),
    Case("a peak that is over is nothing", (lag(lambda s: 2_000 if s < 36 else 10),)),
    Case(
        "a flow that has just got behind is not told of yet",
        (lag(lambda s: 2_000 if s > 36 else 10),),
    ),
)
PROGRESS = (
    Case(
        "records come and none is applied",
        (waits(per_s(1)), *committed(1_000)),
        (fired("HeadraceNoProgress", **FLOW, partition="0"),),
    ),
    Case(
        "it stands still for ten seconds",
        (waits(lambda s: max(s - 30, 0)), *committed(lambda s: 5 * min(s, 30))),
        (fired("HeadraceNoProgress", **FLOW, partition="0"),),
        at_s=40,
    ),
    Case(
        "the console itself has not looked for a while",
        (waits(per_s(1)), *committed(1_000, age_s=lambda s: s % 10)),
    ),
    Case("far behind, but records are applied", (waits(per_s(1)), *committed(per_s(1)))),
    Case("nothing comes", (waits(0), *committed(1_000))),
    Case(
        "the archive waits for a file to be full",
        (waits(50, flow="archive"), *committed(1_000, flow="archive")),
    ),
    Case(
        "the flow says itself that it stands",
        (own("lag_seconds", 5, by="ingestion"), own("applied_offset", 1_000), source("log_end", 1)),
        (fired("HeadraceNoProgress", **OWN, partition="0"),),
    ),
    Case(
        "the flow says so, and the broker otherwise",
        (own("lag_seconds", 5, by="ingestion"), own("applied_offset", 1_000), source("log_end", 1),
         waits(0), *committed(per_s(5))),
    ),
    Case(
        "the flow does not know where the log ends",
        (own("lag_seconds", 5, by="ingestion"), own("applied_offset", 1_000), source("log_end", 7)),
    ),
    Case(
        "a frozen flow says nothing, the broker does",
        (waits(per_s(1)), *committed(1_000), own("lag_seconds", 5, by="ingestion")),
        (
            fired("HeadraceNoProgress", **FLOW, partition="0"),
            fired("HeadraceProcessDown", process="features"),
        ),
        gone={"features": 10},
    ),
)  # fmt: skip
FRESHNESS = (
    Case("one in fifty late", freshness(0.02), (fired("HeadraceFreshnessSlow"),), at_s=LONG_S),
    Case("one in two hundred late", freshness(0.005), at_s=LONG_S),
    Case("late, but not for long", freshness(0.02), at_s=200),
)
LETTERS = (
    Case(
        "the first bad records ever, all at once",
        (refused(from_s(36, 50)), events(per_s(10))),
        (fired("HeadraceDeadLetters"),),
    ),
    Case(
        "nothing but bad records, no event yet",
        (refused(from_s(36, 50)),),
        (fired("HeadraceDeadLetters"),),
    ),
    Case(
        "two kinds, together too many",
        (refused(from_s(36, 3)), refused(from_s(36, 4), "empty"), events(per_s(10))),
        (fired("HeadraceDeadLetters"),),
    ),
    Case(
        "more of a kind that is known",
        (refused(lambda s: 100 if s < 36 else 150), events(per_s(10))),
        (fired("HeadraceDeadLetters"),),
    ),
    Case("five bad records", (refused(from_s(36, 5)), events(per_s(10)))),
    Case("few of very many", (refused(from_s(36, 50)), events(per_s(100_000)))),
    Case("those of a minute ago", (refused(from_s(2, 50)), events(per_s(10))), at_s=60),
    Case(
        "a process read for the first time has not begun just now",
        (refused(from_s(36, 5_000)), events(from_s(36, 9_000)),
         Line("features", "headrace_ready", from_s(36, 1)),
         Line("features", "process_start_time_seconds", from_s(36, STARTED_S))),
    ),
)  # fmt: skip
SERVING = (
    Case("one slate in ten is slow", latency(0.1), (fired("HeadraceServingSlow"),)),
    Case("one in fifty", latency(0.02)),
    Case("slow, but hardly a call", latency(1.0, calls=0.1)),
    Case(
        "one call in ten fails, of a kind that never was",
        (requests(9), Line("serve", "headrace_serving_requests_total",
                           from_s(10, lambda s: s - 9), {"method": "Track", "code": "UNKNOWN"})),
        (fired("HeadraceServingErrors"),),
    ),
    Case("wrong requests are not our errors", (requests(9), requests(3, "INVALID_ARGUMENT"))),
    Case("one call in a thousand fails", (requests(999), requests(1, "INTERNAL"))),
    Case(
        "calls are refused because of load",
        (requests(9), requests(1, "RESOURCE_EXHAUSTED"),
         Line("serve", "headrace_serving_refused_total", per_s(1), {"reason": "overload"})),
        (fired("HeadraceOverload"),),
    ),
    Case(
        "a client beyond its quota is no overload",
        (requests(9),
         Line("serve", "headrace_serving_refused_total", per_s(1), {"reason": "quota"})),
    ),
)  # fmt: skip
CACHES = (
    Case(
        "more rows are read than were there",
        (rows(40, "load"), rows(30, "hit")),
        (fired("HeadraceCacheMisses", table="u"),),
        at_s=LONG_S,
    ),
    Case("no row was ever there", (rows(40, "load"),),
         (fired("HeadraceCacheMisses", table="u"),), at_s=LONG_S),
    Case("more rows were there", (rows(30, "load"), rows(40, "hit")), at_s=LONG_S),
    Case("hardly any rows are asked for", (rows(4, "load"),), at_s=LONG_S),
    Case("a start", (rows(40, "load"),), at_s=200),
)  # fmt: skip
LEARNING = (
    Case(
        "three slots in four are of one arm",
        (slots(15, "popular"), slots(5, "similar")),
        (fired("HeadraceArmDominates", arm="popular"),),
        at_s=LONG_S,
    ),
    Case("two in three", (slots(10, "popular"), slots(5, "similar")), at_s=LONG_S),
    Case("hardly a slate", (slots(0.1, "popular"),), at_s=LONG_S),
    Case("slates are alike", diversity(0.3), (fired("HeadraceDiversityLow"),), at_s=LONG_S),
    Case("slates are not alike", diversity(0.6), at_s=LONG_S),
    Case("a server has not taken over what was learnt", ages(100, 5),
         (fired("HeadraceModelStale"),)),
    Case("nothing was learnt for hours, and that is in use", ages(7_205, 7_200)),
    Case("nothing was learnt yet", ages(-1, -1)),
    Case("a bundle of last quarter", ages(5, 5, 8_000_000), (fired("HeadraceModelStale"),)),
    Case(
        "the first drift ever",
        (Line("learning", "headrace_learning_drifts_total", from_s(700, 1),
              {"what": "answers", "segment": "all"}),),
        (fired("HeadraceDrift", what="answers", segment="all"),),
        at_s=LONG_S,
    ),
    Case(
        "a drift of a process that has just begun",
        (Line("learning", "headrace_learning_drifts_total", from_s(700, 1),
              {"what": "answers", "segment": "all"}),
         Line("learning", "headrace_ready", from_s(680, 1)),
         Line("learning", "process_start_time_seconds", from_s(680, 675))),
        (fired("HeadraceDrift", what="answers", segment="all"),),
        at_s=LONG_S,
    ),
    Case(
        "a drift of long ago",
        (Line("learning", "headrace_learning_drifts_total", 1.0,
              {"what": "answers", "segment": "all"}),),
        at_s=LONG_S,
    ),
)  # fmt: skip
PARTS = (
    Case(
        "Redis is nearly full",
        (Line("ops", "headrace_ops_redis_memory_bytes", 90.0),
         Line("ops", "headrace_ops_redis_memory_limit_bytes", 100.0)),
        (fired("HeadraceRedisMemory"),),
    ),
    Case(
        "Redis has room",
        (Line("ops", "headrace_ops_redis_memory_bytes", 80.0),
         Line("ops", "headrace_ops_redis_memory_limit_bytes", 100.0)),
    ),
    Case("the console cannot reach Redis", (Line("ops", "headrace_ops_redis_up", 0.0),),
         (fired("HeadraceRedisDown"),)),
    Case(
        "no process has heard from Redis, and nobody asks it",
        (source("redis", 12), source("redis", per_s(1), "serve")),
        (fired("HeadraceRedisDown"),
         fired("HeadraceStaleSource", process="features", source="redis"),
         fired("HeadraceStaleSource", process="serve", source="redis")),
    ),
    Case(
        "no flow hears from the broker, the console does",
        (source("log_end", 9), Line("ops", "headrace_ops_broker_up", 1.0)),
    ),
    Case(
        "nobody hears from the broker, and nobody asks it",
        (source("log_end", 12),),
        (fired("HeadraceBrokerDown"),
         fired("HeadraceStaleSource", process="features", source="log_end")),
    ),
    Case(
        "one process has not",
        (source("redis", 1), source("redis", per_s(1), "serve")),
        (fired("HeadraceStaleSource", process="serve", source="redis"),),
    ),
    Case("the console cannot reach the broker", (Line("ops", "headrace_ops_broker_up", 0.0),),
         (fired("HeadraceBrokerDown"),)),
    Case("all is well", (Line("ops", "headrace_ops_broker_up", 1.0), source("log_end", 1),
                         Line("ops", "headrace_ops_redis_up", 1.0), source("redis", 1),
                         Line("ops", "headrace_ops_up", 1.0, {"process": "serve"}))),
    Case("a process does not answer", (), (fired("HeadraceProcessDown", process="serve"),),
         gone={"serve": 30}),
    Case("a process has only just gone", (), gone={"serve": 38}),
    Case("a process is not ready", (Line("learning", "headrace_ready", 0.0),),
         (fired("HeadraceProcessDown", process="learning"),)),
    Case("the console says so", (Line("ops", "headrace_ops_up", 0.0, {"process": "archive"}),),
         (fired("HeadraceProcessDown", process="archive"),)),
    Case("a process is not even known", (), (fired("HeadraceProcessDown", process="learning"),),
         processes=("features", "serve", "ops")),
)  # fmt: skip
CASES = (
    *LAGS, *PROGRESS, *FRESHNESS, *LETTERS, *SERVING, *CACHES, *LEARNING, *PARTS,
)  # fmt: skip
