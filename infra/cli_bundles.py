"""Commands on bundles: which there are, which one is served, going to another."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from infra.cli_console import JsonFlag, console
from infra.settings import Settings

bundles_app = typer.Typer(
    help="Bundles of models; running servers take another one into use within seconds.",
    no_args_is_help=True,
)


@bundles_app.command("list")
def list_bundles(as_json: JsonFlag = False) -> None:
    """Lists the bundles, the newest first, and which of them servers should have in use."""
    from infra import bundles

    rows = bundles.list_bundles(Settings().bundles())
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))  # noqa: T201 (the answer itself)
        return
    table = Table("version", "made", "titles", "MB", "pointer", "problem")
    for row in rows:
        made = datetime.fromtimestamp(row.created_at_ms / 1_000, UTC)
        pointer = "current" if row.is_current else "previous" if row.is_previous else ""
        table.add_row(
            row.version, f"{made:%Y-%m-%d %H:%M:%S}", f"{row.n_items:,}",
            f"{row.bytes / 1e6:,.1f}", pointer, escape(row.problem),
        )  # fmt: skip
    console.print(table)


@bundles_app.command("promote")
def promote(version: Annotated[str, typer.Argument(help="see `bundles list`")]) -> None:
    """Makes a bundle current, if every file of it is as it must be."""
    from infra import bundles

    bundles.promote(Settings().bundles(), version)
    console.print(f"{version} is current")


@bundles_app.command("rollback")
def rollback() -> None:
    """Makes the bundle current that was so before; twice leads back."""
    from infra import bundles

    console.print(f"{bundles.roll_back(Settings().bundles())} is current")


@bundles_app.command("fit")
def fit() -> None:
    """Fits fusion and calibration on the log of outcomes, into a copy of the current bundle.

    What the ranker, the click model and the watch model say is weighed by what
    viewers then did, and the final score is turned into a probability. Needs a
    running engine with some thousand served slots.
    """
    from infra.logged_fits import fit_on_log
    from infra.running import connected

    manifest, fits = fit_on_log(connected(Settings()))
    table = Table("figure", "value", title=f"bundle {manifest.version}")
    for name, value in {**fits.fusion, **fits.figures}.items():
        table.add_row(name, f"{value:,.4g}")
    looked = ", ".join(f"{share:.2f}" for share in fits.examined[:10])
    table.add_row("slots looked at, of the first", looked)
    console.print(table)
