"""Commands for those on call: lag, tail, dead-letters, doctor, plans for topics, viewers."""

import json
import signal
from dataclasses import asdict
from threading import Event
from typing import Annotated, Any

import typer

from infra.cli_console import JsonFlag, console, instant_ms
from infra.settings import Settings

ops_app = typer.Typer()
dead_app = typer.Typer(help="Records that the flow refused, and why.", no_args_is_help=True)
ops_app.add_typer(dead_app, name="dead-letters")
topics_ops_app = typer.Typer()  # joined with the other commands of `headrace topics`
user_ops_app = typer.Typer()  # likewise of `headrace user`

LAG_WARN, LAG_PAGE = 1_000, 10_000
BEHIND = 2  # exit code

Reason = Annotated[str, typer.Option(help="a part of the reason")]
ProducerOption = Annotated[str, typer.Option("--producer", help="the account in the key")]
From = Annotated[str | None, typer.Option("--from", help="date or time, ISO, UTC")]
To = Annotated[str | None, typer.Option("--to", help="date or time, ISO, UTC; not included")]


def _connected() -> Settings:
    from infra.running import connected

    return connected(Settings())


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))  # noqa: T201 (the answer itself)


@ops_app.command()
def lag(
    warn: Annotated[int, typer.Option(help="records behind that are yellow")] = LAG_WARN,
    page: Annotated[int, typer.Option(help="records behind that are red, exit code 2")] = LAG_PAGE,
    as_json: JsonFlag = False,
) -> None:
    """How far each flow is behind the log, by partition: in records, and in seconds.

    Ends with 2 when some partition is `--page` records behind or more.
    """
    from infra.ops.lag import as_dicts, flows_of, lag_of, table_of
    from infra.running import NotRunningError, read_status

    settings = _connected()
    try:
        addresses = read_status(settings.home)["addresses"]
    except NotRunningError:
        addresses = {}
    metrics = {
        name.removeprefix("metrics_"): url
        for name, url in addresses.items()
        if name.startswith("metrics_")
    }
    found = lag_of(settings.kafka.log_config(), flows_of(settings), metrics)
    if as_json:
        _print_json(as_dicts(found))
    else:
        console.print(table_of(found, warn, page))
    raise typer.Exit(BEHIND if any(lag.lag >= page for lag in found) else 0)


@ops_app.command()
def tail(
    topic: Annotated[str, typer.Argument(help="interactions, impressions, outcomes, ...")],
    last: Annotated[int, typer.Option("--last", "-n", min=0, max=10_000)] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until Ctrl-C")] = False,
    as_json: JsonFlag = False,
) -> None:
    """The newest records of a topic, decoded; with --follow those that come, too.

    With --json each record is one line of JSON.
    """
    from infra.ops.tail import follow as follow_topic
    from infra.ops.tail import line_of, newest

    settings = _connected()
    config, prefix = settings.kafka.log_config(), settings.kafka.prefix

    def show(record: dict[str, Any]) -> None:
        if as_json:
            print(json.dumps(record), flush=True)  # noqa: T201 (the answer itself)
        else:
            console.print(line_of(record), soft_wrap=True, highlight=False)

    for record in newest(config, prefix + topic, last, prefix):
        show(record)
    if follow:
        stop = Event()
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        for record in follow_topic(config, prefix + topic, stop, prefix):
            show(record)


@dead_app.command("list")
def list_dead_letters(
    reason: Reason = "",
    producer: ProducerOption = "",
    from_: From = None,
    to: To = None,
    as_json: JsonFlag = False,
) -> None:
    """What was refused, by kind of reason, the most frequent first."""
    from infra.ops.dead_letters import as_dict, by_kind

    letters = _chosen(_connected(), reason, producer, from_, to)
    if as_json:
        _print_json([as_dict(letter) for letter in letters])
        return
    console.print(f"{len(letters):,} dead letters")
    if letters:
        console.print(by_kind(letters))
        console.print("`headrace dead-letters show OFFSET` shows one, bytes and all")


@dead_app.command("show")
def show_dead_letter(
    offset: Annotated[int, typer.Argument(min=0, help="of the dead letter")],
    as_json: JsonFlag = False,
) -> None:
    """One dead letter: why, whence, its headers, and its bytes."""
    from infra.ops.dead_letters import as_dict, hexdump, read

    settings = _connected()
    letters = read(settings.kafka.log_config(), settings.kafka.prefix)
    found = next((letter for letter in letters if letter.offset == offset), None)
    if found is None:
        raise typer.BadParameter(f"must be the offset of a dead letter; got {offset}")
    if as_json:
        _print_json({**as_dict(found), "hex": (found.value or b"").hex()})
        return
    console.print(f"[bold red]{found.reason}[/]", highlight=False)
    console.print(f"from {found.topic}/{found.partition} at {found.place}, key {found.producer!r}")
    for name, value in found.headers:
        console.print(f"  {name}: {value!r}")
    console.print(hexdump(found.value or b""), highlight=False, markup=False)


