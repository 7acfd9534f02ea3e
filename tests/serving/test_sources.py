"""Each source seen working, the pages that change them, and what there is for those who are new."""

import numpy as np
import pytest
import redis

from features import segment_popularity
from features.compiled import Rows
from features.events import CatalogItem
from features.ids import id_hash
from features.item_row import DEFAULTS, NAMES
from features.segment_popularity import SEGMENT_ROW, hour_of
from features.segment_popularity import row_id as segment_id
from features.store import SEGMENTS, InMemoryRowStore
from features.viewing_state import ABANDONED_AFTER_MS
from features.vocabulary import EventType
from serving.bundle import Bundle
from serving.catalogue import CatalogueTable
from serving.mirror import ItemMirror
from serving.presentation import Offer
from serving.recommender import Recommender
from serving.retrieval.base import WORDS, Source
from serving.retrieval.content import ContentNeighbours
from serving.retrieval.regional import EVERY_S, FORGET_AFTER_S, MOST_REGIONS, RegionCharts
from serving.retrieval.retrieval import ARRIVED_WITHIN_MS
from serving.retrieval.trending import GOOD_RATING_LOW
from serving.slate import Page, Query, Slate, SlateItem, UnknownItemError, Viewer
from tests.clock import START_MS
from tests.features.examples import event, user_after
from tests.serving import engine

MINUTE_MS = 60_000
CRIME = [f"t{k}" for k in range(0, 40, 2)]
COMEDY = [f"t{k}" for k in range(1, 41, 2)]
N_SEASON = 3
REGION = "DE"
GEMS = range(200, 220)


def episode(season: int, number: int) -> CatalogItem:
    return CatalogItem(
        f"s{season}e{number}", f"Part {season}.{number}", 2012, ("Drama",), series_id="show",
        season=season, episode=number, runtime_min=50,
    )  # fmt: skip


def catalogue() -> list[CatalogItem]:
    episodes = [episode(season, number + 1) for season in (1, 2) for number in range(N_SEASON)]
    return engine.catalogue() + episodes


class World:
    """The small world with a series, ratings, a region, and a recommender over it."""

    def __init__(self, bundle: Bundle | None) -> None:
        self.table = CatalogueTable.of(catalogue(), room=16)
        self.mirror = ItemMirror.over(self.table.ids, self.table.slots)
        small = CatalogueTable.of(engine.catalogue())
        values = engine.FixedMirror.of(small).values
        for slot, item_id in enumerate(small.item_ids):
            self.mirror.values[self.slot(item_id)] = values[slot]
        self.mirror.values[:, NAMES.index("item_rating_low")] = 5.0
        for k in (*GEMS, 0, 1, 2, 3):
            self.rate(f"t{k}", 8.0)
        self.now_s = 0.0
        self.segments = InMemoryRowStore(SEGMENTS)
        self.regions = RegionCharts(self.segments, 2, lambda: self.now_s)
        self.recommender = Recommender(self.table, self.mirror, bundle, regions=self.regions)

    def slot(self, item_id: str) -> int:
        slot = self.table.slot_of(item_id)
        assert slot is not None
        return slot

    def rate(self, item_id: str, rating: float) -> None:
        self.mirror.values[self.slot(item_id), NAMES.index("item_rating_low")] = rating

    def watch_in(self, region: str, *item_ids: str) -> None:
        """Viewers of a region watch titles, the first most."""
        hour = hour_of(START_MS)
        row = segment_popularity.new_row()
        key = id_hash(region) & 0xFFFFFFFF
        row["id"] = segment_id(key, hour, 0)
        offset = 0
        for place, item_id in enumerate(item_ids):
            for _ in range(len(item_ids) - place):
                made = event(item=id_hash(item_id), offset=offset, region=key)
                segment_popularity.apply(row[0], made[0], key)
                offset += 1
        self.segments.write(row)

    def know_region(self, region: str) -> None:
        """Asks for a region, and has its chart read."""
        self.regions.chart(region)
        self.recommender.keep_wanted(START_MS)

    def offers(self, viewer: Viewer, **query: object) -> dict[str, Offer]:
        found = self.recommender.offers(Query("ann", **query), viewer, START_MS)
        return {offer.item_id: offer for offer in found}

    def brought_by(self, source: Source, viewer: Viewer, **query: object) -> list[Offer]:
        name = WORDS[source].name
        return [one for one in self.offers(viewer, **query).values() if name in one.sources]

    def slate(self, viewer: Viewer, **query: object) -> Slate:
        return self.recommender.recommend(Query("ann", **query), viewer, START_MS)


