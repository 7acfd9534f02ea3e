"""What a ranker sees of a viewer and a title: the columns, and the one function that fills them.

The trainer, the evaluation and the server call `assemble` on the same rows and the same matrix, so
a column cannot mean one thing in training and another in an answer.

The core of the columns comes from a prototype on MovieTweetings, each group left out in turn:
co-visitation was worth .012 NDCG@20, the viewer's counts and gaps .007, factors and genres .002
each. It was tuned on the same last fifth that the evaluation replays.
"""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features import item_row, popularity, user_row
from features.compiled import Row, Rows, compiled
from features.events import N_CAST
from features.user_activity import PRIOR_RATING_TENTHS, PRIOR_RATINGS
from features.user_habits import N_HOURS, active_days, completion_habit, stage
from features.user_sessions import BINGE, FOCUSED, SESSION_GAP_MS, is_next_episode, mode
from features.user_taste import N_AFFINITIES, affinity_of, band_of, diversity
from features.viewing_state import FRACTION_STEPS, N_TITLES
from features.vocabulary import N_GENRES, EventType
from features.windows import DAY_MS, HOUR_MS

# Columns that are those of the title, as the mirror has them.
MIRRORED: Final = (
    "item_engaged_24h", "item_engaged_3d", "item_engaged_7d", "item_engaged_total",
    "item_trend_6h", "item_trend_1d", "item_trend_3d", "item_acceleration",
    "item_click_rate", "item_completion_rate", "item_like_share", "item_rating_mean",
    "item_days_known", "item_idle_days", "item_trending", "item_rating_low",
    "item_impressions_24h",
)  # fmt: skip
# Columns that are those of the viewer, under the name and with the value of the viewer's row.
OF_USER_ROW: Final = (
    "user_diversity", "user_completion_habit", "user_session_focused", "user_session_binge",
    "user_active_days_28d",
)  # fmt: skip
_DESCRIBED = {
    name: (name, unit, text) for name, unit, text, _ in (*item_row.COLUMNS, *user_row.COLUMNS)
}

N_LISTED: Final = 1_000  # titles of a hot list; the rank of every other title

# Where a title stands among all titles: columns of `standings`, in the order of RANKING_COLUMNS.
RANK_TRENDING, RANK_WEEK, RANK_TOTAL, RANK_TREND_3D, POPULARITY_RANK, PERCENTILE, LONG_TAIL = range(
    7
)
N_RANKS: Final = 4  # the first of them are places in hot lists
STANDINGS: Final = (
    ("rank_trending", "rank", f"place among titles by one-day trend; {N_LISTED}: not listed"),
    ("rank_week", "rank", f"place among titles by engagement of the week; {N_LISTED}: not listed"),
    ("rank_total", "rank", f"place among titles by engagement ever; {N_LISTED}: not listed"),
    ("rank_trend_3d", "rank", f"place among titles by three-day trend; {N_LISTED}: not listed"),
    *((name, unit, text) for name, unit, text, _ in popularity.COLUMNS),
)
N_STANDINGS: Final = len(STANDINGS)

