"""An independent measurement of freshness: an event of a viewer of our own, awaited in the store.

The probe is an IMPRESSION of a title that no catalogue has, by a viewer that nobody is: attribution
takes impressions for no answer, they make no pairs of titles, and rates and charts of real titles
never see them. What is left is one row of a viewer and one of a title.
"""

import struct
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from features.codec import encode_interaction
from features.events import Interaction
from features.ids import viewer_hash
from features.log import LogError, LogWriter
from features.position import Position
from features.row_reader import POSITION
from features.store import USERS
from features.vocabulary import EventType
from infra import topics
from infra.console.observed import Probed
from infra.settings import Settings

VIEWER: Final = "headrace-ops-probe"
TITLE: Final = "headrace-ops-probe"
GIVE_UP_S: Final = 10.0
POLL_S: Final = 0.0005
KEPT: Final = 100


class ProbeLostError(OSError):
    """A probe event has not shown in the store in time."""


class Probe:
    """Sends one event a look and measures how long it takes; for one thread alone."""

    def __init__(self, settings: Settings, perf_s: Callable[[], float] = time.perf_counter) -> None:
        self._perf_s = perf_s
        self._topic = settings.kafka.prefix + topics.INTERACTIONS
        self._writer = LogWriter(
            settings.kafka.log_config(), **{"log_level": 0, "delivery.timeout.ms": 5_000}
        )
        config = settings.redis.config()
        options = {
            **settings.redis.options, "socket_timeout": 1.0, "socket_connect_timeout": 1.0,
            "retry": Retry(NoBackoff(), 0),
        }  # fmt: skip
        self._client = redis.Redis.from_url(config.url, **options)
        self._key = config.key_head(USERS) + b"%016x" % viewer_hash(VIEWER, "")
        self._layout = np.asarray(USERS.empty["layout"]).tobytes()
        self._took_s: deque[float] = deque(maxlen=KEPT)

    def look(self) -> Probed:
        """One probe. Raises LogError, redis.RedisError, ProbeLostError."""
        began_s = self._perf_s()
        place = self._send(began_s)
        while not self._includes(place):
            if self._perf_s() - began_s > GIVE_UP_S:
                raise ProbeLostError(f"a probe event has not shown within {GIVE_UP_S:g} s")
            time.sleep(POLL_S)
        self._took_s.append(self._perf_s() - began_s)
        p50, p99 = np.percentile(self._took_s, (50, 99))
        return Probed(self._took_s[-1], float(p50), float(p99), len(self._took_s))

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def _send(self, began_s: float) -> Position:
        """Appends the event and waits for its place in the log."""
        found: list[tuple[Position | None, str | None]] = []
        event = Interaction(uuid.uuid4().hex, VIEWER, TITLE, EventType.IMPRESSION)
        self._writer.append(
            self._topic, VIEWER.encode(), encode_interaction(event),
            delivered=lambda place, reason: found.append((place, reason)),
        )  # fmt: skip
        while not found:
            if self._perf_s() - began_s > GIVE_UP_S:
                raise LogError(f"{self._topic} has not taken a probe event in time")
            self._writer.poll(POLL_S)
        place, reason = found[0]
        if place is None:
            raise LogError(reason or "the log did not take a probe event")
        return place

    def _includes(self, place: Position) -> bool:
        """Whether the viewer's row stands at the place or behind it."""
        head = self._client.getrange(self._key, 0, POSITION.size - 1)
        if not isinstance(head, bytes) or len(head) < POSITION.size:
            return False
        try:
            _, partition, offset, _ = POSITION.unpack(head)
        except struct.error:
            return False
        return bool(partition == place.partition and offset >= place.offset)
