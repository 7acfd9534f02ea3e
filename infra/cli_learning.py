"""Commands on what was decided, what came of it, and what was learnt from it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from infra.cli_console import JsonFlag, console
from infra.settings import Settings

models_app = typer.Typer(help="Versions of learned state.", no_args_is_help=True)
decisions_app = typer.Typer()  # its commands stand beside those of the whole command line


@models_app.command("report")
def report_models(
    by_segment: Annotated[bool, typer.Option(help="a line for each segment as well")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Shows how well the online models do on what they had not seen yet, and which drifts came up.

    Log loss, ROC AUC and calibration error are those of a window of some 12,000 outcomes.
    """
    from infra.learning_report import read_report, show_report
    from infra.running import connected

    report = read_report(connected(Settings()))
    if as_json:
        print(json.dumps(report.as_dict(), indent=2))  # noqa: T201 (the answer itself)
        return
    show_report(report, console, by_segment=by_segment)


@models_app.command("list")
def list_models(as_json: JsonFlag = False) -> None:
    """Lists the versions that can be gone back to, and which one is in use."""
    from infra.models import list_versions
    from infra.running import connected

    rows = list_versions(connected(Settings()))
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))  # noqa: T201 (the answer itself)
        return
    columns = ("sequence", "age s", "outcomes", "bytes", "restored from", "in use", "problem")
    table = Table(*columns, title="versions of learned state")
    for row in rows:
        table.add_row(
            str(row.sequence), f"{row.age_s:,.1f}", f"{row.outcomes:,}", f"{row.bytes:,}",
            str(row.restored_from or ""), "yes" if row.in_use else "", escape(row.problem),
        )  # fmt: skip
    console.print(table)


@models_app.command("show")
def show_model(
    sequence: Annotated[int, typer.Argument(help="of the version, see `models list`", min=1)],
    as_json: JsonFlag = False,
) -> None:
    """Shows a version: its arrays, and what it knows of arms in the busiest contexts."""
    from infra.models import show_version
    from infra.running import connected

    shown = show_version(connected(Settings()), sequence)
    if as_json:
        print(json.dumps(asdict(shown), indent=2))  # noqa: T201 (the answer itself)
        return
    version = shown.version
    console.print(
        f"version {version.sequence}, {version.outcomes:,} outcomes, {version.bytes:,} bytes, "
        f"feature version {shown.feature_version}"
        + (f", restored from {version.restored_from}" if version.restored_from else "")
    )
    table = Table("array", "shape", "type", "least", "mean", "most")
    for array in shown.arrays:
        table.add_row(
            array.name, "x".join(map(str, array.shape)) or "1", array.dtype,
            f"{array.least:,.4g}", f"{array.mean:,.4g}", f"{array.most:,.4g}",
        )  # fmt: skip
    console.print(table)
    columns = ("context", "arm", "slots", "share", "mean reward", "posterior mean", "weight")
    arms = Table(*columns, title="arms in the contexts with the most slots")
    for arm in shown.arms:
        arms.add_row(
            arm.context, arm.arm, f"{arm.slots:,}", f"{arm.share:.3f}", f"{arm.mean_reward:+.3f}",
            "" if arm.posterior_mean is None else f"{arm.posterior_mean:.3f}",
            "" if arm.posterior_weight is None else f"{arm.posterior_weight:,.1f}",
        )  # fmt: skip
    console.print(arms)


@models_app.command("rollback")
def roll_back_models(
    sequence: Annotated[int, typer.Argument(help="a version of `models list`", min=1)],
    reason: Annotated[str, typer.Option(help="why; it stays in the log of learning")],
    as_json: JsonFlag = False,
) -> None:
    """Goes back to an earlier version: servers at once, learners too, and on from there."""
    from infra.models import roll_back
    from infra.running import connected

    done = roll_back(connected(Settings()), sequence, reason)
    if as_json:
        print(json.dumps(asdict(done), indent=2))  # noqa: T201 (the answer itself)
        return
    console.print(
        f"ordered at {done.order.topic}/{done.order.partition} offset {done.order.offset}; "
        f"servers are given version {done.sequence}, which is {done.restored_from} again"
    )


