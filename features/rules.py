"""Rules: what editors decide over the heads of models, and what makes one unusable."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from features.events import MAX_ID_BYTES, MAX_REGION_BYTES, MAX_SLOT
from features.ids import viewer_hash
from features.vocabulary import Device, Page

MAX_RULE_ITEMS: Final = 1_000
MAX_RULE_GENRES: Final = 32
MAX_RULE_REGIONS: Final = 250
MAX_REASON_BYTES: Final = 1_000
MAX_AGE: Final = 21  # years


class RuleKind(IntEnum):
    """What a rule does."""

    UNSPECIFIED = 0
    PIN = 1  # the title stands in a slot
    BOOST = 2  # the score's place is moved
    BLOCK = 3  # the title is not shown
    CEILING = 4  # titles for older people are not shown


@dataclass(frozen=True, slots=True)
class RuleScope:
    """Whom and where a rule is for; whatever is empty holds everywhere.

    An account without a profile means all of its profiles.
    """

    pages: tuple[Page, ...] = ()
    devices: tuple[Device, ...] = ()
    regions: tuple[str, ...] = ()
    user_id: str = ""
    profile_id: str = ""

    def holds_for(
        self, page: Page, device: Device, region: str, user_id: str, profile_id: str
    ) -> bool:
        """Whether a request is one that the rule is for. Regions are compared without case.

        >>> RuleScope(regions=("de",)).holds_for(Page.HOME, Device.TV, "DE", "ann", "")
        True
        """
        return (
            (not self.pages or page in self.pages)
            and (not self.devices or device in self.devices)
            and (not self.regions or region.upper() in {name.upper() for name in self.regions})
            and (not self.user_id or user_id == self.user_id)
            and (not self.profile_id or profile_id == self.profile_id)
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Times in milliseconds since 1970 UTC."""

    rule_id: str
    kind: RuleKind
    item_ids: tuple[str, ...] = ()  # of a pin the first that may be shown
    genres: tuple[str, ...] = ()  # of boost and block: every title with one of these
    scope: RuleScope = RuleScope()
    from_ms: int = 0  # 0: at once
    until_ms: int = 0  # 0: until it is taken away
    slot: int = 0  # of a pin, from 0
    boost: float = 0.0  # -1..1, of the spread of the scores
    max_age: int = 0  # of a ceiling, years
    reason: str = ""
    author: str = ""
    changed_at_ms: int = 0

    def is_in_force(self, at_ms: int) -> bool:
        """Whether it holds at a moment."""
        return self.from_ms <= at_ms and (self.until_ms == 0 or at_ms < self.until_ms)

    def without_names(self) -> "Rule":
        """The same rule with its viewer as 16 hexadecimal digits: fit to be kept for long."""
        scope = self.scope
        if not scope.user_id:
            return self
        viewer = f"viewer-{viewer_hash(scope.user_id, scope.profile_id):016x}"
        return replace(self, scope=replace(scope, user_id=viewer, profile_id=""))


@dataclass(frozen=True, slots=True)
class RuleChange:
    """One entry of the history of rules: None before it was set, None after it was taken away."""

    rule_id: str
    before: Rule | None
    after: Rule | None
    author: str
    reason: str
    changed_at_ms: int

    @property
    def what(self) -> str:
        """In a word."""
        if self.after is None:
            return "taken away"
        return "set" if self.before is None else "changed"


def removal_of(rule_id: str, author: str, reason: str, at_ms: int) -> Rule:
    """The entry of the history that says that a rule was taken away: one without a kind."""
    return Rule(rule_id, RuleKind.UNSPECIFIED, reason=reason, author=author, changed_at_ms=at_ms)


def changes_in(entries: Sequence[Rule]) -> list[RuleChange]:
    """The history of rules from its entries in the order of the log. O(entries).

    Entries that change nothing, such as a call made again, are left out.

    >>> set_, gone = Rule("r", RuleKind.BLOCK, ("tt1",)), removal_of("r", "ann", "", 7)
    >>> [change.what for change in changes_in([set_, set_, gone, gone])]
    ['set', 'taken away']
    """
    known: dict[str, Rule | None] = {}
    changes = []
    for entry in entries:
        before = known.get(entry.rule_id)
        after = None if entry.kind == RuleKind.UNSPECIFIED else entry
        if _is_same(before, after):
            continue
        known[entry.rule_id] = after
        changes.append(
            RuleChange(
                entry.rule_id, before, after, entry.author, entry.reason, entry.changed_at_ms
            )
        )
    return changes


def _is_same(before: Rule | None, after: Rule | None) -> bool:
    """Whether nothing but the time differs."""
    if before is None or after is None:
        return before is after
    return replace(before, changed_at_ms=after.changed_at_ms) == after


