"""Rules from the command line: through a running server, so that every server follows at once."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Final, TypeVar

from features.codec import WireError, decode_rule
from features.log import read_to_end
from features.rules import Rule, RuleChange, RuleKind, RuleScope, changes_in
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from infra import topics
from infra.running import NotRunningError, read_status
from infra.settings import Settings
from serving.client import Client

CONNECT_TIMEOUT_S: Final = 5.0
CALL_TIMEOUT_S: Final = 5.0
UNITS_MS: Final = {"m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}

E = TypeVar("E", bound=IntEnum)


class RuleNotFoundError(Exception):
    """The server knows no rule of this id."""


@contextmanager
def admin_client(settings: Settings, address: str = "", key: str = "") -> Iterator[Client]:
    """A connection to the server at an address, or to that of the stack that runs here.

    Raises NotRunningError, RequestError.
    """
    target = address or _address(settings)
    with Client(target, timeout_s=CALL_TIMEOUT_S, api_key=key or None) as client:
        client.wait_until_connected(CONNECT_TIMEOUT_S)
        yield client


def _address(settings: Settings) -> str:
    try:
        return str(read_status(settings.home)["addresses"]["grpc"])
    except (NotRunningError, KeyError) as error:
        if settings.kafka.bootstrap and settings.serving.port:
            return settings.serving.address
        raise NotRunningError(f"{error}; --address names a server elsewhere") from error


def find_rule(client: Client, rule_id: str) -> Rule:
    """One rule. Raises RuleNotFoundError, which names those there are."""
    rules = {rule.rule_id: rule for rule in client.list_rules()}
    if rule_id not in rules:
        known = ", ".join(sorted(rules)[:10]) or "none"
        raise RuleNotFoundError(f"there is no rule {rule_id!r}; the server knows {known}")
    return rules[rule_id]


def history_of(settings: Settings, rule_id: str = "") -> list[RuleChange]:
    """Who changed which rule, when, and how; the oldest first. Raises LogError."""
    entries = []
    topic = settings.kafka.prefix + topics.RULE_CHANGES
    for record in read_to_end(settings.kafka.log_config(), topic):
        try:
            entries.append(decode_rule(record.value() or b""))
        except WireError:
            continue  # none of ours
    return [change for change in changes_in(entries) if rule_id in ("", change.rule_id)]


def moment_of(text: str, now_ms: int) -> int:
    """Milliseconds since 1970 UTC of a date, a time or a distance from now. Raises ValueError.

    >>> moment_of("+2h", 1_000), moment_of("1970-01-02", 0), moment_of("1970-01-01T01:00+01:00", 7)
    (7201000, 86400000, 0)
    """
    distance = re.fullmatch(r"\+(\d+)([mhd])", text)
    if distance:
        return now_ms + int(distance[1]) * UNITS_MS[distance[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"must be a date, a time (2026-12-24T18:00+01:00, UTC where it does not say) or a "
            f"distance (+30m, +2h, +7d); got {text!r}"
        ) from None
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1_000)


def members_of(kind: type[E], names: Sequence[str]) -> tuple[E, ...]:
    """Members of an enumeration by their names, in any case. Raises ValueError."""
    known = {member.name: member for member in list(kind)[1:]}
    for name in names:
        if name.upper() not in known:
            raise ValueError(f"must be one of {', '.join(known).lower()}; got {name!r}")
    return tuple(known[name.upper()] for name in names)


def what_of(rule: Rule) -> str:
    """What a rule does, for people.

    >>> what_of(Rule("r", RuleKind.BOOST, ("tt1",), ("Drama",), boost=0.25))
    'boost tt1, all of Drama by +0.25'
    """
    titles = [*rule.item_ids[:5], *(f"all of {genre}" for genre in rule.genres)]
    more = len(rule.item_ids) - 5
    named = ", ".join(titles) + (f" and {more} more" if more > 0 else "")
    match rule.kind:
        case RuleKind.PIN:
            return f"pin {named} in slot {rule.slot}"
        case RuleKind.BOOST:
            return f"boost {named} by {rule.boost:+.3g}"
        case RuleKind.CEILING:
            return f"nothing for older than {rule.max_age}"
        case _:
            return f"block {named}"


def scope_of(scope: RuleScope) -> str:
    """Whom and where a rule is for, for people.

    >>> scope_of(RuleScope(regions=("DE",), user_id="ann")), scope_of(RuleScope())
    ('DE; ann', 'everywhere')
    """
    viewer = "/".join(filter(None, (scope.user_id, scope.profile_id)))
    places = [member.name.lower() for member in (*scope.pages, *scope.devices)]
    return "; ".join(filter(None, (", ".join([*places, *scope.regions]), viewer))) or "everywhere"


def when_of(rule: Rule) -> str:
    """From when until when a rule holds, for people; empty: always."""
    since = f"from {time_of(rule.from_ms)}" if rule.from_ms else ""
    until = f"until {time_of(rule.until_ms)}" if rule.until_ms else ""
    return " ".join(filter(None, (since, until)))


def state_of(rule: Rule, now_ms: int) -> str:
    """Whether a rule holds at a moment."""
    if rule.is_in_force(now_ms):
        return "in force"
    return "to come" if now_ms < rule.from_ms else "over"


def time_of(at_ms: int) -> str:
    """A moment to the second, in UTC."""
    return f"{datetime.fromtimestamp(at_ms / 1_000, UTC):%Y-%m-%d %H:%M:%S}Z"


def as_json(rule: Rule) -> dict[str, Any]:
    """A rule as JSON has it, enumerations by name."""
    found = asdict(rule)
    found["boost"] = round(rule.boost, 6)  # a float32 on the wire
    found["kind"] = rule.kind.name.lower()
    for name in ("pages", "devices"):
        found["scope"][name] = [member.name.lower() for member in getattr(rule.scope, name)]
    return found
