"""The Grafana dashboards, written as what to show; `headrace alerts dashboards` makes the files.

A dashboard is rows, a row is panels, a panel is queries with a unit and a sentence on what it
tells. Data come from any Prometheus (variable `datasource`); links to runbooks lead to the console
(variable `runbooks`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

SCHEMA_VERSION: Final = 39  # Grafana 10.4 and later
WIDTH: Final = 24  # of Grafana's grid
HEIGHT: Final = 8
STAT_HEIGHT: Final = 4
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
CONSOLE: Final = "http://127.0.0.1:9470/runbooks"

RECORDS, SECONDS, PER_S, SHARE, BYTES, NUMBER = "short", "s", "cps", "percentunit", "bytes", "none"
RATE: Final = "$__rate_interval"


@dataclass(frozen=True)
class Query:
    """PromQL, and how its lines are called."""

    expr: str
    legend: str = "__auto"


@dataclass(frozen=True)
class Panel:
    """One picture. `warn` and `page` are where it becomes yellow and red."""

    title: str
    tells: str
    unit: str
    queries: tuple[Query, ...]
    runbook: str = ""
    kind: str = "timeseries"
    warn: float | None = None
    page: float | None = None
    width: int = 8

    def names(self) -> str:
        """All its PromQL, to look for names of metrics in."""
        return "\n".join(query.expr for query in self.queries)


@dataclass(frozen=True)
class Row:
    """Panels that belong together."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """A page of Grafana."""

    title: str
    tells: str
    rows: tuple[Row, ...]


def quantiles(name: str, by: str = "", where: str = "") -> tuple[Query, ...]:
    """Median, 95th and 99th percentile of a histogram, by a label if one is named."""
    labels = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    return tuple(
        Query(
            f"histogram_quantile({q}, sum by ({labels}) (rate({name}_bucket{where}[{RATE}])))",
            f"{legend}p{q * 100:g}",
        )
        for q in (0.5, 0.95, 0.99)
    )


def worst(name: str, by: str, q: float = 0.99, where: str = "") -> Query:
    """One quantile of a histogram by a label."""
    return Query(
        f"histogram_quantile({q}, sum by (le, {by}) (rate({name}_bucket{where}[{RATE}])))",
        f"{{{{{by}}}}}",
    )


def rate(name: str, by: str = "", where: str = "") -> Query:
    """How fast a counter grows, by a label if one is named."""
    if by:
        return Query(f"sum by ({by}) (rate({name}{where}[{RATE}]))", f"{{{{{by}}}}}")
    return Query(f"sum(rate({name}{where}[{RATE}]))", name.removeprefix("headrace_"))


def gauge(name: str, by: str = "", agg: str = "max") -> Query:
    """The newest value, put together by labels."""
    if by:
        legend = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))
        return Query(f"{agg} by ({by}) ({name})", legend)
    return Query(f"{agg}({name})", name.removeprefix("headrace_"))


def stat(title: str, tells: str, unit: str, expr: str, runbook: str = "", **at: float) -> Panel:
    """One large number."""
    return Panel(title, tells, unit, (Query(expr, title),), runbook, "stat", width=4, **at)


def mean(name: str) -> Query:
    """The mean of a histogram."""
    return Query(f"sum(rate({name}_sum[5m])) / sum(rate({name}_count[5m]))", "mean")


P99_FRESHNESS: Final = (
    "histogram_quantile(0.99, sum by (le) (rate("
    f"headrace_stream_freshness_seconds_bucket[{RATE}])))"
)
P95_RECOMMEND: Final = (
    "histogram_quantile(0.95, sum by (le) (rate("
    f'headrace_serving_latency_seconds_bucket{{method="Recommend"}}[{RATE}])))'
)

NOW = Row("Now", (
    stat("Alerts that fire", "Every one has a runbook.", NUMBER,
         'count(ALERTS{alertstate="firing", alertname=~"Headrace.+"}) or vector(0)', page=1),
    stat("Processes that answer and are ready", "Of those that Prometheus knows.", NUMBER,
         "sum(headrace_ready)", "process-down"),
    stat("Worst lag of a partition", "Records not applied yet, by the broker's word.", RECORDS,
         "max(headrace_ops_lag) or max(headrace_stream_lag)", "lag", warn=1_000, page=10_000),
    stat("Freshness, p99", "From the log's receipt of an event to its rows readable in Redis.",
         SECONDS, P99_FRESHNESS, "freshness", warn=0.1),
    stat("Recommend, p95", "From the first byte read to the answer handed over.", SECONDS,
         P95_RECOMMEND, "serving-slow", page=0.2),
    stat("Calls a second", "Of every method, over gRPC and HTTP.", PER_S,
         f"sum(rate(headrace_serving_requests_total[{RATE}]))"),
))  # fmt: skip
LAG = Panel(
    "Lag by flow", "Records of the worst partition that are not applied, measured at the broker.",
    RECORDS, (gauge("headrace_ops_lag", "flow, topic"),), "lag", warn=1_000, page=10_000,
)  # fmt: skip
FRESHNESS = Panel(
    "Freshness by stage, p99", "From the log's receipt of an event: applied to rows in memory, "
    "servable from Redis; served: from acknowledgement to the viewer's first slate with it.",
    SECONDS, (worst("headrace_freshness_seconds", "stage"),), "freshness", warn=0.1,
)  # fmt: skip
EVENTS = Panel(
    "Events by effect", "applied; duplicate: an id seen before; replayed: the row had it already.",
    PER_S, (rate("headrace_stream_events_total", "effect"),), "no-progress",
)  # fmt: skip
LATENCY = Panel(
    "Latency by method, p95", "From the first byte of a call read to its answer handed over.",
    SECONDS, (worst("headrace_serving_latency_seconds", "method", 0.95),), "serving-slow",
    page=0.2,
)  # fmt: skip
CODES = Panel(
    "Calls by status", "OK, and what was not.", PER_S,
    (rate("headrace_serving_requests_total", "code"),), "serving-errors",
)  # fmt: skip
REFUSALS = Panel(
    "Calls refused, by reason", "Before they were looked at: no key, no right, quota, load.", PER_S,
    (rate("headrace_serving_refused_total", "reason"),), "overload",
)  # fmt: skip
AGES = Panel(
    "Age of what processes go by", "Seconds since each source was last heard from, as of now: a "
    "gauge that stands still shows here.", SECONDS,
    (gauge("headrace_source_age_seconds", "process, source"),), "stale-source", warn=10,
)  # fmt: skip
MEMORY = Panel(
    "Memory of Redis", "In use, and what there is.", BYTES,
    (gauge("headrace_ops_redis_memory_bytes"), gauge("headrace_ops_redis_memory_limit_bytes")),
    "redis-memory",
)  # fmt: skip
REFUSED_RECORDS = Panel(
    "Records refused, by rule", "They are in dead-letters, bytes and all.", PER_S,
    (rate("headrace_stream_bad_records_total", "reason"),), "dead-letters",
)  # fmt: skip
PROCESSES = Panel(
    "Processes", "1: it answers its scrape and is ready.", NUMBER,
    (gauge("headrace_ready", "process", "min"),), "process-down",
)  # fmt: skip
CPU = Panel(
    "Processors in use", "Cores, by process.", NUMBER,
    (Query(f"sum by (process) (rate(process_cpu_seconds_total[{RATE}]))", "{{process}}"),),
)  # fmt: skip
RESIDENT = Panel(
    "Memory of processes", "Resident bytes, by process.", BYTES,
    (gauge("process_resident_memory_bytes", "process", "sum"),),
)  # fmt: skip

OVERVIEW = Dashboard(
    "Headrace: overview", "Is anything wrong, since when, and where.",
    (
        NOW,
        Row("From click to state", (LAG, FRESHNESS, EVENTS)),
        Row("From request to slate", (LATENCY, CODES, REFUSALS)),
        Row("What it stands on", (PROCESSES, AGES, MEMORY, REFUSED_RECORDS, CPU, RESIDENT)),
    ),
)  # fmt: skip

STREAMS = Dashboard(
    "Headrace: streams", "How far each flow is, how fast, and what is wrong with what it reads.",
    (
        Row("Behind", (
            LAG,
            Panel("Lag by partition", "As the flow measures it itself, once a second.", RECORDS,
                  (gauge("headrace_stream_lag", "topic, partition"),), "lag",
                  warn=1_000, page=10_000),
            Panel("Oldest record that waits", "Since the log received it (ingestion), or since it "
                  "happened (event).", SECONDS,
                  (gauge("headrace_stream_lag_seconds", "topic, by"),), "lag"),
            Panel("Written and applied", "How fast the log grows, and how fast it is worked off.",
                  PER_S,
                  (Query(f"sum by (topic) (rate(headrace_stream_log_end_offset[{RATE}]))",
                         "{{topic}} written"),
                   Query(f"sum by (topic) (rate(headrace_stream_applied_offset[{RATE}]))",
                         "{{topic}} applied")), "no-progress"),
            Panel("By the broker", "Lag of each partition as the console measures it, and its age.",
                  RECORDS, (gauge("headrace_ops_lag", "flow, partition"),), "no-progress"),
            Panel("Oldest record by the broker", "Seconds since the log received it.", SECONDS,
                  (gauge("headrace_ops_lag_seconds", "flow, partition"),), "lag"),
        )),
        Row("Freshness", (
            FRESHNESS,
            Panel("Freshness of rows", "From the log's receipt to rows readable in Redis, newest "
                  "event of each batch.", SECONDS,
                  quantiles("headrace_stream_freshness_seconds"), "freshness", warn=0.1),
            Panel("Probe", "An event of the console's own viewer, sent and read again; where the "
                  "console runs with --probe.", SECONDS,
                  (gauge("headrace_ops_probe_freshness_seconds"),), "freshness"),
        )),
        Row("Work", (
            EVENTS,
            Panel("Events in a batch", "Near 2,000 all the time: the flow is at its limit.",
                  RECORDS, quantiles("headrace_stream_batch_events"), "lag"),
            Panel("Work on a batch", "Decoding, and updating rows.", SECONDS,
                  quantiles("headrace_stream_batch_seconds"), "freshness"),
            Panel("Waiting for acknowledgements, p99", "By what was written to: redis, log.",
                  SECONDS, (worst("headrace_stream_flush_seconds", "target"),), "freshness"),
            Panel("Rows written", "By table: u viewers, i titles.", PER_S,
                  (rate("headrace_stream_rows_written_total", "table"),)),
            Panel("Hottest keys", "Share of the most frequent key among recent events.", SHARE,
                  (gauge("headrace_stream_hot_key_share", "kind"),), "lag"),
        )),
        Row("Rows", (
            Panel("Row cache, share of loads", "Rows that were not in memory.", SHARE,
                  (Query('sum by (table) (rate(headrace_stream_row_cache_total{outcome="load"}'
                         f"[{RATE}])) / sum by (table) (rate(headrace_stream_row_cache_total"
                         f"[{RATE}]))", "{{table}}"),), "cache", warn=0.5),
            Panel("Rows in memory", "By table.", RECORDS,
                  (gauge("headrace_stream_rows_resident", "table", "sum"),), "cache"),
            Panel("Redis, errors and retries", "Commands that Redis did not answer or refused.",
                  PER_S, (rate("headrace_redis_errors_total", "kind"),
                          rate("headrace_redis_retries_total")), "redis-down"),
        )),
        Row("What is wrong with records", (
            REFUSED_RECORDS,
            Panel("Dead letters kept", "Records in the topic.", RECORDS,
                  (gauge("headrace_ops_dead_letters"),), "dead-letters"),
            Panel("Odd ones", "misrouted: moved to their viewer's partition; clamped: a wrong "
                  "clock; late: by more than five minutes.", PER_S,
                  (rate("headrace_stream_misrouted_total"), rate("headrace_stream_clamped_total"),
                   rate("headrace_stream_late_total")), "dead-letters"),
            Panel("Commits refused", "By the broker. Nothing is lost, a restart reads more again.",
                  PER_S, (rate("headrace_stream_commit_failures_total"),), "broker-down"),
            Panel("Archive", "Records written to files.", PER_S,
                  (rate("headrace_archive_records_total", "table"),), "lag"),
            AGES,
        )),
    ),
)  # fmt: skip

SERVING = Dashboard(
    "Headrace: serving", "How fast and how well slates are answered.",
    (
        Row("Calls", (
            LATENCY, CODES, REFUSALS,
            Panel("Recommend", "From the first byte read to the answer handed over.", SECONDS,
                  quantiles("headrace_serving_latency_seconds", where='{method="Recommend"}'),
                  "serving-slow", page=0.2),
            Panel("Stages of Recommend, p95", "Where the time goes.", SECONDS,
                  (worst("headrace_serving_stage_seconds", "stage", 0.95),), "serving-slow"),
            Panel("Slates without a dependency", "redis: as for unknown viewers; bundle: charts.",
                  PER_S, (rate("headrace_serving_degraded_total", "reason"),), "redis-down"),
        )),
        Row("Load", (
            Panel("Load level", "0 well, 1 fewer candidates, 2 charts alone, 3 refusals.", NUMBER,
                  (gauge("headrace_serving_load_level", "process"),), "overload", warn=2, page=3),
            Panel("Calls that wait", "From a call sent to its being begun, by the server's own "
                  "calls to itself.", SECONDS, quantiles("headrace_serving_queue_delay_seconds"),
                  "overload"),
            Panel("Calls met with less than the whole", "By level.", PER_S,
                  (rate("headrace_serving_shed_total", "level"),), "overload"),
        )),
        Row("What answers are made from", (
            Panel("Ages", "Of features, charts, catalogue, learned state and bundle in use.",
                  SECONDS,
                  (gauge("headrace_serving_mirror_age_seconds"),
                   gauge("headrace_serving_charts_age_seconds"),
                   gauge("headrace_serving_catalogue_age_seconds"),
                   gauge("headrace_serving_model_age_seconds"),
                   gauge("headrace_serving_bundle_age_seconds")), "model-stale"),
            Panel("Bundle in use", "By version; more than one while servers change over.", NUMBER,
                  (gauge("headrace_serving_bundle_info", "version", "sum"),), "model-stale"),
            Panel("Bundles taken or refused", "Anything but taken: the log says why.", PER_S,
                  (rate("headrace_serving_bundle_reloads_total", "outcome"),), "model-stale"),
            Panel("Slates given again", "hit, anonymous: again; moved: the viewer did something; "
                  "miss: none or too old.", PER_S,
                  (rate("headrace_serving_cache_lookups_total", "outcome"),)),
            Panel("Reads that waited for an event", "limit: the event did not come in time.",
                  PER_S, (rate("headrace_serving_waits_total", "outcome"),), "freshness"),
            Panel("Reads of viewers that failed", "Redis did not answer in time.", PER_S,
                  (rate("headrace_serving_redis_failures_total"),), "redis-down"),
        )),
        Row("What goes to the log", (
            Panel("Track", "From an event handed to the log to its acknowledgement.", SECONDS,
                  quantiles("headrace_track_seconds"), "broker-down"),
            Panel("Events not acknowledged", "log: the broker did not; in_flight: too many waited.",
                  PER_S, (rate("headrace_track_failures_total", "reason"),), "broker-down"),
            Panel("Decisions", "Recorded, and lost.", PER_S,
                  (rate("headrace_impressions_recorded_total"),
                   rate("headrace_impressions_dropped_total", "reason")), "broker-down"),
        )),
        Row("Processes", (PROCESSES, CPU, RESIDENT)),
    ),
)  # fmt: skip

LEARNING = Dashboard(
    "Headrace: learning", "What is learnt, how well it predicts, and what slates are like.",
    (
        Row("From answer to served version", (
            Panel("Outcomes", "Written by attribution, learnt by the learner.", PER_S,
                  (rate("headrace_attribution_outcomes_total"),
                   rate("headrace_learning_outcomes_total")), "model-stale"),
            Panel("From decision to version", "Of the oldest outcome of each version.", SECONDS,
                  quantiles("headrace_learning_publish_seconds"), "model-stale"),
            Panel("From version to servers", "Until a version is in use.", SECONDS,
                  quantiles("headrace_serving_model_delay_seconds"), "model-stale"),
            Panel("Ages", "Of the newest version, and of the one in use; -1: none yet.", SECONDS,
                  (gauge("headrace_learning_version_age_seconds"),
                   gauge("headrace_serving_model_age_seconds")), "model-stale"),
            Panel("Number of the version", "Published, and in use by each server.", NUMBER,
                  (gauge("headrace_learning_version_sequence"),
                   gauge("headrace_serving_model_sequence", "process")), "model-stale"),
            Panel("Versions not taken", "Refused by the learner or by servers.", PER_S,
                  (rate("headrace_learning_versions_refused_total"),
                   rate("headrace_serving_model_refused_total", "reason")), "model-stale"),
        )),
        Row("How well it predicts", (
            Panel("Log loss", "Test-then-train over the window, by series.", NUMBER,
                  (gauge("headrace_learning_log_loss", "series"),), "drift"),
            Panel("ROC AUC", "Test-then-train over the window, by series.", NUMBER,
                  (gauge("headrace_learning_roc_auc", "series"),), "drift"),
            Panel("Drifts", "Changes found, by what changed.", PER_S,
                  (rate("headrace_learning_drifts_total", "what"),), "drift"),
        )),
        Row("Arms", (
            Panel("Share of slots", "Served slots by the arm that had them.", SHARE,
                  (Query("sum by (arm) (rate(headrace_slate_slots_total[5m])) / on () group_left "
                         "() sum(rate(headrace_slate_slots_total[5m]))", "{{arm}}"),), "arms",
                  warn=0.7),
            Panel("Means", "Posterior mean of each arm, over all contexts.", NUMBER,
                  (Query('max by (arm) (headrace_learning_arm_mean{context="all"})', "{{arm}}"),),
                  "arms"),
            Panel("Click-through", "Slots that were clicked, of those learnt of.", SHARE,
                  (Query("sum by (arm) (rate("
                         'headrace_learning_slots_total{outcome="clicked"}[5m])) / '
                         "sum by (arm) (rate(headrace_learning_slots_total[5m]))", "{{arm}}"),),
                  "arms"),
        )),
        Row("What slates are like", (
            Panel("Diversity", "Mean of 1 - cosine over the pairs of a slate.", NUMBER,
                  (mean("headrace_slate_diversity"),), "diversity"),
            Panel("Diversity a day before", "A baseline: the same, a day earlier.",
                  NUMBER,
                  (Query("sum(rate(headrace_slate_diversity_sum[1h] offset 1d)) / "
                         "sum(rate(headrace_slate_diversity_count[1h] offset 1d))", "mean"),),
                  "diversity"),
            Panel("Novelty", "Mean -log2 of the popularity share of a slate's titles, in bits.",
                  NUMBER, (mean("headrace_slate_novelty_bits"),), "diversity"),
            Panel("Long tail", "Share of a slate that is none of the most popular titles.", SHARE,
                  (mean("headrace_slate_long_tail_share"),), "diversity"),
            Panel("Coverage", "Different titles served in the last hour.", NUMBER,
                  (gauge("headrace_slate_coverage_titles"),), "diversity"),
            Panel("Gini", "Over titles served in the last hour; 1: all slots have one title.",
                  NUMBER, (gauge("headrace_slate_gini"),), "diversity"),
        )),
    ),
)  # fmt: skip

DASHBOARDS: Final[Mapping[str, Dashboard]] = {
    "overview": OVERVIEW, "streams": STREAMS, "serving": SERVING, "learning": LEARNING,
}  # fmt: skip


def as_json(dashboard: Dashboard) -> str:
    """The file that Grafana loads."""
    return json.dumps(model_of(dashboard), indent=2) + "\n"


def model_of(dashboard: Dashboard) -> dict[str, Any]:
    """Grafana's model of a dashboard."""
    return {
        "uid": dashboard.title.lower().replace(": ", "-"),
        "title": dashboard.title,
        "description": dashboard.tells,
        "tags": ["headrace"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one crosshair over all panels
        "refresh": "5s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "utc",
        "templating": {"list": [_datasource(), _runbooks()]},
        "links": [
            {
                "type": "dashboards", "title": "Headrace", "tags": ["headrace"],
                "asDropdown": True, "includeVars": True, "keepTime": True, "icon": "apps",
                "tooltip": "", "url": "", "targetBlank": False,
            }
        ],
        "annotations": {"list": [_alerts()]},
        "panels": _placed(dashboard.rows),
    }  # fmt: skip


def _datasource() -> dict[str, Any]:
    return {
        "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus",
        "hide": 0, "refresh": 1, "regex": "", "multi": False, "includeAll": False, "options": [],
        "current": {},
    }  # fmt: skip


def _runbooks() -> dict[str, Any]:
    option = {"text": CONSOLE, "value": CONSOLE, "selected": True}
    return {
        "name": "runbooks", "label": "Runbooks at", "type": "textbox", "query": CONSOLE, "hide": 0,
        "options": [option], "current": option,
    }  # fmt: skip


def _alerts() -> dict[str, Any]:
    """Alerts that fire, as marks in every picture."""
    return {
        "name": "Alerts", "enable": True, "datasource": SOURCE, "iconColor": "red",
        "expr": 'ALERTS{alertstate="firing", alertname=~"Headrace.+"}',
        "titleFormat": "{{alertname}}", "step": "10s",
    }  # fmt: skip


def _placed(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Panels from left to right and top to bottom, under the title of their row."""
    placed: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        at = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        placed.append(
            {"id": len(placed) + 1, "type": "row", "title": row.title, "gridPos": at,
             "collapsed": False, "panels": []}
        )  # fmt: skip
        x, y = 0, y + 1
        height = STAT_HEIGHT if row.panels[0].kind == "stat" else HEIGHT
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y = 0, y + height
            at = {"x": x, "y": y, "w": panel.width, "h": height}
            placed.append({"id": len(placed) + 1, "gridPos": at, **_panel(panel)})
            x += panel.width
        y += height
    return placed


def _panel(panel: Panel) -> dict[str, Any]:
    links = []
    if panel.runbook:
        url = f"${{runbooks}}/{panel.runbook}"
        links.append({"title": f"Runbook: {panel.runbook}", "url": url, "targetBlank": True})
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.tells,
        "datasource": SOURCE,
        "links": links,
        "targets": [
            {
                "refId": chr(ord("A") + i), "datasource": SOURCE, "expr": query.expr,
                "legendFormat": query.legend, "editorMode": "code", "range": True,
            }
            for i, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _options(panel),
    }  # fmt: skip


def _field(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    steps += [
        {"color": color, "value": at}
        for color, at in (("yellow", panel.warn), ("red", panel.page))
        if at is not None
    ]
    has_limits = len(steps) > 1
    custom = {"thresholdsStyle": {"mode": "line" if has_limits else "off"}, "fillOpacity": 5}
    return {
        "unit": panel.unit,
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": steps},
        "custom": {} if panel.kind == "stat" else custom,
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        calculation = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        return {"reduceOptions": calculation, "colorMode": "background", "graphMode": "area"}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
