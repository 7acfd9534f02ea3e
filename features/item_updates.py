"""Messages of the topic `item-updates`: the columns of titles that changed, packed.

A message holds absolute values, so that reading one twice changes nothing:
header, then `n_items` ids, then `n_items x n_columns` float32, row by row.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features import item_row
from features.ids import id_hash

MAX_ITEMS = 4_096  # in one message

COLUMNS_HASH = id_hash(",".join(item_row.NAMES))

_HEADER = np.dtype(
    [("columns_hash", "<u8"), ("now_ms", "<i8"), ("n_items", "<u4"), ("n_columns", "<u4")]
)


class UpdateError(Exception):
    """A message that is not an item update of these columns."""


@dataclass(frozen=True, slots=True)
class ItemUpdate:
    """Columns of some titles as of `now_ms` (the flow's clock)."""

    ids: NDArray[np.uint64]  # (n_items,)
    values: NDArray[np.float32]  # (n_items, item_row.N_COLUMNS)
    now_ms: int


def encode_update(update: ItemUpdate) -> bytes:
    """Bytes of an update."""
    header = np.zeros(1, _HEADER)
    header["columns_hash"] = COLUMNS_HASH
    header["now_ms"] = update.now_ms
    header["n_items"], header["n_columns"] = update.values.shape
    return b"".join((header.tobytes(), update.ids.tobytes(), update.values.tobytes()))


def decode_update(data: bytes) -> ItemUpdate:
    """The update in `data`, sharing its memory. Raises UpdateError."""
    if len(data) < _HEADER.itemsize:
        raise UpdateError(f"an item update has at least {_HEADER.itemsize} bytes; got {len(data)}")
    header = np.frombuffer(data, _HEADER, 1)[0]
    n_items, n_columns = int(header["n_items"]), int(header["n_columns"])
    if header["columns_hash"] != COLUMNS_HASH or n_columns != item_row.N_COLUMNS:
        raise UpdateError(
            f"an item update must hold the {item_row.N_COLUMNS} columns of this version; "
            f"got {n_columns} of another: update the features flow and the servers together"
        )
    size = _HEADER.itemsize + n_items * (8 + 4 * n_columns)
    if len(data) != size:
        raise UpdateError(f"an update of {n_items} items has {size} bytes; got {len(data)}")
    ids = np.frombuffer(data, np.uint64, n_items, _HEADER.itemsize)
    values = np.frombuffer(data, np.float32, n_items * n_columns, _HEADER.itemsize + 8 * n_items)
    return ItemUpdate(ids, values.reshape(n_items, n_columns), int(header["now_ms"]))
