"""The drill: faults in a stack of its own, told by the console, mended by the runbooks."""

import json
import os
from typing import Annotated

import typer

from infra.cli_console import JsonFlag, console, errors
from infra.settings import Settings

drill_app = typer.Typer()

KEPT = "HEADRACE_ALERTS__"  # thresholds are the operator's


@drill_app.command()
def drill(
    fault: Annotated[
        list[str] | None,
        typer.Option(help="poison, flood, redis, worker or stall; repeat for several"),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Practises: puts faults into a stack of its own and mends them by the runbooks' commands.

    For each fault the console must tell it by its alert within 15 s, the commands of the runbook's
    cure must end well, and the page must be green again. Takes some minutes, touches no other
    stack. Writes drill.json into the home folder. Ends with 1 where one fault failed.
    """
    from infra.drill.run import FAULTS, as_dict, run_drill, table_of

    unknown = sorted(set(fault or ()) - set(FAULTS))
    if unknown:
        raise typer.BadParameter(f"must be of {', '.join(FAULTS)}; got {', '.join(unknown)}")
    home = Settings().home
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        if not name.startswith(KEPT):  # settings of another stack
            del os.environ[name]
    found = run_drill(home, fault or (), errors if as_json else console)
    if as_json:
        print(json.dumps(as_dict(found), indent=2))  # noqa: T201 (the answer itself)
    else:
        console.print(table_of(found))
    raise typer.Exit(0 if all(one.is_passed for one in found) else 1)
