"""What a viewer likes: affinity by genre and habitual year of titles, decayed over event time."""

import numpy as np
from numpy.typing import NDArray

from features.compiled import Row, compiled
from features.events import NO_RATING
from features.vocabulary import GENRES, N_GENRES, EventType
from features.windows import DAY_MS, decay

HALF_LIFE_MS = 30 * DAY_MS

FIELDS = np.dtype(
    [
        ("affinity", "f4", (N_GENRES,)),  # signed, decayed to `at_ms`
        ("weight", "f4"),  # sum of absolute weights, decayed to `at_ms`
        ("year_sum", "f8"),  # of watched titles, decayed to `at_ms`
        ("year_square_sum", "f8"),
        ("year_weight", "f8"),
        ("at_ms", "i8"),
    ],
    align=True,
)

COLUMNS = (
    *(
        (f"user_taste_{name.lower().replace('-', '_')}", "-1..1", f"affinity for {name}", 0.0)
        for name in GENRES
    ),
    ("user_taste_weight", "events", "how much is known of the taste, decayed", 0.0),
    ("user_year_mean", "years", "mean year of watched titles, decayed; 0: none known", 0.0),
    ("user_year_deviation", "years", "spread of the year of watched titles", 0.0),
)

# What an event says about liking its title. A rating says (rating - 5) / 5 instead.
WEIGHT_OF_TYPE = np.zeros(len(EventType), np.float32)
for _type, _weight in (
    (EventType.CLICK, 0.2),
    (EventType.PLAY, 0.4),
    (EventType.PROGRESS, 0.1),
    (EventType.COMPLETE, 1.0),
    (EventType.LIKE, 0.8),
    (EventType.DISLIKE, -1.0),
    (EventType.SKIP, -0.3),
    (EventType.ADD, 0.5),
    (EventType.SHARE, 0.8),
    (EventType.SEARCH, 0.2),
):
    WEIGHT_OF_TYPE[_type] = _weight


@compiled
def event_weight(event: Row) -> float:
    """How much an event speaks for (above zero) or against (below) its title, -1..1."""
    if event["rating"] != NO_RATING:
        return float((event["rating"] - 5.0) / 5.0)
    return float(WEIGHT_OF_TYPE[event["type"]])


@compiled
def update(row: Row, event: Row) -> None:
    """Takes one event in; a late one with the weight it has left. O(genres)."""
    weight = event_weight(event)
    if weight == 0.0 or event["genres"] == 0:
        return
    _move_to(row, event["at_ms"])
    weight *= decay(row["at_ms"] - event["at_ms"], HALF_LIFE_MS)
    count = 0
    for slot in range(N_GENRES):
        count += (event["genres"] >> np.uint32(slot)) & 1
    for slot in range(N_GENRES):
        if (event["genres"] >> np.uint32(slot)) & 1:
            row["affinity"][slot] += weight / np.sqrt(count)
    row["weight"] += abs(weight)
    if event["year"] > 0 and weight > 0:
        row["year_sum"] += weight * event["year"]
        row["year_square_sum"] += weight * event["year"] * event["year"]
        row["year_weight"] += weight


@compiled
def _move_to(row: Row, at_ms: int) -> None:
    """Decays everything from the row's own time to `at_ms`, if that is later."""
    if at_ms <= row["at_ms"]:
        return
    left = decay(at_ms - row["at_ms"], HALF_LIFE_MS)
    row["affinity"][:] *= np.float32(left)
    row["weight"] *= np.float32(left)
    row["year_sum"] *= left
    row["year_square_sum"] *= left
    row["year_weight"] *= left
    row["at_ms"] = at_ms


@compiled
def values(row: Row, now_ms: int, out: NDArray[np.float32]) -> None:
    """Writes the columns of COLUMNS into `out`, `(len(COLUMNS),) float32`. Pure."""
    n_named = len(GENRES)
    for slot in range(n_named):
        out[slot] = row["affinity"][slot] / (row["weight"] + 1.0)
    out[n_named] = row["weight"] * decay(now_ms - row["at_ms"], HALF_LIFE_MS)
    out[n_named + 1] = 0.0
    out[n_named + 2] = 0.0
    if row["year_weight"] > 1e-6:
        mean = row["year_sum"] / row["year_weight"]
        out[n_named + 1] = mean
        spread = row["year_square_sum"] / row["year_weight"] - mean * mean
        out[n_named + 2] = np.sqrt(max(spread, 0.0))
