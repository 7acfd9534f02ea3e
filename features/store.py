"""Where rows live between processes: a store of fixed-width records by 64-bit id."""

from dataclasses import dataclass
from itertools import compress
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from features import covisitation, global_rates, item_row, segment_popularity, user_row
from features.compiled import Rows
from features.records import put, taken


@dataclass(frozen=True, slots=True)
class Table:
    """A kind of row: the letter in its keys, and the row of which nothing is known."""

    letter: str
    empty: Rows  # (1,) of the record

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The record."""
        dtype: np.dtype[np.void] = self.empty.dtype
        return dtype


USERS = Table("u", user_row.new_row())
ITEMS = Table("i", item_row.new_row())
COVISITATIONS = Table("c", covisitation.new_row())
SEGMENTS = Table("s", segment_popularity.new_row())
GLOBALS = Table("g", global_rates.new_row())

# In the order in which they are written: whatever a viewer's row includes is in the others too.
TABLES = (ITEMS, COVISITATIONS, SEGMENTS, GLOBALS, USERS)


class RowStore(Protocol):
    """Rows by id. A write is absolute and atomic for each row; writing again changes nothing."""

    table: Table

    def read(self, ids: NDArray[np.uint64]) -> tuple[Rows, NDArray[np.bool_]]:
        """`(n,)` rows, empty where an id has none, and `(n,) bool`: which ids have one."""

    def write(self, rows: Rows) -> None:
        """Stores rows under their own `id`s; returns once they can be read."""


class InMemoryRowStore:
    """The protocol over a dict: for evaluation without servers, and for tests."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._records: dict[int, bytes] = {}

    def read(self, ids: NDArray[np.uint64]) -> tuple[Rows, NDArray[np.bool_]]:
        """Rows of ids; see RowStore."""
        return rows_of([self._records.get(int(id_)) for id_ in ids], ids, self.table)

    def write(self, rows: Rows) -> None:
        """Stores rows; see RowStore."""
        for row in rows:
            self._records[int(row["id"])] = row.tobytes()


def rows_of(
    records: list[bytes | None], ids: NDArray[np.uint64], table: Table
) -> tuple[Rows, NDArray[np.bool_]]:
    """Rows of stored records; an empty row with its id where there is none.

    A record of another size or layout counts as absent: the log rebuilds it.
    """
    size = table.dtype.itemsize
    found = np.fromiter(
        (record is not None and len(record) == size for record in records), np.bool_, len(records)
    )
    stored = np.frombuffer(b"".join(compress(records, found)), table.dtype)  # type: ignore[arg-type]
    known = stored["layout"] == table.empty["layout"][0]
    found[found] = known
    rows = np.repeat(table.empty, len(ids))
    rows["id"] = ids
    put(rows, found, stored if known.all() else taken(stored, known))
    return rows, found