DESCRIBED_COLUMNS: Final = (
    *(_DESCRIBED[name] for name in MIRRORED),
    *STANDINGS,
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
    ("viewer_long_tail_share", "0..1", "of the last titles of the long tail: novelty appetite"),
    ("viewer_known_mean", "ln days", "that the last titles had been known when touched"),
    ("viewer_hour_match", "ratio", "events in this hour of the day, smoothed; 1: as in any"),
    ("viewer_stage", "0, 1, 2", "stage of life: new, regular, power"),
    *(_DESCRIBED[name] for name in OF_USER_ROW),
    ("als", "score", "product of the viewer's and the title's factors"),
    ("covisitation", "share", "of viewers of the last titles who touched this one"),
    ("covisitation_cosine", "cosine", "the same, against the title's own popularity"),
    ("covisitation_last", "share", "of viewers of the very last title who touched this one"),
    ("covisitation_titles", "titles", "of the last ones that lead to this one"),
    ("covisitation_relative", "0..1", "covisitation against the largest of any title now"),
    ("genre_affinity", "-1..1", "the viewer's mean affinity for the title's genres"),
    ("year_affinity", "-1..1", "the viewer's affinity for the title's decade"),
    ("language_affinity", "-1..1", "the viewer's affinity for the title's language"),
    ("cast_affinity", "-1..1", "the viewer's mean affinity for the title's cast"),
    ("genre_overlap_last", "0..1", "genres that the last title shares"),
    ("age_beyond_usual", "ln years", "age against that of the viewer's titles"),
    ("age_beyond_last", "ln years", "age against that of the last title"),
    ("popularity_beyond_usual", "ln events", "popularity against that of the viewer's titles"),
    ("popularity_beyond_last", "ln events", "popularity against that of the last title"),
    ("recency_match", "ln days", "known for, against the viewer's titles when touched"),
    ("quality_match", "-10..10", "mean rating against that of the viewer, smoothed towards 7"),
    ("novelty_match", "0..1", "last titles of the same side, long tail or head; 0: no titles"),
    ("seen_before", "0 or 1", f"among the last {N_TITLES} titles that the viewer touched"),
    ("seen_fraction", "0..1", "watched share of it, if it is"),
    ("seen_alike", "0..1", "last titles that share a genre with it"),
    ("seen_of_series", "titles", "of the last ones that are of its series"),
    ("is_next_episode", "0 or 1", "right after the episode of its series touched last"),
    ("cast_of_last", "0 or 1", "shares a member of the cast with the last title"),
    ("seen_of_cast", "titles", "of the last ones that share a member of the cast"),
    ("seen_of_year", "0..1", "weight of the last titles that are of its year, newest most"),
)  # fmt: skip
RANKING_COLUMNS: Final = tuple(name for name, _, _ in DESCRIBED_COLUMNS)
N_COLUMNS: Final = len(RANKING_COLUMNS)

# What candidate sources say of a candidate: columns of `scores`, in the order of RANKING_COLUMNS.
ALS, COVISITATION, COVISITATION_COSINE, COVISITATION_LAST, COVISITATION_TITLES = range(5)
COVISITATION_RELATIVE: Final = 5
N_SCORES: Final = 6

HISTORY_DECAY: Final = 0.93  # weight of a title against that of the one after it
NEW_YEARS: Final = 1.0
MOST_IDLE_HOURS: Final = 8_760.0

_MIRRORED_PLACES = np.array([item_row.NAMES.index(name) for name in MIRRORED], np.int64)
_ENGAGED_TOTAL = item_row.NAMES.index("item_engaged_total")
_DAYS_KNOWN = item_row.NAMES.index("item_days_known")
_RATING_MEAN = item_row.NAMES.index("item_rating_mean")
_STANDINGS_AT = len(MIRRORED)
_AGE_AT = _STANDINGS_AT + N_STANDINGS
_VIEWER_AT = _AGE_AT + 1
_SCORES_AT = RANKING_COLUMNS.index("als")
_AFFINITIES_AT = _SCORES_AT + N_SCORES
_OVERLAP_AT = _AFFINITIES_AT + N_AFFINITIES
_BEYOND_AT = _OVERLAP_AT + 1
_SEEN_AT = RANKING_COLUMNS.index("seen_before")

# Places in a viewer's context: the viewer columns, then what pairs are compared with.
_N_VIEWER = _SCORES_AT - _VIEWER_AT
_AGE_MEAN, _AGE_DEVIATION, _NEW_SHARE, _POPULARITY_MEAN, _TAIL_SHARE, _KNOWN_MEAN = range(6, 12)
_HOUR_MATCH, _STAGE, _DIVERSITY, _COMPLETION, _FOCUSED, _BINGE, _ACTIVE_DAYS = range(12, 19)
_AGE_LAST, _POPULARITY_LAST, _RATING, _HEAD_SHARE = range(_N_VIEWER, _N_VIEWER + 4)
_N_CONTEXT = _N_VIEWER + 4

