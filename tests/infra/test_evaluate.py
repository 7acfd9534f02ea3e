"""The evaluation, on a small world; the full claim on MovieTweetings where it is at hand."""

from pathlib import Path

import numpy as np
import pytest

from infra.evaluate import (
    ENGINE,
    FROZEN,
    KEYS,
    VARIANTS,
    Contender,
    draw_over_time,
    evaluate_replay,
    replay,
    slates_table_of,
    table_of,
)
from infra.train import LocalFeatures, next_titles
from offline.baselines import BASELINES
from offline.charts import CHARTS
from offline.datasets import EVERYTHING, EventColumns, MovieTweetings, Selection
from offline.train import TrainConfig
from offline.train_als import AlsConfig
from offline.train_ranker import RankerConfig
from serving.bundle import Bundle
from tests.serving import engine

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def ignore(done: int) -> None:
    """A bar that nobody sees."""


class SmallDataset:
    """The small world of the engine's tests as a dataset."""

    name = "small world"

    def columns(self, selection: Selection = EVERYTHING) -> EventColumns:
        return engine.columns().select(selection)

    def interactions(self, selection: Selection = EVERYTHING):
        return self.columns(selection).interactions()

    def catalogue(self):
        return engine.catalogue()


@pytest.fixture(scope="module")
def found():
    return evaluate_replay(SmallDataset(), config=engine.SMALL)


def test_the_engine_is_ahead_of_every_chart(found):
    assert list(found.qualities) == [*VARIANTS, *CHARTS, *BASELINES]
    assert all(found.engine.is_ahead_of(chart) for chart in found.charts.values()), found


def test_every_slate_before_a_next_title_counts(found):
    columns = engine.columns()
    start = len(SmallDataset().columns(Selection(first_share=0.8)))
    assert found.n_slates == next_titles(columns)[start:].sum()
    hits = round(found.engine.hr_20 * found.n_slates)
    assert sum(found.by_source.values()) == hits
    assert 100 <= found.n_candidates_mean <= engine.N_TITLES
    assert found.engine.hr_20 < found.recall_at_1000 <= 1


@pytest.mark.parametrize("until", [None, 5_000])
def test_frozen_rows_take_in_nothing_after_the_split(until):
    columns = engine.columns()
    local = LocalFeatures(columns, engine.catalogue())
    contender = Contender.of(local, Bundle.without_ranker(engine.models()), None)
    chosen = np.flatnonzero(next_titles(columns))[-20:]
    seen = replay(local, {FROZEN: contender}, chosen, ignore, until=until)[FROZEN]
    assert len(seen.places) == len(seen.histories) == 20
    assert local.at == (until or chosen[-1])


def test_slates_are_described_beside_being_right(found):
    assert 0.2 < found.slates.catalogue_coverage <= 1
    assert 0 < found.slates.gini < 1
    assert found.slates.intra_list_diversity < 0.5  # viewers stay in a circle of one genre
    assert found.slates.genre_calibration_kl > 0
    assert found.slates.novelty_bits > 4  # no title has a sixteenth of the events


def test_a_limit_takes_the_first_slates_and_others_can_be_left_out():
    limited = evaluate_replay(SmallDataset(), config=engine.SMALL, limit=50, with_others=False)
    assert limited.n_slates == 50
    assert list(limited.qualities) == [ENGINE, *CHARTS]


def test_machines_read_figures_by_name(found):
    figures = found.figures()
    assert figures["hr_at_20"] == found.engine.hr_20
    assert figures["ndcg_at_20_frozen"] == found.qualities[FROZEN].ndcg_20
    for name in ("popular", "popular_7d", "trend_1d", *BASELINES):
        assert 0 <= figures[f"{name}_ndcg_at_20"] <= figures[f"{name}_hr_at_20"] <= 1
    assert {"recall_at_1000", "catalogue_coverage", "gini"} <= set(figures)
    assert set(figures) <= set(found.to_dict())


def test_tables_and_the_picture_show_all_of_it(found, tmp_path):
    names = list(table_of(found).columns[0].cells)
    assert names == [*VARIANTS[1:], *CHARTS, *BASELINES, "[bold]Headrace"]
    assert set(KEYS) == {*VARIANTS, *CHARTS}
    assert slates_table_of(found).row_count == 6
    pytest.importorskip("matplotlib")
    draw_over_time(found, tmp_path / "docs" / "ndcg.png")
    assert (tmp_path / "docs" / "ndcg.png").read_bytes().startswith(b"\x89PNG")


QUICK = TrainConfig(
    als=AlsConfig(n_factors=32, n_iterations=4),
    ranker=RankerConfig(n_trees=60),
    max_queries=4_000,
    n_held_out=200,
)


@pytest.mark.parametrize(
    ("limit", "config"),
    [
        pytest.param(1_000, QUICK, marks=pytest.mark.long),
        pytest.param(None, None, marks=pytest.mark.long),
    ],
)
@pytest.mark.timeout(1_800)
@pytest.mark.skipif(not MovieTweetings.is_in(DATA), reason="MovieTweetings is not on this machine")
def test_on_real_viewers_the_engine_is_ahead_of_every_chart(limit, config):
    found = evaluate_replay(
        MovieTweetings(DATA), limit=limit, config=config, with_others=limit is None
    )
    assert found.n_slates == (limit or 17_615)
    assert found.is_ahead, found
    if limit is None:
        assert found.engine.hr_20 > 0.29
        assert found.engine.ndcg_20 > 0.145
        assert found.recall_at_1000 > 0.7
