"""Composition of the attribution flow."""

from collections.abc import Callable
from threading import Event

from features.log import LogError
from infra import topics
from infra.settings import Settings
from infra.telemetry import READY
from streams.attribution import AttributionParts, AttributionTopics, build_flow
from streams.open_slates import AttributionRules
from streams.runner import run_flow


def attribution_rules(settings: Settings) -> AttributionRules:
    """What these settings call an answer, and for how long."""
    attribution = settings.attribution
    return AttributionRules(
        horizon_ms=round(attribution.horizon_s * 1e3),
        max_slates=attribution.max_open_slates,
        rewards=attribution.rewards.table(),
    )


def attribution_parts(
    settings: Settings, stop: Event, at_end: list[Callable[[], None]]
) -> AttributionParts:
    """What the flow is given; pass `at_end` to `run_flow` as well."""
    prefix = settings.kafka.prefix
    return AttributionParts(
        log=settings.kafka.log_config(),
        topics=AttributionTopics(
            impressions=prefix + topics.IMPRESSIONS,
            interactions=prefix + topics.INTERACTIONS,
            outcomes=prefix + topics.OUTCOMES,
        ),
        group=settings.attribution.group,
        rules=attribution_rules(settings),
        stop=stop,
        at_end=at_end,
        is_watched=settings.metrics.enabled,
    )


def run_attribution_flow(settings: Settings, stop: Event) -> None:
    """Runs the attribution flow in this thread until `stop` is set or something breaks."""
    at_end: list[Callable[[], None]] = []
    flow = build_flow(attribution_parts(settings, stop, at_end))
    READY.set(1)
    try:
        run_flow(flow, settings.attribution.epoch_s, at_end=at_end, expected=(LogError,))
    finally:
        READY.set(0)
