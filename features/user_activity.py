"""What a viewer did lately: counts by type over three windows, last items, session, ratings."""

import numpy as np
from numpy.typing import NDArray

from features.compiled import Row, compiled
from features.events import NO_RATING
from features.vocabulary import N_TYPES, EventType
from features.windows import HOUR_MS, MINUTE_MS, ring_add, ring_sum

N_RECENT = 16
SESSION_GAP_MS = 30 * MINUTE_MS
MOST = 65_535  # of one type in one bucket

TEN_MINUTES_MS = 10 * MINUTE_MS
THREE_HOURS_MS = 3 * HOUR_MS

FIELDS = np.dtype(
    [
        ("minutes", "u2", (5, N_TYPES)),  # the last 5 minutes, by minute
        ("ten_minutes", "u2", (6, N_TYPES)),  # the last hour, by 10 minutes
        ("three_hours", "u2", (8, N_TYPES)),  # the last 24 hours, by 3 hours
        ("newest_minute", "i4"),
        ("newest_ten_minutes", "i4"),
        ("newest_three_hours", "i4"),
        ("totals", "u4", (N_TYPES,)),
        ("recent_items", "u8", (N_RECENT,)),  # a ring: the latest stands before recent_next
        ("recent_at_ms", "i8", (N_RECENT,)),
        ("recent_types", "u1", (N_RECENT,)),
        ("recent_next", "i4"),
        ("session", "u8"),
        ("session_started_ms", "i8"),
        ("session_events", "u4"),
        ("first_ms", "i8"),
        ("last_ms", "i8"),
        ("rating_count", "u4"),
        ("rating_sum", "f8"),
        ("rating_square_sum", "f8"),
        ("late", "u4"),  # events older than every window: in the totals alone
    ],
    align=True,
)

WINDOWED = (
    (EventType.IMPRESSION, "impressions"),
    (EventType.CLICK, "clicks"),
    (EventType.PLAY, "plays"),
    (EventType.COMPLETE, "completions"),
    (EventType.RATE, "ratings"),
)
WINDOWED_TYPES = np.array([event_type - 1 for event_type, _ in WINDOWED], np.int64)
WINDOWS = ("5m", "1h", "24h")

COLUMNS = (
    *(
        (f"user_{name}_{window}", "events", f"{name} in the last {window}", 0.0)
        for _, name in WINDOWED
        for window in WINDOWS
    ),
    ("user_events_total", "events", "all events ever", 0.0),
    ("user_ratings_total", "events", "ratings ever", 0.0),
    ("user_rating_mean", "0..10", "mean of the ratings given, smoothed towards 7", 7.0),
    ("user_rating_deviation", "0..10", "standard deviation of the ratings given", 0.0),
    ("user_session_events", "events", "events in the current session", 0.0),
    ("user_session_minutes", "minutes", "length of the current session", 0.0),
    ("user_idle_hours", "hours", "since the last event; 720 at most", 720.0),
)

PRIOR_RATING = 7.0
PRIOR_RATINGS = 2.0


@compiled
def update(row: Row, event: Row) -> None:
    """Takes one event in. O(1)."""
    at_ms = event["at_ms"]
    column = event["type"] - 1
    _count(row, at_ms, column)
    row["totals"][column] += 1
    if event["type"] != EventType.IMPRESSION:
        place = row["recent_next"]
        row["recent_items"][place] = event["item"]
        row["recent_at_ms"][place] = at_ms
        row["recent_types"][place] = event["type"]
        row["recent_next"] = (place + 1) % N_RECENT
    _follow_session(row, event["session"], at_ms)
    if event["type"] == EventType.RATE and event["rating"] != NO_RATING:
        row["rating_count"] += 1
        row["rating_sum"] += event["rating"]
        row["rating_square_sum"] += event["rating"] * event["rating"]


@compiled
def _count(row: Row, at_ms: int, column: int) -> None:
    if at_ms // THREE_HOURS_MS <= row["newest_three_hours"] - 8:
        row["late"] += 1
    row["newest_minute"] = ring_add(
        row["minutes"], row["newest_minute"], at_ms // MINUTE_MS, column, MOST
    )
    row["newest_ten_minutes"] = ring_add(
        row["ten_minutes"], row["newest_ten_minutes"], at_ms // TEN_MINUTES_MS, column, MOST
    )
    row["newest_three_hours"] = ring_add(
        row["three_hours"], row["newest_three_hours"], at_ms // THREE_HOURS_MS, column, MOST
    )


@compiled
def _follow_session(row: Row, session: np.uint64, at_ms: int) -> None:
    """A session ends after 30 idle minutes, or when the producer names another one."""
    gap = at_ms - row["last_ms"] > SESSION_GAP_MS
    renamed = session != 0 and session != row["session"]
    if gap or (renamed and at_ms >= row["last_ms"]):
        row["session_started_ms"] = at_ms
        row["session_events"] = 0
        row["session"] = session
    row["session_events"] += 1
    if row["first_ms"] == 0 or at_ms < row["first_ms"]:
        row["first_ms"] = at_ms
    row["last_ms"] = max(row["last_ms"], at_ms)


@compiled
def values(row: Row, now_ms: int, out: NDArray[np.float32]) -> None:
    """Writes the columns of COLUMNS into `out`, `(len(COLUMNS),) float32`. Pure."""
    at = 0
    for column in WINDOWED_TYPES:
        out[at] = ring_sum(row["minutes"], row["newest_minute"], now_ms // MINUTE_MS, 5, column)
        out[at + 1] = ring_sum(
            row["ten_minutes"], row["newest_ten_minutes"], now_ms // TEN_MINUTES_MS, 6, column
        )
        out[at + 2] = ring_sum(
            row["three_hours"], row["newest_three_hours"], now_ms // THREE_HOURS_MS, 8, column
        )
        at += 3
    out[at] = row["totals"].sum()
    out[at + 1] = row["totals"][EventType.RATE - 1]
    _rating_values(row, out[at + 2 : at + 4])
    in_session = now_ms - row["last_ms"] <= SESSION_GAP_MS
    out[at + 4] = row["session_events"] if in_session else 0
    out[at + 5] = (row["last_ms"] - row["session_started_ms"]) / MINUTE_MS if in_session else 0
    out[at + 6] = min(max(now_ms - row["last_ms"], 0) / HOUR_MS, 720.0)


@compiled
def _rating_values(row: Row, out: NDArray[np.float32]) -> None:
    count = row["rating_count"]
    out[0] = (row["rating_sum"] + PRIOR_RATING * PRIOR_RATINGS) / (count + PRIOR_RATINGS)
    out[1] = 0.0
    if count > 1:
        mean = row["rating_sum"] / count
        out[1] = np.sqrt(max(row["rating_square_sum"] / count - mean * mean, 0.0))
