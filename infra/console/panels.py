"""The panels of the page as plain values, each with the age of what it shows.

PANELS[name](view) -> values;  SOURCES[name]: what must be fresh for them to be true
"""

import math
from collections.abc import Callable, Mapping
from typing import Final

from infra.console.journal import ALERT, DEPLOYMENT, DRIFT, Event
from infra.console.letters import by_kind
from infra.console.processes import kind_of
from infra.console.view import LONG_WINDOW_S, STALE_S, Values, View, ms, number
from infra.console.watch import Reading
from infra.ops.alerts import NEEDED

MAX_LETTERS: Final = 20
MAX_EVENTS: Final = 50
MAX_CONTEXTS: Final = 9
FRESHNESS: Final = "headrace_freshness_seconds"
ALL: Final = "all"


def lag(view: View) -> Values:
    """Each partition of each flow, the furthest behind first."""
    rows = [
        {
            "flow": one.flow, "topic": one.topic, "partition": one.partition,
            "records": one.records, "seconds": round(one.seconds, 3), "end": one.end,
            "committed": one.committed, "source": one.source,
            "plot": view.plot(f"lag/{one.flow}/{one.topic}/{one.partition}"),
        }
        for one in sorted(view.seen.lags, key=lambda one: (-one.records, one.key))
    ]  # fmt: skip
    known = [one for one in view.seen.lags if one.records > 0]
    return {
        "rows": rows,
        "total": sum(one.records for one in known),
        "oldest_s": max((one.seconds for one in known), default=0.0),
        "plot": view.plot("lag"),
    }


def freshness(view: View) -> Values:
    """From the log's receipt to each stage; and what a probe event took, where one is sent."""
    stages = view.percentiles(FRESHNESS, "stage")
    if "servable" not in stages:
        flow = view.percentiles("headrace_stream_freshness_seconds", "")
        if "" in flow:
            stages["servable"] = flow[""]
    probe = view.seen.probe
    probed = probe.value if probe is not None else None
    return {
        "stages": stages,
        "probe": None if probed is None else {
            "newest_s": probed.seconds, "p50_s": probed.p50_s, "p99_s": probed.p99_s,
            "n": probed.n, "is_well": bool(probe and probe.is_well),
        },
        "is_probed": probe is not None,
        "plot": view.plot("freshness"),
    }  # fmt: skip


def throughput(view: View) -> Values:
    """What comes in and what is worked off, a second."""
    return {
        "appended": {
            topic: rate
            for topic in sorted({topic for topic, _ in _ends(view)})
            if (rate := view.rate("headrace_ops_log_end_offset", topic=topic)) is not None
        },
        "events": view.rates("headrace_stream_events_total", "effect"),
        "rows_written": view.rates("headrace_stream_rows_written_total", "table"),
        "bad": view.rates("headrace_stream_bad_records_total", "reason"),
        "late": view.rate("headrace_stream_late_total"),
        "clamped": view.rate("headrace_stream_clamped_total"),
        "misrouted": view.rate("headrace_stream_misrouted_total"),
        "outcomes_learnt": view.rate("headrace_learning_outcomes_total"),
        "hot_key_share": {
            labels.get("kind", ""): value
            for labels, value in view.series.latest("headrace_stream_hot_key_share")
        },
        "plot": view.plot("throughput"),
    }


def _ends(view: View) -> Mapping[tuple[str, int], int]:
    return {} if view.seen.log.value is None else view.seen.log.value.ends


