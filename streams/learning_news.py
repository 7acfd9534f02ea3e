"""What learning has found out, for people: drifts on two topics, and metrics.

On the topic of versions a drift is written under the name of its detector, so it holds the newest
of each; among the site's events each stays for as long as events do. A learner that starts again
finds the drifts behind its last version anew and writes the same once more.
"""

import json
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog

from features.learning_codec import encode_drift
from features.log import LogWriter
from features.outcomes import Drift
from online_models.base import Learns
from online_models.evaluation import Figures
from streams import metrics

TELL_EVERY_S: Final = 1.0
KEY: Final = "drift"
WHOLE: Final = "all"  # the segment of all outcomes

log = structlog.get_logger(__name__)


class FindsDrift(Protocol):
    """A part that measures itself."""

    def take_events(self) -> list[Drift]:
        """Drifts found since the last call."""

    def figures(self) -> tuple[Figures, ...]:
        """Test-then-train figures of every series of predictions and segment."""


class LearningNews:
    """Call it after each batch; metrics move once a second."""

    def __init__(
        self,
        part: Callable[[Mapping[str, Learns]], FindsDrift],
        writer: LogWriter,
        topic: str,
        monotonic_s: Callable[[], float],
        events_topic: str = "",
    ) -> None:
        self._part = part
        self._writer = writer
        self._topic = topic
        self._events_topic = events_topic
        self._monotonic_s = monotonic_s
        self._told_s = float("-inf")

    def __call__(self, parts: Mapping[str, Learns]) -> None:
        """Publishes what is new; when it returns, the log has it. Raises LogError.

        So no drift is lost behind a version that includes it. Drifts are rare: this costs little.
        """
        part = self._part(parts)
        drifts = part.take_events()
        for drift in drifts:
            self._publish(drift)
        if drifts:
            self._writer.flush()
        if self._monotonic_s() - self._told_s >= TELL_EVERY_S:
            self._told_s = self._monotonic_s()
            self._measure(part.figures())

    def _publish(self, drift: Drift) -> None:
        key = f"{KEY}/{drift.what}/{drift.segment}"
        self._writer.append(self._topic, key.encode(), encode_drift(drift))
        if self._events_topic:
            self._writer.append(self._events_topic, key.encode(), drift_event(drift))
        metrics.DRIFTS.labels(drift.what, drift.segment).inc()
        log.warning(
            "drift", what=drift.what, segment=drift.segment, offset=drift.offset,
            before=drift.before, after=drift.after,
        )  # fmt: skip

    def _measure(self, figures: tuple[Figures, ...]) -> None:
        for found in figures:
            if found.segment == WHOLE and found.n > 0:
                metrics.ONLINE_LOSS.labels(found.series).set(found.log_loss)
                metrics.ONLINE_AUC.labels(found.series).set(found.roc_auc)
                metrics.ONLINE_CALIBRATION.labels(found.series).set(found.calibration_error)


def drift_event(drift: Drift) -> bytes:
    """A drift as an event of the site."""
    return json.dumps(
        {
            "kind": KEY,
            "what": drift.what,
            "segment": drift.segment,
            "offset": drift.offset,
            "before": drift.before,
            "after": drift.after,
        }
    ).encode()
