"""Looks at one thing again and again on a thread of its own, and keeps what was seen last.

A dependency that hangs holds up its own thread alone: everybody else reads `reading`, at once.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import structlog
from confluent_kafka import KafkaException
from redis import RedisError

from features.bundle_format import BundleError
from features.log import LogError

T = TypeVar("T")

CLOSE_S: Final = 2.0
EXPECTED: Final = (OSError, ValueError, KafkaException, RedisError, LogError, BundleError)
MAX_REASON: Final = 300  # characters

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """What was seen last, when, and why there is nothing newer. Times in seconds since 1970."""

    value: T | None = None
    at_s: float = 0.0  # 0: never yet
    error: str = ""  # of the newest look; empty: it went well
    failing_since_s: float = 0.0  # of the first look that failed since the last that did not

    @property
    def is_well(self) -> bool:
        """Whether the newest look brought something."""
        return self.at_s > 0 and not self.error

    @property
    def was_tried(self) -> bool:
        """Whether there was a look at all, however it went."""
        return self.at_s > 0 or bool(self.error)

    def age_s(self, now_s: float) -> float:
        """Seconds since something was seen; infinite where nothing ever was."""
        return max(now_s - self.at_s, 0.0) if self.at_s else float("inf")


class Watch(Generic[T]):
    """A thread that calls `look()` each `every_s`; what it raises becomes the reading's error."""

    def __init__(
        self,
        name: str,
        look: Callable[[], T],
        every_s: float,
        now_s: Callable[[], float],
        close: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.reading: Reading[T] = Reading()
        self._look = look
        self._every_s = every_s
        self._now_s = now_s
        self._close = close
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{name}", daemon=True)

    def start(self) -> "Watch[T]":
        """Begins to look."""
        self._thread.start()
        return self

    def ask_to_end(self) -> None:
        """No further look begins."""
        self._stop.set()

    def join(self) -> None:
        """Waits a little for the look that runs; one that hangs is left to end by itself."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)

    def look_once(self) -> Reading[T]:
        """One look, now, on the caller's thread."""
        before = self.reading
        try:
            value = self._look()
        except EXPECTED as error:
            self.reading = self._failed(before, _reason(error))
        except Exception as error:  # a fault of ours must not blind the console
            log.exception("look_failed", what=self.name)
            self.reading = self._failed(before, _reason(error))
        else:
            self.reading = Reading(value, self._now_s())
        return self.reading

    def _failed(self, before: Reading[T], reason: str) -> Reading[T]:
        since_s = before.failing_since_s if before.error else self._now_s()
        return Reading(before.value, before.at_s, reason, since_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.look_once()
            self._stop.wait(self._every_s)
        if self._close is not None:
            self._close()


def _reason(error: Exception) -> str:
    if isinstance(error, KafkaException):
        return str(error.args[0].str())[:MAX_REASON]
    return (str(error) or type(error).__name__)[:MAX_REASON]