def serving(view: View) -> Values:
    """Calls, how long they take, and how many are met with less than the whole."""
    lookups = view.rates("headrace_serving_cache_lookups_total", "outcome", LONG_WINDOW_S)
    asked = sum(lookups.values())
    hits = sum(lookups.get(name, 0.0) for name in ("hit", "anonymous"))
    levels = [value for _, value in view.series.latest("headrace_serving_load_level")]
    return {
        "calls": view.rates("headrace_serving_requests_total", "code"),
        "methods": view.percentiles("headrace_serving_latency_seconds", "method"),
        "stages": view.percentiles("headrace_serving_stage_seconds", "stage"),
        "queue_delay": view.percentiles("headrace_serving_queue_delay_seconds", ""),
        "load_level": max(levels, default=None),
        "shed": view.rates("headrace_serving_shed_total", "level"),
        "refused": view.rates("headrace_serving_refused_total", "reason"),
        "degraded": view.rates("headrace_serving_degraded_total", "reason"),
        "cache_hit_share": hits / asked if asked else None,
        "plot": view.plot("latency"),
    }


def dead_letters(view: View) -> Values:
    """How many, which kinds of late, and the newest with their bytes."""
    letters = view.seen.letters.value or ()
    newest = [
        {name: getattr(letter, name) for name in type(letter).__slots__}
        for letter in reversed(letters[-MAX_LETTERS:])
    ]
    return {
        "total": max(view.seen.n_dead_letters, len(letters)),
        "kinds": by_kind(letters),
        "newest": newest,
        "agents": _agents(view, "dead-letters"),
    }


def bandits(view: View) -> Values:
    """Shares of slots, click-through and posterior means by arm and context."""
    slots = view.rates("headrace_slate_slots_total", "arm", LONG_WINDOW_S)
    total = sum(slots.values())
    outcomes = view.series.rate(
        "headrace_learning_slots_total", LONG_WINDOW_S, view.now_s, by=("arm", "outcome")
    )
    means: dict[str, dict[str, float]] = {}
    for labels, value in view.series.latest("headrace_learning_arm_mean"):
        means.setdefault(labels.get("context", ALL), {})[labels.get("arm", "")] = value
    contexts = sorted(means, key=lambda name: (name != ALL, name))[:MAX_CONTEXTS]
    arms = sorted({*slots, *(arm for of in means.values() for arm in of)})
    return {
        "arms": [
            {
                "arm": arm,
                "share": slots.get(arm, 0.0) / total if total else None,
                "click_through": _click_through(outcomes, arm),
                "mean": means.get(ALL, {}).get(arm),
            }
            for arm in arms
        ],
        "contexts": [{"context": name, "means": means[name]} for name in contexts if name != ALL],
        "slots_per_s": total,
        "agents": _agents(view, "experiments"),
    }


def _click_through(outcomes: Mapping[tuple[str, ...], float], arm: str) -> float | None:
    of_arm = {outcome: rate for (of, outcome), rate in outcomes.items() if of == arm}
    total = sum(of_arm.values())
    return of_arm.get("clicked", 0.0) / total if total > 0 else None


def slates(view: View) -> Values:
    """How good the slates of the last five minutes were, by what can be said at once."""
    clicked = view.rates("headrace_learning_slots_total", "outcome", LONG_WINDOW_S)
    total = sum(clicked.values())
    return {
        "diversity": view.mean("headrace_slate_diversity"),
        "novelty_bits": view.mean("headrace_slate_novelty_bits"),
        "long_tail_share": view.mean("headrace_slate_long_tail_share"),
        "genre_entropy_bits": view.mean("headrace_slate_genre_entropy_bits"),
        "coverage_titles": _largest(view, "headrace_slate_coverage_titles"),
        "gini": _largest(view, "headrace_slate_gini"),
        "click_through": clicked.get("clicked", 0.0) / total if total else None,
    }


def _largest(view: View, name: str) -> float | None:
    found = [value for _, value in view.series.latest(name)]
    return number(max(found)) if found else None


