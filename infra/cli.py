"""The command line: every command translates its options, calls one function, prints the result."""

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from threading import Event
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from infra.cli_alerts import alerts_app
from infra.cli_bundles import bundles_app
from infra.cli_console import JsonFlag, console, errors, instant_ms
from infra.cli_drill import drill_app
from infra.cli_guard import keys_app
from infra.cli_learning import decisions_app, models_app
from infra.cli_ops import ops_app, topics_ops_app, user_ops_app
from infra.cli_rules import rules_app
from infra.cli_running import kafka_app, running_app
from infra.cli_serving import requests_app
from infra.cli_watch import watch_app
from infra.settings import Settings

app = typer.Typer(
    help="Headrace turns what viewers do into what they are shown next.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
stream_app = typer.Typer(help="Dataflows from the log to served state.", no_args_is_help=True)
datasets_app = typer.Typer(help="Public datasets to replay and train on.", no_args_is_help=True)
topics_app = typer.Typer(help="The topics of the log.", no_args_is_help=True)
features_app = typer.Typer(help="The catalogue of features.", no_args_is_help=True)
feast_app = typer.Typer(help="Features by Feast's own API.", no_args_is_help=True)
evaluate_app = typer.Typer(help="How good the recommendations are.", no_args_is_help=True)
user_app = typer.Typer(help="What is known of viewers.", no_args_is_help=True)
app.add_typer(stream_app, name="stream")
app.add_typer(models_app, name="models")
app.add_typer(keys_app, name="keys")
app.add_typer(kafka_app, name="kafka")
app.add_typer(running_app)
app.add_typer(bundles_app, name="bundles")
app.add_typer(decisions_app)
app.add_typer(ops_app)
app.add_typer(watch_app)
app.add_typer(alerts_app, name="alerts")
app.add_typer(drill_app)
topics_app.add_typer(topics_ops_app)
user_app.add_typer(user_ops_app)
app.add_typer(rules_app, name="rules")
app.add_typer(requests_app)
app.add_typer(datasets_app, name="datasets")
app.add_typer(topics_app, name="topics")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(user_app, name="user")
app.add_typer(features_app, name="features")
app.add_typer(feast_app, name="feast")


class Broker(StrEnum):
    """What `headrace up` starts as its broker."""

    EMBEDDED = "embedded"
    APACHE = "apache"


Dataset = Annotated[str, typer.Argument(help="movietweetings, movielens or kuairand")]


# Troubles that a user can mend, by the module that defines them.
KNOWN_TROUBLES = {
    "features.bundle_format": ("BundleError",),
    "features.lake": ("LakeError",),
    "features.log": ("LogError",),
    "features.model_snapshot": ("SnapshotError",),
    "infra.closed_loop": ("ClosedLoopError",),
    "infra.embedded": ("StartError",),
    "infra.history": ("BackfillError",),
    "infra.models": ("ModelsError",),
    "infra.ops.restart": ("RestartError",),
    "infra.rebuild": ("RebuildError",),
    "infra.producers": ("EraseError",),
    "infra.rules": ("RuleNotFoundError",),
    "infra.running": ("NotRunningError",),
    "infra.topics": ("TopicError",),
    "infra.why": ("DecisionNotFoundError",),
    "serving.client": ("RequestError",),
    "serving.guard.keys": ("KeyFileError",),
    "streams.lease": ("LeaseError",),
    "offline.datasets": ("DatasetError",),
    "offline.logged_feedback": ("OffPolicyError",),
    "offline.logged_fits": ("TooFewOutcomesError",),
    "offline.train": ("TrainingError",),
    "pydantic": ("ValidationError",),
    "streams.runner": ("WorkerError",),
    "redis": ("RedisError",),
    "confluent_kafka": ("KafkaException",),
}


def main() -> None:
    """Entry point: known troubles end with one clear line, not with a traceback."""
    try:
        app()
    except Exception as error:
        if not is_known(error):
            raise
        errors.print(f"[bold red]error[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(getattr(error, "exit_status", 1))


def is_known(error: Exception) -> bool:
    """Whether it is one of KNOWN_TROUBLES, looked up among the modules that are loaded."""
    kinds = tuple(
        getattr(sys.modules[module], name)
        for module, names in KNOWN_TROUBLES.items()
        if module in sys.modules
        for name in names
        if hasattr(sys.modules[module], name)
    )
    return isinstance(error, (*kinds, OSError))


@stream_app.command("features")
def stream_features(
    workers: Annotated[
        int | None, typer.Option(min=1, max=16, help="processes to run, HEADRACE_STREAM__WORKERS")
    ] = None,
    process: Annotated[
        int, typer.Option(min=0, help="which of --addresses this process is, from 0")
    ] = 0,
    addresses: Annotated[
        str, typer.Option(help="host:port,... of all processes, where each is started by itself")
    ] = "",
) -> None:
    """Runs the features flow: interactions to user rows, item rows and item updates.

    With --workers several processes of this machine share the work, and end together. Across
    machines each process is started with its --process and the same --addresses.
    """
    from infra.telemetry import configure_logging

    settings = Settings()
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    configure_logging(f"features-{process}" if addresses else "features")
    n_workers = settings.stream.workers if workers is None else workers
    if not addresses and n_workers > 1:
        from infra.workers import run_workers

        run_workers(settings, n_workers, stop)
        return
    _run_features_worker(settings, stop, process, addresses)


def _run_features_worker(settings: Settings, stop: Event, process: int, addresses: str) -> None:
    from infra.bootstrap import run_features_flow
    from infra.telemetry import serve_metrics, switch_off_metrics
    from infra.workers import holding_lock
    from streams.runner import Cluster

    try:
        cluster = Cluster(tuple(filter(None, addresses.split(","))), process)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not settings.metrics.enabled:
        switch_off_metrics()
    serve_metrics(settings.metrics.host, settings.metrics.features_port)
    with holding_lock(settings) if cluster.n_workers > 1 else nullcontext():
        run_features_flow(settings, stop, cluster)


@stream_app.command("archive")
def stream_archive() -> None:
    """Runs the archive flow: the log to a lake of Parquet files, every record once.

    HEADRACE_ARCHIVE__FOLDER names the lake (default: `lake` in HEADRACE_HOME),
    HEADRACE_ARCHIVE__FLUSH_S and HEADRACE_ARCHIVE__ROWS_PER_FILE the size of its files.
    """
    from infra.archive import run_archive_flow

    _run_until_told("archive", run_archive_flow)


@stream_app.command("learning")
def stream_learning() -> None:
    """Runs the learning flow: outcomes to versions of learned state, at most a second later.

    HEADRACE_LEARNING__PUBLISH_EVERY_S is the time between versions, HEADRACE_LEARNING__KEEP_EVERY_S
    that between versions which `headrace models rollback` can go back to.
    """
    from infra.learning import run_learning_flow

    _run_until_told("learning", run_learning_flow)


@stream_app.command("attribution")
def stream_attribution() -> None:
    """Runs the attribution flow: slates and what viewers did next become outcomes.

    HEADRACE_ATTRIBUTION__HORIZON_S says how long a slot may wait for its answer,
    HEADRACE_ATTRIBUTION__REWARDS__LIKE and the like what each answer is worth.
    """
    from infra.attribution import run_attribution_flow

    _run_until_told("attribution", run_attribution_flow)


@stream_app.command("agents")
def stream_agents() -> None:
    """Runs the Faust agents: views of dead letters, alerts, drifts and experiments, as JSON.

    They answer on loopback, on HEADRACE_AGENTS__PORT, and are made anew from the log at each start.
    HEADRACE_AGENTS__EXPOSURE_DAYS says how many days of impressions are read.
    """
    from infra.agents import run_agents

    _run_until_told("agents", run_agents)


def _run_until_told(name: str, run: Callable[[Settings, Event], None]) -> None:
    """Runs a flow of one process until SIGTERM or SIGINT, with its logs and metrics."""
    from infra.running import connected
    from infra.telemetry import configure_logging, serve_metrics, switch_off_metrics

    configure_logging(name)
    settings = connected(Settings())
    if not settings.metrics.enabled:
        switch_off_metrics()
    serve_metrics(settings.metrics.host, getattr(settings.metrics, f"{name}_port"))
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    run(settings, stop)


@app.command()
def serve(
    process: Annotated[
        int | None, typer.Option(min=0, help="which of several servers on one port this one is")
    ] = None,
) -> None:
    """Runs the gRPC server: Recommend, SimilarItems, Trending, Track and TrackMany.

    With HEADRACE_SERVING__PROCESSES over 1, as many of them, which share the port.
    """
    from infra.telemetry import configure_logging, serve_metrics, switch_off_metrics

    settings = Settings()
    configure_logging("serve" if process is None else f"serve-{process}")
    if settings.serving.processes > 1 and process is None:
        from infra.servers import run_servers

        stop = Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        run_servers(settings, settings.serving.processes, stop)
        return
    from infra.serving_process import run_server

    if not settings.metrics.enabled:
        switch_off_metrics()
    serve_metrics(settings.metrics.host, settings.metrics.serve_port)
    run_server(settings)


@app.command()
def up(
    detach: Annotated[bool, typer.Option(help="Return when all runs, leaving it running.")] = False,
    dataset: Annotated[
        str, typer.Option(help="What fills the log: auto, simulation, a dataset; empty: nothing.")
    ] = "",
    archive: Annotated[bool, typer.Option("--archive", help="Run the archive flow, too.")] = False,
    kafka: Annotated[
        Broker, typer.Option(help="embedded: in memory. apache: what it holds, stays.")
    ] = Broker.EMBEDDED,
) -> None:
    """Starts broker, Redis, the features flow, the learning flow and the server here.

    With --kafka apache, Apache Kafka and a Redis that saves: events, rows and what was learnt are
    there again at the next start. `headrace kafka install` fetches Apache Kafka.
    """
    from infra import running

    settings = Settings()
    if kafka is Broker.APACHE:
        settings.apache.enabled = True
    if archive:
        settings.archive.enabled = True
    if detach:
        running.start_detached(settings, dataset, console)
    else:
        running.run(settings, dataset, console)


@app.command()
def down() -> None:
    """Stops what `headrace up` started."""
    from infra.running import stop

    stop(Settings().home, console)


@app.command()
def status(as_json: JsonFlag = False) -> None:
    """Lists processes, whether they are healthy, and the addresses they answer on."""
    from infra.running import read_status

    found = read_status(Settings().home)
    if as_json:
        print(json.dumps(found, indent=2))  # noqa: T201 (the answer itself)
    else:
        _print_status(found)
    raise typer.Exit(0 if found["healthy"] else 1)


def _print_status(found: dict[str, Any]) -> None:
    table = Table("process", "pid", "healthy", title="Headrace")
    for process in found["processes"]:
        table.add_row(process["name"], str(process["pid"]), "yes" if process["healthy"] else "NO")
    console.print(table)
    for name, address in found["addresses"].items():
        console.print(f"  {name:8} {address}")


@app.command()
def demo(
    as_json: JsonFlag = False,
    dataset: Annotated[str, typer.Option(help="movietweetings, or simulation")] = "",
) -> None:
    """Shows real events changing real recommendations, and ends by itself."""
    from infra.demo import run_demo

    summary = run_demo(Settings(), dataset, errors if as_json else console)
    if as_json:
        print(json.dumps(summary, indent=2))  # noqa: T201 (the answer itself)


@topics_app.command("create")
def create_topics() -> None:
    """Creates the topics that are missing."""
    from infra.running import connected
    from infra.stack import create_topics as create

    create(connected(Settings()).kafka)
    console.print("topics are there")


@app.command()
def settings() -> None:
    """Prints the settings in force as JSON, secrets masked; set them by HEADRACE_SECTION__NAME."""
    print(json.dumps(Settings().printable(), indent=2))  # noqa: T201 (the answer itself)


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=errors,
    )


@app.command()
def replay(
    dataset: Dataset,
    rate: Annotated[float | None, typer.Option(help="events a second")] = None,
    speed: Annotated[float | None, typer.Option(help="times as fast as it happened")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="first date, ISO, UTC")] = None,
    to: Annotated[str | None, typer.Option("--to", help="date behind the last, ISO, UTC")] = None,
    until_now: Annotated[bool, typer.Option(help="shift times: the last event is now")] = False,
    as_json: Annotated[bool, typer.Option("--as-json", help="send JSON, not protobuf")] = False,
) -> None:
    """Sends a dataset's titles and events to the log, in the order in which they happened."""
    from infra.producers import replay_dataset
    from infra.running import connected
    from offline.datasets import Selection

    selection = Selection(instant_ms(from_), instant_ms(to))
    with _progress() as progress:
        result = replay_dataset(
            connected(Settings()), dataset, selection, progress,
            rate=rate, speed=speed, until_now=until_now, as_json=as_json,
        )  # fmt: skip
    console.print(
        f"{result.delivered:,} of {result.sent:,} events delivered in {result.seconds:.1f} s "
        f"({result.events_per_s:,.0f}/s)"
    )
    if not result.succeeded:
        errors.print(f"[bold red]{result.failed:,} not delivered[/]: {result.first_failure}")
        raise typer.Exit(1)


