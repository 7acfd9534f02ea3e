"""Where a title stands among all titles: rank, percentile, and whether it is of the long tail.

These depend on every title, so they are no part of a row: trainer, server and evaluation compute
them from the matrix of all titles' columns, with this one function.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features import item_row

HEAD_SHARE = 0.8  # of all engagement: the titles that make it up are the head, all others the tail
_ENGAGED_TOTAL = item_row.NAMES.index("item_engaged_total")

COLUMNS = (
    ("popularity_rank", "rank", "1 + titles with more engagement ever; equal ones share it", 1.0),
    ("popularity_percentile", "0..1", "of titles with less engagement, half of equal ones", 0.5),
    ("is_long_tail", "0 or 1", "outside the head that has 80 % of all engagement", 1.0),
)


class Popularity(NamedTuple):
    """By title, in the order of the matrix."""

    rank: NDArray[np.int32]  # (n_items,), from 1
    percentile: NDArray[np.float32]  # (n_items,) of 0..1
    is_long_tail: NDArray[np.bool_]  # (n_items,)


def popularity_of(values: NDArray[np.float32]) -> Popularity:
    """Popularity of all titles by `values`, `(n_items, item_row.N_COLUMNS)`. O(n log n).

    Measured by deliberate actions ever. Equal titles get equal answers, whatever their order. A
    title is of the head when those above it have less than 80 % of all engagement together; one
    that nobody has touched never is.

    >>> values = np.zeros((4, item_row.N_COLUMNS), np.float32)
    >>> values[:, _ENGAGED_TOTAL] = 10, 70, 10, 20
    >>> popularity_of(values).rank.tolist(), popularity_of(values).is_long_tail.tolist()
    ([3, 1, 3, 2], [True, False, True, False])
    """
    engaged = values[:, _ENGAGED_TOTAL].astype(np.float64)
    rising = np.sort(engaged)
    up_to = np.concatenate([[0.0], np.cumsum(rising)])
    starts = np.flatnonzero(np.diff(rising, prepend=-np.inf))
    which = np.searchsorted(rising[starts], engaged)  # few counts differ: a short table
    n_less = starts[which]
    n_not_more = np.append(starts[1:], len(rising))[which]
    above = up_to[-1] - up_to[n_not_more]
    n_items = max(len(engaged), 1)
    return Popularity(
        (len(engaged) - n_not_more + 1).astype(np.int32),
        ((n_less + n_not_more) / (2 * n_items)).astype(np.float32),
        (above >= HEAD_SHARE * up_to[-1]) | (engaged <= 0),
    )
