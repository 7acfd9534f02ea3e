"""What slates promise, whatever is missing."""

import numpy as np
import pytest

from features.events import CatalogItem
from features.ranking import N_COLUMNS, RANKING_COLUMNS
from features.store import USERS
from features.viewing_state import N_FINGERPRINTS, N_TITLES
from features.vocabulary import EventType
from serving.bundle import Bundle
from serving.catalogue import CatalogueTable
from serving.recommender import Recommender
from serving.slate import MAX_COUNT, Query, Slate, UnknownItemError, Viewer
from tests.clock import START_MS
from tests.serving import engine

CRIME = [f"t{k}" for k in range(0, 40, 2)]
COMEDY = [f"t{k}" for k in range(1, 41, 2)]
UNKNOWN = Viewer(None)


@pytest.fixture(scope="module")
def table() -> CatalogueTable:
    return CatalogueTable.of(engine.catalogue())


@pytest.fixture
def recommender(table: CatalogueTable, bundle: Bundle) -> Recommender:
    return Recommender(table, engine.FixedMirror.of(table), bundle)


def ids(slate: Slate) -> list[str]:
    return [item.item_id for item in slate.items]


def number(item_id: str) -> int:
    return int(item_id[1:])


def share_of_crime(slate: Slate) -> float:
    return float(np.mean([number(item_id) % 2 == 0 for item_id in ids(slate)]))


def test_a_slate_is_as_long_as_asked_and_has_no_title_twice(recommender):
    for row in (USERS.empty, engine.viewer_row("t0"), engine.viewer_row(*CRIME)):
        for count in (1, 20, MAX_COUNT):
            found = ids(recommender.recommend(Query("u", count=count), Viewer(row), START_MS))
            assert len(found) == len(set(found)) == count


def test_what_a_viewer_watched_or_rejected_is_never_shown(recommender):
    watched = engine.viewer_row(*CRIME)
    rejected = engine.viewer_row(*COMEDY[:5], kind=EventType.DISLIKE)
    assert not set(ids(ask(recommender, watched, MAX_COUNT))) & set(CRIME)
    assert not set(ids(ask(recommender, rejected, MAX_COUNT))) & set(COMEDY[:5])


def ask(recommender: Recommender, row: np.ndarray, count: int = 20) -> Slate:
    return recommender.recommend(Query("u", count=count), Viewer(row), START_MS)


def test_a_viewer_who_has_watched_nearly_everything_gets_what_is_left(recommender):
    left = {"t7", "t101", "t239"}
    watched = [f"t{k}" for k in range(N_TITLES + N_FINGERPRINTS) if f"t{k}" not in left]
    found = ids(ask(recommender, engine.viewer_row(*watched), MAX_COUNT))
    assert not set(found) & set(watched)
    assert len(found) == min(MAX_COUNT, engine.N_TITLES - len(watched))


def test_a_new_viewer_is_known_after_three_events(recommender):
    before = ask(recommender, USERS.empty)
    after_crime = ask(recommender, engine.viewer_row("t20", "t24", "t28"))
    after_comedy = ask(recommender, engine.viewer_row("t21", "t25", "t29"))
    assert ids(before) != ids(after_crime)
    assert share_of_crime(after_crime) > share_of_crime(before) > share_of_crime(after_comedy)


def test_a_single_event_changes_the_slate(recommender):
    before = ask(recommender, USERS.empty)
    after = ask(recommender, engine.viewer_row("t30", kind=EventType.CLICK))
    assert ids(before) != ids(after)


def test_a_cause_is_a_title_that_the_viewer_touched(recommender):
    touched = ["t20", "t24", "t28"]
    slate = ask(recommender, engine.viewer_row(*touched), MAX_COUNT)
    caused = [item for item in slate.items if item.cause_item_id]
    assert caused
    for item in caused:
        assert item.source in ("covisitation", "session", "similar_content")
        assert item.cause_item_id in touched
        assert item.cause_title in item.reason
    assert all(item.reason for item in slate.items)


def test_excluded_titles_stay_out_of_that_slate_alone(recommender):
    row = engine.viewer_row("t20")
    first = ids(ask(recommender, row))
    query = Query("u", exclude_item_ids=(*first[:10], "no such title"))
    without = recommender.recommend(query, Viewer(row), START_MS)
    assert len(without.items) == 20
    assert not set(ids(without)) & set(first[:10])
    assert ids(ask(recommender, row)) == first


def test_only_wanted_genres_are_shown_and_the_slate_is_full(recommender):
    for viewer in (UNKNOWN, Viewer(engine.viewer_row(*CRIME))):
        slate = recommender.recommend(Query("u", count=60, genres=("Comedy",)), viewer, START_MS)
        assert len(slate.items) == 60
        assert share_of_crime(slate) == 0


def test_a_genre_that_no_title_has_makes_an_empty_slate(recommender):
    slate = recommender.recommend(Query("u", genres=("War",)), UNKNOWN, START_MS)
    assert slate.items == ()