def problem_with_rule(rule: Rule) -> str | None:
    """What makes a rule unusable: field, expectation and value; None when nothing does.

    >>> problem_with_rule(Rule("r", RuleKind.PIN))
    'rule.item_ids must name at least one title; got none'
    >>> problem_with_rule(Rule("r", RuleKind.BOOST, genres=("Drama",), boost=2.0))
    'rule.boost must be within -1..1, not 0; got 2.0'
    """
    return (
        _problem_with_kind(rule)
        or _problem_with_texts(rule)
        or _problem_with_titles(rule)
        or _problem_with_numbers(rule)
        or _problem_with_scope(rule.scope)
    )


def _problem_with_kind(rule: Rule) -> str | None:
    if rule.kind not in set(RuleKind) or rule.kind == RuleKind.UNSPECIFIED:
        known = ", ".join(kind.name.lower() for kind in list(RuleKind)[1:])
        return f"rule.kind must be one of {known}; got {int(rule.kind)}"
    return None


def _problem_with_texts(rule: Rule) -> str | None:
    if not rule.rule_id:
        return "rule.rule_id is required; got an empty string"
    scope = rule.scope
    texts = [
        ("rule_id", rule.rule_id, MAX_ID_BYTES),
        ("author", rule.author, MAX_ID_BYTES),
        ("reason", rule.reason, MAX_REASON_BYTES),
        ("scope.user_id", scope.user_id, MAX_ID_BYTES),
        ("scope.profile_id", scope.profile_id, MAX_ID_BYTES),
    ]
    texts += [(f"item_ids[{k}]", item_id, MAX_ID_BYTES) for k, item_id in enumerate(rule.item_ids)]
    texts += [(f"genres[{k}]", name, MAX_ID_BYTES) for k, name in enumerate(rule.genres)]
    texts += [
        (f"scope.regions[{k}]", name, MAX_REGION_BYTES) for k, name in enumerate(scope.regions)
    ]
    for name, value, most in texts:
        if len(value.encode()) > most:
            return (
                f"rule.{name} must be at most {most} bytes; got {len(value.encode())} bytes "
                f"starting {value[:16]!r}"
            )
        if "[" in name and not value:
            return f"rule.{name} must not be empty; got an empty string"
    return None


def _problem_with_titles(rule: Rule) -> str | None:
    for name, values, most in (
        ("item_ids", rule.item_ids, MAX_RULE_ITEMS),
        ("genres", rule.genres, MAX_RULE_GENRES),
        ("scope.regions", rule.scope.regions, MAX_RULE_REGIONS),
    ):
        if len(values) > most:
            return f"rule.{name} must have at most {most} values; got {len(values)}"
    kind = rule.kind.name.lower()
    if rule.kind == RuleKind.PIN and not rule.item_ids:
        return "rule.item_ids must name at least one title; got none"
    if rule.kind in (RuleKind.BOOST, RuleKind.BLOCK) and not (rule.item_ids or rule.genres):
        return f"rule.item_ids or rule.genres must say what to {kind}; got neither"
    if rule.kind in (RuleKind.PIN, RuleKind.CEILING) and rule.genres:
        return f"rule.genres must be empty for a {kind}; got {len(rule.genres)} values"
    if rule.kind == RuleKind.CEILING and rule.item_ids:
        return f"rule.item_ids must be empty for a ceiling; got {len(rule.item_ids)} values"
    return None


def _problem_with_numbers(rule: Rule) -> str | None:
    if rule.kind == RuleKind.BOOST and not (
        math.isfinite(rule.boost) and rule.boost != 0 and abs(rule.boost) <= 1
    ):
        return f"rule.boost must be within -1..1, not 0; got {rule.boost}"
    if not 0 <= rule.slot <= MAX_SLOT:
        return f"rule.slot must be within 0..{MAX_SLOT}; got {rule.slot}"
    if not 0 <= rule.max_age <= MAX_AGE:
        return f"rule.max_age must be within 0..{MAX_AGE}; got {rule.max_age}"
    if rule.from_ms < 0:
        return f"rule.from_ms must be 0 or later; got {rule.from_ms}"
    if rule.until_ms < 0 or (rule.until_ms and rule.until_ms <= rule.from_ms):
        return f"rule.until_ms must be 0 or after from_ms ({rule.from_ms}); got {rule.until_ms}"
    return _problem_with_what_is_of_another_kind(rule)


def _problem_with_what_is_of_another_kind(rule: Rule) -> str | None:
    """A number that the kind has no use for is a mistake: most likely in the kind."""
    for name, kind in (
        ("slot", RuleKind.PIN),
        ("boost", RuleKind.BOOST),
        ("max_age", RuleKind.CEILING),
    ):
        value = getattr(rule, name)
        if value and rule.kind != kind:
            return f"rule.{name} must be 0 but for a {kind.name.lower()}; got {value}"
    return None


def _problem_with_scope(scope: RuleScope) -> str | None:
    for name, values, kind in (("pages", scope.pages, Page), ("devices", scope.devices, Device)):
        for k, value in enumerate(values):
            if not 1 <= value < len(kind):
                return f"rule.scope.{name}[{k}] must be within 1..{len(kind) - 1}; got {int(value)}"
    if scope.profile_id and not scope.user_id:
        return f"rule.scope.profile_id needs user_id; got {scope.profile_id!r} alone"
    return None
