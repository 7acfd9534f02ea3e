"""What a viewer likes: affinity by genre, year band, language and cast, decayed over event time.

Affinities are signed sums of what events say about their titles (`event_weight`), with a half-life
of 30 days, by the hour: everything is brought to the hour of the newest event, and a late event
counts with the weight it has left. Divided by the sum of absolute weights plus one, each lies
within -1..1.

Languages and cast are bounded tables of hashes. A newcomer to a full table takes the place of the
entry with the weakest affinity, above or below zero; among equals, of the one that stands first.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.compiled import Row, compiled
from features.events import N_CAST, NO_RATING
from features.vocabulary import GENRES, N_GENRES, EventType
from features.windows import HOUR_MS, decay

HALF_LIFE_MS = 30 * 24 * HOUR_MS
HALF_LIFE_HOURS = 30.0 * 24.0

YEAR_BANDS = ("before_1940", *(f"{year}s" for year in range(1940, 2030, 10)))
N_BANDS = len(YEAR_BANDS)
N_LANGUAGES = 6
N_CAST_KEPT = 12

FIELDS = np.dtype(
    [
        ("affinity", "f4", (N_GENRES,)),  # signed, decayed to `at_hour`, like everything here
        ("bands", "f4", (N_BANDS,)),  # by year band
        ("languages", "u4", (N_LANGUAGES,)),  # hashes; 0 behind the last
        ("language_affinity", "f4", (N_LANGUAGES,)),
        ("cast", "u4", (N_CAST_KEPT,)),  # hashes; 0 behind the last
        ("cast_affinity", "f4", (N_CAST_KEPT,)),
        ("weight", "f4"),  # sum of absolute weights
        ("at_hour", "i4"),
        ("year_sum", "f8"),  # of watched titles
        ("year_square_sum", "f8"),
        ("year_weight", "f8"),
    ],
    align=True,
)

_DECAYED = "decayed, half-life 30 days"
COLUMNS = (
    *(
        (
            f"user_taste_{name.lower().replace('-', '_')}",
            "-1..1",
            f"affinity for {name}, {_DECAYED}",
            0.0,
        )
        for name in GENRES
    ),
    *(
        (
            f"user_taste_{band}",
            "-1..1",
            f"affinity for titles of years {band.replace('_', ' ')}, {_DECAYED}",
            0.0,
        )
        for band in YEAR_BANDS
    ),
    ("user_taste_weight", "events", f"how much is known of the taste, {_DECAYED}", 0.0),
    ("user_year_mean", "years", f"mean year of watched titles, {_DECAYED}; 0: none known", 0.0),
    ("user_year_deviation", "years", f"spread of the year of watched titles, {_DECAYED}", 0.0),
    ("user_diversity", "0..1", f"entropy of the genres liked; 1: all alike; {_DECAYED}", 0.0),
    ("user_languages_liked", "languages", f"with an affinity above zero, {_DECAYED}", 0.0),
    ("user_language_share", "0..1", f"of the favourite language among those, {_DECAYED}", 0.0),
    ("user_cast_affinity", "0..1", f"affinity for the favourite of the cast, {_DECAYED}", 0.0),
)
_BANDS_AT = len(GENRES)
_WEIGHT_AT = _BANDS_AT + N_BANDS

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

N_AFFINITIES = 4  # of a title: by genre, year band, language, cast


@compiled
def event_weight(event: Row) -> float:
    """How much an event speaks for (above zero) or against (below) its title, -1..1."""
    if event["rating"] != NO_RATING:
        return float((event["rating"] - 5.0) / 5.0)
    return float(WEIGHT_OF_TYPE[event["type"]])


@compiled
def update(row: Row, event: Row) -> None:
    """Takes one event in, if its title is known. O(genres + N_CAST_KEPT)."""
    weight = event_weight(event)
    if weight == 0.0 or not _is_known(event):
        return
    hour = event["at_ms"] // HOUR_MS
    if hour > row["at_hour"]:
        _move_to(row, hour)
    elif hour < row["at_hour"]:
        weight *= decay(row["at_hour"] - hour, HALF_LIFE_HOURS)
    row["weight"] += abs(weight)
    _credit_genres(row["affinity"], event["genres"], weight)
    _credit_year(row, event["year"], weight)
    if event["language"] != 0:
        _credit(row["languages"], row["language_affinity"], event["language"], weight)
    for member in event["cast"]:
        if member == 0:
            break
        _credit(row["cast"], row["cast_affinity"], member, weight)


@compiled
def _is_known(event: Row) -> bool:
    has_sort = event["genres"] != 0 or event["year"] > 0
    return bool(has_sort or event["language"] != 0 or event["cast"][0] != 0)


@compiled
def _move_to(row: Row, hour: int) -> None:
    """Decays everything from the row's own hour to a later one."""
    if row["weight"] > 0.0:
        left = decay(hour - row["at_hour"], HALF_LIFE_HOURS)
        part = np.float32(left)
        for k in range(N_GENRES):
            row["affinity"][k] *= part
        for k in range(N_BANDS):
            row["bands"][k] *= part
        for k in range(N_LANGUAGES):
            row["language_affinity"][k] *= part
        for k in range(N_CAST_KEPT):
            row["cast_affinity"][k] *= part
        row["weight"] *= part
        row["year_sum"] *= left
        row["year_square_sum"] *= left
        row["year_weight"] *= left
    row["at_hour"] = hour


