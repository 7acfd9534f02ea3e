"""What the rows must be: a clean replay of the log, in this process, one event after the other."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from features import covisitation, global_rates, item_row, segment_popularity, user_row
from features.compiled import Row, Rows
from features.decode import decode_records
from features.erasure import ErasureLedger
from features.log import LogConfig, read_to_end
from features.partition_rows import session_partners
from features.redis_config import RedisConfig
from features.redis_store import RedisLink, RedisRowStore
from features.segment_popularity import EVERYWHERE
from features.store import COVISITATIONS, GLOBALS, ITEMS, SEGMENTS, TABLES, USERS, Table
from features.titles import TitleFacts
from features.vocabulary import EventType


def clean_replay(
    config: LogConfig,
    topic: str,
    titles: TitleFacts,
    n_partitions: int = 4,
    history: Rows | None = None,
    ledger: ErasureLedger | None = None,
) -> dict[str, Rows]:
    """Rows of every table by its letter after every event of `topic`, sorted by id.

    With a `ledger` as after a rebuild: what lies before an erasure is known to from the beginning,
    so that its viewer makes no pairs. `history` are events from before the log; rows that have seen
    nothing else stand at -1.
    """
    records = defaultdict(list)
    for record in read_to_end(config, topic):
        records[record.partition()].append(record)
    replay = Replay()
    if history is not None:
        for event in history:
            replay.apply(event)
        replay.forget_positions()
    for partition in sorted(records):
        events = decode_records(records[partition]).events
        events = events[events["key_hash"] % n_partitions == partition]
        titles.enrich(events)
        if ledger is not None:
            ledger.flag(events)
        for event in events:
            replay.apply(event)
    return {table.letter: _sorted(replay.rows[table.letter], table) for table in TABLES}


class Replay:
    """Rows of all tables, fed one event at a time."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[int, Rows]] = {table.letter: {} for table in TABLES}

    def apply(self, event: Row) -> None:
        """Takes an event in; events of a partition come in its order."""
        user = self.row(USERS, event["user"])
        partners = np.zeros(covisitation.N_PARTNERS, np.uint64)
        n_partners = session_partners(user, event, partners)
        is_new = user_row.apply(user, event) >= user_row.APPLIED
        if event["type"] == EventType.ERASE:
            return
        if is_new:
            self._count(event, partners, n_partners)
        item_row.apply(self.row(ITEMS, event["item"]), event)

    def forget_positions(self) -> None:
        """Has every row stand before the beginning of the log."""
        for letter, rows in self.rows.items():
            for row in rows.values():
                row["offsets" if letter == ITEMS.letter else "offset"] = -1

    def _count(self, event: Row, partners: Rows, n_partners: int) -> None:
        """What an event adds to the rows of its partition."""
        partition = event["partition"]
        covisits = np.zeros(covisitation.MOST_COVISITS, covisitation.COVISIT)
        if n_partners > 0:
            end = covisitation.put_covisits(event, partners, n_partners, covisits, 0)
            for covisit in covisits[:end]:
                covisitation.apply(self.row(COVISITATIONS, covisit["row"]), covisit)
        global_row = self.row(GLOBALS, global_rates.row_id(partition))
        global_rates.apply(global_row, event, n_partners)
        if segment_popularity.counts(event):
            hour = segment_popularity.hour_of(event["at_ms"])
            for region in {EVERYWHERE, int(event["region"])}:
                id_ = segment_popularity.row_id(region, hour, partition)
                segment_popularity.apply(self.row(SEGMENTS, id_), event, region)

    def row(self, table: Table, id_: int) -> Row:
        """The row of an id, an empty one at first."""
        rows = self.rows[table.letter]
        return rows.setdefault(int(id_), _fresh(table, id_))[0]


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
    """Every field of a record and of the groups nested in it; nothing of the gaps between them."""
    for name in row.dtype.names:
        if row.dtype[name].base.names:
            yield from _fields(row[name], f"{path}{name}.")
        else:
            yield path + name, row[name]
