"""Which titles may be shown to a viewer now: a look at each of them, compiled."""

import numpy as np
from numpy.typing import NDArray

from features.compiled import Row, compiled
from features.viewing_state import N_MARKS, is_done_with, is_marked, mark_done
from serving.retrieval.base import Floats, Slots, heap_push


@compiled
def allow(
    slots: Slots,
    viewing: Row,
    ids: NDArray[np.uint64],
    genres: NDArray[np.uint32],
    available_from_ms: NDArray[np.int64],
    blocked: NDArray[np.bool_],
    wanted_genres: int,
    now_ms: int,
    allowed: NDArray[np.bool_],
) -> None:
    """Fills `allowed`, `(n,) bool`: which titles may be shown to a viewer now.

    Not what the viewer has watched or rejected (`viewing`, that group of the row), what is blocked
    for this request, what is not available yet, or what has none of `wanted_genres` (a mask; 0:
    any). A few ns a title: the row is searched only for those that it may know.
    """
    marks = np.zeros(N_MARKS, np.bool_)
    mark_done(viewing, marks)
    for i in range(len(slots)):
        allowed[i] = _is_allowed(
            slots[i], viewing, marks, ids, genres, available_from_ms, blocked, wanted_genres, now_ms
        )


@compiled
def _is_allowed(
    slot: int,
    viewing: Row,
    marks: NDArray[np.bool_],
    ids: NDArray[np.uint64],
    genres: NDArray[np.uint32],
    available_from_ms: NDArray[np.int64],
    blocked: NDArray[np.bool_],
    wanted_genres: int,
    now_ms: int,
) -> bool:
    if blocked[slot] or available_from_ms[slot] > now_ms:
        return False
    if wanted_genres != 0 and (np.int64(genres[slot]) & wanted_genres) == 0:
        return False
    return not (is_marked(marks, ids[slot]) and is_done_with(viewing, ids[slot]))


@compiled
def best_allowed(
    order_by: Floats,
    wanted: int,
    places: Slots,
    viewing: Row,
    ids: NDArray[np.uint64],
    genres: NDArray[np.uint32],
    available_from_ms: NDArray[np.int64],
    blocked: NDArray[np.bool_],
    wanted_genres: int,
    now_ms: int,
) -> Slots:
    """Slots of the `wanted` best allowed titles by `order_by`, `(n_items,)`, best first.

    Candidates (`places` not negative) are passed over. One pass over the whole catalogue, so that a
    slate is short only when titles run out; a heap holds the best.
    """
    found = np.zeros(wanted, np.int32)
    scores = np.zeros(wanted, np.float32)
    marks = np.zeros(N_MARKS, np.bool_)
    mark_done(viewing, marks)
    n = 0
    for slot in range(len(order_by)):
        if places[slot] >= 0 or (n == wanted and not order_by[slot] > scores[0]):
            continue
        if _is_allowed(
            slot, viewing, marks, ids, genres, available_from_ms, blocked, wanted_genres, now_ms
        ):
            n = heap_push(found, scores, n, slot, order_by[slot])
    return found[:n][np.argsort(-scores[:n], kind="mergesort")]
