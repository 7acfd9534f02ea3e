"""What may be shown: every filter against plain Python, and slates that never fall short."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.certification import UNKNOWN_AGE, age_of
from features.events import CatalogItem
from features.ids import id_hash
from features.item_row import N_COLUMNS, NAMES
from features.rules import Rule, RuleKind, RuleScope
from features.store import USERS
from features.viewing_state import (
    IN_PROGRESS,
    N_FINGERPRINTS,
    N_TITLES,
    REJECTED,
    WATCHED,
    is_done_with,
    state_of,
)
from features.vocabulary import EventType, genre_mask
from features.windows import DAY_MS
from serving.bundle import Bundle, load_current
from serving.catalogue import CatalogueTable
from serving.filtering.filter import Filter, FilterConfig
from serving.filtering.masks import MaskKey, Masks
from serving.knowledge import Knowledge
from serving.recommender import Recommender
from serving.request import Request
from serving.retrieval.trending import Trending
from serving.rules.book import RuleBook
from serving.rules.rulings import NO_EFFECTS
from serving.slate import Filters, Query, Slate, Viewer
from tests.clock import START_MS
from tests.features.examples import event, user_after
from tests.serving import engine

GENRES = ("Crime", "Comedy", "Drama")
REGIONS = ("DE", "FR", "US")
LANGUAGES = ("de", "en")
CATEGORIES = ("film", "series")
CERTIFICATES = ("", "FSK 6", "FSK 12", "PG-13", "18")
KINDS = (EventType.COMPLETE, EventType.DISLIKE, EventType.CLICK, EventType.PLAY, EventType.LIKE)
MEAN, VOTES = NAMES.index("item_rating_mean"), NAMES.index("item_rating_count")
ANY = MaskKey(0, (), (), 0.0, -1, "", ())


@dataclass
class World:
    """A catalogue with figures of its titles, small enough to look through by hand."""

    items: list[CatalogItem]
    means: list[float]
    votes: list[int]

    def mirror(self, table: CatalogueTable) -> engine.FixedMirror:
        values = np.zeros((len(table), N_COLUMNS), np.float32)
        for k, item in enumerate(self.items):
            slot = table.slot_of(item.item_id)
            values[slot, MEAN], values[slot, VOTES] = self.means[k], self.votes[k]
            values[slot, NAMES.index("item_engaged_total")] = self.votes[k]
            values[slot, NAMES.index("item_trend_1d")] = k % 7
            values[slot, NAMES.index("item_trend_3d")] = k % 5
        return engine.FixedMirror(values)


def some(values: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), max_size=2, unique=True).map(tuple)


times = st.sampled_from([0, 0, START_MS - 1, START_MS, START_MS + 1])


@st.composite
def worlds(draw: st.DrawFn) -> World:
    items = [
        CatalogItem(
            f"t{k}",
            f"Title {k}",
            genres=draw(some(GENRES)),
            language=draw(st.sampled_from(("", *LANGUAGES))),
            certification=draw(st.sampled_from(CERTIFICATES)),
            category=draw(st.sampled_from(("", *CATEGORIES))),
            regions=draw(some(REGIONS)),
            available_from_ms=draw(times),
            available_until_ms=draw(times),
        )
        for k in range(draw(st.integers(0, 30)))
    ]
    means = [draw(st.sampled_from([3.0, 6.5, 7.0, 9.0])) for _ in items]
    return World(items, means, [draw(st.integers(0, 3)) for _ in items])


filters = st.builds(
    Filters,
    languages=some(LANGUAGES),
    categories=some(CATEGORIES),
    min_rating=st.sampled_from([0.0, 0.0, 6.5, 8.0]),
    max_age=st.sampled_from([None, None, 0, 12, 16]),
    include_watched=st.booleans(),
    exclude_in_progress=st.booleans(),
)
ids = st.lists(st.integers(0, 35).map(lambda k: f"t{k}"), max_size=6, unique=True)
queries = st.builds(
    Query,
    user_id=st.just("u"),
    count=st.integers(1, 30),
    region=st.sampled_from(["", "DE", "fr", "JP"]),
    genres=st.sampled_from([(), (), ("Crime",), ("Comedy", "Drama")]),
    exclude_item_ids=ids.map(tuple),
    filters=filters,
    item_id=st.sampled_from(["", "", "t3"]),
    candidate_item_ids=st.one_of(st.just(()), st.just(()), ids.map(tuple)),
    shown=ids.map(lambda found: frozenset(map(id_hash, found))),
)
touches = st.lists(st.tuples(st.integers(0, 35), st.sampled_from(KINDS)), max_size=40)
rules = st.lists(
    st.one_of(
        st.builds(Rule, st.just("b"), st.just(RuleKind.BLOCK), ids.map(tuple)),
        st.builds(Rule, st.just("g"), st.just(RuleKind.BLOCK), genres=some(GENRES)),
        st.builds(Rule, st.just("c"), st.just(RuleKind.CEILING), max_age=st.just(12)),
        st.builds(Rule, st.just("p"), st.just(RuleKind.PIN), ids.map(tuple), slot=st.just(1)),
    ),
    max_size=3,
)


def row_of(touched: list[tuple[int, EventType]]) -> np.ndarray:
    made = [
        event(item=id_hash(f"t{k}"), type=kind, at_ms=START_MS - n * 1_000)
        for n, (k, kind) in enumerate(reversed(touched))
    ]
    return user_after(*reversed(made)) if made else USERS.empty


def viewer_allows(item: CatalogItem, query: Query, row: np.ndarray) -> bool:
    viewing, id_ = row["viewing"][0], np.uint64(id_hash(item.item_id))
    states = {
        int(viewing["titles"][k]["item"]): state_of(viewing, k, START_MS) for k in range(N_TITLES)
    }
    state = states.get(int(id_))
    if state == REJECTED or (state == IN_PROGRESS and query.filters.exclude_in_progress):
        return False
    if query.filters.include_watched:
        return True
    return state != WATCHED and not is_done_with(viewing, id_)


def may_be_shown(world: World, k: int, query: Query, row: np.ndarray, held: list[Rule]) -> bool:
    """The filters in plain words, one after the other."""
    item, wanted, number = world.items[k], query.filters, f"t{k}"
    ceilings = [rule.max_age for rule in held if rule.kind == RuleKind.CEILING]
    ceiling = min([*ceilings, *([] if wanted.max_age is None else [wanted.max_age])], default=None)
    blocks = [rule for rule in held if rule.kind == RuleKind.BLOCK]
    age = age_of(item.certification)
    return (
        item.available_from_ms <= START_MS
        and (item.available_until_ms == 0 or item.available_until_ms > START_MS)
        and (not item.regions or query.region.upper() in item.regions)
        and (ceiling is None or (age != UNKNOWN_AGE and age <= ceiling))
        and (not wanted.languages or item.language in wanted.languages)
        and (not wanted.categories or item.category in wanted.categories)
        and (not query.genres or not set(query.genres).isdisjoint(item.genres))
        and (wanted.min_rating == 0 or (world.means[k] >= wanted.min_rating and world.votes[k] > 0))
        and number not in query.exclude_item_ids
        and number != query.item_id
        and id_hash(number) not in query.shown
        and (not query.candidate_item_ids or number in query.candidate_item_ids)
        and not any(number in r.item_ids or set(r.genres) & set(item.genres) for r in blocks)
        and viewer_allows(item, query, row)
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder: Path = tmp_path_factory.mktemp("bundles")
    engine.train_small(folder)
    return load_current(folder)


def item_ids(slate: Slate) -> list[str]:
    return [item.item_id for item in slate.items]


@settings(max_examples=120, deadline=None)
@given(world=worlds(), query=queries, touched=touches, held=rules, is_known=st.booleans())
def test_a_slate_is_as_long_as_the_catalogue_allows_and_holds_nothing_else(
    bundle: Bundle,
    world: World,
    query: Query,
    touched: list[tuple[int, EventType]],
    held: list[Rule],
    is_known: bool,
) -> None:
    held = list({rule.rule_id: rule for rule in held}.values())
    table, row = CatalogueTable.of(world.items, room=3), row_of(touched)
    recommender = Recommender(table, world.mirror(table), bundle)
    recommender.use_rules(RuleBook.of(held))
    viewer = Viewer(row if is_known else None)
    row = row if is_known else USERS.empty
    allowed = {f"t{k}" for k in range(len(world.items)) if may_be_shown(world, k, query, row, held)}
    found = item_ids(recommender.recommend(query, viewer, START_MS))
    assert set(found) <= allowed
    assert len(found) == len(set(found)) == min(query.count, len(allowed))
    listed = {item.item_id for item in recommender.trending(query, START_MS)}
    assert all(
        may_be_shown(world, int(item_id[1:]), query, USERS.empty, held) for item_id in listed
    )


@pytest.mark.parametrize("n_touched", [0, 1, 40, N_TITLES + N_FINGERPRINTS + 9])
def test_what_is_done_with_stays_out_and_everything_else_may_be_shown(rng, n_touched):
    items = [CatalogItem(f"t{k}") for k in range(600)]
    table = CatalogueTable.of(items)
    kinds = (EventType.COMPLETE, EventType.DISLIKE, EventType.CLICK, EventType.PLAY)
    touched = rng.permutation(600)[:n_touched]
    row = row_of([(int(k), kinds[k % 4]) for k in touched])
    found = filter_of(table)
    request = begun(found, table, Query("u"), row)
    slots = found.best(
        request, np.ones(len(table), np.float32), 600, np.full(len(table), -1, np.int32)
    )
    viewing = row["viewing"][0]
    expected = [not is_done_with(viewing, id_) for id_ in table.ids]
    assert sorted(slots.tolist()) == np.flatnonzero(expected).tolist()


def filter_of(table: CatalogueTable, config: FilterConfig | None = None) -> Filter:
    values = np.zeros((len(table), N_COLUMNS), np.float32)
    mirror = engine.FixedMirror(values)
    return Filter(Knowledge(table, mirror, Trending(table, 1_000)), config)


def begun(found: Filter, table: CatalogueTable, query: Query, row: np.ndarray) -> Request:
    hot = Trending(table, 1_000).lists(np.zeros((len(table), N_COLUMNS), np.float32), START_MS)
    request = Request.of(query, Viewer(row), START_MS, table, hot)
    found.begin(request)
    return request


def reasons_for(config: FilterConfig, query: Query, row: np.ndarray, item: CatalogItem):
    table = CatalogueTable.of([item])
    found = filter_of(table, config)
    return found.removed_by(begun(found, table, query, row), 0)


def test_what_was_watched_comes_back_after_the_days_that_are_set_and_no_earlier():
    item = CatalogItem("t1")
    done = event(item=id_hash("t1"), type=EventType.COMPLETE, at_ms=START_MS - 10 * DAY_MS)
    row = user_after(done)
    for days, expected in ((None, ("watched",)), (11, ("watched",)), (10, ()), (0, ())):
        found = reasons_for(FilterConfig(rewatch_after_days=days), Query("u"), row, item)
        assert found == expected
    rejected = user_after(replace_kind(done, EventType.DISLIKE))
    assert reasons_for(FilterConfig(0), Query("u"), rejected, item) == ("rejected",)


def replace_kind(made: np.ndarray, kind: EventType) -> np.ndarray:
    made = made.copy()
    made["type"] = kind
    return made


def test_an_unknown_age_is_refused_under_a_ceiling_unless_it_is_set_otherwise():
    query = Query("u", filters=Filters(max_age=18))
    unrated = CatalogItem("t1")
    assert reasons_for(FilterConfig(), query, USERS.empty, unrated) == ("age",)
    lenient = FilterConfig(shows_unknown_ages=True)
    assert reasons_for(lenient, query, USERS.empty, unrated) == ()
    assert reasons_for(lenient, replace(query, filters=Filters(max_age=15)), USERS.empty,
                       replace(unrated, certification="FSK 16")) == ("age",)  # fmt: skip


def test_every_reason_is_told_and_each_candidate_counted_once():
    items = [
        CatalogItem("t0", genres=("Drama",), regions=("FR",), certification="18"),
        CatalogItem("t1", genres=("Crime",)),
        CatalogItem("t2", genres=("Crime",), certification="FSK 6"),
        CatalogItem("t3", genres=("Crime",), certification="FSK 6"),
    ]
    table = CatalogueTable.of(items)
    world = World(items, [7.0] * 4, [1] * 4)
    recommender = Recommender(table, world.mirror(table), None)
    query = Query(
        "u", genres=("Crime",), region="DE", filters=Filters(max_age=12), exclude_item_ids=("t3",)
    )
    slate = recommender.recommend(query, Viewer(None), START_MS)
    assert item_ids(slate) == ["t2"]
    assert slate.removed == {"region": 1, "age": 1, "excluded": 1}
    found = filter_of(table)
    request = begun(found, table, query, USERS.empty)
    assert found.removed_by(request, table.slot_of("t0")) == ("region", "age", "genre")


def test_a_narrow_filter_tells_the_sources_what_they_may_bring():
    items = [CatalogItem(f"t{k}", genres=("Crime",) if k % 3 else ("Drama",)) for k in range(30)]
    table = CatalogueTable.of(items, room=9)
    found = filter_of(table)
    assert begun(found, table, Query("u"), USERS.empty).allowed is None
    assert begun(found, table, Query("u", genres=("Crime",)), USERS.empty).allowed is None
    allowed = begun(found, table, Query("u", genres=("Drama",)), USERS.empty).allowed
    crime = genre_mask(["Drama"])
    assert allowed.tolist() == [bool(genres & crime) for genres in table.genres.tolist()]
    asked = begun(found, table, Query("u", candidate_item_ids=("t4", "gone")), USERS.empty).allowed
    assert np.flatnonzero(asked).tolist() == [table.slot_of("t4")]


def test_under_a_narrow_filter_there_are_still_many_candidates():
    items = [CatalogItem(f"t{k}", genres=("Drama",) if k % 5 else ("Crime",)) for k in range(3_000)]
    table = CatalogueTable.of(items)
    world = World(items, [7.0] * 3_000, [3_000 - k for k in range(3_000)])
    recommender = Recommender(table, world.mirror(table), None)
    slate = recommender.recommend(Query("u", genres=("Crime",)), Viewer(None), START_MS)
    assert slate.n_candidates >= 400
    assert {int(item_id[1:]) % 5 for item_id in item_ids(slate)} == {0}


# --- masks ---


def mask_of(masks: Masks, table: CatalogueTable, key: MaskKey, now_ms: int):
    return masks.of(key, NO_EFFECTS, np.zeros((len(table), N_COLUMNS), np.float32), now_ms)


def test_a_mask_is_kept_until_the_next_title_comes_or_goes():
    soon = CatalogItem("t1", available_from_ms=START_MS + 500, available_until_ms=START_MS + 900)
    table = CatalogueTable.of([CatalogItem("t0"), soon])
    masks, slot = Masks(table), table.slot_of("t1")
    first = mask_of(masks, table, ANY, START_MS)
    assert mask_of(masks, table, ANY, START_MS + 499) is first
    at = {ms: mask_of(masks, table, ANY, START_MS + ms).bits[slot] == 0 for ms in (499, 500, 900)}
    assert at == {499: False, 500: True, 900: False}
    last = mask_of(masks, table, ANY, START_MS + 900)
    assert mask_of(masks, table, ANY, START_MS + 10**9) is last


def test_a_mask_follows_a_title_that_changes(rng):
    items = [CatalogItem(f"t{k}", regions=("DE",) if k % 2 else ()) for k in range(40)]
    table = CatalogueTable.of(items, room=10)
    masks, key = Masks(table), ANY._replace(region="DE", categories=("kids",))
    for step in range(60):
        k = int(rng.integers(0, 50))
        if rng.random() < 0.3:
            table.remove(f"t{k}")
        else:
            window = int(rng.choice([0, START_MS + step, START_MS + step + 3]))
            regions = (("FR",), ("DE", "AT"), ())[k % 3]
            category = "kids" if rng.random() < 0.6 else ""
            table.put(
                CatalogItem(f"t{k}", regions=regions, category=category, available_from_ms=window)
            )
        if rng.random() < 0.5:  # several changes at once
            found = mask_of(masks, table, key, START_MS + step)
            fresh = mask_of(Masks(table), table, key, START_MS + step)
            assert (found.bits == fresh.bits).all()
            assert (found.passing is None) == (fresh.passing is None)


def test_masks_are_few_however_many_filters_clients_think_of():
    table = CatalogueTable.of([CatalogItem("t0")])
    masks = Masks(table)
    for k in range(500):
        mask_of(masks, table, ANY._replace(region=f"R{k}"), START_MS)
    assert len(masks._masks) == 64


def test_ratings_that_move_are_looked_at_again_within_a_minute():
    table = CatalogueTable.of([CatalogItem("t0")])
    masks, key = Masks(table), ANY._replace(min_rating=8.0)
    values = np.zeros((1, N_COLUMNS), np.float32)
    assert masks.of(key, NO_EFFECTS, values, START_MS).bits[0] != 0
    values[0, MEAN], values[0, VOTES] = 8.0, 1
    assert masks.of(key, NO_EFFECTS, values, START_MS + 60_000).bits[0] == 0


# --- rules in the slate ---


def world_of_forty() -> tuple[CatalogueTable, Recommender]:
    items = [CatalogItem(f"t{k}", genres=("Crime",) if k % 2 else ("Drama",)) for k in range(40)]
    table = CatalogueTable.of(items)
    world = World(items, [7.0] * 40, [40 - k for k in range(40)])
    return table, Recommender(table, world.mirror(table), None)


def test_a_blocked_title_is_gone_from_the_next_slate_and_back_when_the_rule_goes():
    _, recommender = world_of_forty()
    everything = item_ids(recommender.recommend(Query("u", count=40), Viewer(None), START_MS))
    block = Rule("no-t3", RuleKind.BLOCK, ("t3",), until_ms=START_MS + 10)
    recommender.use_rules(RuleBook.of([block]))
    slate = recommender.recommend(Query("u", count=40), Viewer(None), START_MS)
    assert sorted(item_ids(slate)) == sorted(set(everything) - {"t3"})
    assert slate.rules == ("no-t3",)
    assert slate.removed == {"blocked": 1}
    later = recommender.recommend(Query("u", count=40), Viewer(None), START_MS + 10)
    assert "t3" in item_ids(later)
    recommender.use_rules(RuleBook.of([replace(block, item_ids=("t4",))]))
    other = item_ids(recommender.recommend(Query("u", count=40), Viewer(None), START_MS))
    assert "t3" in other
    assert "t4" not in other


def request_with(rules_: list[Rule], query: Query) -> tuple[CatalogueTable, Request, Recommender]:
    table, recommender = world_of_forty()
    recommender.use_rules(RuleBook.of(rules_))
    request = recommender._begin(query, Viewer(None), START_MS)
    recommender._filter.admit_pins(request, recommender._candidates)
    return table, request, recommender


def test_a_pin_takes_the_first_of_its_titles_that_may_be_shown():
    pin = Rule("p", RuleKind.PIN, ("gone", "t1", "t2", "t3"), slot=4)
    table, request, _ = request_with([pin], Query("u", exclude_item_ids=("t1",)))
    slot = table.slot_of("t2")
    assert request.pins == ((4, slot),)
    assert request.rule_of == {slot: "p"}
    assert request.rules == ("p",)
    _, nothing, _ = request_with([pin], Query("u", filters=Filters(max_age=6)))
    assert nothing.pins == ()


def test_a_pinned_slot_is_one_of_the_whole_endless_slate():
    pin = Rule("p", RuleKind.PIN, ("t1",), slot=25)
    assert request_with([pin], Query("u", count=20))[1].pins == ()
    table, request, _ = request_with([pin], Query("u", count=20, page_number=1))
    assert request.pins == ((5, table.slot_of("t1")),)


def test_a_pinned_title_stands_in_the_slate_once():
    pins = [Rule(f"p{k}", RuleKind.PIN, ("t1", "t2"), slot=k) for k in range(3)]
    table, request, recommender = request_with(pins, Query("u"))
    assert [table.item_ids[title] for _, title in request.pins] == ["t1", "t2"]
    recommender._end()
    found = item_ids(recommender.recommend(Query("u"), Viewer(None), START_MS))
    assert len(found) == len(set(found)) == 20


def test_boosts_add_up_by_candidate_and_name_the_rule_that_moves_most():
    boosts = [
        Rule("title", RuleKind.BOOST, ("t1", "t2"), boost=0.75),
        Rule("genre", RuleKind.BOOST, genres=("Crime",), boost=0.5),
    ]
    table, request, recommender = request_with(boosts, Query("u"))
    found = recommender._candidates
    found.offer(np.array([table.slot_of(f"t{k}") for k in range(4)]), 4, 0)
    recommender._filter.boost(request, found)
    assert request.boosts.tolist() == [0.0, 1.0, 0.75, 0.5]
    named = {table.item_ids[slot]: rule_id for slot, rule_id in request.rule_of.items()}
    assert named == {"t1": "title", "t2": "title", "t3": "genre"}
    assert set(request.rules) == {"title", "genre"}


def test_a_ceiling_of_a_profile_holds_for_that_profile_alone_and_is_named():
    items = [CatalogItem("t0", certification="18"), CatalogItem("t1", certification="FSK 6")]
    table = CatalogueTable.of(items)
    recommender = Recommender(table, World(items, [7.0] * 2, [1] * 2).mirror(table), None)
    kids = RuleScope(user_id="ann", profile_id="kids")
    recommender.use_rules(RuleBook.of([Rule("c", RuleKind.CEILING, max_age=12, scope=kids)]))
    for profile, expected in (("kids", ["t1"]), ("", ["t0", "t1"])):
        slate = recommender.recommend(Query("ann", profile), Viewer(None), START_MS)
        assert sorted(item_ids(slate)) == expected
        assert slate.rules == (("c",) if profile else ())
    lower = Query("ann", "kids", filters=Filters(max_age=3))
    assert item_ids(recommender.recommend(lower, Viewer(None), START_MS)) == []


def test_the_moment_is_told_at_which_what_may_be_shown_changes_next():
    items = [CatalogItem("t0"), CatalogItem("t1", available_until_ms=START_MS + 70)]
    table = CatalogueTable.of(items)
    recommender = Recommender(table, World(items, [7.0] * 2, [1] * 2).mirror(table), None)
    recommender.recommend(Query("u"), Viewer(None), START_MS)
    assert recommender.edge_after_ms(START_MS) == START_MS + 70
    recommender.use_rules(RuleBook.of([Rule("b", RuleKind.BLOCK, ("t0",), until_ms=START_MS + 9)]))
    assert recommender.edge_after_ms(START_MS) == START_MS + 9
    assert recommender.edge_after_ms(START_MS + 9) == START_MS + 70
    assert recommender.edge_after_ms(START_MS + 70) > START_MS + 10**9


def test_a_pinned_title_stands_in_its_slot_and_says_so():
    _, recommender = world_of_forty()
    first = item_ids(recommender.recommend(Query("u", count=10), Viewer(None), START_MS))
    pins = [Rule(f"p{k}", RuleKind.PIN, (first[9 - k],), slot=k) for k in (0, 3)]
    recommender.use_rules(RuleBook.of(pins))
    slate = recommender.recommend(Query("u", count=10), Viewer(None), START_MS)
    for k in (0, 3):
        item = slate.items[k]
        assert (item.item_id, item.rule_id) == (first[9 - k], f"p{k}")
        assert (item.source, item.propensity) == ("editorial", 1.0)
    assert len(set(item_ids(slate))) == 10
    assert slate.rules == ("p0", "p3")


def test_a_title_that_comes_after_its_rule_is_met_by_it():
    table = CatalogueTable.of([CatalogItem("t0")], room=2)
    recommender = Recommender(table, World([], [], []).mirror(table), None)
    recommender.use_rules(RuleBook.of([Rule("b", RuleKind.BLOCK, ("t1",))]))
    assert item_ids(recommender.recommend(Query("u"), Viewer(None), START_MS)) == ["t0"]
    table.put(CatalogItem("t1"))
    table.put(CatalogItem("t2"))
    found = item_ids(recommender.recommend(Query("u"), Viewer(None), START_MS))
    assert sorted(found) == ["t0", "t2"]
