"""Commands on alerts: what they are, what holds now, the same for Prometheus and Grafana."""

import json
import logging
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from infra.cli_console import JsonFlag, console, errors
from infra.settings import Settings

alerts_app = typer.Typer(
    help="What those on call are told of, and how Prometheus is told.", no_args_is_help=True
)

FIRING = 2  # exit code


@alerts_app.command("list")
def list_alerts(
    as_json: JsonFlag = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="the table of docs/alerts.md")
    ] = False,
) -> None:
    """Every alert, by the thresholds that are in force: how bad, after how long, which runbook."""
    from infra.ops.alerts import alerts_of

    found = alerts_of(Settings().alerts)
    if markdown:
        from infra.ops.rules import as_markdown

        sys.stdout.write(as_markdown(found))
        return
    if as_json:
        rows = [
            {
                "name": alert.name, "severity": alert.severity, "summary": alert.summary,
                "for_s": alert.for_s, "runbook": alert.runbook, "expr": alert.promql(),
            }
            for alert in found
        ]  # fmt: skip
        print(json.dumps(rows, indent=2))  # noqa: T201 (the answer itself)
        return
    table = Table(Column("alert", no_wrap=True), "", "for", "when", "runbook")
    for alert in found:
        style = "red" if alert.severity == "page" else "yellow"
        table.add_row(
            alert.name, f"[{style}]{alert.severity}[/]", f"{alert.for_s} s", alert.summary,
            alert.runbook,
        )  # fmt: skip
    console.print(table)


@alerts_app.command()
def rules() -> None:
    """Prints the alerts as Prometheus' rules, by the thresholds that are in force.

    `headrace alerts rules > headrace.rules.yml`; `promtool check rules` knows the format.
    """
    if find_spec("yaml") is None:
        errors.print("[bold red]error[/] rules need the extra: pip install 'headrace[ops]'")
        raise typer.Exit(1)
    from infra.ops.alerts import alerts_of
    from infra.ops.rules import as_yaml

    sys.stdout.write(as_yaml(alerts_of(Settings().alerts)))


@alerts_app.command()
def check(
    seconds: Annotated[
        float, typer.Option(min=2, max=900, help="how long to look; alerts need some readings")
    ] = 12.0,
    as_json: JsonFlag = False,
) -> None:
    """Looks at the stack for some seconds, as the console does, and says which alerts hold.

    Ends with 2 where one fires. One that must hold for longer than this shows as pending.
    """
    import structlog

    from infra.console.collector import Collector
    from infra.running import connected

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    collector = Collector(connected(Settings())).start()
    try:
        with errors.status(f"looking for {seconds:g} s"):
            time.sleep(seconds)
        found = json.loads(collector.snapshot[1]).get("alerts", [])
    finally:
        collector.close()
    if as_json:
        print(json.dumps(found, indent=2))  # noqa: T201 (the answer itself)
    else:
        console.print(_table_of(found) if found else "no alert holds")
    raise typer.Exit(FIRING if any(one["state"] == "firing" for one in found) else 0)


def _table_of(found: list[dict[str, Any]]) -> Table:
    table = Table("alert", "state", "where", "value", "first look")
    for one in found:
        where = ", ".join(f"{name} {value}" for name, value in one["labels"].items())
        style = "red" if one["severity"] == "page" else "yellow"
        value = "" if one["value"] is None else f"{one['value']:,.6g}"
        table.add_row(one["name"], one["state"], where, value, one["command"], style=style)
    return table


@alerts_app.command()
def dashboards(
    to: Annotated[Path, typer.Option(help="folder for the files")] = Path("infra/grafana"),
) -> None:
    """Writes the Grafana dashboards as JSON files, one for each."""
    from infra.ops.dashboards import DASHBOARDS, as_json

    to.mkdir(parents=True, exist_ok=True)
    for name, dashboard in DASHBOARDS.items():
        path = to / f"{name}.json"
        path.write_text(as_json(dashboard))
        console.print(str(path))
