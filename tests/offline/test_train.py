"""Training: each part against a slow and obvious way, and the whole without a look ahead."""

import json
from dataclasses import replace

import numpy as np
import pytest

from features.bundle_format import NO_NEIGHBOUR, BundleError
from features.events import CatalogItem
from features.ids import id_hash
from features.ranking import N_COLUMNS, RANKING_COLUMNS
from features.vocabulary import EventType
from features.windows import DAY_MS
from infra.train import EngineExamples, FreshModels, LocalFeatures, next_titles
from offline.neighbours import N_NEIGHBOURS, NeighboursConfig, fit_neighbours
from offline.train import (
    Silent,
    TrainConfig,
    TrainingError,
    fit_models,
    latest_year,
    refresh,
    train,
)
from offline.train_als import AlsConfig, fit_factors
from offline.train_ranker import (
    Examples,
    RankerConfig,
    TooFewExamplesError,
    fit_ranker,
    measure,
    place_of_first,
)
from serving.bundle import load_current
from tests.clock import START_MS
from tests.serving import engine

STEADY = NeighboursConfig(half_life_ms=1e18)  # without fading


def ignore(done: int) -> None:
    """A bar that nobody sees."""


def neighbours_of(events: list[tuple[int, int, int]], n_items: int, config=STEADY):
    """Of (user, item, at_ms), as a dict of dicts."""
    users, items, at_ms = (np.array(column) for column in zip(*events, strict=True))
    found = fit_neighbours(
        users.astype(np.int32), items.astype(np.int32), at_ms, n_items, config, ignore
    )
    return [
        {int(k): float(w) for k, w in zip(*pair, strict=True) if k != NO_NEIGHBOUR}
        for pair in zip(found.items, found.weights, strict=True)
    ]


# --- neighbours ---


def test_titles_of_one_viewer_are_linked_both_ways_and_weaker_with_each_step():
    found = neighbours_of([(0, 0, 1), (0, 1, 2), (0, 2, 3)], 4)
    assert found[2] == pytest.approx({1: 1.0, 0: 0.9})
    assert found[0] == pytest.approx({1: 1.0, 2: 0.9})
    assert found[3] == {}


def test_titles_of_different_viewers_are_not_linked():
    assert neighbours_of([(0, 0, 1), (1, 1, 2)], 2) == [{}, {}]


def test_several_events_of_a_title_in_a_row_count_once():
    assert neighbours_of([(0, 0, 1), (0, 0, 2), (0, 1, 3), (0, 1, 4)], 2) == [{1: 1.0}, {0: 1.0}]


def test_a_link_across_weeks_counts_half():
    found = neighbours_of([(0, 0, 1), (0, 1, 1 + 20 * DAY_MS)], 2)
    assert found == [{1: 0.5}, {0: 0.5}]


def test_weights_fade_with_the_time_of_their_title():
    config = NeighboursConfig(half_life_ms=DAY_MS)
    found = neighbours_of([(0, 0, 1), (0, 1, 1), (1, 0, 1 + DAY_MS), (1, 2, 1 + DAY_MS)], 3, config)
    assert found[0] == pytest.approx({1: 0.5, 2: 1.0})
    assert found[1] == pytest.approx({0: 1.0})  # nothing has happened to it since


def test_the_strongest_neighbours_remain_in_order(rng):
    n_items, n = 200, 4_000
    events = [(int(u), 0 if k % 2 else int(i) + 1, k) for k, (u, i) in enumerate(
        zip(rng.integers(0, 50, n), np.minimum(rng.exponential(8, n), 190), strict=True)
    )]  # fmt: skip
    users, items, at_ms = (np.array(column) for column in zip(*events, strict=True))
    found = fit_neighbours(
        users.astype(np.int32), items.astype(np.int32), at_ms, n_items, STEADY, ignore
    )
    assert (np.diff(found.weights, axis=1) <= 0).all()
    assert found.items.shape == (n_items, N_NEIGHBOURS)
    assert set(range(1, 6)) <= set(found.items[0, :12].tolist())  # the most frequent companions


# --- factors ---


