"""What the rows in Redis are rows of: one key that says so, looked at before they are trusted.

Rows hold positions, and a position means something in one log alone. The marker names that log, the
layouts of the rows and their generation. Where it is missing, Redis has lost its data; where it is
another, somebody wants the rows made anew; either way what is there is not to be built upon.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from features.log import LogConfig, LogError
from features.redis_config import RedisConfig
from features.store import Table

TIMEOUT_S = 10.0


class RowsLostError(Exception):
    """The rows in Redis are not the ones that this flow has built; they must be built anew.

    `generation` is that of the rows that are lost. With `kept`, the rows of the tables of these
    letters have been put back from memory and are right.
    """

    def __init__(self, reason: str, generation: str, kept: frozenset[str] = frozenset()) -> None:
        super().__init__(f"the rows must be built anew: {reason}")
        self.reason = reason
        self.generation = generation
        self.kept = kept


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """Which log this is. An embedded broker is another cluster at each start."""

    cluster: str
    topic: str
    topic_id: str  # empty where the broker does not tell
    partitions: int


@dataclass(frozen=True, slots=True)
class Marker:
    """What the rows under a prefix are; as JSON the value of its key."""

    log: LogIdentity
    layouts: dict[str, str]  # by letter of the table
    generation: str
    request: str = ""  # not empty: somebody wants the rows built anew
    history: str = ""  # what they hold from before the log, for people

    def encode(self) -> bytes:
        """The value in Redis."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @staticmethod
    def decode(value: bytes | None) -> "Marker | None":
        """The marker in a value; None where there is none, or none that this code can read."""
        try:
            found = json.loads(value or b"")
            log = LogIdentity(**found.pop("log"))
            return Marker(log, **found)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def objection(self, log: LogIdentity, layouts: dict[str, str]) -> str | None:
        """Why rows with this marker are of no use to a flow over `log`; None when they are."""
        if self.request:
            return "somebody asked for it"
        for field in fields(LogIdentity):
            ours, found = getattr(log, field.name), getattr(self.log, field.name)
            is_told = field.name != "topic_id" or (ours and found)
            if ours != found and is_told:
                return f"they are of another log: {field.name} is {ours!r}, was {found!r}"
        if self.layouts != layouts:
            changed = {k for k in layouts if self.layouts.get(k) != layouts[k]}
            return f"rows are laid out anew: tables {', '.join(sorted(changed)) or 'fewer'}"
        return None


def marker_key(redis: RedisConfig) -> bytes:
    """Key of the marker."""
    return f"{redis.prefix}:rows".encode()


def layouts_of(tables: Sequence[Table]) -> dict[str, str]:
    """Layout of each table: its number, and a digest of its fields, should nobody raise it."""
    return {
        table.letter: f"{int(table.empty['layout'][0])}-"
        f"{hashlib.sha256(repr(table.dtype.descr).encode()).hexdigest()[:12]}"
        for table in tables
    }


def identity_of(log: LogConfig, topic: str) -> LogIdentity:
    """Asks the broker which log a topic is. Raises LogError."""
    admin = AdminClient(log.common())
    try:
        metadata = admin.list_topics(topic, timeout=TIMEOUT_S)
    except KafkaException as error:
        raise LogError(f"the broker does not answer: {error.args[0].str()}") from error
    found = metadata.topics.get(topic)
    if found is None or found.error is not None or not found.partitions:
        raise LogError(f"topic {topic} does not exist; `headrace topics create` makes it")
    cluster = str(metadata.cluster_id or "")
    return LogIdentity(cluster, topic, _topic_id(admin, topic), len(found.partitions))


def _topic_id(admin: AdminClient, topic: str) -> str:
    """The topic's own id, which differs when it is created again; empty from older brokers."""
    try:
        described = admin.describe_topics(TopicCollection([topic]), request_timeout=TIMEOUT_S)
        return str(described[topic].result(TIMEOUT_S).topic_id)
    except (KafkaException, TimeoutError):
        return ""
