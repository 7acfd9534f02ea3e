"""The few columns that a first look at a thousand candidates needs, and what fills them.

A choice of `features.ranking` by name, with the same values (a test holds them together): trends
and counts of the title, its places in hot lists, what candidate sources said, the viewer's affinity
for its genres, seen or next. Filled by column, as trees read them; 46 us for 1,000 titles, where
all columns take 190 (benchmarks/cheap.py, beside other work on the same two cores).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features import item_row
from features.compiled import Row, Rows, compiled
from features.ranking import (
    N_PARTS,
    RANKING_COLUMNS,
    STANDINGS,
    Floats,
    Past,
    Slots,
    _age,
    _count_bits,
    _past_of,
    _sums_of_genres,
)
from features.user_sessions import is_next_episode

OF_TITLE: Final = (
    "item_engaged_7d", "item_engaged_total", "item_trend_6h", "item_trend_1d", "item_days_known",
)  # fmt: skip
OF_STANDINGS: Final = ("rank_trending", "rank_week")
OF_SCORES: Final = ("als", "covisitation", "covisitation_cosine", "covisitation_last")
OF_PAIR: Final = ("title_age", "genre_affinity", "seen_before", "is_next_episode")
CHEAP_COLUMNS: Final = (*OF_TITLE, *OF_STANDINGS, *OF_SCORES, *OF_PAIR)
N_CHEAP: Final = len(CHEAP_COLUMNS)
CHEAP_PLACES: Final = np.array([RANKING_COLUMNS.index(name) for name in CHEAP_COLUMNS], np.int64)

_TITLE_PLACES = np.array([item_row.NAMES.index(name) for name in OF_TITLE], np.int64)
_STANDING_NAMES = [name for name, _, _ in STANDINGS]
_STANDING_PLACES = np.array([_STANDING_NAMES.index(name) for name in OF_STANDINGS], np.int64)
_FIRST_SCORE = RANKING_COLUMNS.index("als")
_SCORE_PLACES = np.array([RANKING_COLUMNS.index(n) - _FIRST_SCORE for n in OF_SCORES], np.int64)
_STANDINGS_AT = len(OF_TITLE)
_SCORES_AT = _STANDINGS_AT + len(OF_STANDINGS)
_PAIR_AT = _SCORES_AT + len(OF_SCORES)

_SLOT, _SERIES, _EPISODE = 0, 3, 4  # rows of Past
_N_MARKS = 1_024


@compiled
def assemble_cheap(
    rows: Rows,
    history: Slots,
    candidates: Slots,
    scores: Floats,
    values: Floats,
    standings: Floats,
    facts: Rows,
    latest_year: int,
    out: Floats,
) -> None:
    """Fills `out`, `(N_CHEAP, n_candidates) float32`, for one viewer; arguments as of `assemble`.

    Pure; O(candidates).
    """
    row = rows[0]
    past = _past_of(history, facts)
    sums, scale = _sums_of_genres(row["taste"]["affinity"]), 1.0 / (row["taste"]["weight"] + 1.0)
    _fill_titles(candidates, values, standings, out)
    for k in range(len(_SCORE_PLACES)):
        for i in range(len(candidates)):
            out[_SCORES_AT + k, i] = scores[i, _SCORE_PLACES[k]]
    _fill_pairs(candidates, facts, latest_year, past, sums, scale, out)


@compiled
def _fill_titles(candidates: Slots, values: Floats, standings: Floats, out: Floats) -> None:
    """Two loops that do little but wait for memory, so that they wait for many rows at once."""
    for i in range(len(candidates)):
        slot = candidates[i]
        for k in range(len(_TITLE_PLACES)):
            out[k, i] = values[slot, _TITLE_PLACES[k]]
    for i in range(len(candidates)):
        slot = candidates[i]
        for k in range(len(_STANDING_PLACES)):
            out[_STANDINGS_AT + k, i] = standings[slot, _STANDING_PLACES[k]]


@compiled
def _fill_pairs(
    candidates: Slots,
    facts: Rows,
    latest_year: int,
    past: Past,
    sums: NDArray[np.float64],
    scale: float,
    out: Floats,
) -> None:
    marks = _marks_of_slots(past)
    for i in range(len(candidates)):
        slot = candidates[i]
        fact = facts[slot]
        out[_PAIR_AT, i] = _age(fact["year"], latest_year)
        out[_PAIR_AT + 1, i] = _genre_affinity(np.int64(fact["genres"]), sums, scale)
        out[_PAIR_AT + 2, i] = _is_seen(slot, past, marks)
        out[_PAIR_AT + 3, i] = fact["series"] != 0 and _is_next(fact, past)


@compiled
def _marks_of_slots(past: Past) -> NDArray[np.bool_]:
    """By the last ten bits of slots: most that are not among the last titles have no mark."""
    marks = np.zeros(_N_MARKS, np.bool_)
    for k in range(past.shape[1]):
        marks[past[_SLOT, k] & (_N_MARKS - 1)] = True
    return marks


@compiled
def _genre_affinity(mask: np.int64, sums: NDArray[np.float64], scale: float) -> float:
    total = 0.0
    for part in range(N_PARTS):
        total += sums[part, (mask >> (4 * part)) & 15]
    return total * scale / max(_count_bits(mask), 1)


@compiled
def _is_seen(slot: int, past: Past, marks: NDArray[np.bool_]) -> bool:
    if marks[slot & (_N_MARKS - 1)]:
        for k in range(past.shape[1]):
            if past[_SLOT, k] == slot:
                return True
    return False


@compiled
def _is_next(fact: Row, past: Past) -> bool:
    """Right after the episode of its series touched last."""
    series = np.int64(fact["series"])
    for k in range(past.shape[1]):
        if past[_SERIES, k] == series:
            return bool(is_next_episode(int(past[_EPISODE, k]), fact["episode"]))
    return False
