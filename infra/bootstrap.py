"""Composition: the one place that names concrete classes; everybody else is given them."""

from collections.abc import Callable
from threading import Event

from bytewax.dataflow import Dataflow

from features.clock import Clock, StreamClock, WallClock
from features.item_row import MAX_PARTITIONS
from features.log import LogError, partitions_of
from features.partition_reads import read_priors
from features.row_cache import RowCache
from features.store import COVISITATIONS, GLOBALS, ITEMS, SEGMENTS, USERS, Table
from infra import topics
from infra.settings import Settings
from infra.telemetry import READY
from streams.catalogue import TitleFollower
from streams.features import FlowParts, Topics, build_flow
from streams.row_writer import RowWriter
from streams.runner import ALONE, Cluster, run_flow
from streams.warm_up import warm_up


def clock(kind: str) -> Clock:
    """The clock that a setting names."""
    return StreamClock() if kind == "stream" else WallClock()


def features_flow(
    settings: Settings,
    stop: Event,
    cluster: Cluster = ALONE,
    at_end: list[Callable[[], None]] | None = None,
) -> Dataflow:
    """The features flow against the settings' log and store; `stop` ends it cleanly.

    `at_end` receives what is left to do once every worker of the cluster has ended well.
    """
    log = settings.kafka.log_config()
    prefix = settings.kafka.prefix
    partitions = partitions_of(log, prefix + topics.INTERACTIONS)
    if len(partitions) > MAX_PARTITIONS:
        raise LogError(
            f"{prefix}{topics.INTERACTIONS} must have at most {MAX_PARTITIONS} partitions: "
            f"a title's row holds a position for each; it has {len(partitions)}"
        )
    if cluster.n_workers > len(partitions):
        raise LogError(
            f"{prefix}{topics.INTERACTIONS} has {len(partitions)} partitions: too few for "
            f"{cluster.n_workers} workers, since each reads partitions of its own"
        )
    follower = TitleFollower(log, prefix + topics.CATALOG)
    writer = RowWriter(settings.redis.config(), stop.is_set)
    capacities = {
        COVISITATIONS.letter: settings.stream.covisitation_rows,
        SEGMENTS.letter: settings.stream.segment_rows,
        GLOBALS.letter: MAX_PARTITIONS,
    }

    def partition_rows(table: Table) -> RowCache:
        return writer.cache(table, capacities[table.letter])

    return build_flow(
        FlowParts(
            log=log,
            topics=Topics(
                prefix + topics.INTERACTIONS,
                prefix + topics.ITEM_UPDATES,
                prefix + topics.DEAD_LETTERS,
            ),
            group=settings.stream.group,
            n_partitions=len(partitions),
            titles=follower.titles,
            refresh_titles=follower.refresh,
            clock=clock(settings.stream.clock),
            user_rows=lambda: writer.cache(USERS, settings.stream.user_rows),
            item_rows=lambda: writer.cache(ITEMS, settings.stream.item_rows),
            partition_rows=partition_rows,
            priors=lambda: read_priors(writer.store(GLOBALS)),
            write_rows=writer.write,
            settle=writer.settle,
            stop=stop,
            n_workers=cluster.n_workers,
            worker=cluster.process,
            at_end=[] if at_end is None else at_end,
        )
    )


def run_features_flow(settings: Settings, stop: Event, cluster: Cluster = ALONE) -> None:
    """Runs the features flow in this process until `stop` is set or something breaks."""
    warm_up()
    at_end: list[Callable[[], None]] = []
    flow = features_flow(settings, stop, cluster, at_end)
    READY.set(1)
    try:
        run_flow(flow, settings.stream.epoch_s, cluster, at_end)
    finally:
        READY.set(0)