@pytest.fixture
def world(bundle: Bundle) -> World:
    return World(bundle)


def viewer_of(*item_ids: str, kind: EventType = EventType.RATE) -> Viewer:
    return Viewer(engine.viewer_row(*item_ids, kind=kind))


def viewer_after(*deeds: tuple[str, EventType, dict[str, object]]) -> Viewer:
    """One who did these things, the last just now, each a minute after the one before."""
    titles = {title.item_id: title for title in catalogue()}
    made = []
    for k, (item_id, kind, fields) in enumerate(deeds):
        at_ms = START_MS - (len(deeds) - 1 - k) * MINUTE_MS
        runtime_min = titles[item_id].runtime_min
        made.append(
            event(**{"item": id_hash(item_id), "type": kind, "at_ms": at_ms,
                     "runtime_min": runtime_min, **fields})
        )  # fmt: skip
    return Viewer(user_after(*made))


NEW_VIEWER = Viewer(None)
PLAYED_HALF = {"watch_position_s": 1_500.0, "watch_duration_s": 3_000.0}


# --- the sources ---


def test_neighbours_of_the_session_come_first_and_name_the_title_they_come_from(world):
    viewer = viewer_of("t0", "t1", "t3", "t5")  # an hour apart: the last alone is of the session
    offers = world.brought_by(Source.SESSION, viewer)
    assert offers
    assert {one.cause_item_id for one in offers} == {"t5"}
    assert all(one.reason == "because you watched Title 5 just now" for one in offers)
    assert all(one.reason_kind == "because_you_watched" for one in offers)


def test_what_is_like_the_last_titles_is_offered_with_its_cause(world):
    lonely = viewer_of("t236")  # touched by nobody else: no neighbours, no factors
    offers = world.brought_by(Source.CONTENT, lonely)
    assert offers
    assert {one.cause_item_id for one in offers} == {"t236"}
    assert all(one.reason == "similar to Title 236" for one in offers)
    assert np.mean([int(one.item_id[1:]) % 2 == 0 for one in offers]) > 0.9


def test_favourite_genres_bring_their_charts(world):
    offers = world.brought_by(Source.GENRE, viewer_of(*COMEDY[:4]))
    assert offers
    assert all(int(one.item_id[1:]) % 2 == 1 for one in offers)
    primary = [one for one in offers if one.sources[0] == "genre"]
    assert all(one.reason == "trending in Comedy" for one in primary)


def test_gems_are_of_few_viewers_and_rated_well(world):
    offers = world.brought_by(Source.LONG_TAIL, viewer_of("t0"))
    assert {int(one.item_id[1:]) for one in offers} <= set(GEMS)
    assert len(offers) >= 10


def test_what_is_different_is_rated_well_and_far_from_what_the_viewer_watched(world):
    for watched, remainder in ((CRIME[:4], 1), (COMEDY[:4], 0)):
        offers = world.brought_by(Source.SERENDIPITY, viewer_of(*watched))
        assert offers
        assert all(int(one.item_id[1:]) % 2 == remainder for one in offers)
        ratings = world.mirror.values[[world.slot(one.item_id) for one in offers]]
        assert (ratings[:, NAMES.index("item_rating_low")] >= GOOD_RATING_LOW).all()


def test_what_the_viewer_added_is_offered_from_the_list(world):
    viewer = viewer_after(("t90", EventType.ADD, {}), ("t0", EventType.CLICK, {}))
    (offer,) = world.brought_by(Source.LIST, viewer)
    assert (offer.item_id, offer.reason_kind) == ("t90", "from_your_list")


def test_titles_that_came_to_the_catalogue_are_offered_at_once(world):
    world.table.put(CatalogItem("fresh", "Fresh", 2024, ("Crime",)), START_MS)
    viewer = viewer_of("t0")
    assert [one.item_id for one in world.brought_by(Source.ARRIVAL, viewer)] == ["fresh"]
    assert [one.item_id for one in world.brought_by(Source.ARRIVAL, NEW_VIEWER)] == ["fresh"]
    world.table.remove("fresh")
    assert not world.brought_by(Source.ARRIVAL, viewer)


