"""The record of a title: a position per source partition, and its feature groups in order."""

import numpy as np
from numpy.typing import NDArray

from features import item_activity
from features.compiled import Row, Rows, compiled, unlocked
from features.events import DUPLICATE
from features.global_rates import N_RATES, prior_of
from features.item_activity import update as update_activity
from features.item_activity import values as activity_values

LAYOUT = 2
MAX_PARTITIONS = 16

ITEM_ROW = np.dtype(
    [
        ("layout", "u2"),
        ("genres", "u4"),  # as the newest event had them from the catalogue; a mask
        ("id", "u8"),
        ("offsets", "i8", (MAX_PARTITIONS,)),  # of the last event included, by partition
        ("activity", item_activity.FIELDS),
    ],
    align=True,
)

COLUMNS = (*item_activity.COLUMNS,)
NAMES = tuple(name for name, *_ in COLUMNS)
N_COLUMNS = len(COLUMNS)
DEFAULTS = np.array([default for *_, default in COLUMNS], np.float32)


def new_row() -> NDArray[np.void]:
    """`(1,) ITEM_ROW` of a title that nobody has touched."""
    row = np.zeros(1, ITEM_ROW)
    row["layout"], row["offsets"] = LAYOUT, -1
    return row


@compiled
def apply(row: Row, event: Row) -> bool:
    """Takes one event in, exactly once; False when the row includes it already.

    A duplicate moves the position alone, so that no replay takes it for an original.
    """
    partition = event["partition"]
    if event["offset"] <= row["offsets"][partition]:
        return False
    row["offsets"][partition] = event["offset"]
    if not event["flags"] & DUPLICATE:
        _follow_genres(row, event)
        update_activity(row["activity"], event)
    return True


@compiled
def _follow_genres(row: Row, event: Row) -> None:
    """Genres of the newest event, of equally new ones the larger mask: the same in any order."""
    last_ms = row["activity"]["last_ms"]
    if event["at_ms"] > last_ms:
        row["genres"] = event["genres"]
    elif event["at_ms"] == last_ms:
        row["genres"] = max(row["genres"], event["genres"])


@unlocked
def apply_all(
    rows: Rows,
    slots: NDArray[np.int64],
    events: Rows,
    effects: NDArray[np.uint8],
) -> None:
    """Takes `events` in order into `rows[slots]`; `effects`, `(n_events,) uint8`: 1 applied."""
    for i in range(len(events)):
        effects[i] = apply(rows[slots[i]], events[i])


@compiled
def values(row: Row, now_ms: int, priors: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Writes all columns of a title into `out`, `(N_COLUMNS,) float32`. Pure.

    `priors`: the rates of genres by which the title's own are smoothed, `global_rates.rates_of`.
    """
    prior = np.empty(N_RATES, np.float32)
    prior_of(priors, row["genres"], prior)
    activity_values(row["activity"], now_ms, prior, out)


@compiled
def values_of(
    rows: Rows,
    slots: NDArray[np.int64],
    now_ms: int,
    priors: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Columns of `rows[slots]` into `out`, `(n_slots, N_COLUMNS) float32`. Pure; see `values`."""
    for i in range(len(slots)):
        values(rows[slots[i]], now_ms, priors, out[i])
