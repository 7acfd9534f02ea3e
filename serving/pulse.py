"""What a server does once a second beside its calls, so that its metrics are true when it is idle.

Redis and the log are asked whether they are there: a server without callers would not know.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import structlog
from confluent_kafka import Consumer, KafkaException

from features.log import LogConfig
from features.redis_config import RedisConfig
from features.redis_store import RedisLink, packed
from serving import metrics

EVERY_S: Final = 1.0
PATIENCE_S: Final = 0.9

log = structlog.get_logger(__name__)


class Pulse:
    """Calls each of `tasks` with the time (monotonic, in seconds), every second, in a thread."""

    def __init__(self, tasks: Sequence[Callable[[float], None]], every_s: float = EVERY_S) -> None:
        self._tasks = tasks
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it; as long as one task takes."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            for task in self._tasks:
                try:
                    task(time.monotonic())
                except Exception:  # numbers are missing then, and their age tells so
                    log.exception("pulse_failed")


class RedisPulse:
    """Asks Redis for a sign of life; the age of the source `redis` tells of the last one."""

    def __init__(self, config: RedisConfig) -> None:
        self._link = RedisLink(replace(config, socket_timeout_s=PATIENCE_S))

    def step(self, _now_s: float) -> None:
        """Asks once."""
        self._link.ask(packed("PING"))

    def close(self) -> None:
        """Closes the connection."""
        self._link.close()


class LogPulse:
    """Asks the log for a sign of life; the age of the source `log` tells of the last one."""

    def __init__(self, config: LogConfig, topic: str) -> None:
        self._topic = topic
        self._consumer = Consumer({**config.consumer("headrace-pulse"), "log_level": 0})
        self._source = metrics.AGES.source("log")

    def step(self, _now_s: float) -> None:
        """Asks once."""
        try:
            self._consumer.list_topics(self._topic, timeout=PATIENCE_S)
        except KafkaException:
            return  # whoever needs the log has said so
        self._source.heard()

    def close(self) -> None:
        """Closes the connection."""
        self._consumer.close()


class BundleTeller:
    """Tells which bundle slates come from, once for each one."""

    def __init__(
        self, bundle: Callable[[], tuple[str, int]], wall_s: Callable[[], float] = time.time
    ) -> None:
        """`bundle`: version, and when it was made in milliseconds; empty and 0 without one."""
        self._bundle = bundle
        self._wall_s = wall_s
        self._told: str | None = None
        metrics.BUNDLE_AGE.set_function(self._age_s)

    def step(self, _now_s: float) -> None:
        """Looks once."""
        version, _ = self._bundle()
        if version != self._told:
            self._told = version
            metrics.BUNDLE_INFO.clear()
            if version:
                metrics.BUNDLE_INFO.labels(version).set(1)

    def _age_s(self) -> float:
        _, created_at_ms = self._bundle()
        return max(self._wall_s() - created_at_ms / 1e3, 0.0) if created_at_ms else -1.0