def models(view: View) -> Values:
    """Which bundle and which version of learned state each server uses, and how old they are."""
    servers = {}
    for one in view.of("serve"):
        servers[one.name] = {
            "bundle": _version(view, one.name),
            "bundle_age_s": _told(view, "headrace_serving_bundle_age_seconds", one.name),
            "model_sequence": _told(view, "headrace_serving_model_sequence", one.name),
            "model_age_s": _told(view, "headrace_serving_model_age_seconds", one.name),
            "mirror_age_s": _told(view, "headrace_serving_mirror_age_seconds", one.name),
            "titles": _told(view, "headrace_serving_catalogue_titles", one.name),
        }
    bundles = () if view.seen.bundles.value is None else view.seen.bundles.value.rows
    return {
        "servers": servers,
        "learner": {
            "sequence": view.one("headrace_learning_version_sequence"),
            "age_s": view.one("headrace_learning_version_age_seconds"),
            "kept": view.one("headrace_learning_versions_kept"),
            "refused": view.one("headrace_learning_versions_refused_total"),
        },
        "losses": [
            {"series": labels.get("series", ""), "log_loss": value}
            for labels, value in view.series.latest("headrace_learning_log_loss")
        ],
        "bundles": [
            {
                "version": bundle.version, "created_at_ms": bundle.created_at_ms,
                "titles": bundle.n_items, "bytes": bundle.bytes, "is_current": bundle.is_current,
                "is_previous": bundle.is_previous, "problem": bundle.problem[:200],
            }
            for bundle in bundles[:5]
        ],
    }  # fmt: skip


def _told(view: View, name: str, process: str) -> float | None:
    found = [value for _, value in view.series.latest(name, process=process)]
    return number(max(found)) if found else None


def _version(view: View, process: str) -> str:
    found = view.series.latest("headrace_serving_bundle_info", process=process)
    return next((labels.get("version", "") for labels, value in found if value), "")


def drift(view: View) -> Values:
    """Changes that the learner found: counted since it began, and each as the log has it."""
    return {
        "found": [
            {"what": labels.get("what", ""), "segment": labels.get("segment", ""), "n": value}
            for labels, value in view.series.latest("headrace_learning_drifts_total")
            if value > 0
        ],
        "history": [_event(one) for one in view.journal.newest(DRIFT, MAX_EVENTS)],
    }


def _agents(view: View, name: str) -> object:
    return (view.seen.agents.value or {}).get(name)


def processes(view: View) -> Values:
    """Which processes are up, since when, and what they take; and which are not there at all."""
    there = {kind_of(one.name) for one in view.seen.processes}
    return {
        "missing": [name for name in NEEDED if name not in there],
        "rows": [
            {
                "name": one.name, "kind": kind_of(one.name), "is_up": one.is_up,
                "answers": one.reading.is_well, "pid": one.pid, "restarts": one.restarts,
                "age_s": number(one.reading.age_s(view.now_s)), "error": one.reading.error,
                "down_since_ms": ms(one.reading.failing_since_s) if one.reading.error else None,
                "started_ms": _started_ms(one.reading.value),
                "memory_bytes": _told(view, "process_resident_memory_bytes", one.name),
                "cpu": view.rate("process_cpu_seconds_total", process=one.name),
            }
            for one in view.seen.processes
        ]
    }  # fmt: skip


def _started_ms(told: object) -> int | None:
    started_s = getattr(told, "started_at_s", 0.0)
    return ms(started_s) if started_s else None


def dependencies(view: View) -> Values:
    """The broker and Redis."""
    log, store = view.seen.log, view.seen.store
    return {
        "broker": {
            "is_up": log.is_well, "error": log.error, "age_s": number(log.age_s(view.now_s)),
            "down_since_ms": ms(log.failing_since_s) if log.error else None,
            "cluster_id": log.value.cluster_id if log.value else "",
            "topics": len(log.value.topics) if log.value else None,
        },
        "redis": {
            "is_up": store.is_well, "error": store.error,
            "age_s": number(store.age_s(view.now_s)),
            "down_since_ms": ms(store.failing_since_s) if store.error else None,
            **({name: getattr(store.value, name) for name in type(store.value).__slots__}
               if store.value else {}),
        },
        "redis_errors": view.rates("headrace_redis_errors_total", "kind"),
        "plot": view.plot("redis_memory"),
    }  # fmt: skip


