"""What a viewer did lately: counts by kind over four windows, last titles, ratings given.

A late event counts in every ring that still has the bucket it belongs to, else in the totals alone.
Counts and ratings are whole numbers, so they are the same in whichever order events arrive.
"""

import numpy as np
from numpy.typing import NDArray

from features.compiled import Row, compiled
from features.events import NO_RATING
from features.vocabulary import N_TYPES, EventType
from features.windows import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    count_up,
    ring_advance,
    ring_sum,
)

N_RECENT = 16
MOST = 65_535  # of one kind in one bucket
MOST_TOTAL = 2**32 - 1

# What is counted by window: everything deliberate, and what happens most.
KINDS = ("events", "impressions", "clicks", "plays", "completions", "ratings")
EVENTS, IMPRESSIONS, CLICKS, PLAYS, COMPLETIONS, RATINGS = range(6)
N_KINDS = len(KINDS)
NO_KIND = -1

KIND_OF_TYPE = np.full(len(EventType), NO_KIND, np.int64)  # beside EVENTS
for _type, _kind in (
    (EventType.IMPRESSION, IMPRESSIONS),
    (EventType.CLICK, CLICKS),
    (EventType.PLAY, PLAYS),
    (EventType.COMPLETE, COMPLETIONS),
    (EventType.RATE, RATINGS),
):
    KIND_OF_TYPE[_type] = _kind

N_DAYS = 7

FIELDS = np.dtype(
    [
        ("minutes", "u2", (5, N_KINDS)),  # the last 5 minutes
        ("ten_minutes", "u2", (6, N_KINDS)),  # the last hour
        ("three_hours", "u2", (8, N_KINDS)),  # the last 24 hours
        ("days", "u2", (N_DAYS, N_KINDS)),  # today and the six days before, UTC
        ("newest_minute", "i4"),
        ("newest_ten_minutes", "i4"),
        ("newest_three_hours", "i4"),
        ("newest_day", "i4"),
        ("totals", "u4", (N_TYPES,)),
        ("rating_count", "u4"),
        ("rating_sum_tenths", "u4"),
        ("rating_square_sum_tenths", "u8"),
        ("first_ms", "i8"),
        ("last_ms", "i8"),
        ("late", "u4"),  # events older than every window: in the totals alone
        ("recent_next", "u2"),
        ("recent_types", "u1", (N_RECENT,)),
        ("recent_at_s", "u4", (N_RECENT,)),
        ("recent_items", "u8", (N_RECENT,)),  # a ring: the latest stands before recent_next
    ],
    align=True,
)

WINDOWS = (
    ("5m", "in the last 5 minutes, by minute"),
    ("1h", "in the last hour, by 10 minutes"),
    ("24h", "in the last 24 hours, by 3 hours"),
    ("7d", "today and on the 6 days before, UTC"),
)
NAMED_KINDS = ("events other than impressions", *KINDS[1:])

COLUMNS = (
    *(
        (f"user_{kind}_{window}", "events", f"{named} {text}", 0.0)
        for kind, named in zip(KINDS, NAMED_KINDS, strict=True)
        for window, text in WINDOWS
    ),
    ("user_events_total", "events", "all events ever", 0.0),
    ("user_ratings_total", "events", "ratings ever", 0.0),
    ("user_rating_mean", "0..10", "mean of the ratings ever given, smoothed towards 7", 7.0),
    ("user_rating_deviation", "0..10", "standard deviation of the ratings ever given", 0.0),
    ("user_idle_hours", "hours", "since the last event ever; 720 at most", 720.0),
)

PRIOR_RATING_TENTHS = 70.0
PRIOR_RATINGS = 2.0
MOST_IDLE_HOURS = 720.0


