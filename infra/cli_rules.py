"""Commands on the rules of editors: set, take away, list, show, and who did what."""

import getpass
import json
import time
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from rich.markup import escape
from rich.table import Table

from infra.cli_console import JsonFlag, console
from infra.settings import Settings

rules_app = typer.Typer(help="What editors pin, boost, block and limit.", no_args_is_help=True)

Address = Annotated[
    str, typer.Option(help="host:port of a server; empty: that of the stack that runs here")
]
Key = Annotated[
    str, typer.Option(envvar="HEADRACE_KEY", help="of scope admin, where the server asks for one")
]
T = TypeVar("T")


@rules_app.command("put")
def put_rule(
    kind: Annotated[str, typer.Argument(help="pin, boost, block or ceiling")],
    item: Annotated[
        list[str] | None, typer.Option(help="a title; of a pin the first that may be shown")
    ] = None,
    genre: Annotated[
        list[str] | None, typer.Option(help="every title with it; of boost and block")
    ] = None,
    slot: Annotated[int, typer.Option(help="of a pin, from 0")] = 0,
    boost: Annotated[
        float, typer.Option(help="of a boost, -1..1, of the spread of the scores")
    ] = 0.0,
    max_age: Annotated[int, typer.Option(help="of a ceiling, years")] = 0,
    page: Annotated[
        list[str] | None, typer.Option(help="only there: home, category, item, search")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="only on tv, phone, tablet, web")] = None,
    region: Annotated[list[str] | None, typer.Option(help="only there, for example DE")] = None,
    user: Annotated[str, typer.Option(help="only for this account, all of its profiles")] = "",
    profile: Annotated[str, typer.Option(help="only for this profile of --user")] = "",
    since: Annotated[str, typer.Option("--from", help="2026-12-01, a time, or +2h")] = "",
    until: Annotated[str, typer.Option(help="likewise; empty: until it is taken away")] = "",
    rule_id: Annotated[str, typer.Option("--id", help="empty: a new rule with a new id")] = "",
    reason: Annotated[str, typer.Option(help="why; the history keeps it")] = "",
    address: Address = "",
    key: Key = "",
    as_json: JsonFlag = False,
) -> None:
    """Sets a rule, or changes the one with this --id; servers follow within a second.

    --item, --genre, --page, --device and --region may be given several times.

      headrace rules put block --item tt0113277 --reason "licence has ended"

      headrace rules put pin --item tt0133093 --slot 0 --page home --until +7d

      headrace rules put boost --genre Comedy --boost 0.3 --region DE

      headrace rules put ceiling --max-age 12 --user ann --profile kids
    """
    from features.rules import Rule, RuleKind, RuleScope
    from features.vocabulary import Device, Page
    from infra import rules

    now_ms = time.time_ns() // 1_000_000
    pages = _option("--page", lambda: rules.members_of(Page, page or ()))
    devices = _option("--device", lambda: rules.members_of(Device, device or ()))
    wanted = Rule(
        rule_id,
        _option("KIND", lambda: rules.members_of(RuleKind, [kind]))[0],
        tuple(item or ()),
        tuple(genre or ()),
        RuleScope(pages, devices, tuple(region or ()), user, profile),
        _option("--from", lambda: rules.moment_of(since, now_ms) if since else 0),
        _option("--until", lambda: rules.moment_of(until, now_ms) if until else 0),
        slot,
        boost,
        max_age,
        reason,
        getpass.getuser(),
    )
    with rules.admin_client(Settings(), address, key) as client:
        put, position = client.put_rule(wanted)
    if as_json:
        _print({"rule": rules.as_json(put), "offset": position.offset})
        return
    console.print(f"rule [bold]{escape(put.rule_id)}[/]: {escape(rules.what_of(put))}")