@app.command()
def simulate(
    events: Annotated[int, typer.Option(help="how many events", min=1)] = 100_000,
    users: Annotated[int, typer.Option(help="how many viewers", min=2)] = 10_000,
    items: Annotated[int, typer.Option(help="how many titles", min=2)] = 2_000,
    seed: Annotated[int, typer.Option(help="the same seed makes the same events")] = 7,
    rate: Annotated[
        float | None, typer.Option(help="events a second; in a closed loop slates, 20 by default")
    ] = None,
    closed_loop: Annotated[
        bool, typer.Option("--closed-loop", help="viewers answer what the running stack shows them")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(help="closed loop: end after this time, whatever --events says")
    ] = None,
    titles: Annotated[
        bool, typer.Option(help="closed loop: send the simulation's titles first")
    ] = True,
    releases: Annotated[
        int, typer.Option(help="closed loop: titles held back, to come out meanwhile", min=0)
    ] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Sends simulated viewers' events to the log: Zipf items, drifting tastes, sessions.

    With --closed-loop they ask the running stack for slates and answer what they are shown, until
    --events or --seconds; it ends with 1 unless every call and every event was taken.
    """
    from infra.producers import simulate_events
    from infra.running import connected

    if closed_loop:
        _simulate_closed_loop(
            users, items, seed, titles=titles, releases=releases, as_json=as_json,
            events=None if seconds else events, seconds=seconds, rate=rate,
        )  # fmt: skip
        return
    with _progress() as progress:
        result = simulate_events(
            connected(Settings()), progress,
            n_events=events, n_users=users, n_items=items, seed=seed, rate=rate,
        )  # fmt: skip
    console.print(f"{result.delivered:,} of {result.sent:,} events delivered")
    if not result.succeeded:
        errors.print(f"[bold red]{result.failed:,} not delivered[/]: {result.first_failure}")
        raise typer.Exit(1)


def _simulate_closed_loop(
    users: int, items: int, seed: int, *, titles: bool, releases: int, as_json: bool,
    events: int | None, seconds: float | None, rate: float | None,
) -> None:  # fmt: skip
    from infra.closed_loop import LoopPlan, simulate_closed_loop, tables_of
    from infra.running import connected
    from offline.simulator import SimulationConfig, Simulator

    if releases >= items:
        raise typer.BadParameter(f"--releases must be fewer than --items; got {releases}")
    simulator = Simulator(SimulationConfig(n_users=users, n_items=items, seed=seed))
    plan = LoopPlan(events, seconds, rate or 20.0, seed=seed)
    with _progress() as progress:
        summary = simulate_closed_loop(
            connected(Settings()), simulator, plan, progress, titles=titles, releases=releases
        )
    if as_json:
        print(json.dumps(summary.to_dict(), indent=2))  # noqa: T201 (the answer itself)
    else:
        console.print(*tables_of(summary))
        console.print(
            f"{summary.slates:,} slates and {summary.events:,} events in {summary.seconds:.1f} s: "
            f"{100 * summary.total.click_through:.1f} % of slots taken up, mean reward "
            f"{summary.total.mean_reward:.4f}; {summary.released} titles released"
        )
    if not summary.succeeded:
        errors.print(
            f"[bold red]{summary.failures} calls failed, {summary.refused} events refused[/]: "
            f"{escape(summary.first_failure or 'slates were empty')}",
            highlight=False,
        )
        raise typer.Exit(1)


@app.command()
def train(
    dataset: Dataset,
    from_: Annotated[str | None, typer.Option("--from", help="first date, ISO, UTC")] = None,
    to: Annotated[str | None, typer.Option("--to", help="date behind the last, ISO, UTC")] = None,
    until_now: Annotated[bool, typer.Option(help="shift times: the last event is now")] = False,
) -> None:
    """Trains a bundle on a dataset (factors, neighbours, ranker) and makes it current."""
    from infra.producers import dataset as open_source
    from infra.train import train_bundle
    from offline.datasets import Selection

    source = open_source(Settings(), dataset, until_now=until_now)
    folder = Settings().bundles()
    with _progress() as progress:
        manifest = train_bundle(
            source,
            folder,
            selection=Selection(instant_ms(from_), instant_ms(to)),
            progress=progress,
        )
    table = Table("figure", "value", title=f"bundle {manifest.version}")
    for name, value in manifest.metrics.items():
        table.add_row(name, f"{value:,.4g}")
    console.print(table)
    console.print(f"in {folder / manifest.version}; running servers take it within seconds")


@app.command()
def refresh(
    dataset: Dataset,
    from_: Annotated[str | None, typer.Option("--from", help="first date, ISO, UTC")] = None,
    to: Annotated[str | None, typer.Option("--to", help="date behind the last, ISO, UTC")] = None,
    until_now: Annotated[bool, typer.Option(help="shift times: the last event is now")] = False,
) -> None:
    """Fits factors and neighbours of titles anew; the ranker stays that of the current bundle."""
    from infra.producers import dataset as open_source
    from infra.train import refresh_bundle
    from offline.datasets import Selection

    source = open_source(Settings(), dataset, until_now=until_now)
    folder = Settings().bundles()
    selection = Selection(instant_ms(from_), instant_ms(to))
    with _progress() as progress:
        manifest = refresh_bundle(source, folder, selection=selection, progress=progress)
    console.print(f"bundle {manifest.version} in {folder / manifest.version}")


@evaluate_app.command("replay")
def evaluate_replay(
    dataset: Dataset,
    share: Annotated[float, typer.Option(help="of the events, the last ones", min=0.01)] = 0.2,
    limit: Annotated[int | None, typer.Option(help="slates at most, for a quick look")] = None,
    others: Annotated[
        bool, typer.Option(help="also baselines refitted daily, and the engine with frozen state")
    ] = True,
    plot: Annotated[Path | None, typer.Option(help="picture of NDCG@20 by day, a PNG")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Replays the end of a dataset test-then-train through the engine, beside baselines."""
    from infra.evaluate import draw_over_time, slates_table_of, table_of
    from infra.evaluate import evaluate_replay as evaluate
    from infra.producers import dataset as open_source

    source = open_source(Settings(), dataset)
    with _progress() as progress:
        found = evaluate(source, share=share, limit=limit, progress=progress, with_others=others)
    if plot is not None:
        draw_over_time(found, plot)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))  # noqa: T201 (the answer itself)
    else:
        console.print(table_of(found), slates_table_of(found))


