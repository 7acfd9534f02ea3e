"""Impressions and interactions -> outcomes: what became of each served slot.

    both topics, merged -> batches of a partition -> outcomes -> the log of learning

Which outcomes there are is a function of the two logs, see `streams.open_slates`. Each is written
once: a restart learns again what was known from the last stretch of both logs, without writing,
and from the committed offsets on leaves out what the log of learning holds already. With two
processes of one group at a time, or where the log still takes in records of a process that was
killed while a new one has read it to its end, an outcome may be there twice.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
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
from streams.log_watch import impression_time, interaction_time
from streams.merged_log import NEVER_MS, MergedBatch, MergedSource, MergeParts, read_starts
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
    is_watched: bool = False  # whether lag is measured, by a thread


def build_flow(parts: AttributionParts) -> Dataflow:
    """The dataflow. Raises LogError when a topic is missing, or is not what it must be."""
    flow = Dataflow("attribution")
    add_attribution(flow, parts)
    return flow


def add_attribution(flow: Dataflow, parts: AttributionParts) -> None:
    """Adds the steps to a flow: the log of learning is their only connection to others."""
    topics = parts.topics
    partitions = _partitions(parts)
    both = (topics.impressions, topics.interactions)
    starts = read_starts(parts.log, parts.group, both, partitions)
    known = KnownOutcomes.read(
        parts.log, topics.outcomes, min(start.written for start in starts.values())
    )
    writer = OutcomeWriter(parts.log, topics.outcomes, known.end)
    merge = MergeParts(
        log=parts.log,
        topics=both,
        group=parts.group,
        starts=starts,
        memory_ms=parts.rules.memory_ms,
        written=lambda: known.first_offset(writer.end),
        stop=parts.stop,
        clock=parts.clock,
        at_end=parts.at_end,
        event_times={topics.impressions: impression_time, topics.interactions: interaction_time},
        is_watched=parts.is_watched,
    )
    batches = op.input("read_slates_and_answers", flow, MergedSource(merge))
    outcomes = op.map("attribute", batches, Attribute(parts.rules, partitions, known))
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
    """Outcomes that the log of learning held at the start, behind a place that was committed.

    Those that have not come up again keep the next commit from passing them.
    """

    def __init__(self, places: Iterable[tuple[OutcomeKey, int, int]] = (), end: int = 0) -> None:
        """`places`: key, offset and time of decision, in the order of the log."""
        self._places = OrderedDict((key, (offset, at_ms)) for key, offset, at_ms in places)
        self.end = end  # of the topic, as it was

    @classmethod
    def read(cls, config: LogConfig, topic: str, start: int) -> "KnownOutcomes":
        """Reads them, about 6 us and 300 bytes each."""
        places: list[tuple[OutcomeKey, int, int]] = []
        waiting: list[Message] = []
        end = start
        for record in read_to_end(config, topic, start=start):
            waiting.append(record)
            if len(waiting) == READ_AT_ONCE:
                places += _places_of(waiting)
                waiting.clear()
            end = (record.offset() or 0) + 1
        places += _places_of(waiting)
        log.info("outcomes_read_back", n=len(places), start=start, end=end)
        return cls(places, end)

    def takes_out(self, outcome: Outcome) -> bool:
        """Whether the outcome is one of them; each answers yes once."""
        if not self._places:
            return False
        return self._places.pop(key_of(outcome), None) is not None

    def forget(self, before_ms: int) -> None:
        """Gives up those that were decided before a moment: they cannot come up again."""
        while self._places and next(iter(self._places.values()))[1] < before_ms:
            self._places.popitem(last=False)

    def first_offset(self, end: int) -> int:
        """Offset of the first that has not come up again, else `end`."""
        return next(iter(self._places.values()))[0] if self._places else end


def key_of(outcome: Outcome) -> OutcomeKey:
    """What tells outcomes apart."""
    return id_hash(outcome.request_id), outcome.slot, outcome.revision


def _places_of(records: list[Message]) -> Iterator[tuple[OutcomeKey, int, int]]:
    values = [record.value() or b"" for record in records]
    found = decode_learning_batch(values, [record.offset() or 0 for record in records]).records
    outcomes = found[found["rollback_to"] == NO_ROLLBACK]
    names = ("request", "slot", "revision", "offset", "decided_at_ms")
    columns = (outcomes[name].tolist() for name in names)
    for request, slot, revision, offset, decided_at_ms in zip(*columns, strict=True):
        yield (request, slot, revision), offset, decided_at_ms


class Attribute:
    """Batches of merged records to records of outcomes, made as the writer takes them."""

    def __init__(
        self, rules: AttributionRules, partitions: Iterable[int], known: KnownOutcomes
    ) -> None:
        self._memory_ms = rules.memory_ms
        self._known = known
        self._partitions = {p: Attribution(rules) for p in partitions}
        self._until_ms = dict.fromkeys(self._partitions, NEVER_MS)

    def __call__(self, batch: MergedBatch) -> Iterator[KeyedOutcome]:
        """Read each to its end, in the order of the batches."""
        attribution = self._partitions[batch.partition]
        for outcome in attribution.take(batch.first, batch.second, batch.until_ms):
            if batch.is_quiet:
                continue
            if self._known.takes_out(outcome):
                metrics.OUTCOMES_KNOWN.inc()
                continue
            _count(outcome)
            yield outcome.user_id.encode(), encode_outcome(outcome)
        self._until_ms[batch.partition] = batch.until_ms
        self._known.forget(min(self._until_ms.values()) - self._memory_ms)
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

    def __init__(self, config: LogConfig, topic: str, end: int) -> None:
        self._writer = LogWriter(config, **{"linger.ms": LINGER_MS})
        self._topic = topic
        self.end = end  # of the topic, as far as is known

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
            self.end = max(self.end, position.offset + 1)
