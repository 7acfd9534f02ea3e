"""Composition of the learning flow, attribution in the same process unless told otherwise."""

import time
from collections.abc import Callable, Mapping
from threading import Event
from typing import cast

from bytewax.dataflow import Dataflow

from features.clock import WallClock
from features.decision_context import CONTEXT_NAMES
from features.learning_codec import decode_learning_batch, encode_outcome
from features.log import LogError, LogWriter
from features.model_snapshot import SnapshotError
from features.outcomes import Outcome
from features.ranking import N_COLUMNS
from features.registry import feature_version
from infra import topics
from infra.attribution import attribution_parts
from infra.learned_parts import learners
from infra.settings import Settings
from infra.telemetry import READY
from online_models.base import CLICKS, Learns
from online_models.learner import Learner
from streams.arm_news import ArmNews
from streams.attribution import add_attribution
from streams.learning import LearningParts, add_learning
from streams.learning_news import FindsDrift, LearningNews
from streams.lease import Lease, LeaseError
from streams.runner import run_flow

EPOCH_S = 1.0  # how often Kafka's tools learn of progress
NAME = "learning"


def learning_parts(settings: Settings, stop: Event, lease: Lease) -> LearningParts:
    """What the flow is given under these settings."""
    learning, prefix = settings.learning, settings.kafka.prefix
    log = settings.kafka.log_config()
    news = LearningNews(
        lambda parts: cast("FindsDrift", parts[CLICKS]),
        LogWriter(log),
        prefix + topics.MODELS,
        time.monotonic,
        prefix + topics.OPS_EVENTS,
    )
    arms = ArmNews(time.monotonic)

    def learnt(parts: Mapping[str, Learns]) -> None:
        news(parts)
        if settings.metrics.enabled:
            arms(parts)

    return LearningParts(
        log=log,
        outcomes=prefix + topics.OUTCOMES,
        models=prefix + topics.MODELS,
        group=learning.group,
        learners=learners,
        clock=WallClock(),
        publish_every_s=learning.publish_every_s,
        keep_every_ms=int(1_000 * learning.keep_every_s),
        accept_gap=learning.accept_gap,
        check=lease.check,
        learnt=learnt,
        stop=stop,
        is_watched=settings.metrics.enabled,
    )


def warm_up() -> None:
    """Has everything compiled that an outcome goes through: the first one need not wait for it."""
    seen = Outcome(
        "warm-up", 0, "warm-up", "warm-up", label=True, reward=1.0, decided_at_ms=1,
        decision_context=CONTEXT_NAMES[0], feature_version=feature_version(),
        features=(0.0,) * N_COLUMNS,
    )  # fmt: skip
    learner = Learner(learners())
    learner.learn(decode_learning_batch([encode_outcome(seen)], [0]))
    learner.resume(learner.version(), ())


def run_learning_flow(settings: Settings, stop: Event) -> None:
    """Runs the learning flow in this thread until `stop` is set or something breaks.

    Raises LeaseError where another one runs over this Redis prefix.
    """
    warm_up()
    with Lease(settings.redis.config(), "the learning flow", stop.is_set, name=NAME) as lease:
        flow = Dataflow(NAME)
        at_end: list[Callable[[], None]] = []
        if settings.learning.with_attribution:
            add_attribution(flow, attribution_parts(settings, stop, at_end))
        parts = learning_parts(settings, stop, lease)
        publisher = add_learning(flow, parts)
        parts.learnt(publisher.learner.parts)  # as it goes on from the newest version
        at_end.append(publisher.finish)
        READY.set(1)
        try:
            run_flow(flow, EPOCH_S, at_end=at_end, expected=(LogError, LeaseError, SnapshotError))
        finally:
            READY.set(0)
