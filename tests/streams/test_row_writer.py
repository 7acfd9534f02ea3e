"""Rows go to the store as the bytes they are, gaps between fields included."""

import numpy as np
import pytest

from features.row_cache import RowCache
from features.store import TABLES, InMemoryRowStore
from streams.row_writer import joined


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.letter)
def test_rows_of_several_batches_are_joined_byte_by_byte(table, rng):
    size = table.dtype.itemsize
    parts = [np.frombuffer(rng.bytes(n * size), table.dtype) for n in (1, 3, 2)]
    together = joined(parts)
    assert together.dtype == table.dtype
    assert together.tobytes() == b"".join(part.tobytes() for part in parts)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.letter)
def test_a_copy_of_resident_rows_has_nothing_of_other_memory_in_its_gaps(table):
    cache = RowCache(InMemoryRowStore(table), 64)
    cache.slots_of(np.arange(1, 33, dtype=np.uint64))
    dirty = [np.full(32 * table.dtype.itemsize, 0xAB, np.uint8) for _ in range(10)]
    del dirty  # what is allocated next may lie there
    expected = np.repeat(table.empty, 32)
    expected["id"] = np.arange(1, 33)
    assert cache.resident().tobytes() == expected.tobytes()
