"""`assemble` against a plain reference that reads like the descriptions of the columns."""

import math

import numpy as np
import pytest

from features import item_row, ranking
from features.ranking import (
    LONG_TAIL,
    MIRRORED,
    N_COLUMNS,
    N_LISTED,
    N_SCORES,
    N_STANDINGS,
    OF_USER_ROW,
    RANKING_COLUMNS,
    STANDINGS,
    assemble,
)
from features.titles import FACTS
from features.user_taste import N_AFFINITIES, title_affinities
from features.viewing_state import N_TITLES
from features.vocabulary import EventType
from features.windows import DAY_MS, HOUR_MS
from tests.clock import START_MS
from tests.features.examples import apply_to_user, event, log_of, user_after, user_values

N_ITEMS = 60
LATEST = 2013


def log_age(year: int) -> float:
    return math.log1p(max(LATEST - year, 0)) if year > 0 else 0.0


class World:
    """Random titles, scores and a viewer of some of them; slot k has the id k + 1."""

    def __init__(self, rng: np.random.Generator, n_events: int) -> None:
        self.values = rng.gamma(1.0, 20.0, (N_ITEMS, item_row.N_COLUMNS)).astype(np.float32)
        self.facts = np.zeros(N_ITEMS, FACTS)
        self.years, self.genres = self.facts["year"], self.facts["genres"]
        self.years[:] = rng.choice([0, 1950, 2009, 2012, 2013, 2020], N_ITEMS)
        self.genres[:] = rng.integers(0, 2**32, (2, N_ITEMS), np.uint32).min(axis=0)
        self.genres[:5] = 0
        self.facts["language"] = rng.integers(0, 5, N_ITEMS)
        self.facts["cast"] = rng.integers(1, 90, (N_ITEMS, 3))
        self.facts["cast"][rng.random(N_ITEMS) < 0.3, 1:] = 0
        self.facts["cast"][rng.random(N_ITEMS) < 0.2] = 0
        self.facts["series"] = rng.integers(0, 5, N_ITEMS)
        self.facts["episode"] = np.where(
            self.facts["series"] > 0, rng.choice([1_001, 1_002, 1_003, 2_001, 2_002], N_ITEMS), 0
        )
        self.standings = rng.integers(0, N_LISTED + 1, (N_ITEMS, N_STANDINGS)).astype(np.float32)
        self.standings[:, LONG_TAIL] = rng.random(N_ITEMS) < 0.5
        self.slots = rng.permutation(N_ITEMS)[:40].astype(np.int32)
        self.scores = rng.normal(0, 1, (40, N_SCORES)).astype(np.float32)
        made = [self._event(rng) for _ in range(n_events)]
        self.row = user_after(*sorted(made, key=lambda e: int(e["at_ms"][0])))
        items = self.row["viewing"]["titles"]["item"][0].astype(np.int64)
        self.history = np.where((items == 0) | (items > N_ITEMS), -1, items - 1)

    def _event(self, rng: np.random.Generator) -> np.ndarray:
        item = int(rng.integers(1, N_ITEMS + 6))  # a few are not in the catalogue
        kind = EventType(int(rng.integers(1, 13)))
        at_ms = START_MS - int(rng.integers(0, 20 * DAY_MS))
        known = item <= N_ITEMS
        return event(
            item=item,
            type=kind,
            at_ms=at_ms,
            logged_at_ms=at_ms,
            rating=float(rng.integers(0, 11)) if kind == EventType.RATE else -1.0,
            watch_position_s=float(rng.integers(0, 4_000)),
            watch_duration_s=5_000.0,
            **{name: self.facts[item - 1][name] for name in FACTS.names or () if known},
        )

    def assembled(self, now_ms: int = START_MS, slots: np.ndarray | None = None) -> np.ndarray:
        slots = self.slots if slots is None else slots
        out = np.full((len(slots), N_COLUMNS), np.nan, np.float32)
        assemble(
            self.row, now_ms, self.history, slots, self.scores[: len(slots)], self.values,
            self.standings, self.facts, LATEST, out,
        )  # fmt: skip
        return out

    def expected(self, place: int, now_ms: int) -> dict[str, float]:
        """One row, by name, the slow way."""
        slot = int(self.slots[place])
        by_name = dict(zip(item_row.NAMES, self.values[slot].tolist(), strict=True))
        found = {name: by_name[name] for name in MIRRORED}
        names = [name for name, _, _ in STANDINGS]
        found |= dict(zip(names, self.standings[slot].tolist(), strict=True))
        year = int(self.years[slot])
        found["title_age"] = max(LATEST - year, 0) if year > 0 else -1
        found |= self._of_viewer(now_ms) | self._of_habits(now_ms)
        names = RANKING_COLUMNS[RANKING_COLUMNS.index("als") :][:N_SCORES]
        found |= dict(zip(names, self.scores[place].tolist(), strict=True))
        return found | self._of_pair(slot, found) | self._of_match(slot) | self._of_seen(slot)

    def _known(self) -> list[int]:
        return [int(slot) for slot in self.history if slot >= 0]

    def _popularity(self, slot: int) -> float:
        return math.log1p(self.values[slot, item_row.NAMES.index("item_engaged_total")])

    def _of_viewer(self, now_ms: int) -> dict[str, float]:
        activity, titles = self.row["activity"][0], self.row["viewing"]["titles"][0]
        touched = titles["at_s"][titles["item"] != 0].astype(np.int64) * 1_000
        idle_ms = max(now_ms - int(activity["last_ms"]), 0)
        known = self._known()
        weights = np.array([0.93**k for k in range(len(known))])
        ages = np.array([log_age(int(self.years[slot])) for slot in known])
        years = np.array([int(self.years[slot]) for slot in known])
        mean = float(np.average(ages, weights=weights)) if known else 0.0
        new = (years > 0) & (years >= LATEST - 1)
        ratings = int(activity["rating_count"])
        return {
            "viewer_events": float(activity["totals"][1:].sum()),
            "viewer_titles_1d": float((now_ms - touched < DAY_MS).sum()),
            "viewer_titles_7d": float((now_ms - touched < 7 * DAY_MS).sum()),
            "viewer_idle_hours": min(idle_ms / HOUR_MS, 8_760.0),
            "viewer_session_events": float(self.row["sessions"]["events"][0])
            if idle_ms <= 30 * 60_000
            else 0.0,
            "viewer_rating_mean": int(activity["rating_sum_tenths"]) / 10 / ratings
            if ratings
            else 0.0,
            "viewer_age_mean": mean,
            "viewer_age_deviation": math.sqrt(
                max(float(np.average((ages - mean) ** 2, weights=weights)), 0.0)
            )
            if known
            else 0.0,
            "viewer_new_share": float(np.average(new, weights=weights)) if known else 0.0,
            "viewer_popularity_mean": float(
                np.average([self._popularity(slot) for slot in known], weights=weights)
            )
            if known
            else 0.0,
        }

    def _of_habits(self, now_ms: int) -> dict[str, float]:
        by_name = user_values(self.row, now_ms)
        hours = self.row["habits"]["hours"][0].astype(int)
        stages = ("user_is_new", "user_is_regular", "user_is_power")
        known = self._known()
        tail = [self.standings[slot, LONG_TAIL] for slot in known]
        weights = [0.93**k for k in range(len(known))]
        at_s = self.row["viewing"]["titles"]["at_s"][0][self.history >= 0].astype(int)
        days_known = np.array([self._column(slot, "item_days_known") for slot in known])
        known_for = np.log1p(np.maximum(days_known - (now_ms - 1_000 * at_s) / DAY_MS, 0))
        return {
            "viewer_long_tail_share": float(np.average(tail, weights=weights)) if known else 0.0,
            "viewer_known_mean": float(np.average(known_for, weights=weights)) if known else 0.0,
            "viewer_hour_match": 24 * (hours[now_ms // HOUR_MS % 24] + 1) / (hours.sum() + 24),
            "viewer_stage": float(np.argmax([by_name[name] for name in stages])),
            **{name: by_name[name] for name in OF_USER_ROW},
        }

    def _column(self, slot: int, name: str) -> float:
        return float(self.values[slot, item_row.NAMES.index(name)])

    def _of_match(self, slot: int) -> dict[str, float]:
        activity, usual = self.row["activity"][0], self._of_habits(START_MS)
        ratings, total = int(activity["rating_count"]), int(activity["rating_sum_tenths"]) / 10
        tail_share = usual["viewer_long_tail_share"]
        same_side = tail_share if self.standings[slot, LONG_TAIL] else 1.0 - tail_share
        return {
            "quality_match": self._column(slot, "item_rating_mean") - (total + 14) / (ratings + 2),
            "novelty_match": same_side if self._known() else 0.0,
        }

    def _of_seen(self, slot: int) -> dict[str, float]:
        known, fact = self._known(), self.facts[slot]
        alike = [bool(self.genres[other] & self.genres[slot]) for other in known]
        place = np.flatnonzero(self.history == slot)
        series = int(fact["series"])
        of_series = [k for k in known if series and self.facts[k]["series"] == series]
        followers = []
        if of_series:
            last = int(self.facts[of_series[0]]["episode"])
            followers = [last + 1, (last // 1_000 + 1) * 1_000 + 1]
        fractions = self.row["viewing"]["titles"]["fraction"][0]
        return {
            "seen_before": float(len(place) > 0),
            "seen_fraction": int(fractions[place[0]]) / 200 if len(place) else 0.0,
            "seen_alike": float(np.mean(alike)) if known else 0.0,
            "seen_of_series": len(of_series),
            "is_next_episode": float(int(fact["episode"]) in followers),
            **self._of_kin(slot),
        }

    def _of_kin(self, slot: int) -> dict[str, float]:
        known, cast = self._known(), set(self.facts[slot]["cast"].tolist()) - {0}
        shared = [bool(cast & set(self.facts[k]["cast"].tolist())) for k in known]
        same = [0 < self.years[slot] == self.years[k] for k in known]
        weights = [0.93**k for k in range(len(known))]
        return {
            "cast_of_last": float(shared[0]) if known else 0.0,
            "seen_of_cast": float(sum(shared)),
            "seen_of_year": float(np.average(same, weights=weights)) if known else 0.0,
        }

    def _affinities(self, slot: int) -> list[float]:
        fact, out = self.facts[slot], np.zeros(N_AFFINITIES, np.float32)
        title_affinities(
            self.row[0]["taste"], fact["genres"], fact["year"], fact["language"], fact["cast"], out
        )
        return out.tolist()

    def _of_pair(self, slot: int, found: dict[str, float]) -> dict[str, float]:
        known = self._known()
        mask, last = int(self.genres[slot]), known[0] if known else None
        last_mask = int(self.genres[last]) if last is not None else 0
        mine = [g for g in range(32) if mask >> g & 1]
        shared = [g for g in mine if last_mask >> g & 1]
        of_genre, of_year, of_language, of_cast = self._affinities(slot)
        age, popularity = log_age(int(self.years[slot])), self._popularity(slot)
        return {
            "genre_affinity": of_genre,
            "year_affinity": of_year,
            "language_affinity": of_language,
            "cast_affinity": of_cast,
            "recency_match": math.log1p(self._column(slot, "item_days_known"))
            - found["viewer_known_mean"],
            "genre_overlap_last": len(shared) / len(mine) if mine else 0.0,
            "age_beyond_usual": age - found["viewer_age_mean"],
            "age_beyond_last": age - (log_age(int(self.years[last])) if last is not None else 0),
            "popularity_beyond_usual": popularity - found["viewer_popularity_mean"],
            "popularity_beyond_last": popularity
            - (self._popularity(last) if last is not None else 0),
        }


@pytest.mark.parametrize("n_events", [0, 1, 2, 10, 60])
@pytest.mark.parametrize("seed", range(4))
def test_every_column_is_what_its_description_says(seed, n_events):
    world = World(np.random.default_rng(seed), n_events)
    for now_ms in (START_MS, START_MS + 3 * DAY_MS):
        out = world.assembled(now_ms)
        for place in range(len(world.slots)):
            expected = world.expected(place, now_ms)
            assert set(expected) == set(RANKING_COLUMNS)
            found = dict(zip(RANKING_COLUMNS, out[place].tolist(), strict=True))
            for name, value in expected.items():
                assert found[name] == pytest.approx(value, rel=1e-4, abs=2e-4), name


def test_a_row_does_not_depend_on_the_other_candidates(rng):
    world = World(rng, 20)
    world.scores[:] = world.scores[0]
    alone = [world.assembled(slots=world.slots[k : k + 1])[0] for k in range(len(world.slots))]
    assert (world.assembled() == np.array(alone)).all()


def test_nothing_is_changed_by_looking(rng):
    world = World(rng, 20)
    before = world.row.tobytes(), world.values.copy(), world.scores.copy()
    world.assembled()
    assert world.row.tobytes() == before[0]
    assert (world.values == before[1]).all()
    assert (world.scores == before[2]).all()


def test_a_shift_of_all_times_changes_no_column(rng):
    world = World(rng, 0)
    events = log_of(event(item=3, type=EventType.CLICK), event(item=9, type=EventType.PLAY))
    shifted = events.copy()
    shift_ms = 4_000 * DAY_MS
    shifted["at_ms"] += shift_ms
    shifted["logged_at_ms"] += shift_ms
    found = []
    for log, now_ms in ((events, START_MS + 5_000), (shifted, START_MS + shift_ms + 5_000)):
        world.row = user_after()
        apply_to_user(world.row, log)
        items = world.row["viewing"]["titles"]["item"][0].astype(np.int64)
        world.history = np.where(items == 0, -1, items - 1)
        found.append(world.assembled(now_ms))
    assert (found[0] == found[1]).all()


def world_of(rng: np.random.Generator, facts: list[dict], *touched: np.ndarray) -> World:
    """Titles 1, 2, ... with the given facts alone, and a viewer after some events."""
    world = World(rng, 0)
    world.facts[:] = np.zeros(1, FACTS)
    for slot, given in enumerate(facts):
        for name, value in given.items():
            world.facts[slot][name] = value
    world.row = user_after(*touched)
    items = world.row["viewing"]["titles"]["item"][0].astype(np.int64)
    world.history = items - 1
    world.slots = np.arange(len(facts), dtype=np.int32)
    return world


def of_titles(world: World, name: str, now_ms: int = START_MS) -> list[float]:
    return world.assembled(now_ms)[:, RANKING_COLUMNS.index(name)].tolist()


def test_the_episode_after_the_one_touched_last_is_next(rng):
    episodes = [{"series": 9, "episode": e} for e in (1_001, 1_002, 1_003, 2_001)]
    world = world_of(rng, [*episodes, {}], event(item=1), event(item=2))
    assert of_titles(world, "is_next_episode") == [0, 0, 1, 1, 0]
    assert of_titles(world, "seen_of_series") == [2, 2, 2, 2, 0]


def test_a_title_left_half_watched_is_known_as_such(rng):
    half = event(item=2, type=EventType.PLAY, watch_position_s=500, watch_duration_s=1_000)
    world = world_of(rng, [{}, {}, {}], half)
    assert of_titles(world, "seen_before") == [0, 1, 0]
    assert of_titles(world, "seen_fraction") == [0, 0.5, 0]


def test_a_viewer_of_niche_titles_matches_niche_titles(rng):
    world = world_of(rng, [{}, {}], event(item=1))
    world.standings[:, LONG_TAIL] = [1, 0] * (N_ITEMS // 2)
    assert of_titles(world, "viewer_long_tail_share") == [1, 1]
    assert of_titles(world, "novelty_match") == [1, 0]


def test_who_watches_premieres_matches_a_title_of_today(rng):
    world = world_of(rng, [{}, {}, {}], event(item=1, at_ms=START_MS - 30 * DAY_MS))
    days = item_row.NAMES.index("item_days_known")
    world.values[:3, days] = 30, 300, 0
    assert of_titles(world, "viewer_known_mean") == [0, 0, 0]
    old, older, new = of_titles(world, "recency_match")
    assert older > old > new == 0


def test_a_liked_star_and_language_speak_for_a_title(rng):
    star = {"cast": (7, 0, 0), "language": 3, "year": 1994}
    liked = event(item=1, type=EventType.LIKE, **star)
    world = world_of(rng, [star, star, {"cast": (8, 9, 0), "language": 4, "year": 2011}, {}], liked)
    for name in ("cast_affinity", "language_affinity", "year_affinity"):
        first, second, other, unknown = of_titles(world, name)
        assert first == second > 0 == other == unknown


def test_members_of_the_cast_are_told_apart_even_if_their_bits_agree(rng):
    liked = event(item=1, type=EventType.LIKE, cast=(7, 0, 0))
    world = world_of(rng, [{"cast": (7 + 64, 0, 0)}, {"cast": (7, 7 + 64, 0)}], liked)
    stranger, half = of_titles(world, "cast_affinity")
    assert stranger == 0 < half


def test_the_usual_hour_of_a_viewer_is_above_one_and_any_other_below(rng):
    world = world_of(rng, [{}], *(event(item=1, at_ms=START_MS - k * DAY_MS) for k in range(9)))
    assert of_titles(world, "viewer_hour_match", START_MS)[0] > 2
    assert of_titles(world, "viewer_hour_match", START_MS + 5 * HOUR_MS)[0] < 1
    world.row = user_after()
    assert of_titles(world, "viewer_hour_match")[0] == 1


def test_quality_is_measured_by_the_ratings_that_the_viewer_gives(rng):
    world = world_of(rng, [{}, {}], event(item=1, type=EventType.RATE, rating=4.0))
    world.values[:2, item_row.NAMES.index("item_rating_mean")] = 6.0, 9.0
    assert of_titles(world, "quality_match") == [0.0, 3.0]  # (4 + 2 * 7) / 3


def test_there_are_at_least_fifty_columns():
    assert N_COLUMNS >= 54
    assert set(OF_USER_ROW) <= set(RANKING_COLUMNS)
    assert set(MIRRORED) <= set(RANKING_COLUMNS)


def test_columns_have_distinct_names_and_say_what_they_are():
    assert len(set(RANKING_COLUMNS)) == N_COLUMNS == len(RANKING_COLUMNS)
    assert all(unit and text for _, unit, text in ranking.DESCRIBED_COLUMNS)
    assert N_TITLES > 0
