"""The cheap columns are those of the ranker, value for value."""

import numpy as np
import pytest

from features.cheap_columns import CHEAP_COLUMNS, CHEAP_PLACES, N_CHEAP, assemble_cheap
from features.ranking import RANKING_COLUMNS
from tests.features.test_ranking import LATEST, World


@pytest.mark.parametrize("n_events", [0, 1, 6, 40, 80])
def test_a_first_look_sees_what_the_ranker_will_see(rng, n_events):
    world = World(rng, n_events)
    out = np.full((N_CHEAP, len(world.slots)), np.nan, np.float32)
    assemble_cheap(
        world.row, world.history, world.slots, world.scores, world.values, world.standings,
        world.facts, LATEST, out,
    )  # fmt: skip
    expected = world.assembled()[:, CHEAP_PLACES]
    for k, name in enumerate(CHEAP_COLUMNS):
        np.testing.assert_array_equal(out[k], expected[:, k], err_msg=name)


def test_cheap_columns_are_columns_of_the_ranker_each_once():
    assert len(set(CHEAP_COLUMNS)) == N_CHEAP
    assert [RANKING_COLUMNS[place] for place in CHEAP_PLACES] == list(CHEAP_COLUMNS)
