"""Streamed features equal replayed features, column by column, on the golden log.

The expected values are committed: `tests/golden/__init__.py` says what they are and how
`python -m tests.golden.write` writes them anew.
"""

from collections.abc import Sequence
from threading import Event
from typing import Any

import numpy as np
import pytest

from features.clock import WallClock
from features.codec import encode_catalog_item
from features.compiled import Rows
from features.log import LogConfig
from features.redis_config import RedisConfig
from features.row_cache import RowCache
from features.store import ITEMS, TABLES, USERS, InMemoryRowStore, RowStore
from features.titles import TitleFacts
from streams.features import Decoder, FlowParts, ItemShard, RowWrites, Topics, UserShard
from tests.flows import FeaturesSite
from tests.golden import (
    DIGITS,
    N_PARTITIONS,
    Columns,
    Golden,
    columns_of,
    read_expected,
    read_golden,
    replay_one_by_one,
)
from tests.oracle import stored


@pytest.fixture(scope="module")
def golden() -> Golden:
    return read_golden()


@pytest.fixture(scope="module")
def replayed(golden: Golden) -> tuple[Columns, Columns]:
    """Columns of viewers and titles, one event after the other."""
    return replay_one_by_one(golden)


def test_replayed_columns_are_the_expected_ones(replayed):
    for found, expected in zip(replayed, read_expected(), strict=True):
        assert found.keys() == expected.keys()
        for name, values in found.items():
            np.testing.assert_allclose(
                values, expected[name], rtol=1e-6, atol=2 * 10.0**-DIGITS, err_msg=name
            )


@pytest.mark.parametrize("batch_size", [1, 7, 300])
def test_columns_are_the_same_whatever_the_batches(golden, replayed, batch_size):
    users, items = run_shards(golden, batch_size)
    assert_same(columns_in(users, golden.viewers), replayed[0])
    assert_same(columns_in(items, golden.items), replayed[1])


def test_the_flow_streams_the_replayed_columns(
    golden, replayed, any_broker, redis_url, topic_prefix, tmp_path
):
    redis = RedisConfig(redis_url, prefix=topic_prefix)
    site = FeaturesSite(LogConfig(any_broker), redis, topic_prefix, tmp_path)
    for title in golden.titles:
        value = encode_catalog_item(title)
        site.writer.append(site.topic("catalog"), title.item_id.encode(), value)
    site.send(golden.interactions)
    with site.running():
        site.wait_until_applied()
    for table, names, expected in (
        (USERS, golden.viewers, replayed[0]),
        (ITEMS, golden.items, replayed[1]),
    ):
        rows = stored(redis, table, np.array(list(names.values()), np.uint64))
        assert_same(columns_of(rows, table, names), expected)


def run_shards(golden: Golden, batch_size: int) -> tuple[RowStore, RowStore]:
    """The steps of the flow over in-memory stores, an epoch a batch, and no more room than needed.

    So rows are given back and read again all the time.
    """
    users, items = InMemoryRowStore(USERS), InMemoryRowStore(ITEMS)
    stores = {table.letter: InMemoryRowStore(table) for table in TABLES}
    stores |= {USERS.letter: users, ITEMS.letter: items}
    capacity = 4 * batch_size + 4  # what three epochs may touch, and a little
    parts = FlowParts(
        log=LogConfig("nowhere"),
        topics=Topics("interactions", "item-updates", "dead-letters"),
        group="parity",
        n_partitions=N_PARTITIONS,
        titles=TitleFacts(golden.titles),
        clock=WallClock(),
        user_rows=lambda: RowCache(users, capacity),
        item_rows=lambda: RowCache(items, capacity),
        partition_rows=lambda table: RowCache(stores[table.letter], 6 * capacity),
        write_rows=lambda _: None,
        settle=lambda: None,
        stop=Event(),
    )
    decode, user_shard, item_shard = Decoder(parts), UserShard(parts), ItemShard(parts)
    records: list[Any] = list(golden.records())
    for start in range(0, len(records), batch_size):
        for keyed in decode(records[start : start + batch_size]):
            assert isinstance(keyed, tuple)  # neither a dead letter nor a record to be moved
            routed, _ = user_shard.on_batch([keyed[1]])
            changes, _ = item_shard.on_batch([value for _, value in routed])
            for change in changes:
                if isinstance(change, RowWrites):
                    stores[change.table.letter].write(change.rows)
        user_shard.snapshot()
        item_shard.snapshot()
    return users, items


def columns_in(store: RowStore, names: dict[str, int]) -> Columns:
    rows: Rows
    rows, are_there = store.read(np.array(list(names.values()), np.uint64))
    assert are_there.all()
    return columns_of(rows, store.table, names)


def assert_same(found: Columns, expected: Columns) -> None:
    """Every value of every row is the same, bit for bit."""
    assert found.keys() == expected.keys()
    assert _differences(found, expected) == []


def _differences(found: Columns, expected: Columns) -> Sequence[str]:
    return [
        f"{name}, column {column}: found {x}, expected {y}"
        for name in expected
        for column, (x, y) in enumerate(zip(found[name], expected[name], strict=True))
        if x.tobytes() != y.tobytes()
    ]
