"""Composition of the server: what answers a request, over which log and store."""

import asyncio
import contextlib
import gc

import numpy as np
import structlog
import uvloop

from features.answer_store import RedisAnswers
from features.clock import Clock, StreamClock, WallClock
from features.item_row import MAX_PARTITIONS
from features.log import LogError
from features.partition_reads import read_priors
from features.redis_store import RedisLink, RedisRowStore
from features.row_reader import AsyncRowReader
from features.store import GLOBALS, ITEMS, SEGMENTS, USERS
from infra import topics
from infra.overlays import overlay_of, readers
from infra.settings import Settings
from infra.stack import bundles_folder
from infra.telemetry import READY
from serving.admin import AdminServicer, Eraser
from serving.answers import Answers
from serving.bundle import Bundle, BundleError, load_current
from serving.catalogue import CatalogueTable
from serving.filtering.filter import FilterConfig
from serving.keeper import Keeper
from serving.live_catalogue import LiveCatalogue, between_requests
from serving.mirror import ItemMirror, MirrorFollower
from serving.model_mirror import ModelMirror
from serving.overlay import Overlay
from serving.pages import PageTokens
from serving.recommender import Recommender
from serving.reload import BundleWatcher, try_out
from serving.repeats import Repeats
from serving.retrieval.regional import RegionCharts
from serving.rules.book import RuleBook
from serving.rules.editor import RuleEditor
from serving.rules.follower import RuleFollower
from serving.selection.config import SelectionConfig
from serving.selection.explorer import Beliefs, Explorer
from serving.server import Server, guard_of, serve
from serving.servicer import IngestServicer, RecommendationServicer
from serving.slate import NO_FILTERS, Filters, Query, Viewer
from serving.slate_cache import SlateCache
from serving.track import ImpressionRecorder, SteadyWriter, Tracker, impression_writer, track_writer
from serving.viewers import ViewerReader
from serving.wire import encode_decision

log = structlog.get_logger(__name__)

WARM_UP_CALLS = 20
CHARTS_EVERY_S = 2.0
SOURCES_BUDGET_S = 0.005  # of a request; ten times what they take
REGIONS_GIVE_UP_S = 0.5  # of a store that is away: charts stay as they are


def run_server(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    kafka, prefix = settings.kafka.log_config(), settings.kafka.prefix
    serving = settings.serving
    clock: Clock = StreamClock() if serving.clock == "stream" else WallClock()
    catalogue = LiveCatalogue(kafka, prefix + topics.CATALOG, WallClock())
    table = catalogue.read()
    mirror = ItemMirror.over(table.ids, table.slots)
    follower = _follower(settings, mirror, clock)
    follower.start()
    models = ModelMirror(kafka, prefix + topics.MODELS, readers(serving.policy), WallClock())
    models.start()
    recommender = _recommender(settings, table, mirror)
    keeper = _keep_current(recommender, catalogue, clock)
    models.subscribe(lambda state: recommender.use_overlay(overlay_of(state)))
    reader = AsyncRowReader(
        settings.redis.config(), USERS, timeout_s=serving.redis_timeout_ms / 1_000
    )
    interactions = prefix + topics.INTERACTIONS
    viewers = ViewerReader(reader, interactions)
    tracker = _tracker(settings, clock)
    recorder = ImpressionRecorder(
        impression_writer(kafka), prefix + topics.IMPRESSIONS, encode_decision
    )
    shared = RedisAnswers(settings.redis.config()) if serving.answers_shared else None
    cache = _cache(settings)
    repeats = Repeats(
        cache,
        viewers,
        recorder.record,
        mirror.age_ms,
        clock,
        WallClock(),
        interactions,
        edge_after_ms=recommender.edge_after_ms,
        has_rules_for=recommender.has_rules_for,
    )
    rules = _rules(settings, recommender, cache)
    ledger_writer = track_writer(kafka, serving.track_timeout_ms)
    for writer in (tracker, recorder, ledger_writer):
        writer.start()
    guard = guard_of(serving)
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
            pages=PageTokens.of(serving, WallClock()),
            answers=Answers.of(serving, shared),
            repeats=repeats,
        ),
        _admin(settings, tracker, ledger_writer, rules),
        guard,
    )
    watcher = _watcher(settings, recommender, clock)
    watching: list[asyncio.Task[None]] = []

    async def warm() -> None:
        _warm_up(recommender, clock)
        repeats.prepare(recommender, Query(""))
        watching.append(asyncio.create_task(watcher.run()))
        READY.set(1)

    renewing = asyncio.create_task(repeats.renew(recommender))
    try:
        await serve(server, warm=warm)
    finally:
        READY.set(0)
        for task in (renewing, *watching):
            task.cancel()
        for thread in (catalogue, keeper, follower, models, rules):
            thread.stop()
        await tracker.close()
        with contextlib.suppress(LogError):  # whoever waited for an entry has been told
            await asyncio.to_thread(ledger_writer.close, 1.0)
        recorder.close()
        await reader.close()
        if shared is not None:
            await shared.close()


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