# What is kept of each of the viewer's last titles that the catalogue knows, newest first.
_SLOT, _PLACE, _GENRES, _SERIES, _EPISODE = range(5)
_N_KEPT = 5
N_PARTS: Final = N_GENRES // 4  # a mask of genres is looked up by four bits at a time
N_CAST_MARKS: Final = 4_096  # a power of two: members of a cast by their lowest bits
N_YEARS: Final = 256
FIRST_YEAR: Final = 1_850  # years before it, and after the last, stand with the outermost

Floats = NDArray[np.float32]
Slots = NDArray[Any]  # (n,) int32 or int64
Past = NDArray[np.int64]  # (_N_KEPT, n_known)


@compiled
def assemble(
    rows: Rows,
    now_ms: int,
    history: Slots,
    candidates: Slots,
    scores: Floats,
    values: Floats,
    standings: Floats,
    facts: Rows,
    latest_year: int,
    out: Floats,
) -> None:
    """Fills `out`, `(n_candidates, N_COLUMNS) float32`, for one viewer. Pure; about 0.3 us a row.

    `rows`, `(1,)`, has the viewer's USER_ROW record: an array of one, since a record alone costs
    10 to 20 us on its way into compiled code, an array less than one. `history`, `(N_TITLES,)`,
    has the catalogue slots of the titles in its `viewing`, -1 for an unknown one. `candidates` are
    slots, `scores` `(n_candidates, N_SCORES)` what their sources said. By slot: `values` the
    mirror, `standings` `(n_items, N_STANDINGS)`, `facts` `(n_items,) titles.FACTS`. Ages count
    from `latest_year`, a constant of the bundle: replayed history keeps its ages whatever the
    clock.
    """
    row = rows[0]
    context = np.zeros(_N_CONTEXT, np.float64)
    _fill_viewer(row, now_ms, context)
    past = _past_of(history, facts)
    _fill_tastes(row, now_ms, past, values, standings, facts, latest_year, context)
    taste, titles = row["taste"], row["viewing"]["titles"]
    sums, cast_marks = _sums_of_genres(taste["affinity"]), _marks_of(taste["cast"])
    titles_of_genre = _past_of_genres(past)
    titles_of_cast, of_year = _past_of_casts(past, facts), _past_of_years(past, facts)
    last_genres = past[_GENRES, 0] if past.shape[1] > 0 else np.int64(0)
    for i in range(len(candidates)):
        slot, found = candidates[i], out[i]
        fact = facts[slot]
        _fill_title(slot, values, standings, found)
        found[_AGE_AT] = _age(fact["year"], latest_year)
        for k in range(_N_VIEWER):
            found[_VIEWER_AT + k] = context[k]
        for k in range(N_SCORES):
            found[_SCORES_AT + k] = scores[i, k]
        _fill_affinities(taste, sums, titles_of_genre, cast_marks, fact, last_genres, found)
        _fill_matches(slot, values, context, found)
        _fill_seen(slot, fact, past, titles, found)
        _fill_kin(fact, titles_of_cast, of_year, found)


@compiled
def _age(year: int, latest_year: int) -> float:
    """Years before the latest; -1 for a title without a year. A later one is of age zero."""
    return max(float(latest_year - year), 0.0) if year > 0 else -1.0


@compiled
def _ln1p(x: float) -> float:
    """Half the time of `math.log1p`, which is for numbers near zero; these are whole, or days."""
    return math.log(1.0 + x)


@compiled
def _fill_title(slot: int, values: Floats, standings: Floats, out: Floats) -> None:
    for k in range(len(_MIRRORED_PLACES)):
        out[k] = values[slot, _MIRRORED_PLACES[k]]
    for k in range(N_STANDINGS):
        out[_STANDINGS_AT + k] = standings[slot, k]


@compiled
def _sums_of_genres(affinity: Floats) -> NDArray[np.float64]:
    """`(N_PARTS, 16)`: of each four bits of a mask, the sum of the affinities of those set."""
    sums = np.zeros((N_PARTS, 16), np.float64)
    for part in range(N_PARTS):
        for bits in range(1, 16):
            sums[part, bits] = sums[part, bits & (bits - 1)] + affinity[4 * part + _lowest(bits)]
    return sums


