"""What viewers do with a title: counts by kind and window, smoothed rates, velocity.

Integers only, in rings of event time: several partitions feed one title, and whole numbers come out
the same in whichever order they arrive.
"""

import numpy as np
from numpy.typing import NDArray

from features.compiled import Row, compiled
from features.events import NO_RATING
from features.vocabulary import EventType
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS, decay, ring_add, ring_sum

FIVE_MINUTES_MS = 5 * MINUTE_MS
MOST = 2**32 - 1
N_HOURS, N_DAYS = 24, 15

KINDS = ("impressions", "clicks", "plays", "completions", "positives", "negatives", "engaged")
IMPRESSIONS, CLICKS, PLAYS, COMPLETIONS, POSITIVES, NEGATIVES, ENGAGED = range(7)
N_KINDS = len(KINDS)

FIELDS = np.dtype(
    [
        ("five_minutes", "u4", (12, N_KINDS)),  # the last hour
        ("hours", "u4", (N_HOURS, N_KINDS)),  # the last day
        ("days", "u4", (N_DAYS, N_KINDS)),  # the last two weeks and today
        ("newest_five_minutes", "i4"),
        ("newest_hour", "i4"),
        ("newest_day", "i4"),
        ("totals", "u4", (N_KINDS,)),
        ("rating_count", "u4"),
        ("rating_sum_tenths", "u8"),
        ("rating_square_sum_tenths", "u8"),
        ("first_ms", "i8"),
        ("last_ms", "i8"),
    ],
    align=True,
)

# Kinds and windows that every title's columns tell; clicks of the shorter ones stand further up.
WINDOWS = (("1h", "in the last hour"), ("24h", "in the last day"), ("7d", "in the last week"))
WINDOWED = tuple(
    (f"item_{kind}_{window}", "events", f"{kind} {when}", 0.0)
    for kind in KINDS[:ENGAGED]
    for window, when in (*WINDOWS, ("total", "ever"))
    if (kind, window) not in {("clicks", "1h"), ("clicks", "24h")}
)

COLUMNS = (
    ("item_clicks_5m", "events", "clicks in the last 5 to 10 minutes", 0.0),
    ("item_clicks_1h", "events", "clicks in the last hour", 0.0),
    ("item_clicks_24h", "events", "clicks in the last day", 0.0),
    ("item_engaged_1h", "events", "deliberate actions in the last hour", 0.0),
    ("item_engaged_6h", "events", "deliberate actions in the last 6 hours", 0.0),
    ("item_engaged_24h", "events", "deliberate actions in the last day", 0.0),
    ("item_engaged_3d", "events", "deliberate actions in the last 3 days", 0.0),
    ("item_engaged_7d", "events", "deliberate actions in the last week", 0.0),
    ("item_engaged_14d", "events", "deliberate actions in the last two weeks", 0.0),
    ("item_engaged_total", "events", "deliberate actions ever", 0.0),
    ("item_trend_6h", "events", "deliberate actions, decayed with a half-life of 6 hours", 0.0),
    ("item_trend_1d", "events", "deliberate actions, decayed with a half-life of a day", 0.0),
    ("item_trend_3d", "events", "deliberate actions, decayed with a half-life of 3 days", 0.0),
    ("item_velocity", "events/hour", "engagement of the last 6 hours per hour", 0.0),
    ("item_acceleration", "ratio", "log of the last day against the daily mean of the week", 0.0),
    ("item_click_rate", "0..1", "clicks per impression of the day, smoothed by its genres'", 0.1),
    ("item_completion_rate", "0..1", "completions per play ever, smoothed by its genres'", 0.3),
    ("item_like_share", "0..1", "positive among positive and negative, smoothed likewise", 0.7),
    ("item_rating_mean", "0..10", "mean rating, smoothed towards 7", 7.0),
    ("item_rating_deviation", "0..10", "standard deviation of its ratings", 0.0),
    ("item_rating_count", "events", "ratings ever", 0.0),
    ("item_days_known", "days", "since its first event; 0 before", 0.0),
    ("item_idle_days", "days", "since its last event; 365 at most", 365.0),
    *WINDOWED,
    ("item_trending", "events/hour", "decayed velocity (6 hours) x mean of the two rates", 0.0),
    ("item_rating_low", "0..10", "lower bound of its mean rating, nine times in ten", 5.853702),
    ("item_rating_confidence", "0..1", "weight of its ratings against those assumed", 0.0),
)
N_COLUMNS = len(COLUMNS)
_WINDOWED_AT = COLUMNS.index(WINDOWED[0])

TREND_HALF_LIVES_MS = np.array([6 * HOUR_MS, DAY_MS, 3 * DAY_MS], np.float64)
PRIOR_RATING_TENTHS, PRIOR_RATINGS = 70.0, 5.0
PRIOR_RATING_VARIANCE = 400.0  # in tenths: ratings differ by two points
ONE_IN_TEN = 1.2816  # standard deviations below which one in ten lies
PRIOR_TRIALS = 10.0  # what the rate of a title's genres weighs against its own
PER_HOUR = np.log(2.0) / 6.0  # of a trend with a half-life of 6 hours: events per hour


