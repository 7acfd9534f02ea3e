"""The rules as the log has them, followed on a thread of its own for as long as a server runs."""

from collections.abc import Callable, Iterable

import structlog
from confluent_kafka import Message

from features.codec import WireError, decode_rule
from features.log import LogConfig, read_to_end
from features.rules import Rule, problem_with_rule
from serving import metrics
from serving.rules.book import NO_RULES, RuleBook
from serving.tail import Tail

log = structlog.get_logger(__name__)


class RuleFollower:
    """`book` has the rules as of now; `use` is told of every new one, on the follower's thread.

    While the log is away the rules stay as they are. Where another log answers, or this one has
    lost its place, all of it is read again before the book changes.
    """

    def __init__(
        self, config: LogConfig, topic: str, use: Callable[[RuleBook], None] = lambda _: None
    ) -> None:
        self.book = NO_RULES
        self._config = config
        self._topic = topic
        self._use = use
        self._rules: dict[str, Rule] = {}
        self._tail = Tail(config, topic, "rules", self._read, self._take)

    def start(self) -> None:
        """Reads all rules in this thread, then follows in another.

        Raises LogError or KafkaException where the topic cannot be read.
        """
        self._tail.start()

    def stop(self) -> None:
        """Ends the thread; it takes as long as one look at the log."""
        self._tail.stop()

    def is_alive(self) -> bool:
        """Whether rules are being followed."""
        return self._tail.is_alive()

    def _read(self) -> None:
        """The whole topic, anew."""
        self._rules = {}
        self._take(read_to_end(self._config, self._topic))
        log.info("rules_read", rules=len(self._rules))

    def _take(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._take_one(message)
        self.book = RuleBook.of(self._rules.values())
        metrics.RULES.set(len(self._rules))
        self._use(self.book)

    def _take_one(self, message: Message) -> None:
        """Takes a record in. One that cannot be used leaves the rule of its id as it is."""
        value = message.value()
        if not value:
            self._rules.pop((message.key() or b"").decode(errors="replace"), None)
            return
        try:
            rule = decode_rule(value)
            problem = problem_with_rule(rule)
        except WireError as error:
            problem = str(error)
        if problem is None:
            self._rules[rule.rule_id] = rule
        else:
            metrics.RULES_BROKEN.inc()
            log.warning("bad_rule", offset=message.offset(), reason=problem)
