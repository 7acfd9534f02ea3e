"""What Prometheus and Grafana load: as committed, whole, and about metrics that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

import features.metrics
import infra.telemetry
import serving.metrics
import streams.metrics
from infra.console.lags import Lag
from infra.console.log_source import LogSeen
from infra.console.observed import Observed, Probed, ProcessSeen
from infra.console.processes import Told
from infra.console.store_source import StoreSeen
from infra.console.watch import Reading
from infra.ops.alerts import ALERTS, NEEDED
from infra.ops.dashboards import DASHBOARDS, as_json, model_of
from infra.ops.exporter import samples_of
from infra.ops.rules import as_yaml

ROOT = Path(__file__).resolve().parents[3]
MODULES = (features.metrics, infra.telemetry, serving.metrics, streams.metrics)
SUFFIXES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
    "info": ("_info",),
}
MADE_BY_PROMETHEUS = {"up"}  # ALERTS too, which no rule and no query of ours names as a metric
NAME = re.compile(r"\b(?:headrace|process)_[a-z0-9_]+")


def names_of_processes() -> set[str]:
    """Every sample that the processes can tell, by the metrics that their modules register."""
    return {
        family.name + suffix
        for family in REGISTRY.collect()
        for suffix in SUFFIXES.get(family.type, ("",))
    }


def names_of_the_console() -> set[str]:
    """Every sample that the console tells, having seen one of everything."""
    now_s, key = 1_700_000_000.0, ("features", "interactions", 0)
    log = LogSeen("c", frozenset(), {key[1:]: 9}, {key[1:]: 0}, {key: 5}, {key: 1.0})
    told = Reading(Told((), True, 0.0), now_s)
    seen = Observed(
        now_s,
        (ProcessSeen("features", "", told, 0),),
        log=Reading(log, now_s),
        store=Reading(a_store(), now_s),
        probe=Reading(Probed(0.01, 0.01, 0.02, 3), now_s),
        lags=(Lag(*key, 4, 1.0, 9, 5, "applied"),),
    )
    return {sample.name for sample in samples_of(seen)}


def a_store() -> StoreSeen:
    fields = StoreSeen.__dataclass_fields__
    return StoreSeen(**dict.fromkeys(fields, 1))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def known_names() -> set[str]:
    return names_of_processes() | names_of_the_console() | MADE_BY_PROMETHEUS


def test_rules_look_at_metrics_that_exist(known_names):
    unknown = {a.name: sorted(a.condition.names() - known_names) for a in ALERTS}
    assert {alert: names for alert, names in unknown.items() if names} == {}


def test_a_rule_names_in_promql_what_it_says_that_it_looks_at():
    for alert in ALERTS:
        in_promql = set(NAME.findall(alert.promql()))
        assert in_promql == alert.condition.names() - MADE_BY_PROMETHEUS, alert.name


def test_dashboards_show_metrics_that_exist(known_names):
    unknown = {
        panel.title: sorted(set(NAME.findall(panel.names())) - known_names)
        for dashboard in DASHBOARDS.values()
        for row in dashboard.rows
        for panel in row.panels
    }
    assert {panel: names for panel, names in unknown.items() if names} == {}


def test_rules_are_committed_as_they_are_made():
    assert (ROOT / "infra/prometheus/headrace.rules.yml").read_text() == as_yaml(ALERTS)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboards_are_committed_as_they_are_made(name):
    assert (ROOT / f"infra/grafana/{name}.json").read_text() == as_json(DASHBOARDS[name])


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboards_are_whole(name):
    model = json.loads(as_json(DASHBOARDS[name]))
    assert model["uid"] == f"headrace-{name}"
    panels = model["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))
    variables = {variable["name"] for variable in model["templating"]["list"]}
    used = set(re.findall(r"\$\{(\w+)\}", json.dumps(model)))
    assert used <= variables
    for panel in panels:
        if panel["type"] == "row":
            continue
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        for link in panel["links"]:
            runbook = link["url"].rpartition("/")[2]
            assert (ROOT / f"docs/runbooks/{runbook}.md").exists(), panel["title"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_no_panel_lies_on_another(name):
    taken: set[tuple[int, int]] = set()
    for panel in model_of(DASHBOARDS[name])["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_queries_are_promql(tmp_path):
    """As rules, so that promtool reads them."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    queries = [
        query.expr.replace("$__rate_interval", "1m")
        for dashboard in DASHBOARDS.values()
        for row in dashboard.rows
        for panel in row.panels
        for query in panel.queries
    ]
    rules = [{"record": f"headrace:query:{i}", "expr": expr} for i, expr in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    configuration = ROOT / "infra/prometheus/prometheus.yml"
    for what in (["rules", path], ["config", configuration]):
        answer = subprocess.run(
            [program, "check", *map(str, what)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stdout + answer.stderr


def test_prometheus_reads_every_process_that_must_be_there():
    found = yaml.safe_load((ROOT / "infra/prometheus/prometheus.yml").read_text())
    (job,) = found["scrape_configs"]
    processes = [config["labels"]["process"] for config in job["static_configs"]]
    assert set(processes) >= {*NEEDED, "ops"}
    assert job["honor_labels"] is True


def test_grafana_is_given_the_dashboards_and_their_source():
    folder = ROOT / "infra/grafana/provisioning"
    source = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())
    assert source["datasources"][0]["type"] == "prometheus"
    provider = yaml.safe_load((folder / "dashboards/headrace.yml").read_text())
    assert provider["providers"][0]["type"] == "file"
