"""Slots to arms, titles to slots: that chances told are chances had, and what slates keep to."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from features import item_row
from features.decision_context import CONTEXT_NAMES, context_of
from features.events import CatalogItem
from features.outcomes import OUTCOME
from features.ranking import RANKING_COLUMNS
from features.store import USERS
from features.vocabulary import N_ARMS, Arm, genre_mask
from features.windows import DAY_MS
from online_models.bandits import POLICIES, BanditState
from serving.catalogue import CatalogueTable
from serving.knowledge import Knowledge
from serving.overlay import Overlay
from serving.request import Request
from serving.retrieval.base import Candidates, Source
from serving.retrieval.trending import Trending
from serving.selection.arms import mark_arms
from serving.selection.config import PLAIN, SelectionConfig
from serving.selection.explorer import Beliefs, Explorer, Plan
from serving.selection.selection import Selection
from serving.selection.slots import PINNED, SLOT_NAMES
from serving.slate import Query
from tests.clock import START_MS
from tests.serving.engine import FixedMirror

N_ITEMS = 60
SOURCES = (Source.FOR_YOU, Source.COVISITATION, Source.TRENDING, Source.NEW, Source.POPULAR)
GENRES = ("Drama", "Comedy", "Crime", "War", "Horror")
MIRROR = FixedMirror(np.zeros((N_ITEMS, item_row.N_COLUMNS), np.float32))


def table_of(genres: list[tuple[str, ...]]) -> CatalogueTable:
    return CatalogueTable.of(
        CatalogItem(f"t{k}", f"Title {k}", 1960 + k, names) for k, names in enumerate(genres)
    )


TABLE = table_of([(GENRES[k % 5], GENRES[k // 5 % 5]) for k in range(N_ITEMS)])


def candidates(rng: np.random.Generator, n: int = N_ITEMS) -> Candidates:
    """Every fifth from each source; affinities and ratings drawn evenly."""
    found = Candidates(N_ITEMS, N_ITEMS)
    for k in range(n):
        found.offer(np.array([k]), 1, SOURCES[k % len(SOURCES)])
    features = found.features[:n]
    for name in ("genre_affinity", "item_rating_low"):
        features[:, RANKING_COLUMNS.index(name)] = rng.random(n)
    features[:, RANKING_COLUMNS.index("item_rating_low")] += 5.5
    features[:, RANKING_COLUMNS.index("is_long_tail")] = np.arange(n) % 3 == 0
    return found


def bits_of(found: Candidates) -> np.ndarray:
    bits = np.empty(found.n, np.uint16)
    mark_arms(found.features[: found.n], found.sources[: found.n], bits)
    return bits


def members(found: Candidates, arm: Arm) -> set[int]:
    return set(np.flatnonzero(bits_of(found) & (1 << arm)).tolist())


def selection(
    explorer: Explorer | None = None,
    beliefs: Beliefs | None = None,
    config: SelectionConfig = PLAIN,
    table: CatalogueTable = TABLE,
) -> Selection:
    overlay = None if beliefs is None else Overlay(1, beliefs)
    knowledge = Knowledge(table, MIRROR, Trending(table, 1_000), None, overlay)
    return Selection(knowledge, explorer, config)


def request(count: int = 20, row: np.ndarray = USERS.empty, **query: object) -> Request:
    asked = Query("u", count=count, **query)
    hot = Trending(TABLE, 1_000).lists(MIRROR.values, START_MS)
    wanted = genre_mask(asked.genres)
    return Request(asked, row, START_MS, wanted, np.zeros(0, np.int64), hot)


def falling(found: Candidates) -> np.ndarray:
    """Scores by which candidates stand in their own order."""
    return -np.arange(found.n, dtype=np.float64)


def plan(
    chooser: Selection, found: Candidates, asked: Request | int = 20, base: Arm = Arm.RANKER
) -> Plan:
    asked = request(asked) if isinstance(asked, int) else asked
    return chooser.choose(asked, found, falling(found), base)


def test_arms_hold_the_candidates_that_they_are_named_for(rng):
    found = candidates(rng)
    column = {name: found.features[:N_ITEMS, k] for k, name in enumerate(RANKING_COLUMNS)}
    assert members(found, Arm.RANKER) == set(range(N_ITEMS))
    assert members(found, Arm.ALS) == set(range(0, N_ITEMS, 5))
    assert members(found, Arm.NEW) == set(range(3, N_ITEMS, 5))
    good = set(np.flatnonzero(column["item_rating_low"] >= 6.0).tolist())
    assert members(found, Arm.LONG_TAIL) == good & set(range(0, N_ITEMS, 3))
    assert members(found, Arm.SERENDIPITY) < good
    likes = column["genre_affinity"]
    liked = members(found, Arm.CONTENT)
    assert len(liked) == N_ITEMS // 5
    assert min(likes[list(liked)]) > max(np.delete(likes, list(liked)))
    far = members(found, Arm.SERENDIPITY)
    assert max(likes[list(far)]) <= np.sort(likes)[N_ITEMS // 2]


@pytest.mark.parametrize("explorer", [None, Explorer(0.0, np.random.default_rng(1))])
def test_without_exploration_the_best_stand_first_for_certain(rng, explorer):
    chosen = plan(selection(explorer, Beliefs.none_yet("thompson")), candidates(rng))
    assert chosen.places == list(range(20))
    assert chosen.propensities == chosen.item_propensities == [1.0] * 20
    assert set(chosen.arms) == {Arm.RANKER}


def test_candidates_of_one_score_stand_in_their_order(rng):
    found = candidates(rng)
    scores = np.repeat([3.0, -1.0, -2.0], N_ITEMS // 3)
    rng.shuffle(scores)
    chosen = selection().choose(request(N_ITEMS), found, scores, Arm.RANKER)
    assert chosen.places == np.argsort(-scores, kind="stable").tolist()


def test_no_candidates_make_an_empty_slate(rng):
    assert plan(selection(), candidates(rng, 0)).places == []


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_no_title_is_shown_twice_and_every_slot_is_filled(policy, rng):
    found = candidates(rng)
    chooser = selection(Explorer(1.0, rng), Beliefs.none_yet(policy), SelectionConfig())
    chosen = plan(chooser, found, N_ITEMS)
    assert sorted(chosen.places) == list(range(N_ITEMS))
    assert all(0 < chance <= 1 for chance in chosen.propensities + chosen.item_propensities)
    bits = bits_of(found)
    assert all(
        bits[place] & (1 << arm) for place, arm in zip(chosen.places, chosen.arms, strict=True)
    )


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_an_arm_gets_a_slot_as_often_as_its_propensity_says(share, rng):
    """The sum of 1 / propensity over slots that went to an arm is the number of slots: the mean of
    the inverse propensities of all arms together is how many arms could have had the slot."""
    found = candidates(rng)
    chooser = selection(Explorer(share, rng), Beliefs.none_yet("thompson"))
    n, weights, first = 2_000, Counter(), Counter()
    for _ in range(n):
        chosen = plan(chooser, found, 1)
        weights[chosen.arms[0]] += 1 / chosen.propensities[0]
        first[chosen.arms[0]] += 1
    assert len(first) == N_ARMS
    for arm, seen in first.items():
        chance = seen / weights[arm]  # the propensity that was told, as it is the same each time
        error = 4 * np.sqrt(chance * (1 - chance) / n)
        assert abs(seen / n - chance) < error, arm


def test_a_title_of_the_long_tail_is_drawn_as_often_as_its_propensity_says(rng):
    found = candidates(rng)
    state, outcomes = BanditState(), np.zeros(400, OUTCOME)
    tail = sorted(members(found, Arm.LONG_TAIL))
    outcomes["rollback_to"], outcomes["arm"] = -1, Arm.LONG_TAIL
    outcomes["item"] = TABLE.ids[rng.choice(tail[: len(tail) // 2], 400)]
    outcomes["reward"], outcomes["decided_at_ms"] = rng.random(400) < 0.3, START_MS
    state.learn(outcomes)
    chooser = selection(Explorer(1.0, rng), Beliefs.of("uniform", state.arrays()))
    told, seen, shown = {}, Counter(), 0
    for _ in range(4_000):
        chosen = plan(chooser, found, 1)
        if chosen.arms[0] == Arm.LONG_TAIL:
            shown += 1
            seen[chosen.places[0]] += 1
            told[chosen.places[0]] = chosen.item_propensities[0]
    assert sum(told.values()) > 0.95
    for place, chance in told.items():
        error = 4 * np.sqrt(chance * (1 - chance) / shown)
        assert abs(seen[place] / shown - chance) < error, place


def test_what_was_learnt_moves_the_slots(rng):
    found = candidates(rng)
    state, outcomes = BanditState(), np.zeros(2_000, OUTCOME)
    outcomes["rollback_to"] = -1
    outcomes["arm"] = np.arange(2_000) % N_ARMS
    outcomes["reward"] = outcomes["arm"] == Arm.NEW
    outcomes["propensity"] = 1 / N_ARMS
    outcomes["context"] = context_of(USERS.empty[0], START_MS)
    outcomes["decided_at_ms"] = START_MS
    state.learn(outcomes)
    chooser = selection(Explorer(1.0, rng), Beliefs.of("thompson", state.arrays()))
    chosen = plan(chooser, found, 5)
    assert set(chosen.arms) == {Arm.NEW}
    assert chosen.belief.means[Arm.NEW] > 0.5 > chosen.belief.means[Arm.ALS]
    assert chosen.belief.weights[Arm.NEW] > 100


def test_viewers_in_their_first_days_explore_by_a_share_of_their_own(rng):
    found = candidates(rng)
    known = USERS.empty.copy()
    known["habits"]["engaged"], known["habits"]["first_s"] = 9, (START_MS - 2 * DAY_MS) // 1_000
    chooser = selection(Explorer(0.0, rng, share_new=1.0), Beliefs.none_yet("uniform"))
    regular, new = (plan(chooser, found, request(row=row)) for row in (known, USERS.empty))
    assert [CONTEXT_NAMES[p.context].split("/")[0] for p in (regular, new)] == ["regular", "new"]
    assert regular.propensities == [1.0] * 20
    assert max(new.propensities) < 0.5


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_serendipity_that_was_asked_for_is_given_in_places_with_true_chances(rng, share):
    """In each slate are three, and each slot goes to the arm as often as the chances say.

    A slot that is not explored goes to it or to the ranker; else the mean of [it did] / P is one.
    """
    found = candidates(rng)
    far = members(found, Arm.SERENDIPITY)
    chooser = selection(Explorer(share, rng), Beliefs.none_yet("uniform"))
    errors = []
    for _ in range(1_000):
        chosen = plan(chooser, found, request(10, serendipity=0.3))
        went, told = np.array(chosen.arms) == Arm.SERENDIPITY, np.array(chosen.propensities)
        assert went.sum() >= 3
        assert set(np.array(chosen.places)[went]) <= far
        errors.append(went / told - 1 if share else went - np.where(went, told, 1 - told))
    bound = 4 * np.std(errors, axis=0) / len(errors) ** 0.5
    assert (np.abs(np.mean(errors, axis=0)) <= bound).all()


def plain_mmr(scores: np.ndarray, vectors: np.ndarray, weight: float, count: int) -> list[int]:
    standing = (scores - scores.mean()) / scores.std()
    chosen: list[int] = []
    while len(chosen) < count:
        like = np.max(vectors @ vectors[chosen].T, axis=1, initial=0.0)
        worth = (1 - weight) * standing - weight * like
        worth[chosen] = -np.inf
        chosen.append(int(worth.argmax()))
    return chosen


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_slates_are_those_of_plain_maximal_marginal_relevance(rng, weight):
    found, scores = candidates(rng), rng.normal(size=N_ITEMS)
    chooser = selection(config=replace(PLAIN, diversity=weight))
    chosen = chooser.choose(request(), found, scores, Arm.RANKER)
    assert chosen.places == plain_mmr(scores, TABLE.contents, weight, 20)
    cosines = np.maximum(TABLE.contents[chosen.places] @ TABLE.contents[chosen.places].T, 0)
    pairs = cosines[np.triu_indices(20, 1)]
    assert chosen.diversity == pytest.approx(1 - pairs.mean(), abs=1e-5)


def test_under_load_likeness_is_not_looked_at(rng):
    asked = request()
    asked.load_level = 1
    chooser = selection(config=replace(PLAIN, diversity=0.9))
    assert plan(chooser, candidates(rng), asked).places == list(range(20))


def share_of(name: str, chosen: Plan, table: CatalogueTable) -> float:
    return float(np.mean(table.genres[chosen.places] & genre_mask([name]) != 0))


def test_no_genre_takes_more_than_its_share_while_there_are_others(rng):
    dramas = table_of([("Drama", "War") if k % 6 else ("Comedy",) for k in range(N_ITEMS)])
    found, capped = candidates(rng), replace(PLAIN, genre_cap=0.5)
    chooser = selection(config=capped, table=dramas)
    assert share_of("Drama", plan(selection(table=dramas), found, 10), dramas) > 0.5
    assert share_of("Drama", plan(chooser, found, 10), dramas) == 0.5
    everything = plan(chooser, found, N_ITEMS)
    assert sorted(everything.places) == list(range(N_ITEMS))
    asked = request(10, genres=("Drama", "War"))
    assert plan(chooser, found, asked).places == list(range(10))
    assert plan(chooser, found, 1).genre_entropy == pytest.approx(
        bin(dramas.genres[0]).count("1") - 1
    )


def test_what_is_popular_is_damped_and_what_was_hardly_shown_is_lifted(rng):
    found = candidates(rng)
    popular, shown = rng.random(N_ITEMS), rng.exponential(200, N_ITEMS)
    found.features[:N_ITEMS, RANKING_COLUMNS.index("popularity_percentile")] = popular
    found.features[:N_ITEMS, RANKING_COLUMNS.index("item_impressions_24h")] = shown
    scores = falling(found)
    standing = (scores - scores.mean()) / scores.std() - 2 * popular + 0.5 / (1 + shown / 100)
    chooser = selection(config=SelectionConfig(0.0, 1.0, 2.0, 0.5))
    assert plan(chooser, found).places == np.argsort(-standing)[:20].tolist()


def test_pinned_titles_stand_where_rules_want_them_and_belong_to_no_arm(rng):
    found, asked = candidates(rng, 40), request(10, serendipity=0.2)
    asked.pins = (3, 39), (0, 38), (50, 7), (5, 38), (6, 55)
    for chooser in (selection(), selection(Explorer(1.0, rng), Beliefs.none_yet("uniform"))):
        chosen = plan(chooser, found, asked)
        assert (chosen.places[3], chosen.places[0]) == (39, 38)
        assert [SLOT_NAMES[arm] == "pinned" for arm in chosen.arms] == [
            slot in (0, 3) for slot in range(10)
        ]
        assert {chosen.propensities[slot] for slot in (0, 3)} == {1.0}
        assert chosen.arms.count(PINNED) == 2
        assert len(set(chosen.places)) == 10
        assert chosen.arms.count(Arm.SERENDIPITY) >= 2


def test_titles_that_rules_boost_stand_higher(rng):
    found, asked = candidates(rng), request(3)
    asked.boosts = np.zeros(N_ITEMS, np.float32)
    asked.boosts[50] = 10.0
    assert plan(selection(), found, asked).places == [50, 0, 1]
