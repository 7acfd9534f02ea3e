"""The golden log: a fixed list of events, and what every feature is after them.

    interactions.json   events as producers send them, and the titles they are about
    expected.json       columns of every viewer and title at a fixed time, to six digits

`python -m tests.golden.write` writes both anew: the events are the same each time, the expected
values are what the code says now. Read the difference before it is committed: it is a change of
meaning for every model that was trained on the old values.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features import item_row, user_row
from features.codec import encode_interaction
from features.compiled import Rows
from features.decode import decode_records
from features.events import CatalogItem, Interaction
from features.global_rates import DEFAULT_PRIORS
from features.ids import id_hash, key_hash, viewer_hash
from features.store import ITEMS, USERS, Table
from features.titles import TitleFacts
from features.vocabulary import Device, EventType, Page

FOLDER = Path(__file__).parent
N_PARTITIONS = 4
START_MS = 1_700_000_000_000
NOW_MS = START_MS + 20 * 86_400_000  # what the columns are asked for
DIGITS = 6

Columns = dict[str, NDArray[np.float32]]  # by id


@dataclass(frozen=True)
class Golden:
    """What lies in `interactions.json`."""

    titles: list[CatalogItem]
    interactions: list[Interaction]

    @property
    def viewers(self) -> dict[str, int]:
        """Row ids of all viewers by a name that people can read."""
        return {
            f"{event.user_id}/{event.profile_id}": viewer_hash(event.user_id, event.profile_id)
            for event in self.interactions
        }

    @property
    def items(self) -> dict[str, int]:
        """Row ids of all titles that occur."""
        return {event.item_id: id_hash(event.item_id) for event in self.interactions}

    def records(self) -> Iterator["GoldenRecord"]:
        """The interactions as they lie in a log of four partitions."""
        ends = [0] * N_PARTITIONS
        for event in self.interactions:
            partition = key_hash(event.user_id) % N_PARTITIONS
            yield GoldenRecord(encode_interaction(event), partition, ends[partition])
            ends[partition] += 1


@dataclass(frozen=True)
class GoldenRecord:
    """A record of the log, as the Kafka client hands it over."""

    bytes_: bytes
    partition_: int
    offset_: int

    def value(self) -> bytes:
        return self.bytes_

    def key(self) -> None:
        return None

    def headers(self) -> Any:
        return None

    def topic(self) -> str:
        return "interactions"

    def partition(self) -> int:
        return self.partition_

    def offset(self) -> int:
        return self.offset_

    def timestamp(self) -> tuple[int, int]:
        return 1, NOW_MS


def read_golden() -> Golden:
    """The committed log."""
    found = json.loads((FOLDER / "interactions.json").read_text())
    return Golden(
        [
            CatalogItem(**{**title, "genres": tuple(title["genres"]), "cast": tuple(title["cast"])})
            for title in found["titles"]
        ],
        [
            Interaction(
                **{
                    **event,
                    "type": EventType(event["type"]),
                    "device": Device(event.get("device", 0)),
                    "page": Page(event.get("page", 0)),
                }
            )
            for event in found["interactions"]
        ],
    )


def read_expected() -> tuple[Columns, Columns]:
    """The committed columns of viewers and of titles."""
    found = json.loads((FOLDER / "expected.json").read_text())
    assert found["now_ms"] == NOW_MS
    assert found["user_columns"] == list(user_row.NAMES)
    assert found["item_columns"] == list(item_row.NAMES)
    return tuple(  # type: ignore[return-value]
        {name: np.array(values, np.float32) for name, values in found[kind].items()}
        for kind in ("users", "items")
    )


def replay_one_by_one(golden: Golden) -> tuple[Columns, Columns]:
    """Columns after every event in turn, without a store, a shard or a batch."""
    titles = TitleFacts(golden.titles)
    users = {id_: _fresh(USERS, id_) for id_ in golden.viewers.values()}
    items = {id_: _fresh(ITEMS, id_) for id_ in golden.items.values()}
    for record in golden.records():
        decoded = decode_records([record])
        assert decoded.bad == []
        titles.enrich(decoded.events)
        event = decoded.events[0]
        user_row.apply(users[int(event["user"])][0], event)
        item_row.apply(items[int(event["item"])][0], event)
    return (
        columns_of(np.concatenate(list(users.values())), USERS, golden.viewers),
        columns_of(np.concatenate(list(items.values())), ITEMS, golden.items),
    )


def columns_of(rows: Rows, table: Table, names: dict[str, int]) -> Columns:
    """Columns at NOW_MS of rows in the order of `names`."""
    assert rows["id"].tolist() == list(names.values())
    group = user_row if table is USERS else item_row
    values = np.empty((len(rows), group.N_COLUMNS), np.float32)
    priors = () if table is USERS else (DEFAULT_PRIORS,)
    for row, out in zip(rows, values, strict=True):
        group.values(row, NOW_MS, *priors, out)
    return dict(zip(names, values, strict=True))


def _fresh(table: Table, id_: int) -> Rows:
    row = table.empty.copy()
    row["id"] = id_
    return row
