"""Why a title is, or is not, on a slate: asked of a real recommender about a small world."""

from pathlib import Path

import numpy as np
import pytest

from serving.bundle import Bundle, load_current
from serving.catalogue import CatalogueTable
from serving.explaining import REASON_WORDS
from serving.filtering.reasons import REASONS
from serving.overlay import Overlay
from serving.recommender import Recommender
from serving.selection.config import PLAIN
from serving.selection.explorer import Beliefs, Explorer
from serving.slate import MAX_COUNT, Filters, Query, UnknownItemError, Viewer
from tests.clock import START_MS
from tests.serving import engine

TOUCHED = ["t20", "t24", "t28"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder: Path = tmp_path_factory.mktemp("bundles")
    engine.train_small(folder)
    return load_current(folder)


@pytest.fixture(scope="module")
def recommender(bundle: Bundle) -> Recommender:
    table = CatalogueTable.of(engine.catalogue())
    return Recommender(table, engine.FixedMirror.of(table), bundle, selection=PLAIN)


@pytest.fixture(scope="module")
def viewer() -> Viewer:
    return Viewer(engine.viewer_row(*TOUCHED))


def test_every_title_of_the_catalogue_is_explained_as_it_was_served(recommender, viewer):
    query = Query("u", count=20)
    slate = [item.item_id for item in recommender.recommend(query, viewer, START_MS).items]
    for title in engine.catalogue():
        found = recommender.explain(query, viewer, title.item_id, START_MS)
        assert found.shown == (title.item_id in slate)
        assert found.item.item_id == title.item_id
        assert ("watched" in found.removed_by) == (title.item_id in TOUCHED)
        if found.shown:
            assert slate[found.slot] == title.item_id
            assert found.rank == found.slot + 1  # nothing explores here
            assert found.item.source in found.sources
            assert found.summary.startswith(f"{title.title} is in slot {found.slot} of 20")
        else:
            assert found.rank == 0 or found.rank > 20
            assert " is not shown: " in found.summary
        assert len(found.item.features) == len(found.feature_names)


def test_filters_that_take_a_title_out_are_named(recommender, viewer):
    def removed_by(item_id, **fields):
        return recommender.explain(Query("u", **fields), viewer, item_id, START_MS).removed_by

    assert removed_by("t20") == ("watched",)
    assert removed_by("t20", exclude_item_ids=("t20",)) == ("watched", "excluded")
    assert removed_by("t21", genres=("Crime",)) == ("genre",)
    assert removed_by("t21", filters=Filters(max_age=6)) == ("age",)
    assert removed_by("t22") == ()


def test_a_title_that_is_taken_out_still_tells_who_brings_it(recommender, viewer):
    slate = recommender.recommend(Query("u"), viewer, START_MS)
    first = slate.items[0]
    query = Query("u", exclude_item_ids=(first.item_id,))
    found = recommender.explain(query, viewer, first.item_id, START_MS)
    assert first.source in found.sources
    assert (found.rank, found.cheap_rank, found.shown) == (0, 0, False)
    assert found.item.score == pytest.approx(first.score)
    assert found.summary == f"{first.title} is not shown: the request excludes it."


def test_contributions_sum_up_to_the_score_but_for_a_constant(recommender, viewer):
    slate = recommender.recommend(Query("u", debug=True), viewer, START_MS)
    rest = [item.score - float(item.contributions.sum()) for item in slate.items]
    assert np.allclose(rest, rest[0], atol=1e-4)
    shown = recommender.explain(Query("u"), viewer, slate.items[3].item_id, START_MS)
    assert np.allclose(shown.item.contributions, slate.items[3].contributions)
    plain = recommender.recommend(Query("u"), viewer, START_MS)
    assert all(item.contributions is None for item in plain.items)


def test_an_explanation_changes_no_later_slate(recommender, viewer):
    query = Query("u", count=MAX_COUNT)
    before = recommender.recommend(query, viewer, START_MS)
    for item_id in ("t20", "t239", before.items[0].item_id):
        recommender.explain(query, viewer, item_id, START_MS)
    after = recommender.recommend(query, viewer, START_MS)
    assert [i.item_id for i in after.items] == [i.item_id for i in before.items]
    assert after.n_candidates == before.n_candidates


def test_unknown_viewers_unknown_titles_and_a_missing_bundle(recommender):
    nobody = Viewer(None)
    first = recommender.recommend(Query("u"), nobody, START_MS).items[0].item_id
    assert recommender.explain(Query("u"), nobody, first, START_MS).slot == 0
    with pytest.raises(UnknownItemError, match="'t999'"):
        recommender.explain(Query("u"), nobody, "t999", START_MS)
    table = CatalogueTable.of(engine.catalogue())
    poor = Recommender(table, engine.FixedMirror.of(table), None)
    found = poor.explain(Query("u"), Viewer(engine.viewer_row("t20")), "t20", START_MS)
    assert found.removed_by == ("watched",)
    assert found.item.contributions is None


def test_a_slot_that_explores_names_its_arm(bundle, viewer, rng):
    table = CatalogueTable.of(engine.catalogue())
    beliefs = Beliefs.none_yet("thompson")
    exploring = Recommender(
        table,
        engine.FixedMirror.of(table),
        bundle,
        explorer=Explorer(1.0, rng),
        overlay=Overlay(0, beliefs),
    )
    found = [exploring.explain(Query("u"), viewer, f"t{k}", START_MS) for k in range(30, 60)]
    shown = [each for each in found if each.shown]
    assert shown
    assert all(f"given to {each.item.arm}" in each.summary for each in shown)


def test_every_reason_has_its_words():
    assert set(REASON_WORDS) == set(REASONS)
