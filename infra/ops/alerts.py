"""The alerts: what holds, for how long, how bad, and which runbook mends it.

One definition is read twice: `promql()` for Prometheus' rules, `holds()` by the console from what
it has scraped itself. An urgent alert fires within 15 s of the fault at one reading each 2 s.

No alert depends on the word of a process that may be gone. Where a process has gone, its metrics go
too and conditions on them hold no more: HeadraceProcessDown tells that, from `up` and from the
absence of processes that must be there; HeadraceStaleSource tells of a process that answers but no
longer hears from the log, Redis or the models. Lag is told by the broker where `headrace ops` asks
it, by the flow where nobody else does. A counter that does not exist yet counts as zero: shares
have the counters of trouble above the line, and growth counts a new series whole.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from infra.ops.conditions import (
    Absent,
    And,
    Compare,
    Expression,
    Growth,
    Labels,
    Minus,
    Now,
    Or,
    OverTime,
    Quantile,
    Rate,
    Ratio,
    Unless,
    where,
)
from infra.ops.series import Series, Where
from infra.ops.thresholds import AlertSettings

Severity = Literal["warn", "page"]
State = Literal["pending", "firing"]

MAX_ACTIVE: Final = 1_000  # alerts that hold at a time
MAX_HISTORY: Final = 500
NEEDED: Final = ("features", "learning", "serve")  # without one of these nothing works
FAILED: Final = ("INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED", "DATA_LOSS")
PLACE: Final = ("flow", "topic", "partition")
OWN_PLACE: Final = ("process", "topic", "partition")
WAITS_S: Final = 4.0  # a record for so long, where all wait for milliseconds
FRESH_S: Final = 5.0  # of what the broker was asked
FEW_CALLS: Final = 0.2  # a second: below, a single slow or failed call would be an alert


@dataclass(frozen=True)
class Alert:
    """What somebody is told of."""

    name: str
    severity: Severity  # warn: look at it today; page: now
    summary: str
    condition: Expression
    for_s: int  # the condition must hold for so long without a break
    runbook: str  # a file of the repository, or its address
    unit: str = ""  # of the value: records, s, share

    def promql(self) -> str:
        """The condition for Prometheus."""
        return self.condition.promql()

    def holds(self, series: Series, now_s: float) -> list[tuple[dict[str, str], float]]:
        """For which labels the condition holds now, with the value."""
        found = self.condition.read(series, now_s)
        return [(dict(labels), value) for labels, value in found.items()]


@dataclass(frozen=True, slots=True)
class Firing:
    """An alert that holds, for one set of labels."""

    alert: Alert
    since_s: float  # when it began to hold
    labels: dict[str, str]
    value: float
    state: State


@dataclass(frozen=True, slots=True)
class Transition:
    """That an alert began to fire, or ended."""

    alert: Alert
    state: Literal["firing", "resolved"]
    labels: dict[str, str]
    value: float  # when it began to fire; the last that held
    at_s: float


class Evaluator:
    """Follows alerts from pending to firing to resolved, as Prometheus does."""

    def __init__(self, alerts: Sequence[Alert] | None = None) -> None:
        self.alerts = ALERTS if alerts is None else tuple(alerts)
        self.history: deque[Transition] = deque(maxlen=MAX_HISTORY)
        self._active: dict[tuple[str, Labels], Firing] = {}

    def step(self, series: Series, now_s: float) -> list[Firing]:
        """Every alert that holds now, those that page first, the oldest first.

        A gap of one step ends an alert. Call it after each round of readings.
        """
        before, self._active = self._active, {}
        for alert in self.alerts:
            for labels, value in alert.holds(series, now_s)[: MAX_ACTIVE - len(self._active)]:
                key = (alert.name, tuple(sorted(labels.items())))
                self._active[key] = self._follow(before.get(key), alert, labels, value, now_s)
        for key, gone in before.items():
            if key not in self._active and gone.state == "firing":
                self._note(gone, "resolved", now_s)
        return sorted(
            self._active.values(), key=lambda one: (one.alert.severity != "page", one.since_s)
        )

    def _follow(
        self, known: Firing | None, alert: Alert, labels: dict[str, str], value: float, now_s: float
    ) -> Firing:
        since_s = now_s if known is None else known.since_s
        state: State = "firing" if now_s - since_s >= alert.for_s else "pending"
        one = Firing(alert, since_s, labels, value, state)
        if state == "firing" and (known is None or known.state == "pending"):
            self._note(one, "firing", now_s)
        return one

    def _note(self, one: Firing, state: Literal["firing", "resolved"], now_s: float) -> None:
        self.history.append(Transition(one.alert, state, one.labels, one.value, now_s))


def alerts_of(limits: AlertSettings) -> tuple[Alert, ...]:
    """All alerts, by these thresholds."""
    return (*_of_flows(limits), *_of_serving(limits), *_of_learning(limits), *_of_parts(limits))


def _of_flows(limits: AlertSettings) -> tuple[Alert, ...]:
    lag = Or(
        Now("headrace_ops_lag", ("flow", "topic")),
        Now("headrace_stream_lag", ("process", "topic")),
        on=("topic",),
    )
    return (
        Alert(
            "HeadraceLag", "warn",
            f"a flow is more than {limits.lag_warn:,} records behind in a partition",
            Compare(lag, ">", limits.lag_warn), 4, f"{limits.runbooks}/lag.md", "records",
        ),
        Alert(
            "HeadraceLagPage", "page",
            f"a flow is more than {limits.lag_page:,} records behind in a partition",
            Compare(lag, ">", limits.lag_page), 4, f"{limits.runbooks}/lag.md", "records",
        ),
        Alert(
            "HeadraceNoProgress", "page",
            "records wait in a partition and none is applied", _no_progress(), 2,
            f"{limits.runbooks}/no-progress.md", "s",
        ),
        Alert(
            "HeadraceFreshnessSlow", "warn",
            f"of 100 events one takes more than {limits.freshness_s:g} s to readable rows",
            Compare(
                Quantile(0.99, "headrace_stream_freshness_seconds", 60), ">", limits.freshness_s
            ),
            300, f"{limits.runbooks}/freshness.md", "s",
        ),
        Alert(
            "HeadraceDeadLetters", "warn",
            f"more than {limits.dead_letters:,} records, and {limits.dead_letter_share:.2%} of "
            "all, were refused in half a minute",
            _dead_letters(limits), 0, f"{limits.runbooks}/dead-letters.md", "records",
        ),
        Alert(
            "HeadraceCacheMisses", "warn",
            f"more than {limits.cache_misses:.0%} of the rows that a flow needs are read from "
            "Redis",
            And(
                Compare(_share("headrace_stream_row_cache_total", 300, ("table",), outcome="load"),
                        ">", limits.cache_misses),
                Compare(Rate("headrace_stream_row_cache_total", 300, ("table",)), ">", 10),
                on=("table",),
            ),
            300, f"{limits.runbooks}/cache.md", "share",
        ),
    )  # fmt: skip


def _no_progress() -> Expression:
    """The oldest record waits for seconds, and nothing was committed meanwhile.

    By the broker, so that a flow that hangs or is gone is known too; by the flow itself where
    nobody asks the broker. Only by what was heard just now: what was not looked at anew may have
    changed. The archive commits with its files, once a minute.
    """
    flows = where(flow=("features", "attribution", "learning"))
    by_broker = And(
        And(
            Compare(Now("headrace_ops_lag_seconds", PLACE, where=flows), ">", WAITS_S),
            Compare(OverTime("changes", "headrace_ops_committed_offset", 6, PLACE), "<", 1),
            on=PLACE,
        ),
        Compare(OverTime("max_over_time", "headrace_ops_log_age_seconds", 6), "<", FRESH_S),
    )
    waits = Now("headrace_stream_lag_seconds", OWN_PLACE, where=where(by="ingestion"))
    heard = Now("headrace_source_age_seconds", ("process",), where=where(source="log_end"))
    by_flow = And(
        And(
            Compare(waits, ">", WAITS_S),
            Compare(OverTime("changes", "headrace_stream_applied_offset", 6, OWN_PLACE), "<", 1),
            on=OWN_PLACE,
        ),
        Compare(heard, "<", FRESH_S),
        on=("process",),
    )
    return Or(by_broker, And(by_flow, Absent("headrace_ops_lag_seconds")), on=PLACE)


def _dead_letters(limits: AlertSettings) -> Expression:
    """Many, unless they are known to be a small share: without any events nothing is known."""
    refused = Growth("headrace_stream_bad_records_total", 30)
    share = Ratio(refused, Growth("headrace_stream_events_total", 30))
    return Unless(
        Compare(refused, ">", limits.dead_letters),
        Compare(share, "<=", limits.dead_letter_share),
    )


def _of_serving(limits: AlertSettings) -> tuple[Alert, ...]:
    calls = Rate("headrace_serving_requests_total", 30)
    return (
        Alert(
            "HeadraceServingSlow", "page",
            f"of 20 slates one takes more than {limits.serving_p95_s:g} s",
            And(
                Compare(
                    Quantile(0.95, "headrace_serving_latency_seconds", 30,
                             where=where(method="Recommend")),
                    ">", limits.serving_p95_s,
                ),
                Compare(calls, ">", FEW_CALLS),
            ),
            6, f"{limits.runbooks}/serving-slow.md", "s",
        ),
        Alert(
            "HeadraceServingErrors", "page",
            f"more than {limits.serving_errors:.0%} of calls fail",
            And(
                Compare(
                    _share("headrace_serving_requests_total", 30, code=FAILED),
                    ">", limits.serving_errors,
                ),
                Compare(calls, ">", FEW_CALLS),
            ),
            6, f"{limits.runbooks}/serving-errors.md", "share",
        ),
        Alert(
            "HeadraceOverload", "page",
            f"more than {limits.refused:.0%} of calls are refused because of load",
            Compare(
                Ratio(
                    Rate("headrace_serving_refused_total", 30,
                         where=where(reason=("overload", "concurrency"))),
                    calls,
                ),
                ">", limits.refused,
            ),
            4, f"{limits.runbooks}/overload.md", "share",
        ),
    )  # fmt: skip


def _of_learning(limits: AlertSettings) -> tuple[Alert, ...]:
    slots = Rate("headrace_slate_slots_total", 300)
    lowest = limits.diversity_share * limits.diversity_baseline
    return (
        Alert(
            "HeadraceArmDominates", "warn",
            f"one arm has more than {limits.arm_share:.0%} of the slots served",
            And(
                Compare(
                    Ratio(Rate("headrace_slate_slots_total", 300, ("arm",)), slots, of_all=True),
                    ">", limits.arm_share,
                ),
                Compare(slots, ">", 1),
            ),
            300, f"{limits.runbooks}/arms.md", "share",
        ),
        Alert(
            "HeadraceDiversityLow", "warn",
            f"slates are less diverse ({lowest:g}) than {limits.diversity_share:.0%} of the "
            "baseline",
            And(
                Compare(
                    Ratio(Rate("headrace_slate_diversity_sum", 300),
                          Rate("headrace_slate_diversity_count", 300)),
                    "<", lowest,
                ),
                Compare(slots, ">", 1),
            ),
            300, f"{limits.runbooks}/diversity.md",
        ),
        Alert(
            "HeadraceModelStale", "warn",
            f"servers use learned state {limits.model_age_s:g} s behind the newest, or a bundle "
            "that is too old",
            _model_stale(limits), 30, f"{limits.runbooks}/model-stale.md", "s",
        ),
        Alert(
            "HeadraceDrift", "warn",
            "viewers answer otherwise than the models expect",
            Compare(
                Growth("headrace_learning_drifts_total", 600, ("what", "segment")), ">", 0
            ),
            0, f"{limits.runbooks}/drift.md",
        ),
    )  # fmt: skip


def _model_stale(limits: AlertSettings) -> Expression:
    """State in use older than the learner's newest, though it has been told of it; old bundles.

    Ages are -1 where there is none yet.
    """
    in_use = Now("headrace_serving_model_age_seconds")
    behind = Minus(in_use, Now("headrace_learning_version_age_seconds"))
    return Or(
        And(
            Compare(behind, ">", limits.model_age_s),
            Compare(Now("headrace_learning_version_age_seconds"), ">=", 0),
        ),
        Compare(Now("headrace_serving_bundle_age_seconds"), ">", limits.bundle_age_s),
    )


def _of_parts(limits: AlertSettings) -> tuple[Alert, ...]:
    """Redis, the broker, processes, and what processes hear of them."""
    return (
        Alert(
            "HeadraceRedisMemory", "warn",
            f"Redis has more than {limits.redis_memory:.0%} of its memory in use",
            Compare(
                Ratio(Now("headrace_ops_redis_memory_bytes"),
                      Now("headrace_ops_redis_memory_limit_bytes")),
                ">", limits.redis_memory,
            ),
            6, f"{limits.runbooks}/redis-memory.md", "share",
        ),
        Alert(
            "HeadraceRedisDown", "page", "Redis does not answer",
            _is_away("headrace_ops_redis_up", "redis", limits), 4,
            f"{limits.runbooks}/redis-down.md",
        ),
        Alert(
            "HeadraceBrokerDown", "page", "the broker does not answer",
            _is_away("headrace_ops_broker_up", "log_end", limits), 4,
            f"{limits.runbooks}/broker-down.md",
        ),
        Alert(
            "HeadraceProcessDown", "page", "a process is gone, does not answer or is not ready",
            _process_down(), 4, f"{limits.runbooks}/process-down.md",
        ),
        Alert(
            "HeadraceStaleSource", "warn",
            f"a process has not heard from a source for more than {limits.source_age_s:g} s",
            Compare(
                Now("headrace_source_age_seconds", ("process", "source")),
                ">", limits.source_age_s,
            ),
            2, f"{limits.runbooks}/stale-source.md", "s",
        ),
    )  # fmt: skip


def _is_away(up: str, source: str, limits: AlertSettings) -> Expression:
    """By the console, which asks; where it does not run, by the flow, which hears nothing."""
    heard = Now("headrace_source_age_seconds", agg="min", where=where(source=source))
    by_flows = And(Compare(heard, ">", limits.source_age_s), Absent(up))
    return Or(Compare(Now(up, agg="min"), "<", 1), by_flows)


def _process_down() -> Expression:
    answers = Compare(Now("up", ("process",), "min"), "<", 1)
    ready = Compare(Now("headrace_ready", ("process",), "min"), "<", 1)
    looked_at = Compare(Now("headrace_ops_up", ("process",), "min"), "<", 1)
    found: Expression = Or(Or(answers, ready, on=("process",)), looked_at, on=("process",))
    for name in NEEDED:
        found = Or(found, Absent("up", where(process=name)), on=("process",))
    return found


def _share(name: str, window_s: int, by: tuple[str, ...] = (), **labels: Where) -> Expression:
    """The part of a counter that has these labels, of all of it."""
    return Ratio(Rate(name, window_s, by, where(**labels)), Rate(name, window_s, by))


ALERTS: Final = alerts_of(AlertSettings())