def test_a_catalogue_that_came_as_a_whole_is_no_news():
    titles = engine.catalogue()
    added_ms = {title.item_id: START_MS + k for k, title in enumerate(titles)}
    added_ms["t9"] = START_MS + 10 * 3_600_000
    table = CatalogueTable.of(titles, added_ms)
    assert table.arrivals.tolist() == [table.slot_of("t9")]


def test_what_somebody_touched_or_came_long_ago_is_no_longer_just_added(world):
    fresh = world.table.put(CatalogItem("fresh", "Fresh"), START_MS)
    world.table.put(CatalogItem("old", "Old"), START_MS - ARRIVED_WITHIN_MS - 1)
    assert [one.item_id for one in world.brought_by(Source.ARRIVAL, NEW_VIEWER)] == ["fresh"]
    world.mirror.values[fresh, NAMES.index("item_engaged_total")] = 1.0
    assert not world.brought_by(Source.ARRIVAL, NEW_VIEWER)


def test_a_regions_chart_is_offered_where_it_is_known(world):
    world.watch_in(REGION, "t100", "t101")
    viewer = viewer_of("t0")
    assert not world.brought_by(Source.REGION, viewer, region=REGION)  # the first to ask
    world.recommender.keep_wanted(START_MS)
    offers = world.brought_by(Source.REGION, viewer, region=REGION)
    assert {one.item_id for one in offers} == {"t100", "t101"}
    assert not world.brought_by(Source.REGION, viewer, region="elsewhere")


def test_the_other_sources_bring_what_they_brought(world):
    offers = world.offers(viewer_of("t0", "t2", "t4")).values()
    names = {name for one in offers for name in one.sources}
    expected = (Source.COVISITATION, Source.FOR_YOU, Source.TRENDING, Source.WEEK, Source.POPULAR)
    assert names >= {WORDS[source].name for source in expected}


# --- going on ---


def test_what_was_begun_goes_on_and_after_an_episode_comes_the_next(world):
    viewer = viewer_after(
        ("t7", EventType.PLAY, PLAYED_HALF),
        ("s1e1", EventType.COMPLETE, {}),
        ("t9", EventType.PLAY, PLAYED_HALF),
        ("t9", EventType.SKIP, {}),  # abandoned
        ("t11", EventType.PLAY, PLAYED_HALF),
    )
    items = world.recommender.continue_watching(viewer, 10, START_MS)
    assert told(items) == [("t11", 0.5, ""), ("s1e2", 0.0, "s1e1"), ("t7", 0.5, "")]
    assert items[1].reason == "next after Part 1.1"
    assert told(world.recommender.continue_watching(viewer, 1, START_MS)) == [("t11", 0.5, "")]
    offers = world.offers(viewer)
    assert offers["t7"].reason_kind == "continue_watching"
    assert offers["s1e2"].cause_item_id == "s1e1"


def test_after_the_last_episode_of_a_season_comes_the_first_of_the_next(world):
    viewer = viewer_after(("s1e3", EventType.COMPLETE, {}))
    assert told(world.recommender.continue_watching(viewer, 5, START_MS)) == [("s2e1", 0.0, "s1e3")]
    ended = viewer_after(("s2e3", EventType.COMPLETE, {}))
    assert world.recommender.continue_watching(ended, 5, START_MS) == ()


def test_a_series_is_gone_on_with_once_where_it_was_left(world):
    viewer = viewer_after(("s1e1", EventType.COMPLETE, {}), ("s1e2", EventType.PLAY, PLAYED_HALF))
    assert told(world.recommender.continue_watching(viewer, 5, START_MS)) == [("s1e2", 0.5, "")]


def test_what_was_left_for_a_week_is_not_gone_on_with(world):
    viewer = viewer_after(("t7", EventType.PLAY, PLAYED_HALF))
    later_ms = START_MS + ABANDONED_AFTER_MS + 1_000
    assert world.recommender.continue_watching(viewer, 5, later_ms) == ()
    assert world.recommender.continue_watching(NEW_VIEWER, 5, START_MS) == ()


def test_what_was_taken_from_the_catalogue_is_not_gone_on_with(world):
    viewer = viewer_after(("s1e1", EventType.COMPLETE, {}), ("t7", EventType.PLAY, PLAYED_HALF))
    for item_id in ("s1e2", "t7"):
        world.table.remove(item_id)
    assert world.recommender.continue_watching(viewer, 5, START_MS) == ()