@rules_app.command("delete")
def delete_rule(
    rule_id: Annotated[str, typer.Argument(help="of `headrace rules list`")],
    reason: Annotated[str, typer.Option(help="why; the history keeps it")] = "",
    address: Address = "",
    key: Key = "",
) -> None:
    """Takes a rule away; servers follow within a second."""
    from infra import rules

    with rules.admin_client(Settings(), address, key) as client:
        rules.find_rule(client, rule_id)
        client.delete_rule(rule_id, reason)
    console.print(f"rule [bold]{escape(rule_id)}[/] is taken away")


@rules_app.command("list")
def list_rules(address: Address = "", key: Key = "", as_json: JsonFlag = False) -> None:
    """Lists the rules that a server goes by: in force, to come, over."""
    from infra import rules

    with rules.admin_client(Settings(), address, key) as client:
        found = client.list_rules()
    if as_json:
        _print([rules.as_json(rule) for rule in found])
        return
    now_ms = time.time_ns() // 1_000_000
    table = Table("id", "what", "where", "when", "now", "by", "reason", title="rules")
    for rule in found:
        cells = (
            rule.rule_id, rules.what_of(rule), rules.scope_of(rule.scope), rules.when_of(rule),
            rules.state_of(rule, now_ms), rule.author, rule.reason,
        )  # fmt: skip
        table.add_row(*map(escape, cells))
    console.print(table)


@rules_app.command("show")
def show_rule(
    rule_id: Annotated[str, typer.Argument(help="of `headrace rules list`")],
    address: Address = "",
    key: Key = "",
    as_json: JsonFlag = False,
) -> None:
    """Shows all of one rule."""
    from infra import rules

    with rules.admin_client(Settings(), address, key) as client:
        rule = rules.find_rule(client, rule_id)
    if as_json:
        _print(rules.as_json(rule))
        return
    now_ms = time.time_ns() // 1_000_000
    table = Table(show_header=False, title=escape(f"rule {rule_id}"))
    for name, text in (
        ("what", rules.what_of(rule)),
        ("titles", ", ".join(rule.item_ids)),
        ("genres", ", ".join(rule.genres)),
        ("where", rules.scope_of(rule.scope)),
        ("when", rules.when_of(rule) or "always"),
        ("now", rules.state_of(rule, now_ms)),
        ("reason", rule.reason),
        ("by", rule.author),
        ("changed", rules.time_of(rule.changed_at_ms)),
    ):
        if text:
            table.add_row(name, escape(text))
    console.print(table)


@rules_app.command("history")
def rules_history(
    rule_id: Annotated[str, typer.Argument(help="one rule alone; empty: all")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Tells who changed which rule, when and how, from the log; the oldest first.

    A viewer whom a rule is for stands there as a number, not by name.
    """
    from infra import rules
    from infra.running import connected

    changes = rules.history_of(connected(Settings()), rule_id)
    if as_json:
        _print(
            [
                {
                    "rule_id": change.rule_id,
                    "what": change.what,
                    "changed_at_ms": change.changed_at_ms,
                    "author": change.author,
                    "reason": change.reason,
                    "before": change.before and rules.as_json(change.before),
                    "after": change.after and rules.as_json(change.after),
                }
                for change in changes
            ]
        )
        return
    table = Table("when", "by", "rule", "", "before", "after", "reason", title="history of rules")
    for change in changes:
        before = "" if change.before is None else _line(change.before)
        after = "" if change.after is None else _line(change.after)
        cells = (
            rules.time_of(change.changed_at_ms), change.author, change.rule_id, change.what,
            before, after, change.reason,
        )  # fmt: skip
        table.add_row(*map(escape, cells))
    console.print(table)


def _line(rule: Any) -> str:
    from infra import rules

    parts = (rules.what_of(rule), rules.scope_of(rule.scope), rules.when_of(rule))
    return "; ".join(filter(None, parts))


def _option(name: str, read: Callable[[], T]) -> T:
    """The value of an option; a bad one ends the command with its name."""
    try:
        return read()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=name) from None


def _print(found: object) -> None:
    print(json.dumps(found, indent=2))  # noqa: T201 (the answer itself)
