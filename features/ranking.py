"""What a ranker sees of a viewer and a title: the columns, and the one function that fills them.

The trainer, the evaluation and the server call `assemble` on the same rows and the same matrix, so
a column cannot mean one thing in training and another in an answer.

The columns come from a prototype on MovieTweetings, each group left out in turn: co-visitation was
worth .012 NDCG@20, the viewer's counts and gaps .007, factors and genres .002 each. It was tuned on
the same last fifth that the evaluation replays.
"""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features import item_row
from features.compiled import Row, compiled
from features.user_sessions import SESSION_GAP_MS
from features.viewing_state import N_TITLES
from features.vocabulary import N_GENRES, EventType
from features.windows import DAY_MS, HOUR_MS

# Columns that are those of the title, as the mirror has them.
MIRRORED: Final = (
    "item_engaged_24h", "item_engaged_3d", "item_engaged_7d", "item_engaged_total",
    "item_trend_6h", "item_trend_1d", "item_trend_3d", "item_acceleration",
    "item_click_rate", "item_completion_rate", "item_like_share", "item_rating_mean",
    "item_days_known", "item_idle_days",
)  # fmt: skip
_DESCRIBED_ITEMS = {name: (name, unit, text) for name, unit, text, _ in item_row.COLUMNS}

DESCRIBED_COLUMNS: Final = (
    *(_DESCRIBED_ITEMS[name] for name in MIRRORED),
    ("rank_trending", "rank", "place among titles by one-day trend; 600: not listed"),
    ("rank_week", "rank", "place among titles by engagement of the week; 600: not listed"),
    ("rank_total", "rank", "place among titles by engagement ever; 600: not listed"),
    ("title_age", "years", "before the newest year of the training data; -1: unknown"),
    ("viewer_events", "events", "of the viewer ever, impressions aside"),
    ("viewer_titles_1d", "titles", f"of the last {N_TITLES} touched within a day"),
    ("viewer_titles_7d", "titles", f"of the last {N_TITLES} touched within a week"),
    ("viewer_idle_hours", "hours", "since the viewer's last event; 8760 at most"),
    ("viewer_session_events", "events", "in the current session"),
    ("viewer_rating_mean", "0..10", "of the ratings given; 0: none"),
    ("viewer_age_mean", "ln years", "of the last titles' ages, newest weighted most"),
    ("viewer_age_deviation", "ln years", "of the same"),
    ("viewer_new_share", "0..1", "of the last titles at most a year old"),
    ("viewer_popularity_mean", "ln events", "of the last titles' engagement ever"),
    ("als", "score", "product of the viewer's and the title's factors"),
    ("covisitation", "share", "of viewers of the last titles who touched this one"),
    ("covisitation_cosine", "cosine", "the same, against the title's own popularity"),
    ("covisitation_last", "share", "of viewers of the very last title who touched this one"),
    ("covisitation_titles", "titles", "of the last ones that lead to this one"),
    ("genre_affinity", "-1..1", "the viewer's mean affinity for the title's genres"),
    ("genre_overlap_last", "0..1", "genres that the last title shares"),
    ("age_beyond_usual", "ln years", "age against that of the viewer's titles"),
    ("age_beyond_last", "ln years", "age against that of the last title"),
    ("popularity_beyond_usual", "ln events", "popularity against that of the viewer's titles"),
    ("popularity_beyond_last", "ln events", "popularity against that of the last title"),
)  # fmt: skip
RANKING_COLUMNS: Final = tuple(name for name, _, _ in DESCRIBED_COLUMNS)
N_COLUMNS: Final = len(RANKING_COLUMNS)

# What candidate sources say of a candidate: columns of `scores`, in the order of RANKING_COLUMNS.
ALS, COVISITATION, COVISITATION_COSINE, COVISITATION_LAST, COVISITATION_TITLES = range(5)
N_SCORES: Final = 5

N_LISTED: Final = 600  # titles of a hot list; the rank of every other title
RANK_TRENDING, RANK_WEEK, RANK_TOTAL = range(3)
N_RANKS: Final = 3

HISTORY_DECAY: Final = 0.93  # weight of a title against that of the one after it
NEW_YEARS: Final = 1.0
MOST_IDLE_HOURS: Final = 8_760.0

_MIRRORED_PLACES = np.array([item_row.NAMES.index(name) for name in MIRRORED], np.int64)
_ENGAGED_TOTAL = item_row.NAMES.index("item_engaged_total")
_RANKS_AT = len(MIRRORED)
_AGE_AT = _RANKS_AT + N_RANKS
_VIEWER_AT = _AGE_AT + 1
_SCORES_AT = RANKING_COLUMNS.index("als")
_GENRES_AT = _SCORES_AT + N_SCORES

# Places in a viewer's context: the viewer columns, then what pairs are compared with.
_N_VIEWER = _SCORES_AT - _VIEWER_AT
_AGE_MEAN, _POPULARITY_MEAN = 6, 9
_AGE_LAST, _POPULARITY_LAST = _N_VIEWER, _N_VIEWER + 1
_N_CONTEXT = _N_VIEWER + 2

Floats = NDArray[np.float32]
Slots = NDArray[Any]  # (n,) int32 or int64