def _rules(settings: Settings, recommender: Recommender, cache: SlateCache) -> RuleFollower:
    """What keeps the rules current; it has read them all."""

    def use(book: RuleBook) -> None:
        recommender.use_rules(book)
        cache.invalidate()

    topic = settings.kafka.prefix + topics.RULES
    follower = RuleFollower(settings.kafka.log_config(), topic, use)
    follower.start()
    return follower


def _admin(
    settings: Settings, tracker: Tracker, writer: SteadyWriter, rules: RuleFollower
) -> AdminServicer:
    """What answers operators and editors."""
    prefix, clock = settings.kafka.prefix, WallClock()
    names = prefix + topics.RULES, prefix + topics.RULE_CHANGES
    return AdminServicer(
        Eraser(tracker, writer, prefix + topics.ERASURES, clock),
        RuleEditor(writer, *names, lambda: rules.book, clock),
    )


def _recommender(settings: Settings, table: CatalogueTable, mirror: ItemMirror) -> Recommender:
    """What answers; of the bandits it knows nothing yet."""
    serving = settings.serving
    explorer = Explorer(
        serving.exploration_share, np.random.default_rng(), serving.exploration_share_new
    )
    beliefs = Beliefs.none_yet(serving.policy)
    return Recommender(
        table,
        mirror,
        _bundle(settings),
        explorer=explorer,
        overlay=Overlay(0, beliefs),
        regions=_regions(settings),
        budget_s=SOURCES_BUDGET_S,
        filters=FilterConfig(serving.rewatch_after_days, serving.shows_unknown_ages),
        selection=SelectionConfig(
            serving.diversity,
            serving.genre_cap,
            serving.popularity_damping,
            serving.coverage_boost,
        ),
    )


def _keep_current(recommender: Recommender, catalogue: LiveCatalogue, clock: Clock) -> Keeper:
    """Has charts made beside requests, and the catalogue changed between them, from now on."""
    keeper = Keeper(recommender, clock, CHARTS_EVERY_S)
    keeper.start()
    catalogue.follow(recommender.shelf, between_requests(asyncio.get_running_loop()))
    return keeper


def _regions(settings: Settings) -> RegionCharts:
    """The charts of regions, by a connection of their own."""
    redis = settings.redis.config()
    store = RedisRowStore(RedisLink(redis, give_up_after_s=REGIONS_GIVE_UP_S), SEGMENTS, redis)
    return RegionCharts(store, MAX_PARTITIONS)


def _warm_up(recommender: Recommender, clock: Clock) -> None:
    """Has everything compiled and in memory before the first caller."""
    for filters in (Filters(min_rating=10.0), *[NO_FILTERS] * WARM_UP_CALLS):
        query = Query("warm-up", filters=filters)
        recommender.recommend(query, Viewer(USERS.empty), clock.now_ms())
    gc.collect()
    gc.freeze()  # what is loaded stays: the collector need not look at it again


def _cache(settings: Settings) -> SlateCache:
    """What keeps slates; none where their time is 0."""
    serving = settings.serving
    max_bytes = serving.cache_max_mib << 20
    return SlateCache(serving.cache_ttl_s, max_slates=serving.cache_max_slates, max_bytes=max_bytes)


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
