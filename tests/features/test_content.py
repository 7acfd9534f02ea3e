"""What a title is, as a vector."""

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from features.content import N_CONTENT, N_WORDS, content_vector, content_vectors
from features.events import CatalogItem
from features.vocabulary import GENRES

HEAT = CatalogItem(
    "tt1",
    "Heat",
    1995,
    ("Action", "Crime", "Thriller"),
    "A group of professional bank robbers start to feel the heat from police.",
    "Michael Mann",
    ("Al Pacino", "Robert De Niro", "Val Kilmer"),
    language="en",
)
ALONE = {
    "genres": ("Crime",), "year": 1995, "language": "en", "series_id": "s", "director": "Ann",
    "cast": ("Ann", "Bob"), "title": "Robbers", "overview": "professional robbers",
}  # fmt: skip


def test_a_vector_has_length_one_and_that_of_nothing_is_zero():
    assert np.linalg.norm(content_vector(HEAT)) == pytest.approx(1, abs=1e-6)
    assert not content_vector(CatalogItem("tt1")).any()
    assert content_vectors([]).shape == (0, N_CONTENT)
    assert content_vectors([HEAT, HEAT]).dtype == np.float32


@pytest.mark.parametrize("name", ALONE)
def test_every_field_brings_titles_that_share_it_together(name):
    gains = []
    for one, other in itertools.combinations(GENRES[:12], 2):
        bare = [CatalogItem("a", genres=(one,)), CatalogItem("b", genres=(other,))]
        shared = [replace(item, **{name: ALONE[name]}) for item in bare]
        (a, b), (c, d) = content_vectors(bare), content_vectors(shared)
        gains.append(c @ d - a @ b)
    assert np.mean(gains) > 0.1


def test_neither_the_id_nor_the_case_nor_the_order_of_words_matters():
    shouted = replace(HEAT, item_id="tt9", title="HEAT", director="MICHAEL MANN")
    turned = replace(HEAT, overview=" ".join(reversed(HEAT.overview.split())))
    for other in (shouted, turned):
        np.testing.assert_allclose(content_vector(other), content_vector(HEAT), atol=1e-6)


def test_genres_that_are_not_shared_do_not_meet_by_chance():
    one, other = (content_vector(CatalogItem("a", genres=(g,))) for g in ("Drama", "Western"))
    assert one @ other == pytest.approx(0, abs=1e-6)


def test_years_near_each_other_are_alike_across_a_turn_of_decade():
    y1989, y1991, y1920 = (content_vector(CatalogItem("a", year=y)) for y in (1989, 1991, 1920))
    assert y1989 @ y1991 > 0.9
    assert y1989 @ y1920 < 0.1


def test_texts_of_any_length_and_alphabet_are_taken():
    long = CatalogItem("a", overview=" ".join(f"word{k:06}" for k in range(2 * N_WORDS)))
    greek = CatalogItem("b", title="Θίασος", overview="Ένας θίασος περιοδεύει")
    for item in (long, greek):
        assert np.linalg.norm(content_vector(item)) == pytest.approx(1, abs=1e-6)


def test_another_process_makes_the_same_vector():
    code = (
        "from features.content import content_vector\n"
        "from tests.features.test_content import HEAT\n"
        "print(content_vector(HEAT).tobytes().hex())"
    )
    run = [sys.executable, "-c", code]
    answer = subprocess.run(run, capture_output=True, text=True, check=True, timeout=120)
    assert answer.stdout.strip() == content_vector(HEAT).tobytes().hex()