def told(items: tuple[SlateItem, ...]) -> list[tuple[str, float, str]]:
    return [(item.item_id, item.progress, item.cause_item_id) for item in items]


# --- pages ---


@pytest.mark.parametrize("viewer", [NEW_VIEWER, viewer_of(*CRIME[:3])])
def test_on_the_page_of_a_title_what_goes_with_it_leads(world, viewer):
    items = world.slate(viewer, item_id="t41", page=Page.ITEM, count=10).items
    assert "t41" not in {item.item_id for item in items}
    assert {item.cause_item_id for item in items[:5]} == {"t41"}
    assert {item.reason for item in items[:5]} == {"more like Title 41"}
    assert all(int(item.item_id[1:]) % 2 == 1 for item in items[:5])


@pytest.mark.parametrize("viewer", [NEW_VIEWER, viewer_of(*CRIME[:3])])
def test_on_the_page_of_a_search_only_what_was_found_is_ordered(world, viewer):
    asked = ("t50", "t51", "nowhere", "t52")
    items = world.slate(viewer, candidate_item_ids=asked, page=Page.SEARCH).items
    assert {item.item_id for item in items} == {"t50", "t51", "t52"}


def test_titles_that_nobody_watched_have_titles_like_them(world):
    world.table.put(CatalogItem("fresh", "Fresh", 2000, ("Comedy",)), START_MS)
    items = world.recommender.similar_items("fresh", 8)
    assert len(items) == 8
    assert all(int(item.item_id[1:]) % 2 == 1 for item in items)
    world.table.remove("fresh")
    with pytest.raises(UnknownItemError):
        world.recommender.similar_items("fresh", 8)


def test_what_trends_in_a_region_leads_what_trends(world):
    world.watch_in(REGION, "t100", "t101")
    world.know_region(REGION)
    items = world.recommender.trending(Query("", region=REGION, count=10), START_MS)
    assert [item.item_id for item in items[:2]] == ["t100", "t101"]
    assert [item.reason_kind for item in items[:3]] == [*["trending_in_region"] * 2, "trending"]
    everywhere = world.recommender.trending(Query("", count=10), START_MS)
    assert {item.reason_kind for item in everywhere} == {"trending"}


# --- time ---


def test_sources_that_do_not_get_their_turn_are_named_and_the_slate_is_full(world, bundle):
    hurried = Recommender(world.table, world.mirror, bundle, budget_s=-1.0)
    slate = hurried.recommend(Query("ann", count=20), viewer_of("t0"), START_MS)
    assert slate.degraded == ("deadline",)
    assert len(slate.items) == 20
    assert world.slate(viewer_of("t0")).degraded == ()


# --- those who are new ---


def test_a_new_viewer_gets_the_charts(world):
    slate = world.slate(NEW_VIEWER)
    assert len(slate.items) == 20
    assert {item.source for item in slate.items} <= {"trending", "just_added"}
    assert slate.degraded == ()


def test_a_new_viewer_of_a_region_gets_its_chart_first(world):
    world.watch_in(REGION, "t150", "t151", "t152")
    world.know_region(REGION)
    items = world.slate(NEW_VIEWER, region=REGION).items
    assert [item.item_id for item in items[:3]] == ["t150", "t151", "t152"]
    assert items[0].reason == "trending in your region"
    assert len(items) == 20


def test_an_unknown_region_is_everywhere(world):
    world.know_region("XX")
    somewhere, everywhere = world.slate(NEW_VIEWER, region="XX"), world.slate(NEW_VIEWER)
    assert [item.item_id for item in somewhere.items] == [item.item_id for item in everywhere.items]


def test_a_few_events_make_a_slate_personal_and_say_why(world):
    slates = []
    for watched, remainder in ((CRIME, 0), (COMEDY, 1)):
        for n in (1, 3, 5):
            items = world.slate(viewer_of(*watched[:n])).items
            assert any(item.reason_kind == "because_you_watched" for item in items)
        assert np.mean([number_of(item) % 2 == remainder for item in items]) > 0.6
        slates.append({item.item_id for item in items})
    assert len(slates[0] & slates[1]) < 10


def number_of(item: SlateItem) -> int:
    return int(item.item_id[-1])


