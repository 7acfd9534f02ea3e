"""What every store of rows must do, over memory and over a real Redis."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from features.redis_config import RedisConfig
from features.redis_store import RedisLink, RedisRowStore
from features.store import ITEMS, USERS, InMemoryRowStore, RowStore, Table

SMALLEST_ID, LARGEST_ID = 1, 2**64 - 1


@dataclass
class Subject:
    """A store under test, and a way behind its back."""

    store: RowStore
    put_bytes: Callable[[int, bytes], None]


def in_memory(table: Table) -> Subject:
    store = InMemoryRowStore(table)
    return Subject(store, store._records.__setitem__)


def in_redis(table: Table, link: RedisLink, client: redis.Redis, config: RedisConfig) -> Subject:
    def put_bytes(id_: int, record: bytes) -> None:
        client.set(config.key_head(table) + b"%016x" % id_, record)

    return Subject(RedisRowStore(link, table, config), put_bytes)


@pytest.fixture(params=[USERS, ITEMS], ids=["users", "items"])
def table(request: pytest.FixtureRequest) -> Table:
    found: Table = request.param
    return found


@pytest.fixture(params=["memory", "redis"])
def subject(request: pytest.FixtureRequest, table: Table) -> Iterator[Subject]:
    if request.param == "memory":
        yield in_memory(table)
        return
    config = RedisConfig(request.getfixturevalue("redis_url"))
    link = RedisLink(config, give_up_after_s=5)
    with redis.Redis.from_url(config.url) as client:
        yield in_redis(table, link, client, config)
    link.close()


def ids_of(*numbers: int) -> NDArray[np.uint64]:
    return np.array(numbers, np.uint64)


def rows_with(table: Table, ids: NDArray[np.uint64], last_ms: int) -> NDArray[np.void]:
    rows = np.repeat(table.empty, len(ids))
    rows["id"] = ids
    rows["activity"]["last_ms"] = last_ms + np.arange(len(ids))
    return rows


def same_fields(a: NDArray, b: NDArray) -> bool:
    """Whether every field has the same bits; the padding between fields may differ."""
    if a.dtype.names is None:
        return a.tobytes() == b.tobytes()
    return a.dtype == b.dtype and all(same_fields(a[name], b[name]) for name in a.dtype.names)


def test_absent_rows_are_empty_rows_of_their_ids(subject: Subject, table: Table) -> None:
    rows, found = subject.store.read(ids_of(5, 6))
    assert found.tolist() == [False, False]
    assert rows["id"].tolist() == [5, 6]
    rows["id"] = table.empty["id"]
    assert rows.tobytes() == np.repeat(table.empty, 2).tobytes()


def test_nothing_read_and_nothing_written_is_nothing(subject: Subject, table: Table) -> None:
    subject.store.write(rows_with(table, ids_of(), 0))
    rows, found = subject.store.read(ids_of())
    assert len(rows) == len(found) == 0
    assert rows.dtype == table.dtype


def test_a_written_row_is_read_bit_by_bit(
    subject: Subject, table: Table, rng: np.random.Generator
) -> None:
    noise = rng.bytes(3 * table.dtype.itemsize)
    written = np.frombuffer(noise, table.dtype).copy()
    written["layout"], written["id"] = table.empty["layout"], [7, 8, 9]
    subject.store.write(written)
    rows, found = subject.store.read(ids_of(7, 8, 9))
    assert found.all()
    assert same_fields(rows, written)


def test_present_and_absent_rows_come_in_the_order_asked(subject: Subject, table: Table) -> None:
    subject.store.write(rows_with(table, ids_of(1, 2, 3), 100))
    rows, found = subject.store.read(ids_of(3, 9, 1, 3))
    assert found.tolist() == [True, False, True, True]
    assert rows["id"].tolist() == [3, 9, 1, 3]
    assert rows["activity"]["last_ms"][found].tolist() == [102, 100, 102]


def test_a_row_read_can_be_changed_without_changing_the_store(
    subject: Subject, table: Table
) -> None:
    subject.store.write(rows_with(table, ids_of(1), 100))
    rows, _ = subject.store.read(ids_of(1))
    rows["activity"]["last_ms"] = 7
    again, _ = subject.store.read(ids_of(1))
    assert again["activity"]["last_ms"].tolist() == [100]


def test_a_row_written_and_then_changed_keeps_what_was_written(
    subject: Subject, table: Table
) -> None:
    rows = rows_with(table, ids_of(1), 100)
    subject.store.write(rows)
    rows["activity"]["last_ms"] = 7
    again, _ = subject.store.read(ids_of(1))
    assert again["activity"]["last_ms"].tolist() == [100]


def test_a_second_write_replaces_the_first_and_writing_again_changes_nothing(
    subject: Subject, table: Table
) -> None:
    first, second = rows_with(table, ids_of(1, 2), 100), rows_with(table, ids_of(1, 2), 500)
    for rows in (first, second, second):
        subject.store.write(rows)
    rows, found = subject.store.read(ids_of(1, 2))
    assert found.all()
    assert rows.tobytes() == second.tobytes()


def test_a_row_of_another_layout_counts_as_absent(subject: Subject, table: Table) -> None:
    rows = rows_with(table, ids_of(1, 2), 100)
    rows["layout"][0] += 1
    subject.store.write(rows)
    read, found = subject.store.read(ids_of(1, 2))
    assert found.tolist() == [False, True]
    assert read["activity"]["last_ms"].tolist() == [0, 101]
    assert read["layout"].tolist() == [int(table.empty["layout"][0])] * 2


@pytest.mark.parametrize("change", [-1, 1, None], ids=["shorter", "longer", "empty"])
def test_a_row_of_another_size_counts_as_absent(
    subject: Subject, table: Table, change: int | None
) -> None:
    size = 0 if change is None else table.dtype.itemsize + change
    subject.put_bytes(1, (table.empty.tobytes() * 2)[:size])
    subject.store.write(rows_with(table, ids_of(2), 100))
    rows, found = subject.store.read(ids_of(1, 2))
    assert found.tolist() == [False, True]
    assert rows["activity"]["last_ms"].tolist() == [0, 100]


def test_a_thousand_rows_go_in_one_write_and_come_in_one_read(
    subject: Subject, table: Table, rng: np.random.Generator
) -> None:
    ids = np.unique(rng.integers(1, 2**63, 1_000).astype(np.uint64))
    written = rows_with(table, ids, 1_000)
    subject.store.write(written)
    rows, found = subject.store.read(ids)
    assert found.all()
    assert rows.tobytes() == written.tobytes()


@pytest.mark.parametrize("count", [255, 256, 257, 512, 1_025])
def test_no_row_is_lost_where_a_command_ends(subject: Subject, table: Table, count: int) -> None:
    ids = np.arange(1, count + 1, dtype=np.uint64)
    subject.store.write(rows_with(table, ids, 0))
    rows, found = subject.store.read(ids)
    assert found.all()
    assert rows["activity"]["last_ms"].tolist() == list(range(count))


def test_ids_at_the_extremes_are_ids_like_any_other(subject: Subject, table: Table) -> None:
    ids = ids_of(SMALLEST_ID, LARGEST_ID, 2**63, 2**63 - 1, 0x0123456789ABCDEF)
    subject.store.write(rows_with(table, ids, 100))
    rows, found = subject.store.read(ids[::-1])
    assert found.all()
    assert rows["id"].tolist() == ids[::-1].tolist()
    assert rows["activity"]["last_ms"].tolist() == [104, 103, 102, 101, 100]


def test_tables_of_one_redis_keep_apart(redis_url: str) -> None:
    config = RedisConfig(redis_url)
    link = RedisLink(config, give_up_after_s=5)
    users, items = RedisRowStore(link, USERS, config), RedisRowStore(link, ITEMS, config)
    users.write(rows_with(USERS, ids_of(1), 100))
    assert not items.read(ids_of(1))[1].any()
    items.write(rows_with(ITEMS, ids_of(1), 200))
    assert users.read(ids_of(1))[0]["activity"]["last_ms"].tolist() == [100]
    link.close()


def test_deployments_of_one_redis_keep_apart(redis_url: str) -> None:
    first, second = RedisConfig(redis_url, "first"), RedisConfig(redis_url, "second")
    link = RedisLink(first, give_up_after_s=5)
    RedisRowStore(link, USERS, first).write(rows_with(USERS, ids_of(1), 100))
    assert not RedisRowStore(link, USERS, second).read(ids_of(1))[1].any()
    link.close()
