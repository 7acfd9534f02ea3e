"""What all commands share: where they print, and how they are asked for JSON."""

from typing import Annotated

import typer
from rich.console import Console

console = Console()
errors = Console(stderr=True)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