def test_a_title_that_is_not_out_yet_is_not_shown(bundle):
    titles = [
        CatalogItem(t.item_id, t.title, t.year, t.genres, available_from_ms=START_MS + 1)
        if t.item_id in ("t0", "t1")
        else t
        for t in engine.catalogue()
    ]
    table = CatalogueTable.of(titles)
    recommender = Recommender(table, engine.FixedMirror.of(table), bundle)
    row = engine.viewer_row("t2", "t3")
    early = recommender.recommend(Query("u", count=100), Viewer(row), START_MS)
    late = recommender.recommend(Query("u", count=100), Viewer(row), START_MS + 1)
    assert not {"t0", "t1"} & set(ids(early))
    assert {"t0", "t1"} <= set(ids(late))


def test_an_unknown_viewer_gets_what_is_trending(recommender):
    slate = recommender.recommend(Query("nobody"), UNKNOWN, START_MS)
    assert len(slate.items) == 20
    assert {item.source for item in slate.items} == {"trending"}
    assert slate.degraded == ()
    assert {"t0", "t1"} <= set(ids(slate))


def test_without_a_bundle_slates_are_trending_and_say_so(table):
    recommender = Recommender(table, engine.FixedMirror.of(table), None)
    slate = recommender.recommend(
        Query("u"), Viewer(engine.viewer_row(*CRIME), degraded=("redis",)), START_MS
    )
    assert slate.degraded == ("redis", "bundle")
    assert slate.bundle_version == ""
    assert len(slate.items) == 20
    assert not set(ids(slate)) & set(CRIME)
    similar = recommender.similar_items("t0", 5)  # by what they are
    assert [item.source for item in similar] == ["similar_content"] * 5


def test_a_mirror_that_knows_nothing_still_makes_a_full_slate(table, bundle):
    mirror = engine.FixedMirror(np.zeros_like(engine.FixedMirror.of(table).values))
    for with_bundle in (bundle, None):
        recommender = Recommender(table, mirror, with_bundle)
        for viewer in (UNKNOWN, Viewer(engine.viewer_row("t20"))):
            assert len(recommender.recommend(Query("u"), viewer, START_MS).items) == 20


def test_a_slate_does_not_depend_on_the_requests_before_it(table, bundle):
    row = engine.viewer_row("t20", "t24")
    fresh = Recommender(table, engine.FixedMirror.of(table), bundle)
    used = Recommender(table, engine.FixedMirror.of(table), bundle)
    for other in (engine.viewer_row(*COMEDY), USERS.empty, engine.viewer_row("t7")):
        ask(used, other, MAX_COUNT)
    expected, found = ask(fresh, row), ask(used, row)
    assert ids(expected) == ids(found)
    assert [i.score for i in expected.items] == [i.score for i in found.items]


def test_features_of_a_slate_stay_as_they_were(recommender):
    slate = ask(recommender, engine.viewer_row("t20"))
    kept = [item.features.copy() for item in slate.items]
    ask(recommender, engine.viewer_row(*COMEDY), MAX_COUNT)
    assert slate.feature_names == RANKING_COLUMNS
    for item, features in zip(slate.items, kept, strict=True):
        assert item.features.shape == (N_COLUMNS,)
        assert item.features.dtype == np.float32
        assert (item.features == features).all()


def test_a_slate_is_in_the_order_of_its_scores_and_says_how_it_was_chosen(recommender):
    slate = ask(recommender, engine.viewer_row("t20", "t24"))
    scores = [item.score for item in slate.items]
    assert scores == sorted(scores, reverse=True)
    assert {(item.arm, item.propensity) for item in slate.items} == {("ranker", 1.0)}
    assert slate.n_candidates >= 100


def test_a_title_that_the_bundle_does_not_know_can_be_recommended(bundle):
    titles = [*engine.catalogue(), CatalogItem("t240", "Brand New", 2013, ("Crime",))]
    table = CatalogueTable.of(titles)
    mirror = engine.FixedMirror.of(table)
    mirror.values[table.slot_of("t240")] = mirror.values[table.slot_of("t0")] * 20
    found = ids(ask(Recommender(table, mirror, bundle), engine.viewer_row("t20"), MAX_COUNT))
    assert "t240" in found


def test_a_viewer_of_titles_that_nobody_knows_gets_a_full_slate(recommender):
    assert len(ask(recommender, engine.viewer_row("gone1", "gone2")).items) == 20


def test_similar_titles_are_of_the_same_circle(recommender):
    items = recommender.similar_items("t20", 10)
    assert len(items) == 10
    assert "t20" not in [item.item_id for item in items]
    assert np.mean([number(item.item_id) % 2 == 0 for item in items]) > 0.8
    with pytest.raises(UnknownItemError, match="no such"):
        recommender.similar_items("no such", 3)


def test_trending_is_ordered_by_the_trend_and_keeps_to_genres(recommender):
    items = recommender.trending(Query("", genres=("Crime",), count=30), START_MS)
    scores = [item.score for item in items]
    assert len(items) == 30
    assert scores == sorted(scores, reverse=True)
    assert all(number(item.item_id) % 2 == 0 for item in items)
    assert recommender.trending(Query("", genres=("War",), count=5), START_MS) == ()


def test_another_bundle_takes_over_at_the_next_request(table, bundle):
    recommender = Recommender(table, engine.FixedMirror.of(table), None)
    row = engine.viewer_row("t20")
    assert ask(recommender, row).degraded == ("bundle",)
    recommender.use(bundle)
    assert ask(recommender, row).bundle_version == bundle.version
