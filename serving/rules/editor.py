"""Setting rules and taking them away: first the history, then the topic that servers follow.

In this order no rule is ever in force that the history does not have. A call that fails between the
two is made again, and the history says it once: entries that change nothing are left out of it.
"""

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from features.clock import Clock
from features.codec import encode_rule
from features.log import LogError
from features.position import Position
from features.rules import Rule, problem_with_rule, removal_of
from serving.rules.book import RuleBook
from serving.track import LogUnavailableError, SteadyWriter

MAX_RULES: Final = 10_000


class BadRuleError(Exception):
    """A rule that cannot be used; the message names field, expectation and value."""


class TooManyRulesError(Exception):
    """There are as many rules as servers keep."""


class RuleEditor:
    """Writes changes of rules to the log; its methods belong to one event loop.

    `book` is what this server goes by now, a moment behind the log.
    """

    def __init__(
        self,
        writer: SteadyWriter,
        rules_topic: str,
        changes_topic: str,
        book: Callable[[], RuleBook],
        clock: Clock,
        *,
        timeout_s: float = 2.0,
        max_rules: int = MAX_RULES,
    ) -> None:
        self._writer = writer
        self._rules_topic = rules_topic
        self._changes_topic = changes_topic
        self._book = book
        self._clock = clock
        self._timeout_s = timeout_s
        self._max_rules = max_rules

    def rules(self) -> tuple[Rule, ...]:
        """All rules that this server knows, in the order of their ids."""
        rules = self._book().rules
        return tuple(rules[rule_id] for rule_id in sorted(rules))

    async def put(self, rule: Rule, author: str, budget_s: float) -> tuple[Rule, Position]:
        """Sets or changes a rule; as it is now, and where in the log.

        One without an id gets one. Raises BadRuleError, TooManyRulesError, and LogUnavailableError:
        then the rule may or may not hold; put it again.
        """
        rule_id = rule.rule_id or uuid.uuid4().hex
        rule = replace(rule, rule_id=rule_id, author=author, changed_at_ms=self._clock.now_ms())
        if problem := problem_with_rule(rule):
            raise BadRuleError(problem)
        known = self._book().rules
        if rule_id not in known and len(known) >= self._max_rules:
            raise TooManyRulesError(
                f"rules must be at most {self._max_rules:,}; there are {len(known):,} already"
            )
        return rule, await self._write(rule, encode_rule(rule), budget_s)

    async def delete(self, rule_id: str, author: str, reason: str, budget_s: float) -> Position:
        """Takes a rule away; where in the log. Raises LogUnavailableError: ask again."""
        removal = removal_of(rule_id, author, reason, self._clock.now_ms())
        return await self._write(removal, None, budget_s)

    async def _write(self, change: Rule, value: bytes | None, budget_s: float) -> Position:
        key, limit_s = change.rule_id.encode(), min(budget_s, self._timeout_s)
        try:
            entry = encode_rule(change.without_names())
            await self._writer.write(self._changes_topic, key, entry, limit_s)
            return await self._writer.write(self._rules_topic, key, value, limit_s)
        except LogError as error:
            text = "the log did not take the change of a rule; ask for it again"
            raise LogUnavailableError(text) from error