@compiled
def update(row: Row, event: Row) -> None:
    """Takes one event in; commutative. O(1)."""
    _count(row, event["at_ms"], kinds_of(event["type"], event["rating"]))
    if event["type"] == EventType.RATE and event["rating"] != NO_RATING:
        tenths = int(event["rating"] * 10 + 0.5)
        row["rating_count"] += 1
        row["rating_sum_tenths"] += tenths
        row["rating_square_sum_tenths"] += tenths * tenths
    if row["first_ms"] == 0 or event["at_ms"] < row["first_ms"]:
        row["first_ms"] = event["at_ms"]
    row["last_ms"] = max(row["last_ms"], event["at_ms"])


@compiled
def kinds_of(event_type: int, rating: float) -> int:
    """The kinds that an event counts as, one bit each; a rating of 7 is positive, of 4 negative."""
    if event_type == EventType.IMPRESSION:
        return 1 << IMPRESSIONS
    if event_type == EventType.PROGRESS:
        return 0
    kinds = 0
    if event_type in (EventType.CLICK, EventType.SEARCH):
        kinds |= 1 << CLICKS
    elif event_type == EventType.PLAY:
        kinds |= 1 << PLAYS
    elif event_type == EventType.COMPLETE:
        kinds |= 1 << COMPLETIONS
    if event_type in (EventType.LIKE, EventType.ADD, EventType.SHARE) or rating >= 7:
        kinds |= 1 << POSITIVES
    if event_type in (EventType.DISLIKE, EventType.SKIP) or 0 <= rating <= 4:
        kinds |= 1 << NEGATIVES
    if event_type not in (EventType.DISLIKE, EventType.SKIP):
        kinds |= 1 << ENGAGED
    return kinds


@compiled
def _count(row: Row, at_ms: int, kinds: int) -> None:
    five_minutes, hour, day = at_ms // FIVE_MINUTES_MS, at_ms // HOUR_MS, at_ms // DAY_MS
    for kind in range(N_KINDS):
        if (kinds >> kind) & 1:
            row["newest_five_minutes"] = ring_add(
                row["five_minutes"], row["newest_five_minutes"], five_minutes, kind, MOST
            )
            row["newest_hour"] = ring_add(row["hours"], row["newest_hour"], hour, kind, MOST)
            row["newest_day"] = ring_add(row["days"], row["newest_day"], day, kind, MOST)
            row["totals"][kind] += 1


