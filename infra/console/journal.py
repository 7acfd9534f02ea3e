"""What has happened: alerts that began and ended, deployments. Kept in memory and in a topic.

The topic `ops-events` outlives the console: one that starts again reads it, and still knows since
when an alert fires and what was deployed last. Without the topic, or with the broker away, events
wait in memory, the oldest give way, and the console goes on.
"""

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from confluent_kafka import Message

from features.log import LogConfig, LogError, LogWriter

ALERT, DEPLOYMENT, DRIFT = "alert", "deployment", "drift"
FIRING, RESOLVED = "firing", "resolved"
KEPT: Final = 500
MAX_TEXT: Final = 200  # characters of a name or a label from the topic
MAX_LABELS: Final = 16

log = structlog.get_logger(__name__)

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the stack."""

    kind: str  # ALERT, DEPLOYMENT or DRIFT
    name: str  # of the alert, what was deployed, what has drifted
    state: str  # FIRING or RESOLVED; of a deployment the version that is in use since
    labels: Labels
    value: float
    at_s: float  # since 1970
    severity: str = ""

    def as_json(self) -> bytes:
        """As the topic has it; `at` in seconds since 1970."""
        return json.dumps(
            {
                "kind": self.kind, "name": self.name, "state": self.state,
                "labels": dict(self.labels), "value": self.value, "at": round(self.at_s, 3),
                "severity": self.severity,
            },
            separators=(",", ":"),
        ).encode()  # fmt: skip


def labels_of(labels: Mapping[str, str]) -> Labels:
    """Labels as something that can be a key."""
    return tuple(sorted(labels.items()))


def event_in(record: Message) -> Event | None:
    """The event of a record; None where it holds none: the topic is a text from elsewhere."""
    try:
        found: Any = json.loads(record.value() or b"")
        if found["kind"] == DRIFT:
            return _drift(found, record.timestamp()[1] / 1_000)
        labels = {str(k)[:MAX_TEXT]: str(v)[:MAX_TEXT] for k, v in found["labels"].items()}
        return Event(
            str(found["kind"])[:MAX_TEXT], str(found["name"])[:MAX_TEXT],
            str(found["state"])[:MAX_TEXT], labels_of(labels)[:MAX_LABELS],
            float(found["value"]), float(found["at"]), str(found.get("severity", ""))[:MAX_TEXT],
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _drift(found: dict[str, Any], at_s: float) -> Event:
    """A change that the learner found and wrote down; the log says when."""
    said = {name: str(found[name])[:MAX_TEXT] for name in ("segment", "before", "after", "offset")}
    name = str(found["what"])[:MAX_TEXT]
    return Event(DRIFT, name, "", labels_of(said), float(found["after"]), at_s)


class Journal:
    """Takes down events and tells the newest; for one thread alone."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._config: LogConfig | None = None
        self._writer: LogWriter | None = None
        self._waiting: deque[Event] = deque(maxlen=KEPT)
        self._own: deque[Event] = deque(maxlen=KEPT)
        self._known: tuple[Event, ...] = ()

    def note(self, event: Event) -> None:
        """Takes an event down."""
        log.info(
            "ops_event", kind=event.kind, name=event.name, state=event.state,
            labels=dict(event.labels), value=event.value,
        )  # fmt: skip
        self._own.append(event)
        self._waiting.append(event)

    def learn(self, events: Iterable[Event]) -> None:
        """What the topic holds: events of earlier runs, and our own."""
        self._known = tuple(events)

    def newest(self, kind: str, limit: int = KEPT) -> list[Event]:
        """Events of a kind, the newest first."""
        found = {event for event in (*self._known, *self._own) if event.kind == kind}
        return sorted(found, key=lambda event: -event.at_s)[:limit]

    def open_alerts(self) -> dict[tuple[str, Labels], Event]:
        """Alerts whose newest event says that they fire."""
        last: dict[tuple[str, Labels], Event] = {}
        for event in reversed(self.newest(ALERT)):
            last[event.name, event.labels] = event
        return {key: event for key, event in last.items() if event.state == FIRING}

    def write(self, config: LogConfig) -> None:
        """Gives what waits to the log, without waiting for its answer. Call it while it is there.

        A producer that refuses is made anew at the next call.
        """
        if config != self._config:
            self._config, self._writer = config, None
        try:
            if self._writer is None and self._waiting:
                self._writer = LogWriter(config, **{"linger.ms": 5, "log_level": 0})
            while self._waiting and self._writer is not None:
                event = self._waiting[0]
                self._writer.append(self._topic, event.name.encode(), event.as_json())
                self._waiting.popleft()
            if self._writer is not None:
                self._writer.poll()
        except LogError as error:
            log.warning("ops_event_not_written", reason=str(error))
            self._writer = None

    def close(self) -> None:
        """Waits a little for what is on its way."""
        if self._writer is not None and self._writer.pending():
            self._writer.poll(0.5)
