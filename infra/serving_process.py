"""Composition of the server: what answers a request, over which log and store."""

import asyncio
import contextlib
import gc

import numpy as np
import structlog

from features.clock import Clock, StreamClock, WallClock
from features.log import LogError
from features.partition_reads import read_priors
from features.redis_store import AsyncRowReader, RedisLink, RedisRowStore
from features.store import GLOBALS, ITEMS, USERS
from infra import topics
from infra.overlays import overlay_of, readers
from infra.settings import Settings
from infra.stack import bundles_folder
from infra.telemetry import READY
from serving.admin import AdminServicer, Eraser
from serving.bundle import Bundle, BundleError, load_current
from serving.catalogue import Catalogue, CatalogueTable
from serving.mirror import ItemMirror, MirrorFollower
from serving.model_mirror import ModelMirror
from serving.overlay import Overlay
from serving.recommender import Recommender
from serving.reload import BundleWatcher, try_out
from serving.selection.explorer import Beliefs, Explorer
from serving.server import Server, guard_of, serve
from serving.servicer import IngestServicer, RecommendationServicer
from serving.slate import Query, Viewer
from serving.track import ImpressionRecorder, Tracker, impression_writer, track_writer
from serving.viewers import ViewerReader
from serving.wire import encode_decision

log = structlog.get_logger(__name__)

WARM_UP_CALLS = 20
CHARTS_EVERY_MS = 2_000


def run_server(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT."""
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    kafka, prefix = settings.kafka.log_config(), settings.kafka.prefix
    serving = settings.serving
    clock: Clock = StreamClock() if serving.clock == "stream" else WallClock()
    guard = guard_of(serving)  # whoever answers more cheaply under load reads guard.load.level
    table = Catalogue(kafka, prefix + topics.CATALOG).read()
    mirror = ItemMirror(table.ids)
    follower = _follower(settings, mirror, clock)
    follower.start()
    models = ModelMirror(kafka, prefix + topics.MODELS, readers(serving.policy), WallClock())
    models.start()
    recommender = _recommender(settings, table, mirror)
    models.subscribe(lambda state: recommender.use_overlay(overlay_of(state)))
    timeout_s = serving.redis_timeout_ms / 1_000
    reader = AsyncRowReader(settings.redis.config(), USERS, timeout_s=timeout_s)
    interactions = prefix + topics.INTERACTIONS
    viewers = ViewerReader(reader, interactions)
    tracker = _tracker(settings, clock)
    recorder = ImpressionRecorder(
        impression_writer(kafka), prefix + topics.IMPRESSIONS, encode_decision
    )
    ledger_writer = track_writer(kafka, serving.track_timeout_ms)
    eraser = Eraser(tracker, ledger_writer, prefix + topics.ERASURES, WallClock())
    tracker.start()
    recorder.start()
    ledger_writer.start()
    server = Server(
        serving,
        IngestServicer(tracker, stream_idle_s=serving.stream_idle_s),
        RecommendationServicer(
            recommender,
            viewers,
            recorder.record,
            mirror.age_ms,
            clock,
            WallClock(),
            topic=interactions,
            default_wait_ms=serving.default_wait_ms,
        ),
        AdminServicer(eraser),
        guard,
    )
    watching: list[asyncio.Task[None]] = []

    async def warm() -> None:
        """Has everything compiled and in memory before the first caller."""
        for _ in range(WARM_UP_CALLS):
            recommender.recommend(Query("warm-up"), Viewer(USERS.empty), clock.now_ms())
        gc.collect()
        gc.freeze()  # what is loaded stays: the collector need not look at it again
        watching.append(asyncio.create_task(_watcher(settings, recommender, clock).run()))
        READY.set(1)

    try:
        await serve(server, warm=warm)
    finally:
        READY.set(0)
        for task in watching:
            task.cancel()
        follower.stop()
        models.stop()
        await tracker.close()
        with contextlib.suppress(LogError):  # whoever waited for an entry has been told
            await asyncio.to_thread(ledger_writer.close, 1.0)
        recorder.close()
        await reader.close()


def _tracker(settings: Settings, clock: Clock) -> Tracker:
    """What writes events to the log."""
    serving = settings.serving
    return Tracker(
        track_writer(settings.kafka.log_config(), serving.track_timeout_ms),
        settings.kafka.prefix + topics.INTERACTIONS,
        clock,
        max_in_flight=serving.track_max_in_flight,
        timeout_s=serving.track_timeout_ms / 1_000,
    )


def _recommender(settings: Settings, table: CatalogueTable, mirror: ItemMirror) -> Recommender:
    """What answers; of the bandits it knows nothing yet."""
    serving = settings.serving
    explorer = Explorer(serving.exploration_share, np.random.default_rng())
    beliefs = Beliefs.none_yet(serving.policy)
    explorer.warm_up(beliefs)
    return Recommender(
        table,
        mirror,
        _bundle(settings),
        refresh_ms=CHARTS_EVERY_MS,
        explorer=explorer,
        overlay=Overlay(0, beliefs),
    )


def _follower(settings: Settings, mirror: ItemMirror, clock: Clock) -> MirrorFollower:
    """What keeps the mirror current."""
    redis = settings.redis.config()
    link = RedisLink(redis, give_up_after_s=5.0)
    return MirrorFollower(
        mirror,
        RedisRowStore(link, ITEMS, redis),
        settings.kafka.log_config(),
        settings.kafka.prefix + topics.ITEM_UPDATES,
        clock,
        clock.advance if isinstance(clock, StreamClock) else None,
        lambda: read_priors(RedisRowStore(link, GLOBALS, redis)),
    )


def _watcher(
    settings: Settings, recommender: Recommender, clock: Clock
) -> BundleWatcher[Recommender]:
    """What takes other bundles into use; several processes take turns with it by chance."""

    def prepare(bundle: Bundle) -> Recommender:
        trial = recommender.trial(bundle)
        try_out(trial.recommend, bundle, clock.now_ms())
        return trial

    return BundleWatcher(
        bundles_folder(settings),
        prepare,
        recommender.adopt,
        version=recommender.bundle_version,
        rng=np.random.default_rng(),
        spread_s=float(settings.serving.processes - 1),
    )


def _bundle(settings: Settings) -> Bundle | None:
    """The current bundle, or None: then slates are trending titles, and say so."""
    try:
        return load_current(bundles_folder(settings))
    except BundleError as error:
        log.error("no_bundle", reason=str(error))
        return None