@compiled
def assemble(
    row: Row,
    now_ms: int,
    history: Slots,
    candidates: Slots,
    scores: Floats,
    values: Floats,
    ranks: NDArray[np.int16],
    years: NDArray[np.int16],
    genres: NDArray[np.uint32],
    latest_year: int,
    out: Floats,
) -> None:
    """Fills `out`, `(n_candidates, N_COLUMNS) float32`, for one viewer. Pure; about 0.2 us a row.

    `row` is the viewer's USER_ROW record; `history`, `(N_TITLES,)`, has the catalogue slots of
    the titles in `row["viewing"]`, -1 for an unknown one. `candidates` are slots, `scores`
    `(n_candidates, N_SCORES)` what their sources said. By slot: `values` the mirror, `ranks`
    `(N_RANKS, n_items)`, `years` and `genres` (masks) of the catalogue. Ages are counted from
    `latest_year`, a constant of the bundle: replayed history keeps its ages whatever the clock.
    """
    context = np.zeros(_N_CONTEXT, np.float64)
    last = _fill_context(row, now_ms, history, values, years, latest_year, context)
    last_genres = genres[last] if last >= 0 else np.uint32(0)
    taste = row["taste"]
    for i in range(len(candidates)):
        slot = candidates[i]
        _fill_title(slot, values, ranks, out[i])
        age = _age(years[slot], latest_year)
        out[i, _AGE_AT] = age
        for k in range(_N_VIEWER):
            out[i, _VIEWER_AT + k] = context[k]
        for k in range(N_SCORES):
            out[i, _SCORES_AT + k] = scores[i, k]
        _fill_genres(taste, genres[slot], last_genres, out[i])
        log_age = math.log1p(max(age, 0.0))
        popularity = math.log1p(values[slot, _ENGAGED_TOTAL])
        out[i, _GENRES_AT + 2] = log_age - context[_AGE_MEAN]
        out[i, _GENRES_AT + 3] = log_age - context[_AGE_LAST]
        out[i, _GENRES_AT + 4] = popularity - context[_POPULARITY_MEAN]
        out[i, _GENRES_AT + 5] = popularity - context[_POPULARITY_LAST]


@compiled
def _age(year: int, latest_year: int) -> float:
    """Years before the latest; -1 for a title without a year. A later one is of age zero."""
    return max(float(latest_year - year), 0.0) if year > 0 else -1.0


@compiled
def _fill_title(slot: int, values: Floats, ranks: NDArray[np.int16], out: Floats) -> None:
    for k in range(len(_MIRRORED_PLACES)):
        out[k] = values[slot, _MIRRORED_PLACES[k]]
    for k in range(N_RANKS):
        out[_RANKS_AT + k] = ranks[k, slot]


@compiled
def _fill_genres(taste: Row, genres: Any, last_genres: Any, out: Floats) -> None:
    """`genres` and `last_genres` are masks, uint32."""
    total, count, shared = 0.0, 0, np.uint32(0)
    for slot in range(N_GENRES):
        if (genres >> np.uint32(slot)) & np.uint32(1):
            total += taste["affinity"][slot]
            count += 1
            shared += (last_genres >> np.uint32(slot)) & np.uint32(1)
    out[_GENRES_AT] = total / (count * (taste["weight"] + 1.0)) if count > 0 else 0.0
    out[_GENRES_AT + 1] = shared / count if count > 0 else 0.0


@compiled
def _fill_context(
    row: Row,
    now_ms: int,
    history: Slots,
    values: Floats,
    years: NDArray[np.int16],
    latest_year: int,
    context: NDArray[np.float64],
) -> int:
    """Fills what is the same for all candidates; the slot of the last known title, or -1."""
    _fill_counts(row, now_ms, context)
    last = -1
    weight, total, ages, squares, new, popularity = 1.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(len(history)):
        slot = history[k]
        if slot < 0:
            continue
        age = _age(years[slot], latest_year)
        log_age = math.log1p(max(age, 0.0))
        log_popularity = math.log1p(values[slot, _ENGAGED_TOTAL])
        if last < 0:
            last = slot
            context[_AGE_LAST], context[_POPULARITY_LAST] = log_age, log_popularity
        total += weight
        ages += weight * log_age
        squares += weight * log_age * log_age
        popularity += weight * log_popularity
        new += weight if 0.0 <= age <= NEW_YEARS else 0.0
        weight *= HISTORY_DECAY
    if total > 0.0:
        mean = ages / total
        context[_AGE_MEAN] = mean
        context[_AGE_MEAN + 1] = math.sqrt(max(squares / total - mean * mean, 0.0))
        context[_AGE_MEAN + 2] = new / total
        context[_POPULARITY_MEAN] = popularity / total
    return last


@compiled
def _fill_counts(row: Row, now_ms: int, context: NDArray[np.float64]) -> None:
    activity, titles = row["activity"], row["viewing"]["titles"]
    events = 0
    for count in activity["totals"]:
        events += count
    context[0] = events - activity["totals"][EventType.IMPRESSION - 1]
    for k in range(N_TITLES):
        if titles[k]["item"] == 0:
            break
        age_ms = now_ms - np.int64(titles[k]["at_s"]) * 1_000
        context[1] += age_ms < DAY_MS
        context[2] += age_ms < 7 * DAY_MS
    idle_ms = max(now_ms - activity["last_ms"], 0)
    context[3] = min(idle_ms / HOUR_MS, MOST_IDLE_HOURS)
    context[4] = row["sessions"]["events"] if idle_ms <= SESSION_GAP_MS else 0
    ratings = activity["rating_count"]
    context[5] = activity["rating_sum_tenths"] / (10.0 * ratings) if ratings > 0 else 0.0