def history(view: View) -> Values:
    """The last deployments, and which alerts began and ended."""
    return {
        "deployments": [_event(one) for one in view.journal.newest(DEPLOYMENT, MAX_EVENTS)],
        "alerts": [_event(one) for one in view.journal.newest(ALERT, MAX_EVENTS)],
    }


def _event(one: Event) -> Values:
    return {
        "name": one.name, "state": one.state, "severity": one.severity,
        "labels": dict(one.labels), "value": number(one.value), "at_ms": ms(one.at_s),
    }  # fmt: skip


PANELS: Final[Mapping[str, Callable[[View], Values]]] = {
    "lag": lag,
    "freshness": freshness,
    "throughput": throughput,
    "serving": serving,
    "dependencies": dependencies,
    "processes": processes,
    "dead_letters": dead_letters,
    "bandits": bandits,
    "slates": slates,
    "models": models,
    "drift": drift,
    "history": history,
}
SOURCES: Final[Mapping[str, tuple[str, ...]]] = {
    "lag": ("log",),
    "freshness": ("features",),
    "throughput": ("log", "features"),
    "serving": ("serve",),
    "dead_letters": ("letters",),
    "dependencies": (),  # tells the age of each itself
    "processes": (),  # likewise
    "bandits": ("serve", "learning"),
    "slates": ("serve",),
    "models": ("serve", "learning"),
    "drift": ("learning",),
    "history": (),
}
ALERTS: Final[Mapping[str, str]] = {  # on which panel an alert shows
    "HeadraceLag": "lag", "HeadraceLagPage": "lag", "HeadraceNoProgress": "lag",
    "HeadraceFreshnessSlow": "freshness", "HeadraceDeadLetters": "dead_letters",
    "HeadraceServingSlow": "serving", "HeadraceServingErrors": "serving",
    "HeadraceOverload": "serving", "HeadraceCacheMisses": "throughput",
    "HeadraceArmDominates": "bandits", "HeadraceDiversityLow": "slates",
    "HeadraceModelStale": "models", "HeadraceDrift": "drift",
    "HeadraceRedisMemory": "dependencies", "HeadraceRedisDown": "dependencies",
    "HeadraceBrokerDown": "dependencies", "HeadraceProcessDown": "processes",
    "HeadraceStaleSource": "processes",
}  # fmt: skip
READINGS: Final = ("log", "store", "letters")


def panel_of(name: str, view: View) -> Values:
    """A panel with the age of the oldest of its sources: `at_ms`, `is_stale`, `why`."""
    ages = {source: _age(source, view) for source in SOURCES[name]}
    oldest = max((age_s for age_s, _ in ages.values()), default=0.0)
    why = "; ".join(f"{source}: {reason}" for source, (_, reason) in ages.items() if reason)
    return {
        **PANELS[name](view),
        "at_ms": ms(view.now_s - oldest) if math.isfinite(oldest) else None,
        "is_stale": oldest > STALE_S,
        "level": _level(name, view, is_stale=oldest > STALE_S),
        "why": why,
    }


def _level(name: str, view: View, *, is_stale: bool) -> str:
    """The worst that is to be said of a panel: page, warn, stale or ok."""
    found = {
        one.severity for one in view.standing if one.is_firing and ALERTS.get(one.name) == name
    }
    return next(
        (level for level in ("page", "warn") if level in found), "stale" if is_stale else "ok"
    )


def _age(source: str, view: View) -> tuple[float, str]:
    """Age in seconds of what a source told last, and why it tells nothing newer."""
    if source in READINGS:
        reading: Reading[object] = getattr(view.seen, source)
        return reading.age_s(view.now_s), reading.error
    found = view.of(source)
    if not found:
        return math.inf, "no such process is known"
    oldest = max(found, key=lambda one: one.reading.age_s(view.now_s))
    return oldest.reading.age_s(view.now_s), oldest.reading.error
