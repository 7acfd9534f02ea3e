"""Windows over event time, compiled: rings of integer counters, and exponential decay.

A ring holds the last `n` buckets of a stated width. Which events are counted depends only on the
set of events, never on their order: an event is kept exactly when its bucket is among the last `n`
up to the newest bucket seen. That makes rows that several partitions feed equal to any replay.
"""

import math
from typing import Any

from numpy.typing import NDArray

from features.compiled import compiled

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000


@compiled
def ring_add(
    counts: NDArray[Any],
    newest: int,
    bucket: int,
    column: int,
    most: int,
) -> int:
    """Counts one event of `bucket` in `column`; returns the newest bucket.

    `counts` is `(n_buckets, n_columns)`, cleared bucket by bucket as time moves. A bucket that has
    left the ring is not counted. Counters stop at `most` instead of wrapping. O(buckets skipped).
    """
    newest = ring_advance(counts, newest, bucket)
    ring_count(counts, newest, bucket, column, most)
    return newest


@compiled
def ring_advance(counts: NDArray[Any], newest: int, bucket: int) -> int:
    """Clears the buckets between `newest` and a later `bucket`; returns the newest of the two."""
    if bucket <= newest:
        return newest
    n_buckets = counts.shape[0]
    if bucket - newest >= n_buckets:
        counts[:] = 0
    else:
        for passed in range(newest + 1, bucket + 1):
            counts[passed % n_buckets, :] = 0
    return bucket


@compiled
def ring_count(counts: NDArray[Any], newest: int, bucket: int, column: int, most: int) -> None:
    """Counts one event of `bucket`, not after `newest`, in `column`; one too old is left out."""
    n_buckets = counts.shape[0]
    if bucket > newest - n_buckets:
        place = bucket % n_buckets
        counts[place, column] = count_up(counts[place, column], most)


@compiled
def count_up(count: int, most: int) -> int:
    """One more, but never more than `most`: counters stop at their limit instead of wrapping."""
    return count + 1 if count < most else count


@compiled
def ring_sum(counts: NDArray[Any], newest: int, now_bucket: int, n_last: int, column: int) -> int:
    """Events of `column` in the last `n_last` buckets up to and with `now_bucket`.

    Buckets ahead of `now_bucket` (an event a little in the future) count too. O(n_buckets).
    """
    n_buckets = counts.shape[0]
    total = 0
    first = max(now_bucket - n_last + 1, newest - n_buckets + 1)
    for bucket in range(first, newest + 1):
        total += counts[bucket % n_buckets, column]
    return total


@compiled
def decay(elapsed_ms: float, half_life_ms: float) -> float:
    """What is left of one after `elapsed_ms`: 1 at zero, 0.5 at the half-life; at most 1."""
    if elapsed_ms <= 0:
        return 1.0
    return math.pow(2.0, -elapsed_ms / half_life_ms)