def test_an_empty_catalogue_has_an_empty_slate(bundle):
    table = CatalogueTable.of([])
    for room, use in ((0, bundle), (4, bundle), (4, None)):
        table = CatalogueTable.of([], room=room)
        recommender = Recommender(table, ItemMirror.over(table.ids, table.slots), use)
        for viewer in (NEW_VIEWER, viewer_of("t0")):
            assert recommender.recommend(Query("ann"), viewer, START_MS).items == ()
            assert recommender.continue_watching(viewer, 5, START_MS) == ()
        assert recommender.trending(Query(""), START_MS) == ()


# --- regions ---


def test_charts_of_regions_are_read_again_forgotten_and_not_too_many(world):
    world.watch_in(REGION, "t1")
    world.know_region(REGION)
    assert world.regions.chart(REGION).tolist() == [world.slot("t1")]
    world.watch_in(REGION, "t2")
    world.recommender.keep_wanted(START_MS)
    assert world.regions.chart(REGION).tolist() == [world.slot("t1")]  # not old yet
    world.now_s += EVERY_S
    world.recommender.keep_wanted(START_MS)
    assert world.regions.chart(REGION).tolist() == [world.slot("t2")]
    for k in range(MOST_REGIONS):
        world.know_region(f"R{k}")
    world.watch_in("R999", "t3")
    world.know_region("R999")
    assert len(world.regions.chart("R999")) == 0  # no room
    world.now_s += FORGET_AFTER_S + 1
    world.recommender.keep_wanted(START_MS)
    world.know_region("R999")
    assert world.regions.chart("R999").tolist() == [world.slot("t3")]


def test_charts_of_regions_outlive_a_store_that_fails(world):
    class Away(InMemoryRowStore):
        is_away = False

        def read(self, ids: np.ndarray) -> tuple[Rows, np.ndarray]:
            if self.is_away:
                raise redis.ConnectionError("away")
            return super().read(ids)

    store = Away(SEGMENTS)
    world.segments = store
    regions = RegionCharts(store, 2, lambda: world.now_s)
    world.watch_in(REGION, "t1")
    regions.chart(REGION)
    regions.refresh(world.table, START_MS)
    store.is_away = True
    world.now_s += EVERY_S
    regions.refresh(world.table, START_MS)
    assert regions.chart(REGION).tolist() == [world.slot("t1")]


# --- what titles are ---


def test_lists_of_titles_alike_are_those_of_a_look_at_every_title(world):
    content = ContentNeighbours(world.table)
    slot = world.slot("t10")
    products = world.table.contents[: world.table.n_used] @ world.table.contents[slot]
    products[slot] = -1
    found = content.of(slot)
    np.testing.assert_allclose(products[found], np.sort(products)[::-1][: len(found)], rtol=1e-5)


def test_a_new_title_finds_its_way_into_the_lists_of_what_it_is_like(world):
    content = ContentNeighbours(world.table)
    slot = world.slot("t10")
    content.of(slot)
    twin = world.table.put(CatalogItem("twin", "Title 10", 2000, ("Crime",)), START_MS)
    assert twin not in content.of(slot)
    content.changed([twin])
    content.changed([twin])
    assert content.of(slot).tolist().count(twin) == 1
    anew = ContentNeighbours(world.table)
    contents = world.table.contents
    np.testing.assert_allclose(
        contents[content.of(slot)] @ contents[slot], contents[anew.of(slot)] @ contents[slot],
        rtol=1e-5,
    )  # fmt: skip


def test_requests_do_not_wait_for_what_somebody_works_out_beside(world):
    content = ContentNeighbours(world.table)
    woken: list[bool] = []
    content.wake = lambda: woken.append(True)
    slot = world.slot("t10")
    assert len(content.of(slot)) == 0
    assert woken
    assert content.work_out_wanted() == 1
    assert len(content.of(slot)) > 0


def test_a_mirror_row_of_a_new_title_begins_with_the_defaults(world):
    slot = world.table.put(CatalogItem("fresh"), START_MS)
    assert (
        world.mirror.values[slot, : NAMES.index("item_rating_low")]
        == DEFAULTS[: NAMES.index("item_rating_low")]
    ).all()


def test_segment_rows_are_the_flows_own():
    assert SEGMENTS.empty.dtype == SEGMENT_ROW
