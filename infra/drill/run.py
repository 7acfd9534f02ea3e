"""Runs the drill: every fault in turn, a timeline while it goes on, figures at the end."""

import json
import os
import tempfile
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from infra.drill.course import DETECT_S, Fault, Outcome, World, follow, rounded
from infra.drill.site import Site

RESULT: Final = "drill.json"
FAULTS: Final = ("poison", "flood", "redis", "worker", "stall")


def run_drill(home: Path, chosen: Collection[str], console: Console) -> list[Outcome]:
    """The chosen faults, all where none is named; writes HOME/drill.json.

    Raises StartError where the stack does not start.
    """
    began_s = time.monotonic()

    def tell(line: str) -> None:
        passed_s = time.monotonic() - began_s
        console.print(f"[dim]{passed_s:7.1f} s[/]  {escape(line)}", highlight=False, soft_wrap=True)

    tell("a stack of its own starts; the first time it compiles for minutes")
    with (
        tempfile.TemporaryDirectory(prefix="headrace-drill-") as folder,
        Site(Path(folder).resolve()) as site,
        console.status("practising"),
    ):
        tell("the stack runs, with a steady load")
        world = World(site.look, site.run, time.monotonic, time.sleep, tell)
        faults = [one for one in site.faults() if not chosen or one.name in chosen]
        found = [_one(fault, world, console) for fault in faults]
    write(home / RESULT, found)
    return found


def _one(fault: Fault, world: World, console: Console) -> Outcome:
    console.rule(fault.name, align="left")
    return follow(fault, world)


def as_dict(found: Sequence[Outcome]) -> dict[str, Any]:
    """What drill.json holds."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "passed": all(one.is_passed for one in found),
        "detect_limit_s": DETECT_S,
        "cores": os.cpu_count(),
        "load_1min": rounded(os.getloadavg()[0]),
        "faults": {one.fault: one.as_dict() for one in found},
    }


def write(path: Path, found: Sequence[Outcome]) -> None:
    """Writes drill.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_dict(found), indent=2) + "\n")


def table_of(found: Sequence[Outcome]) -> Table:
    """For people."""
    alert = Column("alert", no_wrap=True)
    table = Table("fault", alert, "told after", "cure", "green after", "", title="Drill")
    for one in found:
        mark = "[green]passed[/]" if one.is_passed else f"[bold red]FAILED[/] {escape(one.problem)}"
        table.add_row(
            one.fault, one.alert, _seconds(one.detected_s), "\n".join(one.commands),
            _seconds(one.recovered_s), mark,
        )  # fmt: skip
    return table


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"
