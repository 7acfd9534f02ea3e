"""Composition of the archive flow."""

from threading import Event

from features import lake
from features.lake import LakeError
from features.log import LogError
from infra import topics
from infra.settings import Settings
from infra.telemetry import READY
from streams.archive import ArchiveParts, archive_flow
from streams.runner import run_flow

EPOCH_S = 1.0  # how often Kafka's tools learn of progress
ARCHIVED = {
    lake.INTERACTIONS: topics.INTERACTIONS,
    lake.IMPRESSIONS: topics.IMPRESSIONS,
    lake.OUTCOMES: topics.OUTCOMES,
    lake.CATALOG: topics.CATALOG,
    lake.ERASURES: topics.ERASURES,
}  # tables of the lake and their topics


def run_archive_flow(settings: Settings, stop: Event) -> None:
    """Runs the archive flow in this thread until `stop` is set or something breaks."""
    archive = settings.archive
    parts = ArchiveParts(
        log=settings.kafka.log_config(),
        topics={table: settings.kafka.prefix + topic for table, topic in ARCHIVED.items()},
        group=archive.group,
        folder=settings.lake(),
        flush_s=archive.flush_s,
        rows_per_file=archive.rows_per_file,
        accept_gap=archive.accept_gap,
        stop=stop,
        is_watched=settings.metrics.enabled,
    )
    with archive_flow(parts) as (flow, writer):
        READY.set(1)
        try:
            run_flow(flow, EPOCH_S, expected=(LakeError, LogError))
            writer.flush()
        finally:
            READY.set(0)
