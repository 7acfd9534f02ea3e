"""The rules as the log has them, followed on a thread of its own for as long as a server runs."""

import threading
from collections.abc import Callable
from typing import Final

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from features.codec import WireError, decode_rule
from features.log import LogConfig, LogError, partitions_of
from features.rules import Rule, problem_with_rule
from serving import metrics
from serving.rules.book import NO_RULES, RuleBook

PARTITION: Final = 0
CONSUME_BATCH: Final = 1_000
POLL_S: Final = 0.1  # ends with the first record
FETCH_WAIT_MS: Final = 25
READ_TIMEOUT_S: Final = 30.0  # for the whole topic, at the start
METADATA_TIMEOUT_S: Final = 10.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 2.0

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
        self._consumer: Consumer | None = None
        self._cluster_id: str | None = None
        self._is_at_end = False
        self._connection_lost = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rules", daemon=True)

    def start(self) -> None:
        """Reads all rules in this thread, then follows in another.

        Raises LogError or KafkaException where the topic cannot be read.
        """
        self._consumer = self._begin()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; it takes as long as one look at the log."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def is_alive(self) -> bool:
        """Whether rules are being followed."""
        return self._thread.is_alive()

    def _begin(self) -> Consumer:
        """Reads the topic from its beginning to its end. Raises LogError, KafkaException."""
        partitions_of(self._config, self._topic)
        consumer = Consumer(
            {
                **self._config.consumer("headrace-rules"),
                "error_cb": self._note_trouble,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": FETCH_WAIT_MS,
                "log_level": 0,  # errors come to the callback
            }
        )
        try:
            self._cluster_id = consumer.list_topics(timeout=METADATA_TIMEOUT_S).cluster_id
            consumer.assign([TopicPartition(self._topic, PARTITION, 0)])
            self._rules, self._is_at_end = {}, False
            for _ in range(int(READ_TIMEOUT_S / POLL_S)):
                self._take_all(_arrived(consumer))
                if self._is_at_end:
                    self._publish()
                    log.info("rules_read", rules=len(self._rules))
                    return consumer
            raise LogError(f"{self._topic} was not read within {READ_TIMEOUT_S:g} s")
        except BaseException:
            consumer.close()
            raise

    def _run(self) -> None:
        """Follows, and begins again after trouble; nothing but `stop` ends it."""
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                self._consumer = self._consumer or self._begin()
                self._follow(self._consumer)
                pause_s = FIRST_PAUSE_S
            except (KafkaException, LogError, OSError) as error:
                self._close()
                log.warning("rules_interrupted", reason=str(error), next_try_s=pause_s)
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
        self._close()

    def _close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _follow(self, consumer: Consumer) -> None:
        """Takes changes until told to stop. Raises LogError where this log is no longer it."""
        while not self._stopping.is_set():
            if self._take_all(_arrived(consumer)):
                self._publish()
            if self._connection_lost.is_set():
                self._require_same_log(consumer)

    def _require_same_log(self, consumer: Consumer) -> None:
        """Raises LogError where another log answers."""
        try:
            cluster_id = consumer.list_topics(timeout=1.0).cluster_id
        except KafkaException:
            return  # none answers: the rules stay
        if cluster_id != self._cluster_id:
            raise LogError("another log answers")
        self._connection_lost.clear()

    def _take_all(self, messages: list[Message]) -> bool:
        """Takes records in; whether any rule may have changed. Raises LogError."""
        return sum(self._take(message) for message in messages) > 0

    def _take(self, message: Message) -> bool:
        error = message.error()
        if error is not None:
            self._take_error(error)
            return False
        key, value = (message.key() or b"").decode(errors="replace"), message.value()
        if not value:
            return self._rules.pop(key, None) is not None
        try:
            rule = decode_rule(value)
        except WireError as broken:
            return self._refuse(message, str(broken))
        if problem := problem_with_rule(rule):
            return self._refuse(message, problem)
        self._rules[key] = rule
        return True

    def _refuse(self, message: Message, reason: str) -> bool:
        """Leaves a rule out that cannot be used; the one that it was to replace stays."""
        metrics.RULES_BROKEN.inc()
        log.warning("bad_rule", offset=message.offset(), reason=reason)
        return False

    def _take_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            self._is_at_end = True
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise LogError(f"{self._topic}: its place is lost ({error.str()})")
        else:
            self._note_trouble(error)

    def _note_trouble(self, error: KafkaError) -> None:
        if not self._connection_lost.is_set():
            log.warning("rules_broker_away", reason=error.str())
        self._connection_lost.set()

    def _publish(self) -> None:
        self.book = RuleBook.of(self._rules.values())
        metrics.RULES.set(len(self._rules))
        self._use(self.book)


def _arrived(consumer: Consumer) -> list[Message]:
    """What has arrived; waits for the first message alone, not for a full batch."""
    first = consumer.poll(POLL_S)
    return [] if first is None else [first, *consumer.consume(CONSUME_BATCH - 1, 0)]
