"""The rules there are, as one immutable book, and which of them hold for a request."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from features.rules import Rule
from features.vocabulary import Device, Page

NEVER_MS: Final = 2**62


@dataclass(frozen=True, slots=True)
class Place:
    """Whom and where a request is for, as far as rules can tell requests apart.

    `user_id` and `profile_id` are empty for viewers of whom no rule speaks.
    """

    page: Page
    device: Device
    region: str
    user_id: str
    profile_id: str


@dataclass(frozen=True, slots=True)
class RuleBook:
    """All rules by id; a change makes another book."""

    rules: Mapping[str, Rule] = field(default_factory=dict)
    _users: frozenset[str] = frozenset()  # of whom some rule speaks
    _edges_ms: tuple[int, ...] = ()  # moments at which some rule begins or ends, in order

    @classmethod
    def of(cls, rules: Iterable[Rule]) -> "RuleBook":
        """The book of rules; of several with one id the last counts.

        >>> from features.rules import RuleKind
        >>> book = RuleBook.of([Rule("r", RuleKind.BLOCK, ("tt1",), until_ms=10)])
        >>> book.next_edge_ms(3), len(book.changed("r", None).rules)
        (10, 0)
        """
        by_id = {rule.rule_id: rule for rule in rules}
        edges = {at_ms for rule in by_id.values() for at_ms in (rule.from_ms, rule.until_ms)}
        users = {rule.scope.user_id for rule in by_id.values()} - {""}
        return cls(MappingProxyType(by_id), frozenset(users), tuple(sorted(edges - {0})))

    def changed(self, rule_id: str, rule: Rule | None) -> "RuleBook":
        """The book with a rule set, or without it. O(rules)."""
        others = [known for known in self.rules.values() if known.rule_id != rule_id]
        return RuleBook.of(others if rule is None else [*others, rule])

    def place_of(
        self, page: Page, device: Device, region: str, user_id: str, profile_id: str
    ) -> Place:
        """What of a request decides which rules hold."""
        if user_id not in self._users:
            user_id = profile_id = ""
        return Place(page, device, region.upper(), user_id, profile_id)

    def in_force(self, place: Place, now_ms: int) -> tuple[Rule, ...]:
        """The rules that hold there and then, the one changed last first. O(rules)."""
        held = [
            rule
            for rule in self.rules.values()
            if rule.is_in_force(now_ms)
            and rule.scope.holds_for(
                place.page, place.device, place.region, place.user_id, place.profile_id
            )
        ]
        return tuple(sorted(held, key=lambda rule: (-rule.changed_at_ms, rule.rule_id)))

    def speaks_of(self, user_id: str) -> bool:
        """Whether some rule is for this account: then it is not like others."""
        return user_id in self._users

    def next_edge_ms(self, now_ms: int) -> int:
        """The first moment after `now_ms` at which some rule begins or ends."""
        place = bisect_right(self._edges_ms, now_ms)
        return self._edges_ms[place] if place < len(self._edges_ms) else NEVER_MS


NO_RULES: Final = RuleBook()
