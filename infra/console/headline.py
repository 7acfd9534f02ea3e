"""The sentence on top: are we behind, since when, who is affected, what to do."""

from collections.abc import Iterable, Sequence
from typing import Final

from infra.console.remedies import remedy_of
from infra.console.view import Standing, Values, View, ms

SEVERITY: Final = ("page", "warn")
MAX_NAMED: Final = 3  # partitions in the sentence
LAGS: Final = ("HeadraceLagPage", "HeadraceLag", "HeadraceNoProgress")


def headline_of(view: View) -> Values:
    """State (ok, warn, page, blind), the sentence, and the alert that it is about."""
    firing = in_order(one for one in view.standing if one.is_firing)
    if firing:
        first = firing[0]
        others = len({one.name for one in firing} - {first.name})
        more = f" {others} more alert{'s' if others > 1 else ''} below." if others else ""
        return {
            "state": "page" if first.severity == "page" else "warn",
            "sentence": _sentence(first, firing, view) + more,
            "since_ms": ms(first.since_s),
            **_help(first),
        }
    if not view.seen.processes:
        return {
            "state": "blind",
            "sentence": "Nothing is watched: no stack runs here, and no targets are named.",
            "affected": "", "command": "headrace up --detach", "cure": "", "runbook": "",
            "since_ms": None,
        }  # fmt: skip
    return {
        "state": "ok", "sentence": _calm(view), "since_ms": None,
        "affected": "", "command": "", "cure": "", "runbook": "",
    }  # fmt: skip


def in_order(standing: Iterable[Standing]) -> list[Standing]:
    """What is worst first; of the same severity what fires longest, causes before effects."""
    return sorted(
        standing,
        key=lambda one: (not one.is_firing, one.severity != "page", _rank(one), one.since_s),
    )


CAUSES: Final = ("HeadraceBrokerDown", "HeadraceRedisDown", "HeadraceProcessDown")


def _rank(one: Standing) -> int:
    return CAUSES.index(one.name) if one.name in CAUSES else len(CAUSES)


def _help(one: Standing) -> Values:
    remedy = remedy_of(one.name, dict(one.labels))
    return {
        "affected": remedy.affected, "command": remedy.command, "cure": remedy.cure,
        "runbook": one.runbook,
    }  # fmt: skip


def _sentence(first: Standing, firing: Sequence[Standing], view: View) -> str:
    if first.name in LAGS and (behind := _behind(view)):
        return behind
    alike = [one for one in firing if one.name == first.name]
    where = ", ".join(sorted({_where(one) for one in alike} - {""})[:MAX_NAMED])
    summary = first.summary[:1].upper() + first.summary[1:].rstrip(".")
    return f"{summary}{f' ({where})' if where else ''}."


def _where(one: Standing) -> str:
    labels = dict(one.labels)
    return labels.get("process") or labels.get("flow") or labels.get("reason") or ""


def _behind(view: View) -> str:
    """How far, for how long and where, of the flow that is furthest behind."""
    lags = sorted((lag for lag in view.seen.lags if lag.records > 0), key=lambda lag: -lag.records)
    if not lags:
        return ""
    of_flow = [lag for lag in lags if lag.flow == lags[0].flow]
    total = sum(lag.records for lag in of_flow)
    places = ", ".join(f"{lag.topic}[{lag.partition}]" for lag in of_flow[:MAX_NAMED])
    more = "" if len(of_flow) <= MAX_NAMED else f" and {len(of_flow) - MAX_NAMED} more"
    oldest_s = max(lag.seconds for lag in of_flow)
    how_long = f" for {oldest_s:,.0f} s" if oldest_s >= 0 else ""
    return f"Behind by {total:,} records{how_long}: {lags[0].flow}, {places}{more}."


def _calm(view: View) -> str:
    """What is well, said so that it can be doubted."""
    up = sum(one.is_up for one in view.seen.processes)
    n = len(view.seen.processes)
    behind = sum(lag.records for lag in view.seen.lags if lag.records > 0)
    pending = [one for one in view.standing if not one.is_firing]
    watching = f" Watching: {pending[0].summary.rstrip('.')}." if pending else ""
    return f"No alert fires. {up} of {n} processes are up, {behind:,} records wait.{watching}"


def alerts_of(view: View) -> list[Values]:
    """Alerts that fire or are about to, the worst first."""
    return [
        {
            "name": one.name, "severity": one.severity, "summary": one.summary,
            "state": "firing" if one.is_firing else "pending", "labels": dict(one.labels),
            "value": one.value, "since_ms": ms(one.since_s), **_help(one),
        }
        for one in in_order(view.standing)
    ]  # fmt: skip
