"""Composition of the server: what answers a request, over which log and store."""

import asyncio
import contextlib
import gc
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import structlog
import uvloop

from features.answer_store import RedisAnswers
from features.clock import Clock, StreamClock, WallClock
from features.ids import viewer_hash
from features.item_row import MAX_PARTITIONS
from features.log import LogError
from features.partition_reads import read_priors
from features.redis_store import RedisLink, RedisRowStore
from features.row_reader import AsyncRowReader
from features.store import GLOBALS, ITEMS, SEGMENTS, USERS
from infra import topics
from infra.overlays import overlay_of, readers
from infra.settings import Settings
from infra.telemetry import READY
from infra.tracing import tracer_of
from serving.admin import AdminServicer, Eraser
from serving.answers import Answers
from serving.bundle import Bundle, BundleError, load_current
from serving.catalogue import CatalogueTable
from serving.filtering.filter import FilterConfig
from serving.guard.guard import Guard
from serving.guard.interceptor import author_of
from serving.guard.overload import LoadLevel
from serving.keeper import Keeper
from serving.live_catalogue import LiveCatalogue, between_requests
from serving.mirror import ItemMirror, MirrorFollower
from serving.model_mirror import ModelMirror
from serving.overlay import Overlay
from serving.pages import PageTokens
from serving.pulse import BundleTeller, LogPulse, Pulse, RedisPulse
from serving.recommender import Recommender
from serving.reload import BundleWatcher, try_out
from serving.repeats import Repeats
from serving.retrieval.regional import RegionCharts
from serving.rules.book import RuleBook
from serving.rules.editor import RuleEditor
from serving.rules.follower import RuleFollower
from serving.selection.config import SelectionConfig
from serving.selection.explorer import Beliefs, Explorer
from serving.served_freshness import ServedFreshness
from serving.server import Server, guard_of, serve
from serving.servicer import IngestServicer, RecommendationServicer
from serving.slate import NO_FILTERS, Decision, Filters, Query, Viewer
from serving.slate_cache import SlateCache
from serving.slate_watch import SlateWatch
from serving.tracing import CallTraces
from serving.track import ImpressionRecorder, SteadyWriter, Tracker, impression_writer, track_writer
from serving.viewers import ViewerReader
from serving.wire import encode_decision

log = structlog.get_logger(__name__)

WARM_UP_CALLS = 20
CHARTS_EVERY_S = 2.0
SOURCES_BUDGET_S = 0.05  # of a request; a hundred times what they take
REGIONS_GIVE_UP_S = 0.5  # of a store that is away: charts stay as they are


