"""Commands on the Apache Kafka that `headrace up --kafka apache` runs."""

from pathlib import Path
from typing import Annotated

import typer

from infra.cli_console import console, errors
from infra.settings import Settings

kafka_app = typer.Typer(
    help="The Apache Kafka of `headrace up --kafka apache`.", no_args_is_help=True
)


@kafka_app.callback()
def _kafka() -> None:
    """Keeps `install` a command of its own name, though it is alone."""


@kafka_app.command()
def install(
    to: Annotated[
        Path | None, typer.Option(help="folder; empty: where `headrace up` finds it")
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="a mirror of Maven Central, or a folder of jars")
    ] = None,
) -> None:
    """Fetches Apache Kafka from Maven Central: 45 MB, each jar checked by its SHA-256.

    A download that was cut goes on where it stopped. Java is not fetched; this says if it is
    missing.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from infra.apache import checked_java
    from infra.embedded import StartError
    from infra.kafka_install import MAVEN_CENTRAL
    from infra.kafka_install import install as fetch

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=errors) as progress:
        folder = fetch(Settings().home, progress, to=to, source=from_ or MAVEN_CENTRAL)
    console.print(f"Apache Kafka is in {folder}", soft_wrap=True)
    if to is not None:
        console.print(f"HEADRACE_KAFKA_HOME={folder} has it used", soft_wrap=True)
    try:
        checked_java()
    except StartError as error:
        errors.print(f"[yellow]not yet of use[/]: {error}", soft_wrap=True)
        raise typer.Exit(1) from None
    console.print("`headrace up --kafka apache` runs it")
