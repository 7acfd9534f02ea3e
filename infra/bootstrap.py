"""Composition: the one place that names concrete classes. Everybody else receives what they need."""

from datetime import timedelta
from threading import Event

from bytewax.dataflow import Dataflow

from features.clock import Clock, StreamClock, WallClock
from features.store import ITEMS, USERS
from infra import topics
from infra.settings import Settings
from streams.catalogue import TitleFollower
from streams.features import FlowParts, Topics, build_flow
from streams.row_writer import RowWriter


def clock(kind: str) -> Clock:
    """The clock that a setting names."""
    return StreamClock() if kind == "stream" else WallClock()


def features_flow(settings: Settings, stop: Event) -> Dataflow:
    """The features flow against the settings' log and store; `stop` ends it cleanly."""
    log = settings.kafka.log_config()
    prefix = settings.kafka.prefix
    follower = TitleFollower(log, prefix + topics.CATALOG)
    writer = RowWriter(settings.redis.config())
    return build_flow(
        FlowParts(
            log=log,
            topics=Topics(
                prefix + topics.INTERACTIONS,
                prefix + topics.ITEM_UPDATES,
                prefix + topics.DEAD_LETTERS,
            ),
            group=settings.stream.group,
            n_partitions=settings.kafka.partitions,
            titles=follower.titles,
            refresh_titles=follower.refresh,
            clock=clock(settings.stream.clock),
            user_rows=lambda: writer.cache(USERS, settings.stream.user_rows),
            item_rows=lambda: writer.cache(ITEMS, settings.stream.item_rows),
            row_writer=lambda: writer.write,
            stop=stop,
        )
    )


def run_features_flow(settings: Settings, stop: Event) -> None:
    """Runs the features flow in this thread until `stop` is set or something breaks."""
    from bytewax._bytewax import run_main  # noqa: PLC2701, PLC0415 (the door with epoch intervals)

    run_main(
        features_flow(settings, stop), epoch_interval=timedelta(seconds=settings.stream.epoch_s)
    )
