"""Factors of titles that nobody has watched yet."""

from dataclasses import replace

import numpy as np

from features.content import N_CONTENT, cold_factors, content_vector
from features.ids import id_hash
from offline.cold_factors import LEAST_TITLES, fit_content_map
from tests.serving import engine


def test_a_title_that_nobody_watched_is_offered_to_those_who_watch_its_kind():
    models, titles = engine.models(), engine.catalogue()
    found = fit_content_map(models, titles)
    assert found.weights.shape == (N_CONTENT + 1, models.factors.shape[1])
    assert found.explained > 0.1
    rows = {int(id_): row for row, id_ in enumerate(models.ids)}
    crime, comedy = (
        models.factors[[rows[id_hash(f"t{k}")] for k in (first, first + 2, first + 4)]].sum(axis=0)
        for first in (0, 1)
    )
    untouched = [title for title in titles if id_hash(title.item_id) not in rows]
    assert len(untouched) >= 10
    for title in untouched:
        (factors,) = cold_factors(content_vector(title)[np.newaxis], found.weights)
        assert (factors @ crime > factors @ comedy) == ("Crime" in title.genres)


def test_factors_that_have_nothing_to_do_with_content_are_those_of_the_mean_title(rng):
    models = engine.models()
    noise = replace(models, factors=rng.normal(3, 1, models.factors.shape).astype(np.float32))
    found = fit_content_map(noise, engine.catalogue())
    assert found.explained < 0.1
    (factors,) = cold_factors(content_vector(engine.catalogue()[-1])[np.newaxis], found.weights)
    np.testing.assert_allclose(factors, 3, atol=1)


def test_few_titles_make_no_map():
    assert fit_content_map(engine.models(), engine.catalogue()[: LEAST_TITLES - 1]) is None
    assert fit_content_map(engine.models(), []) is None
