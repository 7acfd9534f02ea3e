"""Decayed weights in few places: exact while there is room, bounded beyond."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.heavy_hitters import add, growth, heaviest, left_of, place_for
from features.segment_popularity import new_row
from features.windows import DAY_MS
from tests.clock import START_MS

N_PLACES = 8
streams = st.lists(st.integers(1, 20), max_size=200)


def summary_of(items: list[int]) -> dict[int, float]:
    """What a full list of few places says of a stream, each item weighing one."""
    places, weights = np.zeros(N_PLACES, np.uint64), np.zeros(N_PLACES)
    for item in items:
        add(places, weights, np.uint64(item), 1.0)
    return {int(item): float(w) for item, w in zip(places, weights, strict=True) if item}


@given(streams)
def test_weights_are_never_too_small_nor_too_large_by_more_than_the_smallest(
    items: list[int],
) -> None:
    exact, found = Counter(items), summary_of(items)
    smallest = min(found.values()) if len(found) == N_PLACES else 0.0
    for item, weight in found.items():
        assert exact[item] <= weight <= exact[item] + smallest
    assert sum(found.values()) == len(items)


@given(streams)
def test_what_weighs_more_than_its_share_of_the_places_is_there(items: list[int]) -> None:
    found = summary_of(items)
    heavy = {item for item, count in Counter(items).items() if count > len(items) / N_PLACES}
    assert heavy <= found.keys()


def test_of_equally_weak_items_the_first_place_is_given_up() -> None:
    items, weights = np.arange(1, 5, dtype=np.uint64), np.array([2.0, 1.0, 1.0, 2.0])
    assert place_for(items, weights, np.uint64(9)) == 1
    assert add(items, weights, np.uint64(9), 0.5) == 1
    assert items.tolist() == [1, 9, 3, 4]
    assert weights.tolist() == [2.0, 1.5, 1.0, 2.0]


@pytest.mark.parametrize("days", [0, 7, 70, 120, 4_000, -7])
def test_an_event_counts_half_as_much_a_half_life_later(days: int) -> None:
    half_life_ms = 7.0 * DAY_MS
    row = new_row()[0]
    later_ms = START_MS + days * DAY_MS
    for at_ms in (START_MS, later_ms):
        grown = growth(row, at_ms, half_life_ms)
        row["weight"] += grown
    now_ms = max(START_MS, later_ms)
    found = row["weight"] * left_of(row, now_ms, half_life_ms)
    assert found == pytest.approx(1.0 + 0.5 ** (abs(days) / 7))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), max_size=40), st.integers(1, 12))
def test_equal_items_are_summed_and_the_heaviest_come_first(
    pairs: list[tuple[int, int]], n_most: int
) -> None:
    items = np.array([item for item, _ in pairs], np.uint64)
    weights = np.array([weight for _, weight in pairs], np.float64)
    counts = np.ones(len(pairs), np.int64)
    sums: Counter[int] = Counter()
    for item, weight in pairs:
        if item:
            sums[item] += weight
    found = heaviest(items, weights, counts, n_most)
    expected = sorted(sums.items(), key=lambda pair: (-pair[1], pair[0]))[:n_most]
    assert list(zip(items[:found].tolist(), weights[:found].tolist(), strict=True)) == expected
    appearances = Counter(item for item, _ in pairs)
    assert counts[:found].tolist() == [appearances[item] for item, _ in expected]
