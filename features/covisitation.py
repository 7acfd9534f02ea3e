"""Which titles are visited together in a session: a title's neighbours, learned from the stream.

A viewer who engages with a title that is new to the session makes a pair with each of the last few
titles of that session; each title of a pair is a neighbour of the other. A row holds what one
partition of the log says of one title. All events of a viewer lie in one partition, so a row takes
its events in a total order: it is a function of the log although it keeps decayed weights and only
the strongest neighbours. Readers merge the rows of all partitions.
"""

import numpy as np
from numpy.typing import NDArray

from features.compiled import Row, Rows, compiled
from features.heavy_hitters import growth, heaviest, left_of, place_for
from features.ids import finish
from features.windows import DAY_MS

LAYOUT = 1
N_NEIGHBOURS = 32
N_PARTNERS = 4  # last titles of the session that a new one makes pairs with
PAIR_WEIGHTS = 0.9 ** np.arange(N_PARTNERS)  # of the pair with the last title, the one before, ...
HALF_LIFE_MS = 30.0 * DAY_MS
MOST = 2**32 - 1

COVISITATION_ROW = np.dtype(
    [
        ("layout", "u2"),
        ("partition", "i2"),
        ("id", "u8"),  # row_id(item, partition)
        ("item", "u8"),
        ("offset", "i8"),  # of the last event included
        ("landmark_ms", "i8"),  # weights stand as of this moment
        ("weight", "f8"),  # of all pairs of the title, with neighbours given up too
        ("items", "u8", (N_NEIGHBOURS,)),  # neighbours, 0: none
        ("weights", "f4", (N_NEIGHBOURS,)),  # of the pairs; too large by the smallest at most
        ("supports", "u4", (N_NEIGHBOURS,)),  # pairs since the neighbour is here, not decayed
    ],
    align=True,
)

# The pairs of one event that one row takes in.
COVISIT = np.dtype(
    [
        ("row", "u8"),
        ("item", "u8"),
        ("at_ms", "i8"),
        ("offset", "i8"),
        ("neighbours", "u8", (N_PARTNERS,)),
        ("partition", "i2"),
        ("count", "u1"),  # of neighbours
        ("rank", "u1"),  # place of the first pair in PAIR_WEIGHTS; the others follow
    ],
    align=True,
)
MOST_COVISITS = 1 + N_PARTNERS  # of one event: the new title's, and each partner's

COLUMNS = (
    ("weight", "pairs", "sessions with both titles, decayed with a half-life of 30 days", 0.0),
    ("support", "pairs", "the same, neither decayed nor weighed by nearness", 0.0),
    ("lift", "ratio", "weight against what chance would give both titles; 1: chance", 0.0),
)
NEIGHBOUR = np.dtype([("item", "u8"), ("weight", "f8"), ("support", "i8"), ("lift", "f8")])


def new_row() -> NDArray[np.void]:
    """`(1,) COVISITATION_ROW` of a title without neighbours."""
    row = np.zeros(1, COVISITATION_ROW)
    row["layout"], row["partition"], row["offset"] = LAYOUT, -1, -1
    return row


@compiled
def row_id(item: np.uint64, partition: int) -> np.uint64:
    """Id of the row that a partition has for a title."""
    return finish(item ^ (np.uint64(partition + 1) << np.uint64(56)))


@compiled
def put_covisits(event: Row, partners: NDArray[np.uint64], count: int, out: Rows, at: int) -> int:
    """Writes the pairs of `event` with `partners[:count]` into `out[at:]`; where the next go.

    Each of the `count + 1` titles gets one record, so a row takes in an event whole or not at all.
    """
    _put_covisit(event, event["item"], count, 0, out[at])
    for k in range(count):
        out[at]["neighbours"][k] = partners[k]
        _put_covisit(event, partners[k], 1, k, out[at + 1 + k])
        out[at + 1 + k]["neighbours"][0] = event["item"]
    return at + 1 + count


