"""Decayed weights in bounded memory: forward decay, and the heaviest of many items.

Forward decay (Cormode et al., 2009, https://doi.org/10.1109/ICDE.2009.65): weights stand as of a
landmark, and an event that comes later counts for more, `2 ** (elapsed / half-life)`. So an event
touches its own weights alone, and a late one counts for less by itself. Divided by the same growth,
weights stand as of any moment.

Space-Saving (Metwally et al., 2005, https://doi.org/10.1007/978-3-540-30570-5_27): in a full list a
new item takes the place of the weakest and its weight. No weight is too small, none is too large by
more than the smallest of the list, and what weighs more than `total / places` is in it.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.compiled import Row, compiled
from features.windows import decay

MOST_HALF_LIVES = 16.0  # that weights grow from a landmark, before it moves


@compiled
def place_for(items: NDArray[np.uint64], weights: NDArray[Any], item: np.uint64) -> int:
    """Where `item` stands or will: its place, the first empty one, the first of the weakest."""
    for place in range(len(items)):
        if items[place] == item or items[place] == 0:
            return place
    weakest, least = 0, weights[0]
    for place in range(1, len(items)):
        if weights[place] < least:
            weakest, least = place, weights[place]
    return weakest


@compiled
def add(items: NDArray[np.uint64], weights: NDArray[Any], item: np.uint64, weight: float) -> int:
    """Adds to the weight of an item, which may take the weakest one's place; where. O(places)."""
    place = place_for(items, weights, item)
    items[place] = item
    weights[place] += weight
    return place


@compiled
def growth(row: Row, at_ms: int, half_life_ms: float) -> float:
    """What an event at `at_ms` counts in a row with `landmark_ms`, `weight` and `weights`.

    Moves the landmark where weights would grow too large; below one for an event before it.
    """
    if row["landmark_ms"] == 0:
        row["landmark_ms"] = at_ms
    elapsed_ms = at_ms - row["landmark_ms"]
    if elapsed_ms > MOST_HALF_LIVES * half_life_ms:
        left = decay(elapsed_ms, half_life_ms)
        row["weight"] *= left
        for place in range(len(row["weights"])):
            row["weights"][place] *= left
        row["landmark_ms"] = at_ms
        elapsed_ms = 0
    return math.pow(2.0, elapsed_ms / half_life_ms)


@compiled
def left_of(row: Row, now_ms: int, half_life_ms: float) -> float:
    """What a weight of one in this row is worth at `now_ms`."""
    return math.pow(2.0, (row["landmark_ms"] - now_ms) / half_life_ms)


@compiled
def heaviest(
    items: NDArray[np.uint64],
    weights: NDArray[np.float64],
    counts: NDArray[np.int64],
    n_most: int,
) -> int:
    """Sums equal items, sorts by falling weight (then by id), all in place; how many are left.

    At most `n_most`. Zero is no item. O(n log n).
    """
    n_distinct = 0
    order = np.argsort(items, kind="mergesort")
    ids, sums, totals = items[order], weights[order], counts[order]
    for i in range(len(ids)):
        if ids[i] == 0:
            continue
        if n_distinct > 0 and ids[i] == ids[n_distinct - 1]:
            sums[n_distinct - 1] += sums[i]
            totals[n_distinct - 1] += totals[i]
        else:
            ids[n_distinct], sums[n_distinct], totals[n_distinct] = ids[i], sums[i], totals[i]
            n_distinct += 1
    order = np.argsort(-sums[:n_distinct], kind="mergesort")
    n_found = min(n_distinct, n_most)
    for place in range(n_found):
        items[place] = ids[order[place]]
        weights[place] = sums[order[place]]
        counts[place] = totals[order[place]]
    return n_found
