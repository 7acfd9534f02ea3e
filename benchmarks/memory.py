"""Memory of resident rows: what a worker takes for a million viewers or titles.

    python -m benchmarks.memory --rows 300000

Resident memory before and after a cache has been filled from a store that knows nobody, beside
what the formula says: row, ids and slots of the map, epoch of the last touch; for titles also the
columns last sent to the servers.
"""

import argparse
import json
import os

import numpy as np
import psutil
from numpy.typing import NDArray

from features import item_row
from features.compiled import Rows
from features.row_cache import RowCache
from features.store import ITEMS, USERS, Table

BATCH = 2_000
MAP_ENTRY_BYTES = 16  # id and slot
TOUCH_BYTES = 9  # epoch of the last touch, and whether just loaded


class EmptyStore:
    """A store in which nobody has a row."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def read(self, ids: NDArray[np.uint64]) -> tuple[Rows, NDArray[np.bool_]]:
        """New rows."""
        rows = np.repeat(self.table.empty, len(ids))
        rows["id"] = ids
        return rows, np.zeros(len(ids), np.bool_)

    def write(self, rows: Rows) -> None:
        """Keeps nothing."""


def formula(table: Table, rows: int) -> int:
    """Bytes that `rows` resident rows take; the map is a power of two, at least twice as large."""
    entries = 1 << max(2 * rows - 1, 15).bit_length()
    sent = 4 * item_row.N_COLUMNS if table is ITEMS else 0
    return rows * (table.dtype.itemsize + TOUCH_BYTES + sent) + entries * MAP_ENTRY_BYTES


def resident(table: Table, rows: int) -> int:
    """Bytes by which this process grows when that many rows are touched."""
    process = psutil.Process(os.getpid())
    before = process.memory_info().rss
    cache = RowCache(EmptyStore(table), rows)
    sent = np.full((rows if table is ITEMS else 0, item_row.N_COLUMNS), np.nan, np.float32)
    for start in range(1, rows + 1, BATCH):
        ids = np.arange(start, min(start + BATCH, rows + 1), dtype=np.uint64)
        cache.slots_of(ids * np.uint64(0x9E3779B97F4A7C15))
        cache.next_epoch()
    grown = int(process.memory_info().rss - before)
    if len(cache) != rows or not np.isnan(sent).all():
        raise RuntimeError(f"{len(cache)} rows are resident; expected {rows}")
    return grown


def main() -> None:
    """Prints JSON: bytes measured and by formula, and both for a million."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    rows = parser.parse_args().rows
    RowCache(EmptyStore(USERS), 16).slots_of(np.array([1], np.uint64))  # compiles
    found = {}
    for name, table in (("viewers", USERS), ("titles", ITEMS)):
        measured = resident(table, rows)
        found[name] = {
            "row_bytes": table.dtype.itemsize,
            "rows": rows,
            "measured_mib": round(measured / 2**20, 1),
            "formula_mib": round(formula(table, rows) / 2**20, 1),
            "measured_mib_per_million": round(measured / rows * 1e6 / 2**20),
            "formula_mib_for_a_million": round(formula(table, 1_000_000) / 2**20),
        }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
