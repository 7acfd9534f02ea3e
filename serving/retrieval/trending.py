"""What is being watched: lists over the whole catalogue, from the mirror."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features import item_row
from features.compiled import compiled, unlocked
from features.popularity import popularity_of
from features.ranking import LONG_TAIL, N_LISTED, N_RANKS, N_STANDINGS, PERCENTILE, POPULARITY_RANK
from features.vocabulary import N_GENRES
from serving.catalogue import FOR_GOOD, CatalogueTable
from serving.retrieval.base import Floats, Slots, heap_push

TRENDING_6H, TRENDING_1D, WEEK, TOTAL, NEW, TRENDING_3D = range(6)
N_LISTS = 6

NO_TITLE = -1
N_OF_GENRE = 100
N_GOOD = 400
GOOD_RATING_LOW = 6.0  # lower bound of the mean; 5.85 for a title without ratings
_GEMS, _GOOD = range(2)

NEW_DAYS = 21.0  # since a title's first event
NEW_HALF_LIFE_DAYS = 2.0

_TREND_6H = item_row.NAMES.index("item_trend_6h")
_TREND_1D = item_row.NAMES.index("item_trend_1d")
_TREND_3D = item_row.NAMES.index("item_trend_3d")
_RATING_LOW = item_row.NAMES.index("item_rating_low")
_WEEK = item_row.NAMES.index("item_engaged_7d")
_TOTAL = item_row.NAMES.index("item_engaged_total")
_DAYS_KNOWN = item_row.NAMES.index("item_days_known")

# The lists whose places are ranks, in the order of RANK_TRENDING ... RANK_TREND_3D.
_RANKED = np.array([TRENDING_1D, WEEK, TOTAL, TRENDING_3D], np.int64)


@dataclass(frozen=True, slots=True)
class HotLists:
    """The lists at a moment: at most N_LISTED slots each, hottest first."""

    lists: tuple[Slots, ...]  # by TRENDING_6H ... TRENDING_3D
    standings: Floats  # (n_slots, N_STANDINGS), as `features.ranking` has them
    at_ms: int
    by_genre: Slots  # (N_GENRES, N_OF_GENRE), by the three-day trend; NO_TITLE behind the last
    gems: Slots  # of few viewers, rated well: the best first
    good: Slots  # rated well: the best first
    good_contents: Floats  # (len(good), N_CONTENT): their content vectors


class Trending:
    """Makes the lists anew when they are older than `refresh_ms`, by the clock of the requests.

    Where somebody keeps them (`is_kept`), calling `refresh` again and again on a thread of his own,
    a request takes them as they are. One pass over the mirror (0.6 ms for 21,000 titles) and a sort
    of it (2 ms), both without the interpreter's lock.
    """

    def __init__(self, table: CatalogueTable, refresh_ms: int) -> None:
        self.is_kept = False
        self._table = table
        self._refresh_ms = refresh_ms
        self._hot: HotLists | None = None

    @property
    def at_ms(self) -> int | None:
        """As of when the lists are, None before the first."""
        return None if self._hot is None else self._hot.at_ms

    def over(self, table: CatalogueTable) -> "Trending":
        """Charts of another table, not made yet."""
        other = Trending(table, self._refresh_ms)
        other.is_kept = self.is_kept
        other._hot = self._hot
        return other

    def lists(self, values: Floats, now_ms: int) -> HotLists:
        """The lists as of `now_ms`, or of at most `refresh_ms` before or after it."""
        hot = self._hot
        if hot is not None and (self.is_kept or abs(now_ms - hot.at_ms) < self._refresh_ms):
            return hot
        return self.refresh(values, now_ms)

    def refresh(self, values: Floats, now_ms: int) -> HotLists:
        """Makes the lists as of now and puts them in place by reference. O(titles log titles)."""
        hot = self._hot = self._make(values[: self._table.n_used], now_ms)
        return hot

    def _make(self, values: Floats, now_ms: int) -> HotLists:
        n = len(values)
        slots = np.zeros((N_LISTS, N_LISTED), np.int32)
        counts = np.zeros(N_LISTS, np.int64)
        standings = np.empty((len(self._table), N_STANDINGS), np.float32)
        list_all(values, slots, counts, standings)
        popularity = popularity_of(values)
        standings[:n, POPULARITY_RANK] = popularity.rank
        standings[:n, PERCENTILE] = popularity.percentile
        standings[:n, LONG_TAIL] = popularity.is_long_tail
        standings[n:] = _untouched(values)
        by_genre = np.full((N_GENRES, N_OF_GENRE), NO_TITLE, np.int32)
        rated, n_rated = np.zeros((2, N_GOOD), np.int32), np.zeros(2, np.int64)
        table = self._table
        list_kinds(
            values, table.genres[:n], table.available_from_ms[:n], standings,
            by_genre, rated, n_rated,
        )  # fmt: skip
        gems, good = (rated[k, : n_rated[k]] for k in (_GEMS, _GOOD))
        return HotLists(
            tuple(slots[k, : counts[k]] for k in range(N_LISTS)),
            standings,
            now_ms,
            by_genre,
            gems,
            good,
            table.contents[good],
        )


def _untouched(values: Floats) -> Floats:
    """`(N_STANDINGS,) float32`: where a title stands that nobody has touched."""
    n_touched = int(np.count_nonzero(values[:, _TOTAL] > 0))
    standing = np.full(N_STANDINGS, N_LISTED, np.float32)
    standing[POPULARITY_RANK] = n_touched + 1
    standing[PERCENTILE] = (len(values) - n_touched) / (2 * max(len(values), 1))
    standing[LONG_TAIL] = 1.0
    return standing


@unlocked
def list_all(
    values: Floats, slots: NDArray[np.int32], counts: NDArray[np.int64], standings: Floats
) -> None:
    """Fills `slots`, `(N_LISTS, N_LISTED)`, `counts` and the ranks of `standings` from the mirror.

    Only titles that somebody has touched are listed; the rank of any other is N_LISTED. Equal
    counts are ordered by the trend.
    """
    standings[:, :N_RANKS] = N_LISTED
    scores = np.zeros((N_LISTS, N_LISTED), np.float32)
    score = np.zeros(N_LISTS, np.float32)
    for slot in range(len(values)):
        if values[slot, _TOTAL] <= 0:
            continue
        _score(values[slot], score)
        for k in range(N_LISTS):
            full = counts[k] == N_LISTED
            if score[k] > 0 and (not full or score[k] > scores[k, 0]):
                counts[k] = heap_push(slots[k], scores[k], counts[k], slot, score[k])
    for k in range(N_LISTS):
        order = np.argsort(-scores[k, : counts[k]], kind="mergesort")
        slots[k, : counts[k]] = slots[k, : counts[k]][order]
    for k in range(N_RANKS):
        listed = _RANKED[k]
        for place in range(counts[listed]):
            standings[slots[listed, place], k] = place


@unlocked
def list_kinds(
    values: Floats,
    genres: NDArray[np.uint32],
    available_from_ms: NDArray[np.int64],
    standings: Floats,
    by_genre: Slots,
    rated: Slots,
    n_rated: NDArray[np.int64],
) -> None:
    """Fills the lists of genres and of titles that are rated well; see HotLists.

    `rated` is `(2, N_GOOD)`: gems, and all. Removed titles and those that nobody has touched are
    not listed. O(titles).
    """
    trends = np.zeros(by_genre.shape, np.float32)
    counts = np.zeros(len(by_genre), np.int64)
    ratings = np.zeros(rated.shape, np.float32)
    for slot in range(len(values)):
        if values[slot, _TOTAL] <= 0 or available_from_ms[slot] == FOR_GOOD:
            continue
        trend = values[slot, _TREND_3D] + np.float32(1e-3) * values[slot, _TOTAL]
        for genre in range(len(by_genre)):
            if (genres[slot] >> np.uint32(genre)) & np.uint32(1):
                _push(by_genre[genre], trends[genre], counts, genre, slot, trend)
        rating = values[slot, _RATING_LOW]
        if rating >= GOOD_RATING_LOW:
            _push(rated[_GOOD], ratings[_GOOD], n_rated, _GOOD, slot, rating)
            if standings[slot, LONG_TAIL] > 0:
                _push(rated[_GEMS], ratings[_GEMS], n_rated, _GEMS, slot, rating)
    for genre in range(len(by_genre)):
        _sort(by_genre[genre], trends[genre], counts[genre])
    for k in range(len(rated)):
        _sort(rated[k], ratings[k], n_rated[k])


@compiled
def _push(
    slots: Slots, scores: Floats, counts: NDArray[np.int64], which: int, slot: int, score: float
) -> None:
    if counts[which] < len(slots) or score > scores[0]:
        counts[which] = heap_push(slots, scores, counts[which], slot, score)


@compiled
def _sort(slots: Slots, scores: Floats, n: int) -> None:
    slots[:n] = slots[:n][np.argsort(-scores[:n], kind="mergesort")]


@compiled
def _score(values: Floats, score: Floats) -> None:
    trend = values[_TREND_1D]
    score[TRENDING_6H] = values[_TREND_6H] + 1e-3 * trend
    score[TRENDING_1D] = trend
    score[WEEK] = values[_WEEK] + 1e-3 * trend if values[_WEEK] > 0 else 0.0
    score[TOTAL] = values[_TOTAL] + 1e-3 * trend
    score[TRENDING_3D] = values[_TREND_3D]
    score[NEW] = 0.0
    if values[_DAYS_KNOWN] < NEW_DAYS:
        score[NEW] = 2.0 ** (-values[_DAYS_KNOWN] / NEW_HALF_LIFE_DAYS) * (1.0 + trend)