def test_factors_bring_titles_of_one_circle_together():
    models = engine.models()
    even = np.isin(models.ids, [id_hash(f"t{k}") for k in range(0, 60, 2)])
    odd = np.isin(models.ids, [id_hash(f"t{k}") for k in range(1, 60, 2)])
    unit = models.factors / np.linalg.norm(models.factors, axis=1, keepdims=True)
    alike = unit @ unit[even].mean(axis=0)
    assert alike[even].mean() > alike[odd].mean() + 0.3


def test_the_same_data_gives_the_same_factors_and_repeats_change_nothing():
    events = engine.columns(500)
    config = AlsConfig(n_factors=4, n_iterations=2)
    once = fit_factors(events.user, events.item, engine.N_TITLES, config, ignore)
    user, item = np.tile(events.user, 2), np.tile(events.item, 2)
    assert (fit_factors(user, item, engine.N_TITLES, config, ignore) == once).all()
    assert once.shape == (engine.N_TITLES, 4)


# --- examples ---


def test_next_titles_are_new_ones_of_known_viewers():
    events = engine.columns(40)
    user = np.array([0, 0, 0, 1, 1, 0] + [2] * 34, np.int32)
    item = np.array([5, 6, 5, 5, 5, 7] + [9] * 34, np.int32)
    types = events.type.copy()
    types[5] = EventType.IMPRESSION
    found = next_titles(replace(events, user=user, item=item, type=types))
    assert np.flatnonzero(found).tolist() == [1]


