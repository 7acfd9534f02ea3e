"""Which titles are watched around each other: co-visitation, one pass over the events.

A title keeps its strongest neighbours only, in bounded memory: one that is not among them takes the
place of the weakest when it weighs as much (after the Space-Saving algorithm of A. Metwally et al.,
ICDT 2005). Weights fade with the title's own time: what is watched no more keeps its neighbours.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.bundle_format import NO_NEIGHBOUR
from features.compiled import compiled
from features.windows import DAY_MS, decay

N_NEIGHBOURS = 32
CHUNK = 50_000  # events between two words about progress


@dataclass(frozen=True, slots=True)
class NeighboursConfig:
    """How titles of one viewer are linked."""

    n_before: int = 8  # titles before an event that it is linked with
    step_weight: float = 0.9  # of a link, for each title in between
    far_ms: int = 14 * DAY_MS  # a link across more than this ...
    far_weight: float = 0.5  # ... weighs so much
    half_life_ms: float = 30.0 * DAY_MS


@dataclass(frozen=True, slots=True)
class Neighbours:
    """`(n_items, N_NEIGHBOURS)`: rows of neighbours, strongest first, and their weights."""

    items: NDArray[np.int32]
    weights: NDArray[np.float32]


def fit_neighbours(
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    at_ms: NDArray[np.int64],
    n_items: int,
    config: NeighboursConfig,
    progress: Callable[[int], None],
) -> Neighbours:
    """Neighbours from events in order of time; O(links). `progress`: events so far."""
    n_users = int(users.max(initial=-1)) + 1
    recent = np.full((n_users, config.n_before), NO_NEIGHBOUR, np.int32)
    recent_at_ms = np.zeros((n_users, config.n_before), np.int64)
    counts = np.zeros(n_users, np.int64)
    found = np.full((n_items, N_NEIGHBOURS), NO_NEIGHBOUR, np.int32)
    weights = np.zeros((n_items, N_NEIGHBOURS), np.float32)
    linked_at_ms = np.zeros(n_items, np.int64)
    for start in range(0, len(users), CHUNK):
        part = slice(start, start + CHUNK)
        link_all(
            users[part], items[part], at_ms[part],
            recent, recent_at_ms, counts, found, weights, linked_at_ms,
            config.step_weight, config.far_ms, config.far_weight, config.half_life_ms,
        )  # fmt: skip
        progress(min(start + CHUNK, len(users)))
    order = np.argsort(-weights, axis=1, kind="stable")
    return Neighbours(
        np.take_along_axis(found, order, axis=1), np.take_along_axis(weights, order, axis=1)
    )


@compiled
def link_all(
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    at_ms: NDArray[np.int64],
    recent: NDArray[np.int32],
    recent_at_ms: NDArray[np.int64],
    counts: NDArray[np.int64],
    found: NDArray[np.int32],
    weights: NDArray[np.float32],
    linked_at_ms: NDArray[np.int64],
    step_weight: float,
    far_ms: int,
    far_weight: float,
    half_life_ms: float,
) -> None:
    """Links each event's title with those before it, both ways, and remembers it.

    `recent`, `(n_users, n_before)`, is a ring: title `counts[user] - 1` came last.
    """
    n_before = recent.shape[1]
    for i in range(len(users)):
        user, item, now_ms = users[i], items[i], at_ms[i]
        newest = (counts[user] - 1) % n_before
        if counts[user] > 0 and recent[user, newest] == item:
            continue  # still the same title: clicked, played, watched to the end
        weight = 1.0
        for k in range(min(counts[user], n_before)):
            place = (counts[user] - 1 - k) % n_before
            other = recent[user, place]
            if other != item:
                far = now_ms - recent_at_ms[user, place] > far_ms
                w = weight * far_weight if far else weight
                _link(item, other, w, now_ms, found, weights, linked_at_ms, half_life_ms)
                _link(other, item, w, now_ms, found, weights, linked_at_ms, half_life_ms)
            weight *= step_weight
        place = counts[user] % n_before
        recent[user, place], recent_at_ms[user, place] = item, now_ms
        counts[user] += 1


@compiled
def _link(
    item: int,
    other: int,
    weight: float,
    now_ms: int,
    found: NDArray[np.int32],
    weights: NDArray[np.float32],
    linked_at_ms: NDArray[np.int64],
    half_life_ms: float,
) -> None:
    """Adds a weight to the neighbour `other` of `item`. O(N_NEIGHBOURS)."""
    if now_ms > linked_at_ms[item]:
        if linked_at_ms[item] > 0:
            weights[item, :] *= np.float32(decay(now_ms - linked_at_ms[item], half_life_ms))
        linked_at_ms[item] = now_ms
    weakest = 0
    for k in range(found.shape[1]):
        if found[item, k] == other:
            weights[item, k] += weight
            return
        if weights[item, k] < weights[item, weakest]:
            weakest = k
    if found[item, weakest] == NO_NEIGHBOUR or weights[item, weakest] <= weight:
        found[item, weakest] = other
        weights[item, weakest] = weight