@dead_app.command("redrive")
def redrive_dead_letters(
    reason: Reason = "",
    producer: ProducerOption = "",
    from_: From = None,
    to: To = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be sent")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="needed where nothing is chosen")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Sends refused records again, once what refused them is mended. Running it twice is harmless.

    Each goes back to its topic with its key; one that was sent by an earlier redrive is passed
    over. What is still wrong comes back as a dead letter of its own.
    """
    from infra.ops.dead_letters import redrive

    if not (reason or producer or from_ or to or everything):
        raise typer.BadParameter("choose by --reason, --producer, --from or --to, or say --all")
    settings = _connected()
    letters = _chosen(settings, reason, producer, from_, to)
    done = redrive(settings.kafka.log_config(), settings.kafka.prefix, letters, dry_run=dry_run)
    if as_json:
        _print_json(asdict(done))
        return
    verb = "would be sent" if done.is_dry else "sent"
    console.print(
        f"{done.chosen:,} chosen: {done.sent:,} {verb}, {done.known:,} sent before, "
        f"{done.cut:,} not whole and left"
    )


def _chosen(
    settings: Settings, reason: str, producer: str, from_: str | None, to: str | None
) -> list[Any]:
    from infra.ops.dead_letters import Choice, read

    choice = Choice(reason, producer, instant_ms(from_) or 0, instant_ms(to) or Choice().to_ms)
    return read(settings.kafka.log_config(), settings.kafka.prefix, choice)


@topics_ops_app.command("plan")
def plan_topics(as_json: JsonFlag = False) -> None:
    """What `headrace topics apply` would do: topics that are missing, settings that differ.

    Ends with 2 where there is something to do.
    """
    from infra.ops.topic_plan import as_dicts, plan_of, table_of

    found = plan_of(_connected().kafka)
    if as_json:
        _print_json(as_dicts(found))
    else:
        console.print(table_of(found) if found else "topics are as they should be")
    raise typer.Exit(BEHIND if found else 0)


@topics_ops_app.command("apply")
def apply_topics() -> None:
    """Creates missing topics and sets what differs; a number of partitions is never changed."""
    from infra.ops.topic_plan import apply, plan_of, table_of

    settings = _connected()
    found = plan_of(settings.kafka)
    left = apply(settings.kafka, found)
    console.print(f"{len(found) - len(left)} changes made")
    if left:
        console.print(table_of(left))
        raise typer.Exit(1)


@ops_app.command()
def restart(
    name: Annotated[
        str, typer.Argument(help="as `headrace status` lists it: features, redis, ...")
    ],
    grace_s: Annotated[float, typer.Option(min=0, help="seconds from SIGTERM to SIGKILL")] = 10.0,
    as_json: JsonFlag = False,
) -> None:
    """Ends a process of the stack that runs here and waits until its successor is healthy.

    For one that lives and does nothing, which `headrace up` does not see. What was in memory comes
    back from the log and Redis.
    """
    from infra.ops.restart import restart as restarted

    now = restarted(Settings().home, name, grace_s=grace_s)
    if as_json:
        _print_json(now)
    else:
        console.print(f"{name} runs again, process {now['pid']}")


@user_ops_app.command("show")
def show_user(
    user_id: Annotated[str, typer.Argument(help="the account")],
    profile: Annotated[str, typer.Option(help="a profile of it; empty: the account itself")] = "",
    as_json: JsonFlag = False,
) -> None:
    """What is known of a viewer now: the position of the row, its features, its last titles."""
    from infra.ops.viewer import show, viewer_of

    found = viewer_of(_connected(), user_id, profile)
    if as_json:
        _print_json(found.as_dict())
    else:
        show(found, console)


@ops_app.command()
def doctor(as_json: JsonFlag = False) -> None:
    """Checks every dependency and setting, and says what to do. Ends with 1 where one is bad."""
    from infra.ops.doctor import as_dicts, examine, is_well, table_of
    from infra.running import NotRunningError

    try:
        settings = _connected()
    except NotRunningError:
        settings = Settings()
    found = examine(settings)
    if as_json:
        _print_json(as_dicts(found))
    else:
        console.print(table_of(found))
    raise typer.Exit(0 if is_well(found) else 1)