@decisions_app.command()
def why(
    request_id: Annotated[str, typer.Argument(help="of the answer, as `Recommend` gave it")],
    user: Annotated[str, typer.Option(help="the account that it was served to")],
    slot: Annotated[int | None, typer.Option(min=0, help="one slot alone, from 0")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Says why a slate was served as it was: arms, chances, beliefs, versions, and what followed.

    Everything comes from the log of decisions, so it is what was believed then, not now.
    """
    from infra.running import connected
    from infra.why import explain, show

    explained = explain(connected(Settings()), request_id, user)
    if as_json:
        print(json.dumps(explained.as_dict(), indent=2))  # noqa: T201 (the answer itself)
        return
    show(explained, console, slot)


@decisions_app.command()
def sources(
    user: Annotated[str, typer.Option(help="the account; one never seen is a new viewer")],
    profile: Annotated[str, typer.Option(help="of the account")] = "",
    region: Annotated[str, typer.Option(help="ISO 3166 code, as events have it")] = "",
    item: Annotated[str, typer.Option(help="as on the page of this title")] = "",
    genre: Annotated[list[str] | None, typer.Option(help="titles with one of these alone")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Says what each source of candidates brings for a viewer now, with examples and reasons.

    It looks at the running engine's log, rows and bundle by itself: no slate is served.
    """
    from infra.running import connected
    from infra.sources import look, show
    from serving.slate import Query

    query = Query(user, profile_id=profile, region=region, item_id=item, genres=tuple(genre or ()))
    brought = look(connected(Settings()), query)
    if as_json:
        print(json.dumps(brought.as_dict(), indent=2))  # noqa: T201 (the answer itself)
        return
    show(brought, console)


@decisions_app.command("evaluate-policy")
def evaluate_policy(
    dataset: Annotated[str, typer.Option(help="open-bandit-men; empty: the engine's log")] = "",
    archive: Annotated[
        Path | None, typer.Option(help="the lake; without it a running engine's topics")
    ] = None,
    behaviour: Annotated[str, typer.Option(help="who logged the dataset: random, bts")] = "random",
    target: Annotated[
        list[str] | None,
        typer.Option(help="logged, uniform, static, fixed:ARM, greedy; of the dataset random, bts"),
    ] = None,
    weight: Annotated[
        list[str] | None, typer.Option(help="of an arm, for the target static: trending=2")
    ] = None,
    estimator: Annotated[
        list[str] | None, typer.Option(help="ips, clipped-ips, snips, dm, dr, switch-dr")
    ] = None,
    largest_weight: Annotated[
        float, typer.Option(help="where clipped-ips clips and switch-dr trusts the model alone")
    ] = 10.0,
    bootstrap: Annotated[int, typer.Option(min=1, help="draws for the intervals")] = 1_000,
    seed: Annotated[int, typer.Option(help="the same seed gives the same table")] = 7,
    as_json: JsonFlag = False,
) -> None:
    """What would another policy have earned? Estimated from a log with propensities.

    A slate tells how probable each arm was when it was shown. Rows that another
    policy would have shown more often count for more: reward times its
    probability over the logged one. So the log of one policy answers for others
    that never served anybody.

    Look at `effective` first: so many rows of equal weight would say as much.
    Below a thousand, no value is worth a decision. Then take snips and dr; where
    they disagree, trust neither. ips has no bias and the widest interval;
    clipped-ips and switch-dr trade some bias for less of it. dm is the reward
    model's opinion alone: its interval knows nothing of the model's mistakes.
    The target `logged` must give back what was observed.

    --target and --estimator may be given several times. `greedy` learns from the
    first half of the log and is tried on the second. docs/off-policy.md has more.

      headrace evaluate-policy --dataset open-bandit-men --target bts

      headrace evaluate-policy --archive .headrace/lake --target greedy

      headrace evaluate-policy --target static --weight als=3 --weight trending=1
    """
    from infra import evaluate_policy as policies
    from infra.running import connected
    from offline.off_policy import ALL

    settings = Settings()
    if dataset not in ("", policies.OPEN_BANDIT) or (dataset and archive is not None):
        raise typer.BadParameter(f"give --dataset {policies.OPEN_BANDIT}, --archive, or neither")
    options = policies.Options(
        tuple(target or ()), tuple(estimator or ALL), policies.weights_of(weight or []),
        largest_weight, bootstrap, seed,
    )  # fmt: skip
    if dataset:
        source = policies.open_bandit_source(settings, behaviour, options)
    elif archive is not None:
        source = policies.archive_source(archive)
    else:
        source = policies.log_source(connected(settings))
    found = policies.evaluate_policies(source, options)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))  # noqa: T201 (the answer itself)
        return
    console.print(policies.table_of(found))
    for warning in found.warnings:
        console.print(f"[bold yellow]careful[/] {escape(warning)}", highlight=False)
