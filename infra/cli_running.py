"""Commands of those who run it for real: Apache Kafka for one machine, what a site needs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from infra.cli_console import JsonFlag, console, errors
from infra.settings import Settings

running_app = typer.Typer()
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


@running_app.command()
def size(
    viewers: Annotated[float, typer.Option(min=1, help="that have done something")],
    events_per_day: Annotated[float, typer.Option(min=1, help="clicks, watches, ... of a day")],
    slates_per_day: Annotated[
        float | None, typer.Option(min=1, help="answers of a day; empty: one for ten events")
    ] = None,
    titles: Annotated[int, typer.Option(min=1, help="in the catalogue")] = 50_000,
    regions: Annotated[int, typer.Option(min=1, help="that have charts")] = 50,
    peak: Annotated[float, typer.Option(min=1, help="busiest minute over the day's mean")] = 3.0,
    headroom: Annotated[
        float, typer.Option(min=0.05, max=1, help="share of the measured rates to plan with")
    ] = 0.5,
    active_share: Annotated[
        float, typer.Option(min=0.001, max=1, help="of viewers, whose rows stay in memory")
    ] = 0.2,
    retention_days: Annotated[float, typer.Option(min=0.1, help="of the log")] = 14.0,
    replicas: Annotated[int, typer.Option(min=1, max=9, help="of the log")] = 3,
    redis_gib: Annotated[float, typer.Option(min=1, help="rows in one Redis, at most")] = 64.0,
    as_json: JsonFlag = False,
) -> None:
    """How much a site needs: partitions, workers, servers, Redis, disks, from measured figures.

    docs/sizing.md says where each figure is from and what is not known.
    """
    from infra.sizing import Site, plan_of, table_of

    site = Site(
        int(viewers), events_per_day, slates_per_day or events_per_day / 10, titles, regions, peak,
        headroom, retention_days, replicas, active_share, redis_gib,
    )  # fmt: skip
    plan = plan_of(site)
    if as_json:
        print(json.dumps(plan.as_dict(), indent=2))  # noqa: T201 (the answer itself)
    else:
        console.print(table_of(plan))
