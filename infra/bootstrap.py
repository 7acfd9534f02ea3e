"""Composition: the one place that names concrete classes; everybody else is given them."""

import gc
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from threading import Event

import structlog
from bytewax.dataflow import Dataflow

from features.clock import Clock, StreamClock, WallClock
from features.item_row import MAX_PARTITIONS
from features.log import LogError, partitions_of
from features.partition_reads import read_priors
from features.row_cache import RowCache
from features.store import COVISITATIONS, GLOBALS, ITEMS, SEGMENTS, TABLES, USERS, Table
from infra import topics
from infra.settings import Settings
from infra.telemetry import READY
from infra.tracing import tracing
from streams.catalogue import TitleFollower
from streams.erasures import LedgerFollower
from streams.features import FlowParts, Topics, build_flow
from streams.lease import Lease
from streams.marker import RowsLostError
from streams.preparation import Site, prepare_store
from streams.progress import Progress
from streams.row_writer import RowWriter
from streams.runner import ALONE, Cluster, run_flow
from streams.tracing import FlowTraces
from streams.warm_up import warm_up

log = structlog.get_logger(__name__)


def clock(kind: str) -> Clock:
    """The clock that a setting names."""
    return StreamClock() if kind == "stream" else WallClock()


def site_of(settings: Settings) -> Site:
    """Where the rows of these settings are, and the log that they are rows of."""
    topic = settings.kafka.prefix + topics.INTERACTIONS
    group = settings.stream.group
    return Site(settings.redis.config(), settings.kafka.log_config(), topic, group, TABLES)


def partition_rows(settings: Settings, writer: RowWriter) -> Callable[[Table], RowCache]:
    """Makes caches of the tables whose rows a partition feeds."""
    capacities = {
        COVISITATIONS.letter: settings.stream.covisitation_rows,
        SEGMENTS.letter: settings.stream.segment_rows,
        GLOBALS.letter: MAX_PARTITIONS,
    }
    return lambda table: writer.cache(table, capacities[table.letter])


def features_flow(
    settings: Settings,
    stop: Event,
    writer: RowWriter,
    check: Callable[[], None],
    cluster: Cluster = ALONE,
    at_end: list[Callable[[], None]] | None = None,
    progress: Progress | None = None,
    traces: FlowTraces | None = None,
) -> Dataflow:
    """The features flow against the settings' log, with rows by way of `writer`.

    `stop` ends it cleanly; `check` raises where it may not write any more. `at_end` receives what
    is left to do once every worker of the cluster has ended well.
    """
    kafka = settings.kafka.log_config()
    prefix = settings.kafka.prefix
    partitions = partitions_of(kafka, prefix + topics.INTERACTIONS)
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
    follower = TitleFollower(kafka, prefix + topics.CATALOG)
    erasures = LedgerFollower(kafka, prefix + topics.ERASURES)

    def refresh() -> None:
        follower.refresh()
        erasures.refresh()

    def settle() -> None:
        check()
        writer.settle()

    return build_flow(
        FlowParts(
            log=kafka,
            topics=Topics(
                prefix + topics.INTERACTIONS,
                prefix + topics.ITEM_UPDATES,
                prefix + topics.DEAD_LETTERS,
                prefix + topics.ERASURES,
            ),
            group=settings.stream.group,
            n_partitions=len(partitions),
            titles=follower.titles,
            refresh_titles=refresh,
            ledger=erasures.ledger,
            clock=clock(settings.stream.clock),
            user_rows=lambda: writer.cache(USERS, settings.stream.user_rows),
            item_rows=lambda: writer.cache(ITEMS, settings.stream.item_rows),
            partition_rows=partition_rows(settings, writer),
            priors=lambda: read_priors(writer.store(GLOBALS)),
            write_rows=writer.write,
            settle=settle,
            stop=stop,
            n_workers=cluster.n_workers,
            worker=cluster.process,
            at_end=[] if at_end is None else at_end,
            progress=Progress() if progress is None else progress,
            is_watched=settings.metrics.enabled,
            traces=traces,
        )
    )


def run_features_flow(settings: Settings, stop: Event, cluster: Cluster = ALONE) -> None:
    """Runs the features flow in this process until `stop` is set or something breaks.

    When Redis has lost its rows, or somebody wants them built anew, the flow begins again at the
    beginning of the log: alone in this very process; in a cluster every process ends, and whoever
    starts them again has it. Raises LeaseError where another flow has the rows: the first process
    of a cluster holds the lease for all.
    """
    warm_up()
    is_first = cluster.process == 0
    held = Lease(settings.redis.config(), give_up=stop.is_set) if is_first else nullcontext()
    with held as lease, tracing(settings.tracing, "features") as tracer:
        traces = None if tracer is None else FlowTraces(tracer)
        check = (lambda: None) if lease is None else lease.check
        loss: RowsLostError | None = None
        while True:
            loss = _run_until_loss(settings, stop, check, loss, cluster, traces)
            if loss is None:
                return
            gc.collect()  # the rows that the flow held


def _outlast(writer: RowWriter, may_lose_s: float) -> None:
    """Before the last commit: returns when Redis can no longer lose the rows that it stands for."""
    if may_lose_s:
        writer.settle()
        time.sleep(may_lose_s)


def _run_until_loss(
    settings: Settings,
    stop: Event,
    check: Callable[[], None],
    loss: RowsLostError | None,
    cluster: Cluster,
    traces: FlowTraces | None,
) -> RowsLostError | None:
    """Prepares the store and runs the flow once; why it has to begin anew, None at its end."""
    generation = prepare_store(
        site_of(settings), loss, process_index=cluster.process, give_up=stop.is_set
    )
    is_alone = cluster.n_workers == 1
    progress = Progress()
    writer = RowWriter(
        settings.redis.config(), stop.is_set, generation, is_alone=is_alone,
        stored=progress.stored, traces=traces,
    )  # fmt: skip
    at_end: list[Callable[[], None]] = [partial(_outlast, writer, settings.redis.may_lose_s)]
    flow = features_flow(settings, stop, writer, check, cluster, at_end, progress, traces)
    READY.set(1)
    try:
        run_flow(flow, settings.stream.epoch_s, cluster, at_end)
    except RowsLostError as error:
        log.error("rows_lost", reason=error.reason, kept=sorted(error.kept))
        return RowsLostError(error.reason, error.generation, error.kept)  # without its frames
    else:
        return None
    finally:
        READY.set(0)
        writer.abandon()
