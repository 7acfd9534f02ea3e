"""`assemble` against a plain reference that reads like the descriptions of the columns."""

import math

import numpy as np
import pytest

from features import item_row, ranking
from features.ranking import MIRRORED, N_COLUMNS, N_LISTED, N_SCORES, RANKING_COLUMNS, assemble
from features.viewing_state import N_TITLES
from features.vocabulary import EventType
from features.windows import DAY_MS, HOUR_MS
from tests.clock import START_MS
from tests.features.examples import apply_to_user, event, log_of, user_after

N_ITEMS = 60
LATEST = 2013


def log_age(year: int) -> float:
    return math.log1p(max(LATEST - year, 0)) if year > 0 else 0.0


class World:
    """Random titles, scores and a viewer of some of them; slot k has the id k + 1."""

    def __init__(self, rng: np.random.Generator, n_events: int) -> None:
        self.values = rng.gamma(1.0, 20.0, (N_ITEMS, item_row.N_COLUMNS)).astype(np.float32)
        self.years = rng.choice([0, 1950, 2009, 2012, 2013, 2020], N_ITEMS).astype(np.int16)
        self.genres = rng.integers(0, 2**32, N_ITEMS, np.uint32) & rng.integers(
            0, 2**32, N_ITEMS, np.uint32
        )
        self.genres[:5] = 0
        self.ranks = rng.integers(0, N_LISTED + 1, (ranking.N_RANKS, N_ITEMS)).astype(np.int16)
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
            genres=int(self.genres[item - 1]) if known else 0,
            year=int(self.years[item - 1]) if known else 0,
        )

    def assembled(self, now_ms: int = START_MS, slots: np.ndarray | None = None) -> np.ndarray:
        slots = self.slots if slots is None else slots
        out = np.full((len(slots), N_COLUMNS), np.nan, np.float32)
        assemble(
            self.row[0], now_ms, self.history, slots, self.scores[: len(slots)], self.values,
            self.ranks, self.years, self.genres, LATEST, out,
        )  # fmt: skip
        return out

    def expected(self, place: int, now_ms: int) -> dict[str, float]:
        """One row, by name, the slow way."""
        slot = int(self.slots[place])
        by_name = dict(zip(item_row.NAMES, self.values[slot].tolist(), strict=True))
        found = {name: by_name[name] for name in MIRRORED}
        found |= {
            name: float(self.ranks[k, slot])
            for k, name in enumerate(("rank_trending", "rank_week", "rank_total"))
        }
        year = int(self.years[slot])
        found["title_age"] = max(LATEST - year, 0) if year > 0 else -1
        found |= self._of_viewer(now_ms)
        names = RANKING_COLUMNS[RANKING_COLUMNS.index("als") :][:N_SCORES]
        found |= dict(zip(names, self.scores[place].tolist(), strict=True))
        return found | self._of_pair(slot, found)

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

    def _of_pair(self, slot: int, found: dict[str, float]) -> dict[str, float]:
        taste, known = self.row["taste"][0], self._known()
        mask, last = int(self.genres[slot]), known[0] if known else None
        last_mask = int(self.genres[last]) if last is not None else 0
        mine = [g for g in range(32) if mask >> g & 1]
        affinity = [float(taste["affinity"][g]) / (float(taste["weight"]) + 1) for g in mine]
        shared = [g for g in mine if last_mask >> g & 1]
        age, popularity = log_age(int(self.years[slot])), self._popularity(slot)
        return {
            "genre_affinity": float(np.mean(affinity)) if mine else 0.0,
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


def test_columns_have_distinct_names_and_say_what_they_are():
    assert len(set(RANKING_COLUMNS)) == N_COLUMNS == len(RANKING_COLUMNS)
    assert all(unit and text for _, unit, text in ranking.DESCRIBED_COLUMNS)
    assert N_TITLES > 0
