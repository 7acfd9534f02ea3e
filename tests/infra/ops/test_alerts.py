"""Alerts: one definition, read by ourselves and by Prometheus to the same answers."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from infra.ops.alerts import ALERTS, Alert, Evaluator
from infra.ops.conditions import (
    Compare,
    Expression,
    Growth,
    Now,
    OverTime,
    Quantile,
    Rate,
    Ratio,
)  # fmt: skip
from infra.ops.rules import annotations_of, as_yaml
from infra.ops.scrape import Sample
from infra.ops.series import Series
from tests.infra.ops.alert_cases import CASES, LONG_STEP_S, STEP_S, Case, Labels, Line

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)"
)


def promtool(*arguments: str | Path) -> str:
    assert PROMTOOL is not None
    answer = subprocess.run(
        [PROMTOOL, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def played(case: Case, evaluator: Evaluator) -> set[tuple[str, Labels]]:
    """What fires at the end of a case by our own reading."""
    series, found = Series(step_s=STEP_S), []
    for second in range(0, case.at_s + 1, case.step_s):
        for process in case.processes:
            series.observe(process, case.samples(process, second), second)
        found = evaluator.step(series, second)
    return {
        (one.alert.name, tuple(sorted(one.labels.items())))
        for one in found
        if one.state == "firing"
    }


def series_of(case: Case) -> list[dict[str, str]]:
    """A case as promtool reads it: every series with its values."""
    seconds = range(0, case.at_s + 1, case.step_s)
    lines = [
        (
            line.name,
            {"process": line.process, **line.labels},
            [case.value(line, s) for s in seconds],
        )
        for line in case.all_lines()
    ]
    for process in case.processes:
        ups = [float(bool(case.samples(process, second))) for second in seconds]
        lines.append(("up", {"process": process}, [*ups]))
    return [
        {"series": name + braces(labels), "values": " ".join(notation(values))}
        for name, labels, values in lines
    ]


def braces(labels: dict[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def notation(values: list[float | None]) -> list[str]:
    """A series that ends is marked as stale, as Prometheus does at the next scrape."""
    before = [None, *values]
    return [
        repr(value) if value is not None else "_" if last is None else "stale"
        for last, value in zip(before, values, strict=False)
    ]


def merged(cases: tuple[Case, ...]) -> list[Case]:
    """Fewer and larger cases, since promtool is slow: together those that share no alert."""
    found: list[tuple[set[str], Case]] = []
    for case in cases:
        names = {line.name for line in case.lines}
        about = {alert.name for alert in ALERTS if alert.condition.names() & names}
        for i, (taken, other) in enumerate(found):
            alike = case.at_s == other.at_s and not (case.gone or other.gone)
            if alike and case.processes == other.processes and not about & taken:
                both = replace(
                    other,
                    title=f"{other.title}; {case.title}",
                    lines=other.lines + case.lines,
                    fires=other.fires + case.fires,
                )
                found[i] = (taken | about, both)
                break
        else:
            found.append((about, case))
    return [case for _, case in found]


def alert_tests_of(case: Case) -> dict[str, object]:
    """Every alert with what is expected of it, silence too."""
    return {
        "name": case.title,
        "interval": f"{case.step_s}s",
        "input_series": series_of(case),
        "alert_rule_test": [
            {
                "eval_time": f"{case.at_s}s",
                "alertname": alert.name,
                "exp_alerts": [
                    {
                        "exp_labels": {**dict(labels), "severity": alert.severity},
                        "exp_annotations": annotations_of(alert),
                    }
                    for name, labels in case.fires
                    if name == alert.name
                ],
            }
            for alert in ALERTS
        ],
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_what_fires(case):
    assert played(case, Evaluator()) == set(case.fires)


def test_every_alert_fires_in_one_case_and_is_silent_in_one_that_looks_like_it():
    fires = {name for case in CASES for name, _ in case.fires}
    assert fires == {alert.name for alert in ALERTS}
    looked_at = {name: set() for name in fires}
    for case in CASES:
        told = {line.name for line in case.lines}
        for alert in ALERTS:
            is_about_it = told & alert.condition.names() or case.gone
            if is_about_it and alert.name not in {name for name, _ in case.fires}:
                looked_at[alert.name].add(case.title)
    assert [name for name, silent in looked_at.items() if not silent] == []


@needs_promtool
@pytest.mark.parametrize("step_s", [STEP_S, LONG_STEP_S])
def test_prometheus_fires_the_same(tmp_path, step_s):
    rules = tmp_path / "rules.yml"
    rules.write_text(as_yaml(ALERTS))
    cases = tuple(case for case in CASES if case.step_s == step_s)
    tests = {
        "rule_files": [rules.name],
        "evaluation_interval": f"{step_s}s",
        "tests": [alert_tests_of(case) for case in merged(cases)],
    }
    path = tmp_path / "tests.yml"
    path.write_text(yaml.safe_dump(tests, sort_keys=False))
    assert "SUCCESS" in promtool("test", "rules", path)


def random_counters(rng: np.random.Generator, n_readings: int) -> list[Line]:
    """Counters that begin again at times, and miss readings; a histogram of two processes."""
    lines = []
    for i in range(12):
        steps = rng.exponential(rng.choice([0.1, 5, 400]), n_readings)
        values, now = [], 0.0
        for step in steps:
            now = step if rng.random() < 0.05 else now + step
            values.append(None if rng.random() < 0.1 else float(round(now, 3)))
        process, labels = f"p{i % 3}", {"kind": "ab"[i % 2], "n": str(i)}
        lines.append(Line(process, "things_total", told_by(values), labels))
    for i, process in enumerate(("p0", "p1")):
        counts = rng.poisson([3, 2, 0.2, 0.1], (n_readings, 4)).cumsum(axis=0).cumsum(axis=1)
        lines += [
            Line(process, "wait_seconds_bucket", told_by(counts[:, j].astype(float).tolist()),
                 {"le": edge, "kind": "ab"[i]})
            for j, edge in enumerate(("0.1", "0.5", "2.5", "+Inf"))
        ]  # fmt: skip
    return lines


def told_by(values):
    return lambda second: values[second // STEP_S]


@needs_promtool
def test_numbers_are_those_of_prometheus(tmp_path):
    n_readings, at_s = 40, 78
    lines = random_counters(np.random.default_rng(11), n_readings)
    lines += [Line("p0", "things_new_total", lambda s: 7.0 if s >= 60 else None)]
    case = Case("numbers", tuple(lines), at_s=at_s, processes=("p0", "p1", "p2"))
    expressions: list[Expression] = [
        Now("things_total", ("kind",), "sum"),
        Rate("things_total", 31, ("kind",)),
        Rate("things_total", 60, ("process", "n")),
        Ratio(Rate("things_total", 25, ("kind",)), Rate("things_total", 25), of_all=True),
        Growth("things_new_total", 30),
        Growth("things_total", 60, ("n",)),
        OverTime("changes", "things_total", 30, ("n",)),
        OverTime("min_over_time", "things_total", 30, ("n",), "min"),
        *(Quantile(q, "wait_seconds", 41) for q in (0.05, 0.5, 0.9, 0.99)),
        *(Quantile(q, "wait_seconds", 41, ("kind",)) for q in (0.05, 0.5, 0.9, 0.99)),
    ]  # fmt: skip
    series = Series(step_s=STEP_S)
    for second in range(0, at_s + 1, STEP_S):
        for process in case.processes:
            series.observe(process, case.samples(process, second), second)
    tests = []
    for expression in expressions:
        found = expression.read(series, at_s)
        assert found, expression
        tests += [
            {
                "expr": close_to(expression, dict(labels), value),
                "eval_time": f"{at_s}s",
                "exp_samples": [{"labels": braces(dict(labels)), "value": 1}],
            }
            for labels, value in found.items()
        ]
    file = tmp_path / "numbers.yml"
    file.write_text(
        yaml.safe_dump(
            {
                "evaluation_interval": f"{STEP_S}s",
                "tests": [
                    {
                        "interval": f"{STEP_S}s",
                        "input_series": series_of(case),
                        "promql_expr_test": tests,
                    }
                ],
            }
        )
    )
    assert "SUCCESS" in promtool("test", "rules", file)


def close_to(expression: Expression, labels: dict[str, str], value: float) -> str:
    """1, with these labels, where Prometheus has the same number."""
    only = "label_replace(vector(1), 'x', '', '', '')"
    for name, label in labels.items():
        only = f"label_replace({only}, '{name}', '{label}', '', '')"
    on = f"and on ({', '.join(labels)}) {only}" if labels else ""
    return f"abs(({expression.promql()} {on}) - {value!r}) <= bool {1e-9 * max(abs(value), 1)!r}"


def told(value: float) -> list[Sample]:
    return [Sample("headrace_stream_lag", {}, value)]


ALARM = Alert("Alarm", "page", "", Compare(Now("headrace_stream_lag", ("process",)), ">", 5), 4, "")


def test_an_alert_waits_fires_once_and_ends():
    series, evaluator = Series(), Evaluator([ALARM])
    states = []
    for i, value in enumerate([0, 9, 9, 8, 7, 0, 9]):
        series.observe("features", told(value), 2 * i)
        states.append(
            [(one.state, one.since_s, one.value) for one in evaluator.step(series, 2 * i)]
        )
    assert states == [
        [], [("pending", 2, 9)], [("pending", 2, 9)], [("firing", 2, 8)], [("firing", 2, 7)], [],
        [("pending", 12, 9)],
    ]  # fmt: skip
    assert [(one.state, one.at_s, one.value) for one in evaluator.history] == [
        ("firing", 6, 8),
        ("resolved", 10, 7),
    ]


def test_pages_stand_above_warnings_and_what_is_older_above_what_is_newer():
    condition = Compare(Now("headrace_stream_lag", ("process",)), ">", 5)
    warning = Alert("Warning", "warn", "", condition, 0, "")
    series, evaluator = Series(), Evaluator([warning, ALARM])
    series.observe("serve", told(9), 0)
    evaluator.step(series, 0)
    series.observe("features", told(9), 2)
    series.observe("serve", told(9), 2)
    found = [(one.alert.name, one.labels["process"]) for one in evaluator.step(series, 2)]
    assert found == [
        ("Alarm", "serve"), ("Alarm", "features"), ("Warning", "serve"), ("Warning", "features"),
    ]  # fmt: skip


def test_alerts_that_hold_are_bounded():
    series, evaluator = Series(), Evaluator([ALARM])
    for i in range(1_100):
        series.observe(f"p{i}", told(9), 0)
    assert len(evaluator.step(series, 0)) == 1_000
