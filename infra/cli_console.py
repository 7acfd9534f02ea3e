"""What all commands share: where they print, and how they are asked for JSON."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

console = Console()
errors = Console(stderr=True)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def instant_ms(text: str | None) -> int | None:
    """Milliseconds of an ISO date or time, UTC where it names no zone; None of None."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"must be an ISO date like 2013-08-01; got {text!r}") from error
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000)