@compiled
def _credit_genres(affinity: NDArray[np.float32], genres: Any, weight: float) -> None:
    """A title of several genres speaks for each a little less."""
    count, left = 0, np.int64(genres)
    while left != 0:
        left &= left - 1
        count += 1
    share = weight / math.sqrt(max(count, 1))
    left, slot = np.int64(genres), 0
    while left != 0:
        if left & 1:
            affinity[slot] += share
        left >>= 1
        slot += 1


@compiled
def _credit_year(row: Row, year: int, weight: float) -> None:
    if year <= 0:
        return
    row["bands"][band_of(year)] += weight
    if weight > 0:
        row["year_sum"] += weight * year
        row["year_square_sum"] += weight * year * year
        row["year_weight"] += weight


@compiled
def band_of(year: int) -> int:
    """Place of a year in YEAR_BANDS: everything before 1940, then decades, the last one open.

    >>> YEAR_BANDS[band_of(1925)], YEAR_BANDS[band_of(1999)], YEAR_BANDS[band_of(2040)]
    ('before_1940', '1990s', '2020s')
    """
    return min(max((year - 1930) // 10, 0), N_BANDS - 1)


@compiled
def _credit(
    keys: NDArray[np.uint32], affinities: NDArray[np.float32], key: Any, weight: float
) -> None:
    """Adds to the affinity of a key, which takes the weakest place if it has none."""
    weakest = 0
    for k in range(len(keys)):
        if keys[k] == key:
            affinities[k] += weight
            return
        if keys[k] == 0:
            weakest = k
            break
        if abs(affinities[k]) < abs(affinities[weakest]):
            weakest = k
    keys[weakest], affinities[weakest] = key, weight


@compiled
def title_affinities(
    taste: Row,
    genres: Any,
    year: int,
    language: Any,
    cast: NDArray[np.uint32],
    out: NDArray[np.float32],
) -> None:
    """The viewer's affinity for a title by genre, year band, language and cast, each -1..1.

    Fills `out`, `(N_AFFINITIES,) float32`; the facts are those of `features.titles.FACTS`. Genres
    and cast are means over those of the title; what the title or the viewer does not have is 0.
    Pure.
    """
    scale = 1.0 / (taste["weight"] + 1.0)
    out[0] = _mean_of_genres(taste["affinity"], genres) * scale
    out[1] = taste["bands"][band_of(year)] * scale if year > 0 else 0.0
    out[2] = affinity_of(taste["languages"], taste["language_affinity"], language) * scale
    total, count = 0.0, 0
    for k in range(N_CAST):
        if cast[k] != 0:
            total += affinity_of(taste["cast"], taste["cast_affinity"], cast[k])
            count += 1
    out[3] = total * scale / max(count, 1)


@compiled
def _mean_of_genres(affinity: NDArray[np.float32], genres: Any) -> float:
    total, count, left, slot = 0.0, 0, np.int64(genres), 0
    while left != 0:
        if left & 1:
            total += affinity[slot]
            count += 1
        left >>= 1
        slot += 1
    return total / max(count, 1)


@compiled
def affinity_of(keys: NDArray[np.uint32], affinities: NDArray[np.float32], key: Any) -> float:
    """Affinity of a key in a table of `FIELDS`; 0 where it is not there. O(keys)."""
    if key != 0:
        for k in range(len(keys)):
            if keys[k] == key:
                return float(affinities[k])
    return 0.0


@compiled
def values(row: Row, now_ms: int, out: NDArray[np.float32]) -> None:
    """Writes the columns of COLUMNS into `out`, `(len(COLUMNS),) float32`. Pure."""
    scale = 1.0 / (row["weight"] + 1.0)
    for slot in range(_BANDS_AT):
        out[slot] = row["affinity"][slot] * scale
    for band in range(N_BANDS):
        out[_BANDS_AT + band] = row["bands"][band] * scale
    at = _WEIGHT_AT
    out[at] = row["weight"] * decay(now_ms // HOUR_MS - row["at_hour"], HALF_LIFE_HOURS)
    out[at + 1 : at + 3] = 0.0
    if row["year_weight"] > 1e-6:
        mean = row["year_sum"] / row["year_weight"]
        out[at + 1] = mean
        spread = row["year_square_sum"] / row["year_weight"] - mean * mean
        out[at + 2] = math.sqrt(max(spread, 0.0))
    out[at + 3] = diversity(row)
    _language_values(row, out[at + 4 : at + 6])
    out[at + 6] = max(row["cast_affinity"].max(), 0.0) * scale


@compiled
def diversity(row: Row) -> float:
    """Normalised entropy of the positive genre affinities, 0..1: 0 for one genre alone, or none."""
    total = 0.0
    for affinity in row["affinity"]:
        total += max(affinity, 0.0)
    if total <= 1e-6:
        return 0.0
    entropy = 0.0
    for affinity in row["affinity"]:
        share = affinity / total
        if share > 0.0:
            entropy -= share * math.log(share)
    return min(max(entropy / math.log(N_GENRES), 0.0), 1.0)


@compiled
def _language_values(row: Row, out: NDArray[np.float32]) -> None:
    """How many languages are liked, and the share of the favourite."""
    count, total, most = 0, 0.0, 0.0
    for affinity in row["language_affinity"]:
        if affinity > 0.0:
            count += 1
            total += affinity
            most = max(most, float(affinity))
    out[0] = count
    out[1] = most / total if total > 0.0 else 0.0