@app.command()
def rebuild(
    wait: Annotated[bool, typer.Option(help="return when all rows are there again")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Empties Redis of rows and has the features flow build them anew from the log.

    Serving goes on meanwhile, with viewers and trends as far as they are rebuilt. Ends with 3 when
    no features process runs: then its next start does it.
    """
    from infra.rebuild import NOBODY_RUNS
    from infra.rebuild import rebuild as begin
    from infra.running import connected

    with _progress() as progress:
        task = progress.add_task("events", total=None)
        done = begin(
            connected(Settings()),
            wait=wait,
            progress=lambda n, total: progress.update(task, completed=n, total=total),
        )
    if as_json:
        print(json.dumps(asdict(done), indent=2))  # noqa: T201 (the answer itself)
    elif not done.has_process:
        console.print("no features process runs: rows are built anew at its next start")
    elif done.is_done:
        console.print(
            f"{done.events:,} events in {done.seconds:.1f} s: rows are as the log has them"
        )
    else:
        console.print("asked for; the features process begins at once")
    raise typer.Exit(0 if done.has_process else NOBODY_RUNS)


@app.command()
def backfill(
    from_: Annotated[str, typer.Option("--from", help="a dataset: history before the log")] = "",
    archive: Annotated[Path | None, typer.Option(help="folder of the log's archive")] = None,
    until: Annotated[str | None, typer.Option(help="date or time, ISO, UTC; not included")] = None,
    replace: Annotated[bool, typer.Option(help="delete the rows that are there")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Builds all rows from history at full speed, then leaves the log to the features flow.

    The features flow must not run meanwhile.
    """
    from infra.backfill import backfill_archive, backfill_dataset
    from infra.producers import dataset as open_source
    from infra.running import connected
    from offline.datasets import Selection

    if bool(from_) == (archive is not None):
        raise typer.BadParameter("give --from DATASET or --archive FOLDER, one of the two")
    settings, until_ms = connected(Settings()), instant_ms(until)
    with _progress() as progress:
        task = progress.add_task("events", total=None)

        def tell(n: int, total: int) -> None:
            progress.update(task, completed=n, total=total)

        if archive is not None:
            done = backfill_archive(settings, archive, until_ms, tell, replace=replace)
        else:
            source, chosen = open_source(settings, from_), Selection(until_ms=until_ms)
            done = backfill_dataset(settings, source, chosen, tell, replace=replace)
    if as_json:
        print(json.dumps(asdict(done), indent=2))  # noqa: T201 (the answer itself)
        return
    places = ", ".join(f"partition {p} at offset {at}" for p, at in sorted(done.handover.items()))
    console.print(f"{done.events:,} events in {done.seconds:.1f} s ({done.events_per_s:,.0f}/s)")
    console.print(f"handover: {places}")


@app.command()
def send() -> None:
    """Sends interactions as JSON, one a line on standard input, straight into the log.

    As kcat does, for brokers that an older kcat cannot speak to: nothing is checked here.
    """
    from infra.producers import send_lines
    from infra.running import connected

    for position in send_lines(connected(Settings()), sys.stdin.buffer):
        console.print(f"{position.topic}/{position.partition} at {position.offset}")


@user_app.command("erase")
def erase_user(
    user_id: Annotated[str, typer.Argument(help="the account")],
    profile: Annotated[str, typer.Option(help="a profile of it; empty: the account itself")] = "",
) -> None:
    """Has a viewer forgotten: the row is emptied, and no replay of the log fills it again."""
    from infra.producers import erase_user as erase
    from infra.running import connected

    position = erase(connected(Settings()), user_id, profile)
    console.print(f"forgotten from {position.topic}/{position.partition} at {position.offset} on")


@features_app.command("docs")
def feature_docs() -> None:
    """Prints the catalogue of features as Markdown: `headrace features docs > docs/features.md`."""
    from features.feature_docs import catalogue

    sys.stdout.write(catalogue())


@feast_app.command("apply")
def feast_apply(
    repo: Annotated[Path, typer.Option(help="folder of feature_store.yaml")] = Path("feast"),
) -> None:
    """Writes a Feast repository over the rows and the lake, and registers entities and views."""
    from features.definitions import Sources
    from features.feast_store import write_repo
    from infra.running import connected
    from infra.topics import INTERACTIONS

    settings = connected(Settings())
    topic = settings.kafka.prefix + INTERACTIONS
    sources = Sources(settings.lake(), settings.kafka.bootstrap, topic)
    write_repo(settings.redis.config(), repo, sources)
    console.print(f"FeatureStore(repo_path={str(repo)!r}) reads the features")


@datasets_app.command("get")
def get_dataset(name: Dataset, into: Annotated[Path | None, typer.Option()] = None) -> None:
    """Downloads a dataset from its publisher; goes on where an earlier download ended."""
    from offline.download import get

    folder = into or Settings().home / "data"
    with Progress(console=errors) as progress:
        done = get(name, folder, progress=progress)
    console.print(f"{name}: {', '.join(str(path) for path in done.files)}\nterms: {done.terms}")
    for file in done.unchecked:
        console.print(f"[yellow]its publisher gives no checksum for {file}[/]: {done.sha256[file]}")


@datasets_app.command("list")
def list_datasets() -> None:
    """Lists the datasets and where they are, if they are here."""
    from infra.producers import data_folders
    from offline.datasets import DATASETS

    table = Table("dataset", "here")
    for name, kind in DATASETS.items():
        found = [str(folder) for folder in data_folders(Settings()) if kind.is_in(folder)]
        table.add_row(name, found[0] if found else f"no: headrace datasets get {name}")
    console.print(table)


def run() -> None:
    """For `python -m infra.cli`: the process has no terminal to wait for."""
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()


if __name__ == "__main__":
    run()