def test_examples_hold_nothing_of_what_comes_after_them():
    events, titles = engine.columns(3_000), engine.catalogue()
    start = 2_000
    other = events.item.copy()
    other[2_500:] = np.random.default_rng(1).permutation(other[2_500:])
    models = fit_models(events.rows(0, start), 2013, engine.SMALL, Silent(), "")
    found = []
    for item in (events.item, other):
        columns = replace(events, item=item)
        local = LocalFeatures(columns, titles)
        from_engine = EngineExamples(columns, titles)
        examples = from_engine.examples(models, start, engine.SMALL, ignore)
        n_before = int(next_titles(columns)[start:2_500].sum())
        found.append(examples.rows[: n_before // 2])
        assert local.at == 0
    assert len(found[0]) > 50
    for a, b in zip(*found, strict=True):
        assert (a == b).all()


def test_rows_of_the_local_features_are_those_of_one_event_after_the_other():
    events, titles = engine.columns(400), engine.catalogue()
    at_once, step_by_step = LocalFeatures(events, titles), LocalFeatures(events, titles)
    at_once.advance(400)
    for stop in range(1, 401):
        step_by_step.advance(stop)
    for event in range(0, 400, 7):
        assert at_once.viewer(event).row == step_by_step.viewer(event).row


# --- the ranker ---


def made_examples(rng: np.random.Generator, n: int) -> Examples:
    """The title that came next is the one with the largest trend, mostly."""
    found = Examples(n_queries=n, n_found=n)
    trend = RANKING_COLUMNS.index("item_trend_1d")
    for k in range(n):
        rows = rng.normal(size=(30, N_COLUMNS)).astype(np.float32)
        rows[0, trend] = rows[:, trend].max() + 0.1
        if k % 4 == 0:
            found.held_out.append((rows, True))
        else:
            found.rows.append(rows)
    return found


def test_the_ranker_learns_what_decides(rng):
    examples = made_examples(rng, 200)
    booster = fit_ranker(examples, RankerConfig(20, 15, 0.15, min_rows_in_leaf=5), ignore)
    assert measure(booster, examples)["ndcg_20"] > 0.7  # by chance 0.23
    assert measure(booster, examples)["trend_hr_20"] == 1.0


def test_too_few_examples_are_said_to_be_too_few(rng):
    with pytest.raises(TooFewExamplesError, match=r"at least 20 examples .* got 3"):
        fit_ranker(made_examples(rng, 4), RankerConfig(), ignore)


def test_a_missed_title_counts_as_missed(rng):
    examples = made_examples(rng, 100)
    booster = fit_ranker(examples, RankerConfig(n_trees=2, min_rows_in_leaf=5), ignore)
    examples.held_out = [(rows, False) for rows, _ in examples.held_out]
    assert measure(booster, examples)["hr_20"] == 0.0


def test_ties_count_against_the_title():
    assert place_of_first(np.array([1.0, 1.0, 0.5, 2.0])) == 2


# --- the whole ---


def test_a_bundle_says_what_it_was_made_of(tmp_path):
    manifest = engine.train_small(tmp_path)
    events = engine.columns()
    assert manifest.n_events == len(events)
    assert (manifest.data_from_ms, manifest.data_until_ms) == (events.at_ms[0], events.at_ms[-1])
    assert manifest.columns == RANKING_COLUMNS
    assert manifest.metrics["hr_20"] > 0
    assert manifest.metrics["examples"] > 100
    written = json.loads((tmp_path / manifest.version / "manifest.json").read_text())
    assert written["version"] == manifest.version


def test_the_same_events_make_the_same_bundle(tmp_path):
    first, second = (engine.train_small(tmp_path / name) for name in "ab")
    assert first.files == second.files
    assert first.version == second.version


def test_progress_tells_every_step(tmp_path):
    told: dict[str, list[int]] = {}

    class Bars:
        def task(self, name: str, total: int):
            told[name] = [total]
            return told[name].append

    events, titles = engine.columns(), engine.catalogue()
    source = EngineExamples(events, titles)
    train(
        events, titles, source, tmp_path,
        created_at_ms=START_MS, progress=Bars(), config=engine.SMALL,
    )  # fmt: skip
    assert len(told) == 6
    for name, (total, *done) in told.items():
        assert done[-1] == total, name
        assert done == sorted(done), name


def test_events_that_want_nothing_cannot_be_trained_on(tmp_path):
    events = engine.columns(50)
    shown = replace(events, type=np.full(50, EventType.IMPRESSION, np.uint8))
    with pytest.raises(TrainingError, match="got none before the window"):
        train(
            shown, engine.catalogue(), EngineExamples(shown, []), tmp_path, created_at_ms=START_MS
        )


def test_a_refresh_brings_titles_that_came_since_and_keeps_what_ranks(tmp_path):
    first = engine.train_small(tmp_path)
    events = engine.columns(3_000, seed=9)
    item = events.item.copy()
    item[-50:] = engine.N_TITLES - 1  # of the last ten, which nobody has touched so far
    second = refresh(
        replace(events, item=item), engine.catalogue(), tmp_path,
        created_at_ms=START_MS + DAY_MS, config=engine.SMALL,
    )  # fmt: skip
    bundle = load_current(tmp_path)
    assert bundle.version == second.version != first.version
    assert id_hash(f"t{engine.N_TITLES - 1}") in bundle.models.ids
    assert second.files["ranker.txt"] == first.files["ranker.txt"]
    assert (second.latest_year, second.metrics) == (first.latest_year, first.metrics)
    assert second.n_events == 3_000


def test_a_refresh_needs_a_bundle(tmp_path):
    with pytest.raises(BundleError, match="current cannot be read"):
        refresh(engine.columns(100), engine.catalogue(), tmp_path, created_at_ms=START_MS)


def test_models_are_due_once_they_are_old_and_see_only_the_past():
    events = engine.columns(3_000)
    fresh = FreshModels(events, 2013, replace(engine.SMALL, refresh_days=10.0))
    found = {k: models for k in range(500, 3_000) if (models := fresh.due(k)) is not None}
    days = [(events.at_ms[k] - events.at_ms[500]) / DAY_MS for k in found]
    assert [round(day) for day in days] == [10, 20]
    for event, models in found.items():
        assert models.support.sum() == event


def test_a_refresh_must_be_some_time_away():
    with pytest.raises(ValueError, match=r"train\.refresh_days must be above 0; got 0"):
        TrainConfig(refresh_days=0)


def test_a_window_must_be_a_share():
    with pytest.raises(ValueError, match=r"train\.window_share must be within 0\.\.1; got 1"):
        TrainConfig(window_share=1)


def test_the_latest_year_does_not_follow_a_stray_title():
    events = engine.columns(5_000)
    stray = [
        CatalogItem("t239", "Far Ahead", 2099) if t.item_id == "t239" else t
        for t in engine.catalogue()
    ]
    item = events.item.copy()
    item[7] = 239
    assert latest_year(replace(events, item=item), stray) == 2013
    assert latest_year(events, []) == 0