@compiled
def _past_of_genres(past: Past) -> NDArray[np.int64]:
    """`(N_PARTS, 16)`: of each four bits of a mask, the last titles that have one of them.

    Bit k stands for the title at place k of `past`, of which there are 32 at most.
    """
    titles = np.zeros((N_PARTS, 16), np.int64)
    for k in range(past.shape[1]):
        for slot in range(N_GENRES):
            if (past[_GENRES, k] >> slot) & 1:
                titles[slot // 4, 1 << (slot % 4)] |= 1 << k
    for part in range(N_PARTS):
        for bits in range(1, 16):
            rest = bits & (bits - 1)
            titles[part, bits] = titles[part, rest] | titles[part, bits ^ rest]
    return titles


@compiled
def _past_of_casts(past: Past, facts: Rows) -> NDArray[np.int64]:
    """`(N_CAST_MARKS,)`: for the lowest bits of a member of a cast, the last titles that have one.

    Bit k stands for the title at place k of `past`. Two members share a mark once in 4,096 pairs.
    """
    titles = np.zeros(N_CAST_MARKS, np.int64)
    for k in range(past.shape[1]):
        cast = facts[past[_SLOT, k]]["cast"]
        for place in range(N_CAST):
            if cast[place] == 0:
                break
            titles[cast[place] & np.uint32(N_CAST_MARKS - 1)] |= 1 << k
    return titles


@compiled
def _past_of_years(past: Past, facts: Rows) -> NDArray[np.float64]:
    """`(N_YEARS,)` of each year the weight of the last titles that are of it; 1 all together."""
    weights = np.zeros(N_YEARS, np.float64)
    weight, total = 1.0, 0.0
    for k in range(past.shape[1]):
        year = facts[past[_SLOT, k]]["year"]
        if year > 0:
            weights[_place_of_year(year)] += weight
        total += weight
        weight *= HISTORY_DECAY
    if total > 0.0:
        weights /= total
    return weights


@compiled
def _place_of_year(year: int) -> int:
    return int(min(max(year - FIRST_YEAR, 0), N_YEARS - 1))


@compiled
def _lowest(bits: int) -> int:
    """Place of the lowest set bit of four."""
    lowest = bits & -bits
    return (lowest > 1) + (lowest > 2) + (lowest > 4)


@compiled
def _marks_of(keys: NDArray[np.uint32]) -> np.uint64:
    """64 bits, that of each key set: most keys that are not among these are known by their bit."""
    marks = np.uint64(0)
    for key in keys:
        if key != 0:
            marks |= np.uint64(1) << np.uint64(key & np.uint32(63))
    return marks


@compiled
def _fill_affinities(
    taste: Row,
    sums: NDArray[np.float64],
    titles_of_genre: NDArray[np.int64],
    cast_marks: np.uint64,
    fact: Row,
    last_genres: np.int64,
    out: Floats,
) -> None:
    """As `user_taste.title_affinities`, with what is the same for all titles worked out before.

    Without branches over genres: masks differ from title to title, and a wrong guess at each bit
    costs more than all else here.
    """
    scale = 1.0 / (taste["weight"] + 1.0)
    mask, year = np.int64(fact["genres"]), fact["year"]
    total, alike = 0.0, np.int64(0)
    for part in range(N_PARTS):
        bits = (mask >> (4 * part)) & 15
        total += sums[part, bits]
        alike |= titles_of_genre[part, bits]
    count = max(_count_bits(mask), 1)
    out[_AFFINITIES_AT] = total * scale / count
    out[_SEEN_AT + 2] = _count_bits(alike)  # the share of it is made where they are counted
    out[_AFFINITIES_AT + 1] = taste["bands"][band_of(year)] * scale if year > 0 else 0.0
    languages, language_affinity = taste["languages"], taste["language_affinity"]
    out[_AFFINITIES_AT + 2] = affinity_of(languages, language_affinity, fact["language"]) * scale
    out[_AFFINITIES_AT + 3] = _affinity_for_cast(taste, cast_marks, fact["cast"]) * scale
    out[_OVERLAP_AT] = _count_bits(mask & last_genres) / count


@compiled
def _affinity_for_cast(taste: Row, marks: np.uint64, cast: NDArray[np.uint32]) -> float:
    total, count = 0.0, 0
    for k in range(N_CAST):
        if cast[k] == 0:
            break
        count += 1
        if (marks >> np.uint64(cast[k] & np.uint32(63))) & np.uint64(1):
            total += affinity_of(taste["cast"], taste["cast_affinity"], cast[k])
    return total / max(count, 1)


@compiled
def _count_bits(mask: np.int64) -> int:
    """Bits of a 32-bit mask: summed in pairs, in fours, and so on."""
    mask -= (mask >> 1) & 0x55555555
    mask = (mask & 0x33333333) + ((mask >> 2) & 0x33333333)
    mask = (mask + (mask >> 4)) & 0x0F0F0F0F
    return int((mask * 0x01010101 >> 24) & 0xFF)


@compiled
def _fill_matches(slot: int, values: Floats, context: NDArray[np.float64], out: Floats) -> None:
    """How the title compares with what is usual for the viewer; its age is in `out` already."""
    log_age = _ln1p(max(out[_AGE_AT], 0.0))
    popular = _ln1p(values[slot, _ENGAGED_TOTAL])
    out[_BEYOND_AT] = log_age - context[_AGE_MEAN]
    out[_BEYOND_AT + 1] = log_age - context[_AGE_LAST]
    out[_BEYOND_AT + 2] = popular - context[_POPULARITY_MEAN]
    out[_BEYOND_AT + 3] = popular - context[_POPULARITY_LAST]
    out[_BEYOND_AT + 4] = _ln1p(values[slot, _DAYS_KNOWN]) - context[_KNOWN_MEAN]
    out[_BEYOND_AT + 5] = values[slot, _RATING_MEAN] - context[_RATING]
    is_tail = out[_STANDINGS_AT + LONG_TAIL] > 0.0
    out[_BEYOND_AT + 6] = context[_TAIL_SHARE] if is_tail else context[_HEAD_SHARE]


@compiled
def _fill_seen(slot: int, fact: Row, past: Past, titles: Rows, out: Floats) -> None:
    """Whether the title is among the viewer's last ones, and how many of these are like it."""
    n = past.shape[1]
    out[_SEEN_AT], out[_SEEN_AT + 1] = 0.0, 0.0
    for k in range(n):
        if past[_SLOT, k] == slot:
            out[_SEEN_AT] = 1.0
            out[_SEEN_AT + 1] = titles[past[_PLACE, k]]["fraction"] / FRACTION_STEPS
    out[_SEEN_AT + 2] /= max(n, 1)
    out[_SEEN_AT + 3], out[_SEEN_AT + 4] = 0.0, 0.0
    if fact["series"] != 0:
        _fill_series(fact, past, out)


@compiled
def _fill_kin(
    fact: Row, titles_of_cast: NDArray[np.int64], of_year: NDArray[np.float64], out: Floats
) -> None:
    """Which of the viewer's last titles are of its cast or its year."""
    cast, titles = fact["cast"], np.int64(0)
    for k in range(N_CAST):
        if cast[k] == 0:
            break
        titles |= titles_of_cast[cast[k] & np.uint32(N_CAST_MARKS - 1)]
    out[_SEEN_AT + 5] = titles & 1
    out[_SEEN_AT + 6] = _count_bits(titles)
    out[_SEEN_AT + 7] = of_year[_place_of_year(fact["year"])] if fact["year"] > 0 else 0.0


@compiled
def _fill_series(fact: Row, past: Past, out: Floats) -> None:
    count, series = 0, np.int64(fact["series"])
    for k in range(past.shape[1]):
        if past[_SERIES, k] == series:
            if count == 0 and is_next_episode(int(past[_EPISODE, k]), fact["episode"]):
                out[_SEEN_AT + 4] = 1.0
            count += 1
    out[_SEEN_AT + 3] = count


@compiled
def _past_of(history: Slots, facts: Rows) -> Past:
    """`(_N_KEPT, n_known)`: what is needed of the viewer's last titles that are known."""
    past, n = np.zeros((_N_KEPT, len(history)), np.int64), 0
    for place in range(len(history)):
        if history[place] >= 0:
            fact = facts[history[place]]
            past[_SLOT, n], past[_PLACE, n] = history[place], place
            past[_GENRES, n] = fact["genres"]
            past[_SERIES, n], past[_EPISODE, n] = fact["series"], fact["episode"]
            n += 1
    return past[:, :n].copy()


@compiled
def _fill_tastes(
    row: Row,
    now_ms: int,
    past: Past,
    values: Floats,
    standings: Floats,
    facts: Rows,
    latest_year: int,
    context: NDArray[np.float64],
) -> None:
    """Fills what the viewer's last known titles say of the viewer; zeros where there is none."""
    titles = row["viewing"]["titles"]
    weight, total = 1.0, 0.0
    ages, squares, new, popular, tail, known = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(past.shape[1]):
        slot = past[_SLOT, k]
        age = _age(facts[slot]["year"], latest_year)
        log_age = _ln1p(max(age, 0.0))
        log_popularity = _ln1p(values[slot, _ENGAGED_TOTAL])
        if k == 0:
            context[_AGE_LAST], context[_POPULARITY_LAST] = log_age, log_popularity
        days = _days_since(titles[past[_PLACE, k]]["at_s"], now_ms)
        total += weight
        ages += weight * log_age
        squares += weight * log_age * log_age
        popular += weight * log_popularity
        known += weight * _ln1p(max(values[slot, _DAYS_KNOWN] - days, 0.0))
        new += weight if 0.0 <= age <= NEW_YEARS else 0.0
        tail += weight if standings[slot, LONG_TAIL] > 0.0 else 0.0
        weight *= HISTORY_DECAY
    if total > 0.0:
        mean = ages / total
        context[_AGE_MEAN] = mean
        context[_AGE_DEVIATION] = math.sqrt(max(squares / total - mean * mean, 0.0))
        context[_NEW_SHARE] = new / total
        context[_POPULARITY_MEAN] = popular / total
        context[_TAIL_SHARE] = tail / total
        context[_HEAD_SHARE] = (total - tail) / total
        context[_KNOWN_MEAN] = known / total


@compiled
def _days_since(at_s: Any, now_ms: int) -> float:
    return (now_ms - np.int64(at_s) * 1_000) / DAY_MS


@compiled
def _fill_viewer(row: Row, now_ms: int, context: NDArray[np.float64]) -> None:
    """Fills what the viewer's row says without regard to titles."""
    _fill_counts(row, now_ms, context)
    habits = row["habits"]
    context[_HOUR_MATCH] = _hour_match(habits["hours"], now_ms)
    context[_STAGE] = stage(habits, now_ms)
    context[_DIVERSITY] = diversity(row["taste"])
    context[_COMPLETION] = completion_habit(habits)
    now = mode(row["sessions"], now_ms)
    context[_FOCUSED], context[_BINGE] = now == FOCUSED, now == BINGE
    context[_ACTIVE_DAYS] = active_days(habits, now_ms)


@compiled
def _hour_match(hours: NDArray[np.uint8], now_ms: int) -> float:
    """Share of the events in the hour of now, times 24, as if each hour had one more."""
    total = 0
    for count in hours:
        total += count
    return float(N_HOURS * (hours[now_ms // HOUR_MS % N_HOURS] + 1.0) / (total + N_HOURS))


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
    smoothed = activity["rating_sum_tenths"] + PRIOR_RATING_TENTHS * PRIOR_RATINGS
    context[_RATING] = smoothed / (10.0 * (ratings + PRIOR_RATINGS))