@compiled
def _in_hours(row: Row, now_ms: int, n_hours: int, kind: int) -> int:
    return ring_sum(row["hours"], row["newest_hour"], now_ms // HOUR_MS, n_hours, kind)


@compiled
def _in_days(row: Row, now_ms: int, n_days: int, kind: int) -> int:
    return ring_sum(row["days"], row["newest_day"], now_ms // DAY_MS, n_days, kind)


@compiled
def _trends(row: Row, now_ms: int, out: NDArray[np.float32]) -> None:
    """Engagement with each of TREND_HALF_LIVES_MS: the last day by the hour, before by the day."""
    out[:] = 0.0
    day = now_ms // DAY_MS
    newest = row["newest_hour"]
    counted_yesterday = 0
    for hour in range(max(now_ms // HOUR_MS, newest) - N_HOURS + 1, newest + 1):
        count = row["hours"][hour % N_HOURS, ENGAGED]
        _add_decayed(count, now_ms - (hour * HOUR_MS + HOUR_MS // 2), out)
        if hour // 24 == day - 1:
            counted_yesterday += count
    newest = row["newest_day"]
    for passed in range(max(day, newest) - N_DAYS + 1, min(newest, day - 1) + 1):
        count = row["days"][passed % N_DAYS, ENGAGED]
        if passed == day - 1:
            count -= counted_yesterday
        _add_decayed(count, max(now_ms - (passed * DAY_MS + DAY_MS // 2), DAY_MS), out)


@compiled
def _add_decayed(count: int, age_ms: int, out: NDArray[np.float32]) -> None:
    if count > 0:
        for i in range(len(TREND_HALF_LIVES_MS)):
            out[i] += count * decay(age_ms, TREND_HALF_LIVES_MS[i])


@compiled
def _sum_kinds(
    ring: NDArray[np.uint32], newest: int, now_bucket: int, n_last: int, out: NDArray[np.int64]
) -> None:
    """Events of every kind in the last `n_last` buckets into `out`, `(N_KINDS,)`."""
    n_buckets = ring.shape[0]
    for bucket in range(max(now_bucket - n_last + 1, newest - n_buckets + 1), newest + 1):
        for kind in range(N_KINDS):
            out[kind] += ring[bucket % n_buckets, kind]


@compiled
def _windowed(row: Row, now_ms: int) -> NDArray[np.int64]:
    """`(4, N_KINDS)`: of the last hour, day and week, and ever."""
    counts = np.zeros((4, N_KINDS), np.int64)
    five_minutes = now_ms // FIVE_MINUTES_MS
    _sum_kinds(row["five_minutes"], row["newest_five_minutes"], five_minutes, 12, counts[0])
    _sum_kinds(row["hours"], row["newest_hour"], now_ms // HOUR_MS, N_HOURS, counts[1])
    _sum_kinds(row["days"], row["newest_day"], now_ms // DAY_MS, 7, counts[2])
    for kind in range(N_KINDS):
        counts[3, kind] = row["totals"][kind]
    return counts


@compiled
def values(row: Row, now_ms: int, priors: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Writes the columns of COLUMNS into `out`, `(len(COLUMNS),) float32`. Pure.

    Rates are smoothed by the rates of the title's genres, `priors` `(3,)` of clicks, completions
    and likes (empirical Bayes): `(x + rate * PRIOR_TRIALS) / (n + PRIOR_TRIALS)`.
    """
    counts = _windowed(row, now_ms)
    five_minutes = now_ms // FIVE_MINUTES_MS
    out[0] = ring_sum(row["five_minutes"], row["newest_five_minutes"], five_minutes, 2, CLICKS)
    out[1], out[2] = counts[0, CLICKS], counts[1, CLICKS]
    out[3] = counts[0, ENGAGED]
    out[4] = _in_hours(row, now_ms, 6, ENGAGED)
    out[5] = counts[1, ENGAGED]
    out[6] = _in_days(row, now_ms, 3, ENGAGED)
    out[7] = counts[2, ENGAGED]
    out[8] = _in_days(row, now_ms, 14, ENGAGED)
    out[9] = row["totals"][ENGAGED]
    _trends(row, now_ms, out[10:13])
    out[13] = out[4] / 6.0
    out[14] = np.log((out[5] + 1.0) / (out[7] / 7.0 + 1.0))
    out[15] = _smoothed(counts[1, CLICKS], counts[1, IMPRESSIONS], priors[0])
    plays = max(row["totals"][PLAYS], row["totals"][COMPLETIONS])
    out[16] = _smoothed(row["totals"][COMPLETIONS], plays, priors[1])
    likes, dislikes = row["totals"][POSITIVES], row["totals"][NEGATIVES]
    out[17] = _smoothed(likes, likes + dislikes, priors[2])
    _rating_values(row, out[18:21])
    out[21] = max(now_ms - row["first_ms"], 0) / DAY_MS if row["first_ms"] > 0 else 0.0
    out[22] = min(max(now_ms - row["last_ms"], 0) / DAY_MS, 365.0)
    at = _WINDOWED_AT
    for kind in range(ENGAGED):
        for window in range(2 if kind == CLICKS else 0, 4):
            out[at] = counts[window, kind]
            at += 1
    out[at] = out[10] * PER_HOUR * (out[16] + out[17]) / 2.0
    _rating_confidence(row, out[at + 1 :])


@compiled
def _smoothed(hits: int, trials: int, prior: float) -> float:
    return (hits + prior * PRIOR_TRIALS) / (trials + PRIOR_TRIALS)


@compiled
def _rating_confidence(row: Row, out: NDArray[np.float32]) -> None:
    """Lower bound of the smoothed mean, and the share of real ratings in it.

    As if PRIOR_RATINGS ratings with PRIOR_RATING_VARIANCE had been given besides the real ones.
    """
    count = row["rating_count"]
    n = count + PRIOR_RATINGS
    mean = (row["rating_sum_tenths"] + PRIOR_RATING_TENTHS * PRIOR_RATINGS) / n
    own = row["rating_sum_tenths"] / count if count > 0 else 0.0
    spread = row["rating_square_sum_tenths"] - own * row["rating_sum_tenths"]
    variance = (max(spread, 0.0) + PRIOR_RATING_VARIANCE * PRIOR_RATINGS) / n
    out[0] = max(mean - ONE_IN_TEN * np.sqrt(variance / n), 0.0) / 10.0
    out[1] = count / n


@compiled
def _rating_values(row: Row, out: NDArray[np.float32]) -> None:
    count = row["rating_count"]
    total = row["rating_sum_tenths"] + PRIOR_RATING_TENTHS * PRIOR_RATINGS
    out[0] = total / (count + PRIOR_RATINGS) / 10.0
    out[1] = 0.0
    if count > 1:
        mean = row["rating_sum_tenths"] / count
        spread = row["rating_square_sum_tenths"] / count - mean * mean
        out[1] = np.sqrt(max(spread, 0.0)) / 10.0
    out[2] = count