def run_server(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    """Starts the parts, each after what it needs, and ends them in the opposite order."""
    async with AsyncExitStack() as ending:
        site = _Site(settings, ending)
        guard = guard_of(settings.serving)
        mirror, recommender = _engine(site, guard.load)
        server = _server(site, guard, mirror, recommender)
        watcher = _watcher(settings, recommender, site.clock)

        async def warm() -> None:
            _warm_up(recommender, site.clock)
            server.repeats.prepare(recommender, Query(""))
            site.go_on(watcher.run())
            READY.set(1)

        site.go_on(server.repeats.renew(recommender))
        ending.callback(READY.set, 0)
        await serve(server.server, warm=warm)


@dataclass(frozen=True, slots=True)
class _Site:
    """What every part needs: the settings, the time, and who ends it."""

    settings: Settings
    ending: AsyncExitStack
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        is_stream = self.settings.serving.clock == "stream"
        object.__setattr__(self, "clock", StreamClock() if is_stream else WallClock())

    def topic(self, name: str) -> str:
        """A topic as this site names it."""
        return self.settings.kafka.prefix + name

    def go_on(self, work: Coroutine[Any, Any, None]) -> None:
        """Has work done beside calls until the process ends."""
        self.ending.callback(asyncio.get_running_loop().create_task(work).cancel)


@dataclass(frozen=True, slots=True)
class _Served:
    """The server, and the slates that it gives again."""

    server: Server
    repeats: Repeats


def _engine(site: _Site, load: LoadLevel) -> tuple[ItemMirror, Recommender]:
    """What answers, and what it looks at, all of it followed from now on."""
    settings, clock = site.settings, site.clock
    kafka, stop = settings.kafka.log_config(), site.ending.callback
    catalogue = LiveCatalogue(kafka, site.topic(topics.CATALOG), WallClock())
    table = catalogue.read()
    mirror = ItemMirror.over(table.ids, table.slots)
    follower = _follower(settings, mirror, clock)
    follower.start()
    stop(follower.stop)
    names = readers(settings.serving.policy)
    models = ModelMirror(kafka, site.topic(topics.MODELS), names, WallClock())
    models.start()
    stop(models.stop)
    recommender = _recommender(settings, table, mirror, load)
    keeper = _keep_current(recommender, catalogue, clock)
    stop(keeper.stop)
    stop(catalogue.stop)
    models.subscribe(lambda state: recommender.use_overlay(overlay_of(state)))
    return mirror, recommender


def _server(site: _Site, guard: Guard, mirror: ItemMirror, recommender: Recommender) -> _Served:
    """The transport over the engine, the store and the log."""
    settings, clock, serving = site.settings, site.clock, site.settings.serving
    interactions = site.topic(topics.INTERACTIONS)
    reader = AsyncRowReader(
        settings.redis.config(), USERS, timeout_s=serving.redis_timeout_ms / 1_000
    )
    site.ending.push_async_callback(reader.close)
    viewers = ViewerReader(reader, interactions)
    freshness, slates = ServedFreshness(), SlateWatch(mirror.slots_of, lambda: mirror.values)
    tracker, recorder, ledger_writer = _writers(site, freshness)
    _watch(site, recommender, slates)
    record = _recording(site, recorder, freshness, slates)
    traces = _traces(site)
    cache = _cache(settings, recommender)
    repeats = Repeats(
        cache,
        viewers,
        record,
        mirror.age_ms,
        clock,
        WallClock(),
        interactions,
        edge_after_ms=recommender.edge_after_ms,
        has_rules_for=recommender.has_rules_for,
    )
    rules = _rules(settings, recommender, cache)
    site.ending.callback(rules.stop)
    recommendations = RecommendationServicer(
        recommender,
        viewers,
        record,
        mirror.age_ms,
        clock,
        WallClock(),
        topic=interactions,
        default_wait_ms=serving.default_wait_ms,
        pages=PageTokens.of(serving, WallClock()),
        answers=Answers.of(serving, _shared_answers(site)),
        repeats=repeats,
        traces=traces,
    )
    ingest = IngestServicer(tracker, stream_idle_s=serving.stream_idle_s, traces=traces)
    admin = _admin(settings, tracker, ledger_writer, rules, guard)
    return _Served(Server(serving, ingest, recommendations, admin, guard), repeats)


def _recording(
    site: _Site, recorder: ImpressionRecorder, freshness: ServedFreshness, slates: SlateWatch
) -> Callable[[Decision], None]:
    """What is told of each decision, after its answer."""
    if not site.settings.metrics.enabled:
        return recorder.record

    def record(decision: Decision) -> None:
        query = decision.query
        freshness.served((query.user_id, query.profile_id), decision.included)
        if decision.shown is not None:
            slates.add(decision.shown)
        recorder.record(decision)

    return record


def _watch(site: _Site, recommender: Recommender, slates: SlateWatch) -> None:
    """Looks once a second at what metrics tell of, beside calls, until the process ends."""
    settings = site.settings
    if not settings.metrics.enabled:
        return
    redis = RedisPulse(settings.redis.config())
    kafka = LogPulse(settings.kafka.log_config(), site.topic(topics.INTERACTIONS))
    bundle = BundleTeller(lambda: (recommender.bundle_version, recommender.bundle_made_ms))
    pulse = Pulse([redis.step, kafka.step, bundle.step, slates.step])
    pulse.start()
    for end in (redis.close, kafka.close, pulse.stop):  # called the last one first
        site.ending.callback(end)


def _traces(site: _Site) -> CallTraces | None:
    """What makes spans of calls; None where tracing is off."""
    tracer = tracer_of(site.settings.tracing, "serve")
    if tracer is None:
        return None
    site.ending.callback(tracer.close)
    return CallTraces(tracer)


def _shared_answers(site: _Site) -> RedisAnswers | None:
    """Where servers find each other's answers to repeated requests, if they are to."""
    if not site.settings.serving.answers_shared:
        return None
    shared = RedisAnswers(site.settings.redis.config())
    site.ending.push_async_callback(shared.close)
    return shared


def _writers(
    site: _Site, freshness: ServedFreshness
) -> tuple[Tracker, ImpressionRecorder, SteadyWriter]:
    """What writes to the log: events, decisions, and what operators order."""
    kafka, serving = site.settings.kafka.log_config(), site.settings.serving
    recorder = ImpressionRecorder(
        impression_writer(kafka), site.topic(topics.IMPRESSIONS), encode_decision
    )
    recorder.start()
    site.ending.callback(recorder.close)
    orders = track_writer(kafka, serving.track_timeout_ms)
    orders.start()

    async def close_orders() -> None:
        with contextlib.suppress(LogError):  # whoever waited for an entry has been told
            await asyncio.to_thread(orders.close, 1.0)

    site.ending.push_async_callback(close_orders)
    tracker = Tracker(
        track_writer(kafka, serving.track_timeout_ms),
        site.topic(topics.INTERACTIONS),
        site.clock,
        max_in_flight=serving.track_max_in_flight,
        timeout_s=serving.track_timeout_ms / 1_000,
        acknowledged=freshness.acknowledged,
    )
    tracker.start()
    site.ending.push_async_callback(tracker.close)
    return tracker, recorder, orders


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
    settings: Settings, tracker: Tracker, writer: SteadyWriter, rules: RuleFollower, guard: Guard
) -> AdminServicer:
    """What answers operators and editors."""
    prefix, clock = settings.kafka.prefix, WallClock()
    names = prefix + topics.RULES, prefix + topics.RULE_CHANGES
    return AdminServicer(
        Eraser(tracker, writer, prefix + topics.ERASURES, clock),
        RuleEditor(writer, *names, lambda: rules.book, clock),
        partial(author_of, guard),
    )


