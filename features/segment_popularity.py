"""What a region watches at an hour of the day: the heaviest titles of each segment, decayed.

A segment is a region and an hour of the day (UTC, of the event). Region 0 is everywhere: every
event counts there, and in its own region where that is known. A row holds what one partition of the
log says of one segment; its events come in a total order, so the row is a function of the log.
Readers merge the rows of all partitions.
"""

import numpy as np
from numpy.typing import NDArray

from features.compiled import Row, Rows, compiled
from features.heavy_hitters import add, growth, heaviest, left_of
from features.ids import finish
from features.item_activity import ENGAGED, kinds_of
from features.windows import DAY_MS, HOUR_MS

LAYOUT = 1
N_TITLES = 64
N_HOURS = 24
EVERYWHERE = 0  # the region that includes all
HALF_LIFE_MS = 7.0 * DAY_MS
MOST_TOUCHED = 2  # segments of one event

SEGMENT_ROW = np.dtype(
    [
        ("layout", "u2"),
        ("partition", "i1"),
        ("hour", "u1"),  # of the day, UTC
        ("region", "u4"),
        ("id", "u8"),  # row_id(region, hour, partition)
        ("offset", "i8"),  # of the last event included
        ("landmark_ms", "i8"),  # weights stand as of this moment
        ("weight", "f8"),  # of all events of the segment
        ("items", "u8", (N_TITLES,)),  # 0: none
        ("weights", "f8", (N_TITLES,)),  # too large by the smallest at most
    ],
    align=True,
)

COLUMNS = (
    ("weight", "events", "deliberate actions, decayed with a half-life of 7 days", 0.0),
    ("share", "0..1", "of all deliberate actions of the segment", 0.0),
)
POPULAR = np.dtype([("item", "u8"), ("weight", "f8"), ("share", "f8")])


def new_row() -> NDArray[np.void]:
    """`(1,) SEGMENT_ROW` of a segment where nothing has happened."""
    row = np.zeros(1, SEGMENT_ROW)
    row["layout"], row["partition"], row["offset"] = LAYOUT, -1, -1
    return row


@compiled
def hour_of(at_ms: int) -> int:
    """Hour of the day in UTC, 0..23."""
    return (at_ms // HOUR_MS) % N_HOURS


@compiled
def row_id(region: int, hour: int, partition: int) -> np.uint64:
    """Id of the row that a partition has for a segment."""
    key = (np.uint64(region) << np.uint64(32)) | (np.uint64(hour) << np.uint64(16))
    return finish(key | np.uint64(partition + 1))


@compiled
def counts(event: Row) -> bool:
    """Whether an event is one that segments count: a deliberate action, not a rejection."""
    return (kinds_of(event["type"], event["rating"]) >> ENGAGED) & 1 == 1


@compiled
def segments_of(
    events: Rows,
    are_new: NDArray[np.bool_],
    ids: NDArray[np.uint64],
    sources: NDArray[np.int64],
    regions: NDArray[np.uint32],
) -> int:
    """The rows that events go to: id, number of the event, region; how many there are.

    `are_new`, `(n_events,) bool`: the events that take effect. The others are `(2 * n_events,)`.
    """
    n = 0
    for i in range(len(events)):
        event = events[i]
        if not are_new[i] or not counts(event):
            continue
        hour = hour_of(event["at_ms"])
        for k in range(1 if event["region"] == EVERYWHERE else MOST_TOUCHED):
            regions[n] = EVERYWHERE if k == 0 else event["region"]
            ids[n] = row_id(regions[n], hour, event["partition"])
            sources[n] = i
            n += 1
    return n


@compiled
def apply(row: Row, event: Row, region: int) -> bool:
    """Takes one event of a segment in, exactly once; False when the row includes it already."""
    if event["offset"] <= row["offset"]:
        return False
    row["offset"] = event["offset"]
    row["partition"] = event["partition"]
    row["hour"] = hour_of(event["at_ms"])
    row["region"] = region
    grown = growth(row, event["at_ms"], HALF_LIFE_MS)
    row["weight"] += grown
    add(row["items"], row["weights"], event["item"], grown)
    return True


@compiled
def apply_all(
    rows: Rows,
    slots: NDArray[np.int64],
    events: Rows,
    sources: NDArray[np.int64],
    regions: NDArray[np.uint32],
    effects: NDArray[np.uint8],
) -> None:
    """Takes `events[sources]` in order into `rows[slots]`; `effects`, `(n,) uint8`: 1 applied."""
    for i in range(len(slots)):
        effects[i] = apply(rows[slots[i]], events[sources[i]], regions[i])


@compiled
def merge(rows: Rows, now_ms: int, out: Rows) -> int:
    """The heaviest titles over a segment's rows of all partitions into `out`; how many. Pure.

    `out` is `(k,) POPULAR`; by falling weight, then by id.
    """
    size = len(rows) * N_TITLES
    items, weights = np.zeros(size, np.uint64), np.zeros(size, np.float64)
    total, at = 0.0, 0
    for i in range(len(rows)):
        left = left_of(rows[i], now_ms, HALF_LIFE_MS)
        total += rows[i]["weight"] * left
        for k in range(N_TITLES):
            items[at] = rows[i]["items"][k]
            weights[at] = rows[i]["weights"][k] * left
            at += 1
    found = heaviest(items, weights, np.zeros(size, np.int64), len(out))
    for place in range(found):
        out[place]["item"] = items[place]
        out[place]["weight"] = weights[place]
        out[place]["share"] = weights[place] / total if total > 0.0 else 0.0
    return found
