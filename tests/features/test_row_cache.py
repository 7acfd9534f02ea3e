"""A cache of few rows over a store behaves as if it held them all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.row_cache import SETTLED_EPOCHS, RowCache
from features.store import ITEMS, InMemoryRowStore

CAPACITY = 12
MOST_PER_EPOCH = CAPACITY // (SETTLED_EPOCHS + 1)  # always room for the rows of the last epochs

Epochs = list[list[list[int]]]  # ids touched, batch by batch, epoch by epoch


class Flow:
    """Counts the touches of each id through a cache, and writes rows as late as is allowed.

    The rows that an epoch changed reach the store when the epoch after it ends.
    """

    def __init__(self, capacity: int) -> None:
        self.store = InMemoryRowStore(ITEMS)
        self.cache = RowCache(self.store, capacity)
        self.changed: set[int] = set()
        self.on_the_way: list[NDArray[np.void]] = []

    def touch(self, ids: list[int]) -> None:
        slots = self.cache.slots_of(np.array(ids, np.uint64))
        assert self.cache.rows["id"][slots].tolist() == ids
        np.add.at(self.cache.rows["activity"]["rating_count"], slots, 1)
        self.changed |= set(ids)

    def end_epoch(self) -> None:
        for rows in self.on_the_way:
            self.store.write(rows)
        slots = self.cache.slots_of(np.array(sorted(self.changed), np.uint64))
        self.on_the_way = [self.cache.rows[slots]]
        self.changed = set()
        self.cache.next_epoch()

    def counts(self, ids: list[int]) -> list[int]:
        slots = self.cache.slots_of(np.array(ids, np.uint64))
        counted: list[int] = self.cache.rows["activity"]["rating_count"][slots].tolist()
        return counted


batches = st.lists(st.integers(1, 40), min_size=1, max_size=MOST_PER_EPOCH)
epochs = st.lists(
    st.lists(batches, max_size=3).filter(
        lambda epoch: len({id_ for batch in epoch for id_ in batch}) <= MOST_PER_EPOCH
    ),
    max_size=25,
)


@given(epochs)
@settings(max_examples=200)
def test_rows_that_were_given_back_and_loaded_again_are_the_same(touched: Epochs) -> None:
    flow, expected = Flow(CAPACITY), dict.fromkeys(range(1, 41), 0)
    for epoch in touched:
        for batch in epoch:
            flow.touch(batch)
            for id_ in batch:
                expected[id_] += 1
        flow.end_epoch()
    assert len(flow.cache) <= CAPACITY
    for id_, count in expected.items():
        assert flow.counts([id_]) == [count]
        flow.end_epoch()


@given(epochs)
def test_rows_of_the_last_two_epochs_are_never_given_back(touched: Epochs) -> None:
    flow = Flow(CAPACITY)
    recent: list[set[int]] = [set(), set()]
    for epoch in touched:
        recent = [recent[-1], set()]
        for batch in epoch:
            flow.touch(batch)
            recent[-1] |= set(batch)
            held = set(flow.cache.resident()["id"].tolist())
            assert recent[0] | recent[1] <= held
        flow.end_epoch()


def test_a_cache_that_is_too_small_for_two_epochs_says_so() -> None:
    flow = Flow(4)
    flow.touch([1, 2])
    flow.end_epoch()
    flow.touch([3, 4])
    with pytest.raises(MemoryError, match=r"4 rows of table 'i' are too few.*raise the row capac"):
        flow.touch([5])


def test_room_comes_back_once_an_epoch_has_settled() -> None:
    flow = Flow(4)
    flow.touch([1, 2])
    flow.end_epoch()
    flow.touch([3, 4])
    flow.end_epoch()
    flow.touch([5, 6])
    assert sorted(flow.cache.resident()["id"].tolist()) == [3, 4, 5, 6]
    assert flow.cache.evictions == 2


def test_a_row_touched_again_outlives_one_that_was_not() -> None:
    flow = Flow(3)
    flow.touch([1, 2])
    flow.end_epoch()
    flow.touch([1])
    flow.end_epoch()
    flow.touch([3, 4])
    assert sorted(flow.cache.resident()["id"].tolist()) == [1, 3, 4]


def test_the_rows_of_one_batch_do_not_push_each_other_out() -> None:
    flow = Flow(4)
    flow.touch([1, 2, 3, 4])
    for _ in range(SETTLED_EPOCHS):
        flow.end_epoch()
    flow.touch([1, 5, 6, 7])
    assert flow.counts([1]) == [2]
    assert sorted(flow.cache.resident()["id"].tolist()) == [1, 5, 6, 7]


def test_a_row_is_loaded_once_however_often_a_batch_has_it() -> None:
    flow = Flow(4)
    flow.touch([9, 9, 8, 9])
    assert flow.cache.loads == 2
    assert flow.counts([9, 8]) == [3, 1]


def test_a_row_of_the_store_is_what_the_first_touch_finds() -> None:
    flow = Flow(4)
    row = ITEMS.empty.copy()
    row["id"], row["activity"]["rating_count"] = 3, 41
    flow.store.write(row)
    flow.touch([3])
    assert flow.counts([3]) == [42]


def test_slots_that_got_another_row_are_told_once() -> None:
    cache = RowCache(InMemoryRowStore(ITEMS), 4)
    slots = cache.slots_of(np.array([5, 6], np.uint64))
    assert sorted(cache.take_loaded().tolist()) == sorted(slots.tolist())
    cache.slots_of(np.array([5, 6], np.uint64))
    assert cache.take_loaded().tolist() == []
