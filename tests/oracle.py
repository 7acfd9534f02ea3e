"""What the rows must be: a clean replay of the log, in this process, one event after the other."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from features import item_row, user_row
from features.compiled import Rows
from features.decode import decode_records
from features.log import LogConfig, read_to_end
from features.redis_store import RedisConfig, RedisLink, RedisRowStore
from features.store import ITEMS, USERS, Table
from features.titles import TitleFacts
from features.vocabulary import EventType


def clean_replay(
    config: LogConfig,
    topic: str,
    titles: TitleFacts,
    n_partitions: int = 4,
    history: Rows | None = None,
) -> dict[str, Rows]:
    """User rows and item rows ("u", "i") after every event of `topic`, sorted by id.

    `history` are events from before the log; rows that have seen nothing else stand at -1.
    """
    records = defaultdict(list)
    for record in read_to_end(config, topic):
        records[record.partition()].append(record)
    users: dict[int, Rows] = {}
    items: dict[int, Rows] = {}
    if history is not None:
        _apply(history, users, items)
        for row in users.values():
            row["offset"] = -1
        for row in items.values():
            row["offsets"] = -1
    for partition in sorted(records):
        events = decode_records(records[partition]).events
        events = events[events["key_hash"] % n_partitions == partition]
        titles.enrich(events)
        _apply(events, users, items)
    return {"u": _sorted(users, USERS), "i": _sorted(items, ITEMS)}


def _apply(events: Rows, users: dict[int, Rows], items: dict[int, Rows]) -> None:
    """Takes events into rows, one after the other."""
    for event in events:
        user = users.setdefault(int(event["user"]), _fresh(USERS, event["user"]))
        user_row.apply(user[0], event)
        if event["type"] == EventType.ERASE:
            continue
        item = items.setdefault(int(event["item"]), _fresh(ITEMS, event["item"]))
        item_row.apply(item[0], event)


def _fresh(table: Table, id_: int) -> Rows:
    row = table.empty.copy()
    row["id"] = id_
    return row


def _sorted(rows: dict[int, Rows], table: Table) -> Rows:
    return np.concatenate([np.empty(0, table.dtype), *(rows[id_] for id_ in sorted(rows))])


def stored(config: RedisConfig, table: Table, ids: Rows) -> Rows:
    """The rows of these ids as they lie in Redis."""
    link = RedisLink(config, give_up_after_s=5)
    try:
        rows, _ = RedisRowStore(link, table, config).read(np.ascontiguousarray(ids))
        return rows
    finally:
        link.close()


def differences(expected: Rows, found: Rows) -> list[str]:
    """Which fields of which rows differ; empty when every value is the same, bit for bit."""
    return [
        f"row {int(a['id']):016x}: {path}: expected {x}, found {y}"
        for a, b in zip(expected, found, strict=True)
        for (path, x), (_, y) in zip(_fields(a), _fields(b), strict=True)
        if x.tobytes() != y.tobytes()
    ][:20]


def _fields(row: Rows, path: str = "") -> Iterator[tuple[str, Rows]]:
    """Every field of a record and of the groups nested in it."""
    for name in row.dtype.names:
        if row.dtype[name].names:
            yield from _fields(row[name], f"{path}{name}.")
        else:
            yield path + name, row[name]
