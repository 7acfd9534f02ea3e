"""Impressions and interactions -> outcomes: what became of each served slot.

    both topics, merged -> batches of a partition -> outcomes -> the log of learning

Which outcomes there are is a function of the two logs, see `streams.open_slates`. Each is written
once: a restart learns again what was known from the last stretch of both logs, without writing,
and from the committed offsets on leaves out what the log of learning holds already. With two
processes of one group at a time, or where the log still takes in records of a process that was
killed while a new one has read it to its end, an outcome may be there twice.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Event

import bytewax.operators as op
import structlog
from bytewax.dataflow import Dataflow
from confluent_kafka import Message

from features.clock import Clock, WallClock
from features.ids import id_hash
from features.learning_codec import decode_learning_batch, encode_outcome
from features.log import LogConfig, LogError, LogWriter, partitions_of, read_to_end
from features.outcomes import NO_ANSWER_MS, NO_ROLLBACK, Outcome
from features.position import Position
from streams import metrics
from streams.kafka import CallSink
from streams.merged_log import MergedBatch, MergedSource, MergeParts, Written, read_starts
from streams.open_slates import Attribution, AttributionRules

READ_AT_ONCE = 1_000  # records
LINGER_MS = 2  # an outcome waits this long for others: half the requests under load
FLUSH_S = 60.0

OutcomeKey = tuple[int, int, int]  # hash of the request, slot, revision
KeyedOutcome = tuple[bytes, bytes]  # key and value of a record

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AttributionTopics:
    """Full names of topics."""

    impressions: str
    interactions: str
    outcomes: str


@dataclass(slots=True)
class AttributionParts:
    """What the flow is given. `at_end` receives what is left to do once the flow has ended well."""

    log: LogConfig
    topics: AttributionTopics
    group: str
    rules: AttributionRules = field(default_factory=AttributionRules)
    partitions: tuple[int, ...] = ()  # of both topics; none: all
    clock: Clock = field(default_factory=WallClock)  # as the broker's, whose times are compared
    stop: Event = field(default_factory=Event)
    at_end: list[Callable[[], None]] | None = None


def build_flow(parts: AttributionParts) -> Dataflow:
    """The dataflow. Raises LogError when a topic is missing, or is not what it must be."""
    flow = Dataflow("attribution")
    add_attribution(flow, parts)
    return flow


def add_attribution(flow: Dataflow, parts: AttributionParts) -> None:
    """Adds the steps to a flow: the log of learning is their only connection to others."""
    topics, written = parts.topics, Written()
    partitions = _partitions(parts)
    both = (topics.impressions, topics.interactions)
    starts = read_starts(parts.log, parts.group, both, partitions)
    known = KnownOutcomes.read(
        parts.log, topics.outcomes, min(start.written for start in starts.values()), written
    )
    merge = MergeParts(
        log=parts.log,
        topics=both,
        group=parts.group,
        starts=starts,
        memory_ms=parts.rules.memory_ms,
        written=written,
        stop=parts.stop,
        clock=parts.clock,
        at_end=parts.at_end,
    )
    batches = op.input("read_slates_and_answers", flow, MergedSource(merge))
    outcomes = op.map("attribute", batches, Attribute(parts.rules, known))
    writer = OutcomeWriter(parts.log, topics.outcomes, written)
    op.output("write_outcomes", outcomes, CallSink(lambda: writer.write))


def _partitions(parts: AttributionParts) -> tuple[int, ...]:
    topics = parts.topics
    slates = partitions_of(parts.log, topics.impressions)
    answers = partitions_of(parts.log, topics.interactions)
    if slates != answers:
        raise LogError(
            f"{topics.impressions} must have as many partitions as {topics.interactions}, so that "
            f"a viewer's slates and answers lie in the same; got {len(slates)} and {len(answers)}"
        )
    if len(partitions_of(parts.log, topics.outcomes)) != 1:
        raise LogError(f"{topics.outcomes} must have one partition: there is one order to learn in")
    return parts.partitions or tuple(slates)


class KnownOutcomes:
    """Outcomes that the log of learning held at the start, behind a place that was committed."""

    def __init__(self, keys: set[OutcomeKey]) -> None:
        self._keys = keys

    @classmethod
    def read(cls, config: LogConfig, topic: str, start: int, written: Written) -> "KnownOutcomes":
        """Reads them, and tells `written` where the topic ends. About 6 us and 150 bytes each."""
        keys: set[OutcomeKey] = set()
        waiting: list[Message] = []
        written.end = max(written.end, start)
        for record in read_to_end(config, topic, start):
            waiting.append(record)
            if len(waiting) == READ_AT_ONCE:
                keys.update(_keys_in(waiting))
                waiting.clear()
            written.end = (record.offset() or 0) + 1
        keys.update(_keys_in(waiting))
        if keys:
            log.info("outcomes_read_back", n=len(keys), start=start, end=written.end)
        return cls(keys)

    def takes_out(self, outcome: Outcome) -> bool:
        """Whether the outcome is one of them; each answers yes once."""
        if not self._keys:
            return False
        key = (id_hash(outcome.request_id), outcome.slot, outcome.revision)
        if key not in self._keys:
            return False
        self._keys.remove(key)
        return True


def _keys_in(records: list[Message]) -> Iterator[OutcomeKey]:
    values = [record.value() or b"" for record in records]
    found = decode_learning_batch(values, [record.offset() or 0 for record in records]).records
    outcomes = found[found["rollback_to"] == NO_ROLLBACK]
    columns = (outcomes[name].tolist() for name in ("request", "slot", "revision"))
    yield from zip(*columns, strict=True)


class Attribute:
    """Batches of merged records to records of outcomes, made as the writer takes them."""

    def __init__(self, rules: AttributionRules, known: KnownOutcomes) -> None:
        self._rules = rules
        self._known = known
        self._partitions: dict[int, Attribution] = {}

    def __call__(self, batch: MergedBatch) -> Iterator[KeyedOutcome]:
        """Read each to its end, in the order of the batches."""
        attribution = self._partitions.get(batch.partition)
        if attribution is None:
            attribution = self._partitions[batch.partition] = Attribution(self._rules)
        for outcome in attribution.take(batch.first, batch.second, batch.until_ms):
            if batch.is_quiet:
                continue
            if self._known.takes_out(outcome):
                metrics.OUTCOMES_KNOWN.inc()
                continue
            _count(outcome)
            yield outcome.user_id.encode(), encode_outcome(outcome)
        _observe(batch, attribution)


def _count(outcome: Outcome) -> None:
    if outcome.revision > 0:
        metrics.OUTCOMES.labels("corrected").inc()
    elif outcome.delay_ms == NO_ANSWER_MS:
        metrics.OUTCOMES.labels("unanswered").inc()
    else:
        metrics.OUTCOMES.labels("answered").inc()
        metrics.ANSWER_DELAY.observe(outcome.delay_ms / 1e3)


def _observe(batch: MergedBatch, attribution: Attribution) -> None:
    counts = attribution.take_counts()
    metrics.SLATES_OPEN.labels(batch.partition).set(len(attribution))
    if batch.is_quiet:
        return
    metrics.SETTLED_EARLY.inc(counts.settled_early)
    for reason in ("unmatched", "too_late", "repeated", "bad_impressions", "bad_interactions"):
        metrics.ATTRIBUTION_INPUTS.labels(reason).inc(getattr(counts, reason))


class OutcomeWriter:
    """Writes outcomes to the log of learning; returns when it has them. Raises LogError."""

    def __init__(self, config: LogConfig, topic: str, written: Written) -> None:
        self._writer = LogWriter(config, **{"linger.ms": LINGER_MS})
        self._topic = topic
        self._written = written

    def write(self, batches: list[Iterator[KeyedOutcome]]) -> None:
        """Takes the outcomes of each batch as they are made."""
        for batch in batches:
            for key, value in batch:
                self._writer.append(self._topic, key, value, delivered=self._note)
        if self._writer.pending():
            self._writer.flush(FLUSH_S)
        if self._writer.first_failure is not None:
            raise LogError(self._writer.first_failure)

    def _note(self, position: Position | None, _: str | None) -> None:
        if position is not None:
            self._written.end = max(self._written.end, position.offset + 1)
