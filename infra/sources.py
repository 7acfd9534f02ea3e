"""What each source of candidates brings for a viewer now: a look into retrieval, beside the server.

The catalogue, the rows and the bundle are read as the server reads them; nothing is recorded.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from features.clock import WallClock
from features.ids import viewer_hash
from features.item_row import MAX_PARTITIONS
from features.partition_reads import read_priors
from features.redis_store import RedisLink, RedisRowStore
from features.store import GLOBALS, ITEMS, SEGMENTS, USERS
from infra import topics
from infra.settings import Settings
from serving.bundle import BundleError, load_current
from serving.catalogue import Catalogue
from serving.mirror import ItemMirror
from serving.presentation import Offer
from serving.recommender import Recommender
from serving.retrieval.regional import RegionCharts
from serving.slate import Query, Viewer

SHOWN = 3  # titles of a source
GIVE_UP_AFTER_S = 2.0


@dataclass(frozen=True, slots=True)
class Brought:
    """The candidates for a viewer."""

    user_id: str
    is_known: bool  # whether the viewer has a row
    offers: list[Offer]

    def as_dict(self) -> dict[str, Any]:
        """For scripts."""
        return {**asdict(self), "offers": [offer._asdict() for offer in self.offers]}


def look(settings: Settings, query: Query) -> Brought:
    """What the sources bring for a query. Raises LogError and redis.RedisError; O(titles)."""
    redis, log = settings.redis.config(), settings.kafka.log_config()
    now_ms = WallClock().now_ms()
    table = Catalogue(log, settings.kafka.prefix + topics.CATALOG).read()
    mirror = ItemMirror.over(table.ids, table.slots)
    link = RedisLink(redis, give_up_after_s=GIVE_UP_AFTER_S)
    try:
        priors = read_priors(RedisRowStore(link, GLOBALS, redis))
        mirror.load(RedisRowStore(link, ITEMS, redis), now_ms, priors)
        regions = RegionCharts(RedisRowStore(link, SEGMENTS, redis), MAX_PARTITIONS)
        id_ = viewer_hash(query.user_id, query.profile_id)
        rows, found = RedisRowStore(link, USERS, redis).read(np.array([id_], np.uint64))
        try:
            bundle = load_current(settings.bundles())
        except BundleError:
            bundle = None
        recommender = Recommender(table, mirror, bundle, regions=regions)
        regions.chart(query.region)
        recommender.keep_wanted(now_ms)
    finally:
        link.close()
    viewer = Viewer(rows if found[0] else None)
    return Brought(query.user_id, bool(found[0]), recommender.offers(query, viewer, now_ms))


def show(brought: Brought, console: Console) -> None:
    """A line for each source: how many candidates it brings, alone and in all, and some of them."""
    offers = brought.offers
    of_whom = "" if brought.is_known else ", of whom nothing is known"
    console.print(f"{len(offers)} candidates for {escape(brought.user_id)}{of_whom}")
    named = Counter(name for offer in offers for name in offer.sources)
    first = Counter(offer.sources[0] for offer in offers)
    table = Table("source", "brings", "first", "for example", box=SIMPLE)
    for name, count in named.most_common():
        examples = [offer for offer in offers if offer.sources[0] == name][:SHOWN]
        told = "\n".join(f"{offer.title or offer.item_id}: {offer.reason}" for offer in examples)
        table.add_row(name, str(count), str(first[name]), escape(told))
    console.print(table)