def _recommender(
    settings: Settings, table: CatalogueTable, mirror: ItemMirror, load: LoadLevel
) -> Recommender:
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
        load=load,
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
    recommender.warm_up(clock.now_ms())
    viewer_hash("warm-up", "warm-up")
    for filters in (Filters(min_rating=10.0), *[NO_FILTERS] * WARM_UP_CALLS):
        query = Query("warm-up", filters=filters)
        recommender.recommend(query, Viewer(USERS.empty), clock.now_ms())
    gc.collect()
    gc.freeze()  # what is loaded stays: the collector need not look at it again


def _cache(settings: Settings, recommender: Recommender) -> SlateCache:
    """What keeps slates; none where their time is 0, none of another bundle or catalogue."""
    serving = settings.serving
    return SlateCache(
        serving.cache_ttl_s,
        max_slates=serving.cache_max_slates,
        max_bytes=serving.cache_max_mib << 20,
        world=lambda: (recommender.bundle_version, recommender.shelf.table.n_changes),
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
        settings.bundles(),
        prepare,
        recommender.adopt,
        version=recommender.bundle_version,
        rng=np.random.default_rng(),
        spread_s=float(settings.serving.processes - 1),
    )


def _bundle(settings: Settings) -> Bundle | None:
    """The current bundle, or None: then slates are trending titles, and say so."""
    try:
        return load_current(settings.bundles())
    except BundleError as error:
        log.error("no_bundle", reason=str(error))
        return None
