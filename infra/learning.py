"""Composition of the learning flow."""

from threading import Event

from bytewax.dataflow import Dataflow

from features.clock import WallClock
from features.log import LogError
from features.model_snapshot import SnapshotError
from infra import topics
from infra.learned_parts import learners
from infra.settings import Settings
from infra.telemetry import READY
from streams.learning import LearningParts, add_learning
from streams.lease import Lease, LeaseError
from streams.runner import run_flow

EPOCH_S = 1.0  # how often Kafka's tools learn of progress
NAME = "learning"


def learning_parts(settings: Settings, stop: Event, lease: Lease) -> LearningParts:
    """What the flow is given under these settings."""
    learning, prefix = settings.learning, settings.kafka.prefix
    return LearningParts(
        log=settings.kafka.log_config(),
        outcomes=prefix + topics.OUTCOMES,
        models=prefix + topics.MODELS,
        group=learning.group,
        learners=learners,
        clock=WallClock(),
        publish_every_s=learning.publish_every_s,
        keep_every_ms=int(1_000 * learning.keep_every_s),
        accept_gap=learning.accept_gap,
        check=lease.check,
        stop=stop,
    )


def run_learning_flow(settings: Settings, stop: Event) -> None:
    """Runs the learning flow in this thread until `stop` is set or something breaks.

    Raises LeaseError where another one runs over this Redis prefix.
    """
    with Lease(settings.redis.config(), "the learning flow", stop.is_set, name=NAME) as lease:
        flow = Dataflow(NAME)
        publisher = add_learning(flow, learning_parts(settings, stop, lease))
        # Attribution is added to the same flow here.
        READY.set(1)
        try:
            run_flow(
                flow, EPOCH_S, at_end=[publisher.finish],
                expected=(LogError, LeaseError, SnapshotError),
            )  # fmt: skip
        finally:
            READY.set(0)
