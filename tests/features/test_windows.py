"""Rings count the same set of events the same way in any order; decay halves at its half-life."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.windows import decay, ring_add, ring_sum

N_BUCKETS, N_COLUMNS = 5, 2
NO_LIMIT = 65_535

Happening = tuple[int, int]  # bucket, column
happenings = st.lists(st.tuples(st.integers(0, 30), st.integers(0, N_COLUMNS - 1)), max_size=60)


def ring_after(
    events: list[Happening], most: int = NO_LIMIT, newest: int = 0
) -> tuple[NDArray[np.uint16], int]:
    counts = np.zeros((N_BUCKETS, N_COLUMNS), np.uint16)
    for bucket, column in events:
        newest = ring_add(counts, newest, bucket, column, most)
    return counts, newest


def kept(events: list[Happening]) -> Counter[Happening]:
    """The model: an event counts exactly when its bucket is among the last ones."""
    newest = max((bucket for bucket, _ in events), default=0)
    return Counter(event for event in events if event[0] > newest - N_BUCKETS)


@given(happenings, st.randoms(use_true_random=False))
def test_any_order_of_events_gives_the_same_ring(events: list[Happening], random: object) -> None:
    shuffled = list(events)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    counts, newest = ring_after(events)
    other_counts, other_newest = ring_after(shuffled)
    assert newest == other_newest
    assert counts.tolist() == other_counts.tolist()


@given(happenings)
def test_the_ring_holds_exactly_the_events_of_the_last_buckets(events: list[Happening]) -> None:
    counts, newest = ring_after(events)
    expected = np.zeros_like(counts)
    for (bucket, column), count in kept(events).items():
        expected[bucket % N_BUCKETS, column] = count
    assert newest == max((bucket for bucket, _ in events), default=0)
    assert counts.tolist() == expected.tolist()


@given(happenings, st.integers(0, 40), st.integers(1, N_BUCKETS))
def test_a_sum_counts_the_last_buckets_up_to_now_and_those_ahead(
    events: list[Happening], now: int, n_last: int
) -> None:
    counts, newest = ring_after(events)
    for column in range(N_COLUMNS):
        expected = sum(
            count
            for (bucket, of_column), count in kept(events).items()
            if of_column == column and bucket > now - n_last
        )
        assert ring_sum(counts, newest, now, n_last, column) == expected


@given(happenings, st.integers(1, 4), st.randoms(use_true_random=False))
def test_counters_stop_at_their_limit_in_any_order(
    events: list[Happening], most: int, random: object
) -> None:
    shuffled = list(events)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    counts, _ = ring_after(events, most)
    assert counts.tolist() == ring_after(shuffled, most)[0].tolist()
    expected = np.minimum(ring_after(events)[0], most)
    assert counts.tolist() == expected.tolist()


def test_a_counter_at_the_limit_of_its_type_does_not_wrap() -> None:
    counts = np.full((N_BUCKETS, N_COLUMNS), NO_LIMIT, np.uint16)
    ring_add(counts, 3, 3, 0, NO_LIMIT)
    assert counts[3, 0] == NO_LIMIT


def test_an_event_that_has_left_the_ring_changes_nothing() -> None:
    counts, newest = ring_after([(20, 0)])
    before = counts.tolist()
    assert ring_add(counts, newest, 20 - N_BUCKETS, 0, NO_LIMIT) == newest
    assert counts.tolist() == before
    assert ring_add(counts, newest, 20 - N_BUCKETS + 1, 0, NO_LIMIT) == newest
    assert counts.sum() == 2


def test_a_leap_over_more_than_the_ring_empties_it() -> None:
    counts, newest = ring_after([(bucket, 0) for bucket in range(5)])
    assert ring_add(counts, newest, 1_000_000, 1, NO_LIMIT) == 1_000_000
    assert counts.sum() == 1
    assert ring_sum(counts, 1_000_000, 1_000_000, N_BUCKETS, 1) == 1


def test_an_event_in_a_future_bucket_counts_now_and_until_it_is_old() -> None:
    counts, newest = ring_after([(10, 0), (12, 0)])
    assert ring_sum(counts, newest, 10, 2, 0) == 2
    assert ring_sum(counts, newest, 13, 2, 0) == 1
    assert ring_sum(counts, newest, 14, 2, 0) == 0


def test_a_ring_that_time_has_left_behind_is_empty_without_being_touched() -> None:
    counts, newest = ring_after([(10, 0)])
    assert ring_sum(counts, newest, 10 + N_BUCKETS, N_BUCKETS, 0) == 0
    assert ring_sum(counts, newest, 10_000_000, N_BUCKETS, 0) == 0


@given(st.floats(0, 1e12), st.floats(1, 1e12))
def test_two_steps_of_decay_are_one(elapsed: float, half_life: float) -> None:
    once = decay(elapsed, half_life)
    assert 0 <= once <= 1
    half = decay(elapsed / 2, half_life)
    assert half * half == pytest.approx(once, rel=1e-6, abs=1e-300)


def test_decay_is_one_at_zero_a_half_at_the_half_life_and_never_above_one() -> None:
    assert decay(0, 1_000) == 1.0
    assert decay(1_000, 1_000) == 0.5
    assert decay(-5_000, 1_000) == 1.0