@compiled
def _put_covisit(event: Row, item: np.uint64, count: int, rank: int, out: Row) -> None:
    out["row"] = row_id(item, event["partition"])
    out["item"] = item
    out["at_ms"] = event["at_ms"]
    out["offset"] = event["offset"]
    out["partition"] = event["partition"]
    out["count"] = count
    out["rank"] = rank


@compiled
def pair_weight(count: int) -> float:
    """Weight that an event with `count` partners adds to all rows together."""
    total = 0.0
    for k in range(count):
        total += 2.0 * PAIR_WEIGHTS[k]
    return total


@compiled
def apply(row: Row, covisit: Row) -> bool:
    """Takes the pairs of one event in, exactly once; False when the row includes them already."""
    if covisit["offset"] <= row["offset"]:
        return False
    row["offset"] = covisit["offset"]
    row["partition"] = covisit["partition"]
    row["item"] = covisit["item"]
    grown = growth(row, covisit["at_ms"], HALF_LIFE_MS)
    for k in range(covisit["count"]):
        weight = grown * PAIR_WEIGHTS[covisit["rank"] + k]
        row["weight"] += weight
        _add_pair(row, covisit["neighbours"][k], weight)
    return True


@compiled
def _add_pair(row: Row, neighbour: np.uint64, weight: float) -> None:
    """A neighbour that takes another's place inherits its weight, not its support."""
    place = place_for(row["items"], row["weights"], neighbour)
    if row["items"][place] != neighbour:
        row["items"][place] = neighbour
        row["supports"][place] = 0
    row["weights"][place] += weight
    if row["supports"][place] < MOST:
        row["supports"][place] += 1


@compiled
def apply_all(
    rows: Rows, slots: NDArray[np.int64], covisits: Rows, effects: NDArray[np.uint8]
) -> None:
    """Takes `covisits` in order into `rows[slots]`; `effects`, `(n,) uint8`: 1 applied."""
    for i in range(len(covisits)):
        effects[i] = apply(rows[slots[i]], covisits[i])


@compiled
def weight_of(rows: Rows, now_ms: int) -> float:
    """Weight of all pairs of a title at `now_ms`, over its rows of all partitions. Pure."""
    total = 0.0
    for i in range(len(rows)):
        total += rows[i]["weight"] * left_of(rows[i], now_ms, HALF_LIFE_MS)
    return total


@compiled
def merge(rows: Rows, now_ms: int, out: Rows) -> int:
    """The strongest neighbours over a title's rows of all partitions into `out`; how many. Pure.

    `out` is `(k,) NEIGHBOUR`; by falling weight, then by id. `lift` is left zero: see `fill_lift`.
    With nothing given up in any row the numbers are exact. O(n log n) of 32 a row.
    """
    size = len(rows) * N_NEIGHBOURS
    items, weights = np.zeros(size, np.uint64), np.zeros(size, np.float64)
    supports = np.zeros(size, np.int64)
    at = 0
    for i in range(len(rows)):
        left = left_of(rows[i], now_ms, HALF_LIFE_MS)
        for k in range(N_NEIGHBOURS):
            items[at] = rows[i]["items"][k]
            weights[at] = rows[i]["weights"][k] * left
            supports[at] = rows[i]["supports"][k]
            at += 1
    found = heaviest(items, weights, supports, len(out))
    for place in range(found):
        out[place]["item"] = items[place]
        out[place]["weight"] = weights[place]
        out[place]["support"] = supports[place]
        out[place]["lift"] = 0.0
    return found


@compiled
def fill_lift(neighbours: Rows, weight: float, weights: NDArray[np.float64], total: float) -> None:
    """Fills `lift`: `w(a, b) * w / (w(a) * w(b))`, where w sums the weights of pairs.

    `weight` is that of the title (`weight_of`), `weights` `(n,)` those of its neighbours, `total`
    that of all titles (`global_rates.pair_weight_of`). 1 is chance; 0 where a weight is unknown.
    """
    for i in range(len(neighbours)):
        chance = weight * weights[i]
        neighbours[i]["lift"] = neighbours[i]["weight"] * total / chance if chance > 0.0 else 0.0
