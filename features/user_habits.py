"""How a viewer uses the service: hours and weekdays, devices, finishing, and stage of life.

Counts are of every event but impressions; hours and weekdays are those of UTC. When a count reaches
255 all counts beside it are halved: shares of a busy viewer follow what is usual lately.

The stage of life is one of these:

    new        fewer than 5 events but impressions, or less than a day since the first event
    power      active on at least 14 of the last 28 days
    regular    anybody else

The appetite for novelty (the share of long-tail titles) is no column here: it depends on how
popular titles are with others, which no row of a viewer knows; it is a request-time column.
"""

import numpy as np
from numpy.typing import NDArray

from features.compiled import Row, compiled
from features.vocabulary import N_DEVICES, Device, EventType
from features.windows import DAY_MS, HOUR_MS, count_up

N_HOURS, N_WEEKDAYS, N_DAYS = 24, 7, 28
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
EPOCH_WEEKDAY = 3  # 1970 began on a Thursday
MOST = 255
MOST_TOTAL = 2**32 - 1
DAYS_MASK = (1 << N_DAYS) - 1

PRIOR_COMPLETIONS, PRIOR_PLAYS = 1.5, 5.0
NEW_EVENTS = 5
POWER_DAYS = 14
NEW, REGULAR, POWER = range(3)

FIELDS = np.dtype(
    [
        ("hours", "u1", (N_HOURS,)),
        ("weekdays", "u1", (N_WEEKDAYS,)),  # Monday first
        ("devices", "u1", (N_DEVICES,)),
        ("plays", "u4"),
        ("completions", "u4"),
        ("engaged", "u4"),  # events but impressions, ever
        ("first_s", "u4"),  # when the first event of any type was
        ("active_days", "u4"),  # bit k: active on the day `newest_day - k`
        ("newest_day", "i4"),
    ],
    align=True,
)

COLUMNS = (
    *(
        (f"user_hour_{hour:02}", "0..1", f"share of events within {hour}:00..{hour}:59 UTC", 0.0)
        for hour in range(N_HOURS)
    ),
    *(
        (f"user_weekday_{name}", "0..1", f"share of events on a {name.title()}, UTC", 0.0)
        for name in WEEKDAYS
    ),
    *(
        (f"user_device_{device.name.lower()}", "0..1", f"share of events on {text}", 0.0)
        for device, text in zip(
            Device, ("a device not told", "a TV", "a phone", "a tablet", "the web"), strict=True
        )
    ),
    ("user_completion_habit", "0..1", "completions per play ever, smoothed towards 0.3", 0.3),
    ("user_active_days_28d", "days", "with an event but impressions, of the last 28, UTC", 0.0),
    ("user_days_known", "days", "since the first event ever", 0.0),
    (
        "user_is_new",
        "0/1",
        "fewer than 5 events but impressions, or known less than a day",
        1.0,
    ),
    ("user_is_regular", "0/1", "neither new nor power", 0.0),
    ("user_is_power", "0/1", "not new, and active on 14 or more of the last 28 days", 0.0),
)
_COMPLETION_AT = N_HOURS + N_WEEKDAYS + N_DEVICES


@compiled
def update(row: Row, event: Row) -> None:
    """Takes one event in. O(1)."""
    at_ms, kind = event["at_ms"], event["type"]
    at_s = at_ms // 1_000
    if row["first_s"] == 0 or at_s < row["first_s"]:
        row["first_s"] = at_s
    if kind == EventType.IMPRESSION:
        return
    row["engaged"] = count_up(row["engaged"], MOST_TOTAL)
    if kind == EventType.PLAY:
        row["plays"] = count_up(row["plays"], MOST_TOTAL)
    elif kind == EventType.COMPLETE:
        row["completions"] = count_up(row["completions"], MOST_TOTAL)
    hour = at_ms // HOUR_MS
    day = hour // 24
    _count(row["hours"], hour % 24)
    _count(row["weekdays"], (day + EPOCH_WEEKDAY) % 7)
    _count(row["devices"], event["device"])
    _mark_day(row, day)


@compiled
def _count(counts: NDArray[np.uint8], place: int) -> None:
    """Counts one; halves all counts when one is full."""
    if counts[place] == MOST:
        for k in range(len(counts)):
            counts[k] >>= 1
    counts[place] += 1


@compiled
def _mark_day(row: Row, day: int) -> None:
    ahead = day - row["newest_day"]
    if ahead > 0:
        row["active_days"] = (np.int64(row["active_days"]) << min(ahead, N_DAYS)) & DAYS_MASK
        row["newest_day"] = day
        ahead = 0
    if ahead > -N_DAYS:
        row["active_days"] |= 1 << -ahead


@compiled
def active_days(row: Row, now_ms: int) -> int:
    """Days with an event among the last 28 up to now; a day ahead of now counts, too."""
    mask = np.int64(row["active_days"])
    passed = min(max(now_ms // DAY_MS - row["newest_day"], 0), N_DAYS)
    mask = (mask << passed) & DAYS_MASK
    count = 0
    while mask != 0:
        mask &= mask - 1
        count += 1
    return count


@compiled
def stage(row: Row, now_ms: int) -> int:
    """NEW, REGULAR or POWER, by the rule of this module."""
    if row["engaged"] < NEW_EVENTS or now_ms - np.int64(row["first_s"]) * 1_000 < DAY_MS:
        return NEW
    return POWER if active_days(row, now_ms) >= POWER_DAYS else REGULAR


@compiled
def completion_habit(row: Row) -> float:
    """Completions per play ever, smoothed."""
    plays = max(row["plays"], row["completions"])  # some producers send no plays
    return float((row["completions"] + PRIOR_COMPLETIONS) / (plays + PRIOR_PLAYS))


@compiled
def values(row: Row, now_ms: int, out: NDArray[np.float32]) -> None:
    """Writes the columns of COLUMNS into `out`, `(len(COLUMNS),) float32`. Pure."""
    _shares(row["hours"], out[:N_HOURS])
    _shares(row["weekdays"], out[N_HOURS : N_HOURS + N_WEEKDAYS])
    _shares(row["devices"], out[N_HOURS + N_WEEKDAYS : _COMPLETION_AT])
    at = _COMPLETION_AT
    out[at] = completion_habit(row)
    out[at + 1] = active_days(row, now_ms)
    out[at + 2] = 0.0
    if row["first_s"] > 0:
        out[at + 2] = max(now_ms - int(row["first_s"]) * 1_000, 0) / DAY_MS
    out[at + 3 : at + 6] = 0.0
    out[at + 3 + stage(row, now_ms)] = 1.0


@compiled
def _shares(counts: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    total = 0
    for count in counts:
        total += count
    for k in range(len(counts)):
        out[k] = counts[k] / total if total > 0 else 0.0
