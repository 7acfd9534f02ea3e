"""A viewer's taste is what events say of titles, decayed, by stated rules for what is kept."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from features import user_taste
from features.user_taste import (
    HALF_LIFE_MS,
    N_AFFINITIES,
    N_CAST_KEPT,
    N_LANGUAGES,
    YEAR_BANDS,
    title_affinities,
)
from features.vocabulary import GENRES, N_GENRES, EventType, genre_mask
from tests.clock import START_MS
from tests.features.examples import Events, event, log_of, logs, user_after, user_values

DRAMA, WAR = genre_mask(["Drama"]), genre_mask(["War"])


def test_what_is_watched_is_liked_and_what_is_disliked_is_not() -> None:
    values = user_values(
        user_after(
            event(type=EventType.COMPLETE, genres=DRAMA),
            event(type=EventType.DISLIKE, genres=WAR),
        )
    )
    assert values["user_taste_drama"] == pytest.approx(1 / 3)
    assert values["user_taste_war"] == pytest.approx(-1 / 3)
    assert values["user_taste_comedy"] == 0
    assert values["user_taste_weight"] == 2


@pytest.mark.parametrize(("rating", "weight"), [(10.0, 1.0), (5.0, 0.0), (0.0, -1.0), (7.5, 0.5)])
def test_a_rating_says_how_much_it_is_liked(rating: float, weight: float) -> None:
    row = user_after(event(type=EventType.RATE, rating=rating, genres=DRAMA))
    assert row["taste"]["affinity"][0].sum() == pytest.approx(weight)


def test_a_title_of_several_genres_speaks_for_each_a_little_less() -> None:
    both = user_after(event(type=EventType.COMPLETE, genres=DRAMA | WAR))["taste"]["affinity"][0]
    assert both[GENRES.index("Drama")] == both[GENRES.index("War")] == pytest.approx(0.5**0.5)


def test_taste_halves_within_its_half_life() -> None:
    like = event(type=EventType.COMPLETE, genres=DRAMA, at_ms=START_MS - HALF_LIFE_MS)
    assert user_values(user_after(like))["user_taste_weight"] == pytest.approx(0.5)
    row = user_after(like, event(type=EventType.COMPLETE, genres=WAR))
    assert row["taste"]["affinity"][0][GENRES.index("Drama")] == pytest.approx(0.5)
    assert row["taste"]["affinity"][0][GENRES.index("War")] == pytest.approx(1.0)


def test_a_late_event_counts_with_the_weight_it_has_left() -> None:
    early = event(type=EventType.COMPLETE, genres=DRAMA, year=1990, at_ms=START_MS - HALF_LIFE_MS)
    recent = event(type=EventType.COMPLETE, genres=WAR, year=2010)
    in_order, late = user_after(early, recent), user_after(recent, early)
    for name, value in user_values(in_order).items():
        if name.startswith(("user_taste", "user_year")):
            assert user_values(late)[name] == pytest.approx(value, rel=1e-4), name


def test_the_year_of_watched_titles_has_a_mean_and_a_spread() -> None:
    seen = [event(type=EventType.COMPLETE, genres=DRAMA, year=year) for year in (1990, 2010)]
    values = user_values(user_after(*seen))
    assert values["user_year_mean"] == pytest.approx(2000)
    assert values["user_year_deviation"] == pytest.approx(10)


def watched(**facts: Any) -> Events:
    return event(type=EventType.COMPLETE, **facts)


def test_what_is_known_of_no_title_says_nothing() -> None:
    assert not user_after(watched(item=5))["taste"].tobytes().strip(b"\0")


@pytest.mark.parametrize(
    ("year", "band"),
    [
        (1894, "before_1940"), (1939, "before_1940"), (1940, "1940s"), (1949, "1940s"),
        (1999, "1990s"), (2019, "2010s"), (2020, "2020s"), (2077, "2020s"),
    ],
)  # fmt: skip
def test_a_year_speaks_for_its_band(year: int, band: str) -> None:
    values = user_values(user_after(watched(year=year)))
    assert {name: values[f"user_taste_{name}"] for name in YEAR_BANDS} == {
        name: pytest.approx(0.5 if name == band else 0.0) for name in YEAR_BANDS
    }


def test_a_title_without_a_year_speaks_for_no_band() -> None:
    assert user_after(watched(genres=DRAMA))["taste"]["bands"].sum() == 0


def test_a_dislike_counts_against_the_band_and_is_no_watched_year() -> None:
    values = user_values(user_after(event(type=EventType.DISLIKE, year=1995)))
    assert values["user_taste_1990s"] == pytest.approx(-0.5)
    assert values["user_year_mean"] == 0


def test_languages_have_a_favourite() -> None:
    values = user_values(
        user_after(
            *[watched(language=7)] * 3,
            watched(language=8),
            event(type=EventType.DISLIKE, language=9),
        )
    )
    assert values["user_languages_liked"] == 2
    assert values["user_language_share"] == pytest.approx(3 / 4)


def test_the_favourite_of_the_cast_is_liked_most() -> None:
    row = user_after(watched(cast=(1, 2, 3)), watched(cast=(1, 4, 0)))
    assert user_values(row)["user_cast_affinity"] == pytest.approx(2 / 3)


def test_a_newcomer_takes_the_weakest_place_of_a_full_table() -> None:
    firsts = [watched(language=k) for k in range(1, N_LANGUAGES + 1)]
    again = [watched(language=k) for k in range(1, N_LANGUAGES + 1) if k != 3]
    row = user_after(*firsts, *again, watched(language=99))
    assert row["taste"]["languages"][0].tolist() == [1, 2, 99, 4, 5, 6]
    assert row["taste"]["language_affinity"][0].tolist() == [2, 2, 1, 2, 2, 2]


def test_among_equally_weak_entries_the_first_gives_way() -> None:
    firsts = [watched(cast=(k, 0, 0)) for k in range(1, N_CAST_KEPT + 1)]
    row = user_after(*firsts, watched(cast=(99, 98, 0)))
    cast = row["taste"]["cast"][0].tolist()
    assert cast == [98, *range(2, N_CAST_KEPT + 1)]  # 99 stood where 98 now stands


def test_a_strong_dislike_is_not_weak() -> None:
    dislike = event(type=EventType.DISLIKE, language=1)
    clicks = [event(language=k) for k in range(2, N_LANGUAGES + 1)]
    row = user_after(dislike, *clicks, watched(language=99))
    assert row["taste"]["languages"][0].tolist() == [1, 99, 3, 4, 5, 6]


@given(logs(max_size=60))
def test_tables_hold_each_entry_once_and_fill_from_the_front(events: Events) -> None:
    taste = user_after(events)["taste"][0]
    for keys in (taste["languages"].tolist(), taste["cast"].tolist()):
        kept = [key for key in keys if key]
        assert keys[: len(kept)] == kept
        assert len(set(kept)) == len(kept)


def test_diversity_is_zero_for_one_genre_and_one_for_all_alike() -> None:
    def diversity(*masks: int) -> float:
        row = user_after(*(watched(genres=mask) for mask in masks))
        return user_values(row)["user_diversity"]

    assert diversity() == 0
    assert diversity(DRAMA, DRAMA) == 0
    assert diversity(DRAMA, WAR) == pytest.approx(math.log(2) / math.log(N_GENRES))
    assert diversity(*(1 << slot for slot in range(N_GENRES))) == pytest.approx(1)


def test_disliked_genres_are_no_part_of_diversity() -> None:
    row = user_after(watched(genres=DRAMA), event(type=EventType.DISLIKE, genres=WAR))
    assert user_values(row)["user_diversity"] == 0


def affinities(row: Any, title: Events) -> list[float]:
    out = np.full(N_AFFINITIES, np.nan, np.float32)
    facts = [title[name][0] for name in ("genres", "year", "language", "cast")]
    title_affinities(row["taste"][0], *facts, out)
    return out.tolist()


def test_a_title_has_an_affinity_by_genre_year_language_and_cast() -> None:
    row = user_after(
        watched(genres=DRAMA, year=1994, language=7, cast=(1, 2, 0)),
        event(type=EventType.DISLIKE, genres=WAR, year=1985, language=8, cast=(3, 0, 0)),
    )
    title = event(genres=DRAMA | WAR, year=1999, language=7, cast=(2, 3, 9))
    assert affinities(row, title) == pytest.approx([0, 1 / 3, 1 / 3, 0])
    alike = event(genres=DRAMA, year=1981, language=8, cast=(1, 2, 0))
    assert affinities(row, alike) == pytest.approx([1 / 3, -1 / 3, -1 / 3, 1 / 3])


def test_a_title_of_which_nothing_is_known_has_no_affinity() -> None:
    row = user_after(watched(genres=DRAMA, year=1994, language=7, cast=(1, 2, 0)))
    assert affinities(row, event()) == [0, 0, 0, 0]
    assert affinities(user_after(), event(genres=DRAMA, year=1999, language=7)) == [0, 0, 0, 0]


@given(logs(max_size=40))
def test_affinities_of_titles_stay_within_one(events: Events) -> None:
    row = user_after(events)
    for title in log_of(*[events[k : k + 1] for k in range(len(events))]):
        found = affinities(row, np.array([title]))
        assert all(-1 <= value <= 1 for value in found)


@pytest.mark.parametrize("seed", range(5))
def test_affinities_hardly_depend_on_the_order_of_events(seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = [
        watched(genres=DRAMA, year=int(rng.integers(1930, 2025)), language=int(rng.integers(1, 6)),
                at_ms=START_MS - int(rng.integers(0, 2 * HALF_LIFE_MS)))
        for _ in range(20)
    ]  # fmt: skip
    values = user_values(user_after(*made))
    shuffled = user_values(user_after(*(made[k] for k in rng.permutation(20))))
    for name, *_ in user_taste.COLUMNS:
        assert shuffled[name] == pytest.approx(values[name], rel=1e-3, abs=1e-3), name
