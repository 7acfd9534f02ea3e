"""Faust agents: topics of the log -> views for those on call.

    dead-letters --> by reason and producer
    ops-events ----> alerts, drifts, deployments
    impressions ---> exposures by policy, bundle and arm

Views are made anew at every start by reading the log again (docs/adr/0007-views-without-state.md):
tables of Faust, with their changelogs, would be a second truth, and one that is lost in a crash.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import faust
from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition

from features.log import LogConfig, LogError, partitions_of
from streams.faust_log import LogTransport, ReadOnly
from streams.ops_views import DAY_MS, DeadLetterView, ExposureView, OpsEventView, Seen

BATCH: Final = 500
WITHIN_S: Final = 0.2
TIMEOUT_S: Final = 10.0  # of the log, at the start
ENDS_TIMEOUT_S: Final = 1.0  # and later, when whoever ends the process waits for it

Place = tuple[str, int]  # topic, partition


@dataclass(frozen=True, slots=True)
class AgentTopics:
    """What is read."""

    dead_letters: str
    ops_events: str
    impressions: str


class Progress:
    """How far each partition is applied, where its log ends, and when that last moved.

    Times are of a monotonic clock, in seconds.
    """

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._applied: dict[Place, int] = {}
        self._moved_s: dict[Place, float] = {}
        self._ends: dict[Place, int] = {}
        self.ends_known_s = float("-inf")
        self._first_ends: dict[Place, int] | None = None

    def begin(self, place: Place, offset: int) -> None:
        """Reading of a partition begins here."""
        self._applied[place] = offset
        self._moved_s[place] = self._monotonic_s()

    def applied(self, place: Place, offset: int) -> None:
        """The record at this offset is in its view."""
        self._applied[place] = offset + 1
        self._moved_s[place] = self._monotonic_s()

    def ends(self, found: Mapping[Place, int]) -> None:
        """Where the log ends, by the log."""
        self._ends.update(found)
        self.ends_known_s = self._monotonic_s()
        if self._first_ends is None:
            self._first_ends = dict(found)

    def lags(self) -> dict[Place, int]:
        """Records that are not applied yet."""
        return {
            place: max(self._ends.get(place, at) - at, 0) for place, at in self._applied.items()
        }

    def places(self) -> dict[Place, int]:
        """The next offset to apply of every partition. Any thread may ask."""
        return dict(self._applied)

    def ends_and_applied(self) -> Iterable[tuple[Place, int, int]]:
        """Every partition, the end of its log, the next offset to apply."""
        return [(place, self._ends.get(place, at), at) for place, at in self._applied.items()]

    def is_rebuilt(self) -> bool:
        """Whether the views have everything that the log had when it was first asked."""
        if self._first_ends is None or not self._applied:
            return False
        return all(self._applied.get(place, -1) >= end for place, end in self._first_ends.items())

    def stalled(self, patience_s: float) -> list[Place]:
        """Partitions with something to apply of which nothing was applied for so long."""
        now_s = self._monotonic_s()
        return sorted(
            place
            for place, lag in self.lags().items()
            if lag and now_s - self._moved_s[place] > patience_s
        )


class LogEnds:
    """Asks the log where topics end, by a client of its own: an agent that stands cannot tell."""

    def __init__(self, config: LogConfig, topics: Iterable[str]) -> None:
        self._consumer = Consumer(config.consumer("headrace-agents-ends"))
        self._places = [(topic, p) for topic in topics for p in partitions_of(config, topic)]

    def read(self) -> dict[Place, int]:
        """Offset behind the last record of every partition. Raises KafkaException."""
        found = {}
        for topic, partition in self._places:
            place = TopicPartition(topic, partition)
            _, high = self._consumer.get_watermark_offsets(place, timeout=ENDS_TIMEOUT_S)
            found[topic, partition] = max(high, 0)
        return found

    def close(self) -> None:
        """Lets the connection go."""
        self._consumer.close()


@dataclass(slots=True)
class OpsAgents:
    """The agents, their views, and how far they are."""

    config: LogConfig
    topics: AgentTopics
    exposure_days: int
    max_replay: int  # impressions that are read again at a start, of all partitions together
    clock_ms: Callable[[], int]
    progress: Progress = field(default_factory=Progress)
    dead_letters: DeadLetterView = field(default_factory=DeadLetterView, init=False)
    events: OpsEventView = field(default_factory=OpsEventView, init=False)
    exposures: ExposureView = field(init=False)
    _cut: set[Place] = field(default_factory=set, init=False)  # began within a day: see max_replay

    def __post_init__(self) -> None:
        self.exposures = ExposureView(self.exposure_days)

    def app(self, name: str, folder: str) -> Any:
        """The Faust app, ready to start. `folder`: Faust makes it and leaves it empty."""
        app = faust.App(
            name,
            broker=f"confluent://{self.config.bootstrap.split(',')[0]}",  # for its messages alone
            store="memory://",
            datadir=folder,
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            stream_wait_empty=False,
        )
        app.BootStrategy = ReadOnly
        app.boot_strategy = ReadOnly(app)
        app.finalize()
        app.transport = app.producer_transport = LogTransport(app, self.config, self._starts)
        for topic, view in (
            (self.topics.dead_letters, self.dead_letters),
            (self.topics.ops_events, self.events),
            (self.topics.impressions, self.exposures),
        ):
            self._add_agent(app, topic, view.take)
        return app

    def _add_agent(self, app: Any, topic: str, take: Callable[[Seen], None]) -> None:
        channel = app.topic(
            topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
        )

        async def agent(stream: Any) -> None:
            async for batch in stream.take_events(BATCH, within=WITHIN_S):
                for event in batch:
                    self._take(event.message, take)

        app.agent(channel, name=f"view-{topic}")(agent)

    def _take(self, message: Any, take: Callable[[Seen], None]) -> None:
        headers = {name: value for name, value in message.headers or () if value is not None}
        at_ms = round(1_000 * message.timestamp)
        place = message.topic, message.partition
        if place in self._cut:
            self._cut.discard(place)
            self.exposures.complete_from_ms = max(self.exposures.complete_from_ms, at_ms)
        take(Seen(message.partition, message.offset, at_ms, message.key, message.value, headers))
        self.progress.applied(place, message.offset)

    def _starts(self, topic: str, partitions: list[int]) -> dict[int, int]:
        """Where to begin to read: impressions at the first day that is told, the rest whole."""
        consumer = Consumer(self.config.consumer("headrace-agents-starts"))
        try:
            places = [TopicPartition(topic, p) for p in partitions]
            bounds = {
                place.partition: consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)
                for place in places
            }
            starts = {p: max(low, 0) for p, (low, _) in bounds.items()}
            if topic == self.topics.impressions:
                starts = self._of_recent_days(consumer, topic, bounds)
        except KafkaException as error:
            raise LogError(f"{topic} cannot be read: {error.args[0].str()}") from error
        finally:
            consumer.close()
        for partition, start in starts.items():
            self.progress.begin((topic, partition), start)
        return starts

    def _of_recent_days(
        self, consumer: Consumer, topic: str, bounds: Mapping[int, tuple[int, int]]
    ) -> dict[int, int]:
        """The first record of the oldest day, or so far back as a start may go."""
        first_ms = (self.clock_ms() // DAY_MS - self.exposure_days + 1) * DAY_MS
        self.exposures.complete_from_ms = first_ms
        wanted = [TopicPartition(topic, p, first_ms) for p in bounds]
        starts = {}
        for place in consumer.offsets_for_times(wanted, timeout=TIMEOUT_S):
            low, high = bounds[place.partition]
            of_day = high if place.offset == OFFSET_END else max(place.offset, low, 0)
            start = max(of_day, high - self.max_replay // len(bounds))
            if start > of_day:
                self._cut.add((topic, place.partition))
            starts[place.partition] = start
        return starts