@compiled
def update(row: Row, event: Row) -> None:
    """Takes one event in. O(1)."""
    at_ms, kind = event["at_ms"], event["type"]
    _count(row, at_ms, kind)
    column = kind - 1
    row["totals"][column] = count_up(row["totals"][column], MOST_TOTAL)
    if kind != EventType.IMPRESSION:
        place = row["recent_next"]
        row["recent_items"][place] = event["item"]
        row["recent_at_s"][place] = at_ms // 1_000
        row["recent_types"][place] = kind
        row["recent_next"] = (place + 1) % N_RECENT
    if row["first_ms"] == 0 or at_ms < row["first_ms"]:
        row["first_ms"] = at_ms
    row["last_ms"] = max(row["last_ms"], at_ms)
    if kind == EventType.RATE and event["rating"] != NO_RATING:
        _rate(row, int(event["rating"] * 10 + 0.5))


@compiled
def _count(row: Row, at_ms: int, event_type: int) -> None:
    minute = at_ms // MINUTE_MS
    ten_minutes = minute // 10
    three_hours = ten_minutes // 18
    day = three_hours // 8
    kind, also = KIND_OF_TYPE[event_type], EVENTS
    if event_type == EventType.IMPRESSION:
        also = NO_KIND
    if day <= row["newest_day"] - N_DAYS:
        row["late"] = count_up(row["late"], MOST_TOTAL)
        return
    row["newest_minute"] = _count_in(row["minutes"], row["newest_minute"], minute, kind, also)
    row["newest_ten_minutes"] = _count_in(
        row["ten_minutes"], row["newest_ten_minutes"], ten_minutes, kind, also
    )
    row["newest_three_hours"] = _count_in(
        row["three_hours"], row["newest_three_hours"], three_hours, kind, also
    )
    row["newest_day"] = _count_in(row["days"], row["newest_day"], day, kind, also)


@compiled
def _count_in(counts: NDArray[np.uint16], newest: int, bucket: int, kind: int, also: int) -> int:
    """Counts one event as two kinds, each unless it is NO_KIND; the newest bucket."""
    newest = ring_advance(counts, newest, bucket)
    if bucket > newest - counts.shape[0]:
        of_bucket = counts[bucket % counts.shape[0]]
        if kind != NO_KIND:
            of_bucket[kind] = count_up(of_bucket[kind], MOST)
        if also != NO_KIND:
            of_bucket[also] = count_up(of_bucket[also], MOST)
    return newest


@compiled
def _rate(row: Row, tenths: int) -> None:
    if row["rating_sum_tenths"] > MOST_TOTAL - 100:
        return  # some 40 million ratings
    row["rating_count"] += 1
    row["rating_sum_tenths"] += tenths
    row["rating_square_sum_tenths"] += tenths * tenths


@compiled
def values(row: Row, now_ms: int, out: NDArray[np.float32]) -> None:
    """Writes the columns of COLUMNS into `out`, `(len(COLUMNS),) float32`. Pure."""
    minute, day = now_ms // MINUTE_MS, now_ms // DAY_MS
    ten, three = minute // 10, minute // 180
    for kind in range(N_KINDS):
        at = 4 * kind
        out[at] = ring_sum(row["minutes"], row["newest_minute"], minute, 5, kind)
        out[at + 1] = ring_sum(row["ten_minutes"], row["newest_ten_minutes"], ten, 6, kind)
        out[at + 2] = ring_sum(row["three_hours"], row["newest_three_hours"], three, 8, kind)
        out[at + 3] = ring_sum(row["days"], row["newest_day"], day, N_DAYS, kind)
    at = 4 * N_KINDS
    out[at] = row["totals"].sum()
    out[at + 1] = row["totals"][EventType.RATE - 1]
    _rating_values(row, out[at + 2 : at + 4])
    out[at + 4] = MOST_IDLE_HOURS
    if row["last_ms"] > 0:
        out[at + 4] = min(max(now_ms - row["last_ms"], 0) / HOUR_MS, MOST_IDLE_HOURS)


@compiled
def _rating_values(row: Row, out: NDArray[np.float32]) -> None:
    count, total = row["rating_count"], row["rating_sum_tenths"]
    out[0] = (total + PRIOR_RATING_TENTHS * PRIOR_RATINGS) / (10.0 * (count + PRIOR_RATINGS))
    out[1] = 0.0
    if count > 1:
        mean = total / count
        out[1] = np.sqrt(max(row["rating_square_sum_tenths"] / count - mean * mean, 0.0)) / 10.0
