"""What the catalogue says of titles reaches their events."""

import numpy as np
import pytest

from features.events import N_CAST, CatalogItem
from features.ids import id_hash
from features.titles import FACTS, INITIAL_CAPACITY, TitleFacts, facts_of, short_hash
from features.vocabulary import genre_mask
from tests.features.examples import event, log_of

EPISODE = CatalogItem(
    "tt1",
    year=1999,
    genres=("Drama", "Crime"),
    cast=("Ann", "Bob", "Cid", "Dan"),
    runtime_min=55,
    language="EN",
    series_id="sopranos",
    season=2,
    episode=7,
)


def enriched(titles: TitleFacts, *item_ids: str) -> np.ndarray:
    events = log_of(*(event(item=id_hash(id_), year=1, cast=(7, 7, 7)) for id_ in item_ids))
    titles.enrich(events)
    return events


def test_events_get_every_fact_of_their_title() -> None:
    (found,) = enriched(TitleFacts([EPISODE, CatalogItem("tt2", year=2001)]), "tt1")
    assert (found["year"], found["runtime_min"]) == (1999, 55)
    assert found["genres"] == genre_mask(("Drama", "Crime"))
    assert found["language"] == short_hash("en")
    assert found["cast"].tolist() == [short_hash(name) for name in ("Ann", "Bob", "Cid")]
    assert found["series"] == short_hash("sopranos")
    assert found["episode"] == 2_007


def test_events_of_titles_that_are_not_known_say_nothing_of_them() -> None:
    found = enriched(TitleFacts([EPISODE]), "tt9", "tt1", "tt8")
    for name in FACTS.names or ():
        assert found[name][0].any() == found[name][2].any() == False  # noqa: E712
        assert found[name][1].any()


def test_an_empty_catalogue_knows_no_title() -> None:
    assert enriched(TitleFacts(), "tt1")["year"].tolist() == [0]


def test_a_film_has_no_episode_even_if_it_has_a_number() -> None:
    (facts,) = facts_of(CatalogItem("tt1", season=2, episode=7))
    assert (facts["series"], facts["episode"]) == (0, 0)


def test_a_changed_description_counts_from_then_on_and_a_removed_title_keeps_its_facts() -> None:
    titles = TitleFacts([EPISODE])
    titles.put(CatalogItem("tt1", year=2005))
    titles.put(CatalogItem("tt1", removed=True))
    (found,) = enriched(titles, "tt1")
    assert (found["year"], found["language"], found["cast"].tolist()) == (2005, 0, [0] * N_CAST)
    assert len(titles) == 1


@pytest.mark.parametrize(
    ("item", "field", "kept"),
    [
        (CatalogItem("t", year=4_000_000_000), "year", 9_999),
        (CatalogItem("t", year=-5), "year", 0),
        (CatalogItem("t", runtime_min=4_000_000_000), "runtime_min", 65_535),
        (CatalogItem("t", series_id="s", season=2**31, episode=2**31), "episode", 1_000_000_999),
        (CatalogItem("t", series_id="s", episode=3), "episode", 3),
    ],
)  # fmt: skip
def test_numbers_beyond_their_field_are_brought_to_its_end(
    item: CatalogItem, field: str, kept: int
) -> None:
    assert facts_of(item)[field][0] == kept


def test_a_catalogue_grows() -> None:
    n = 2 * INITIAL_CAPACITY + 3
    titles = TitleFacts(CatalogItem(f"tt{k}", year=1_000 + k % 1_000) for k in range(n))
    assert len(titles) == n
    assert enriched(titles, "tt0", f"tt{n - 1}")["year"].tolist() == [
        1_000,
        1_000 + (n - 1) % 1_000,
    ]
