"""Sources that look at a viewer's taste: favourite genres, hidden gems, what is far from it."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from features.vocabulary import N_GENRES
from serving.retrieval.base import Floats, Slots
from serving.retrieval.trending import HotLists

N_FAVOURITES: Final = 3
FAR_SHARE: Final = 0.33  # of the well-rated titles: those that are least like the viewer's
N_TASTE: Final = 8  # titles, the last ones, that a viewer's content vector is made of

Slots64 = NDArray[np.int64]


@compiled
def favourite_genres(affinity: Floats, wanted: int) -> int:
    """The N_FAVOURITES genres that a viewer likes best, or those that are asked for; a mask."""
    if wanted != 0:
        return wanted
    mask = 0
    for _ in range(N_FAVOURITES):
        best, most = -1, np.float32(0.0)
        for genre in range(N_GENRES):
            if (mask >> genre) & 1 == 0 and affinity[genre] > most:
                best, most = genre, affinity[genre]
        if best < 0:
            break
        mask |= 1 << best
    return mask


@compiled
def in_turn(by_genre: Slots, mask: int, wanted: int) -> Slots:
    """Slots of the lists of some genres, taking turns; at most `wanted`. O(wanted * genres)."""
    found, n = np.empty(wanted, np.int32), 0
    for place in range(by_genre.shape[1]):
        for genre in range(len(by_genre)):
            if n == wanted:
                return found
            if (mask >> genre) & 1 and by_genre[genre, place] >= 0:
                found[n] = by_genre[genre, place]
                n += 1
    return found[:n]


@compiled
def of_genres_first(titles: Slots, genres: NDArray[np.uint32], mask: int, wanted: int) -> Slots:
    """The first `wanted` titles that have one of the genres, then others. O(titles)."""
    found, n = np.empty(min(wanted, len(titles)), np.int32), 0
    for is_turn_of_fitting in (True, False):
        for slot in titles:
            if n == len(found):
                return found
            if ((np.int64(genres[slot]) & mask) != 0) == is_turn_of_fitting:
                found[n] = slot
                n += 1
    return found


@compiled
def least_alike(alike: Floats, wanted: int) -> Slots64:
    """Places of the FAR_SHARE smallest of `alike`, in their order; at most `wanted`. O(n)."""
    n_alike = len(alike)
    found, n = np.empty(min(wanted, n_alike), np.int64), 0
    if n_alike == 0:
        return found
    limit = int(FAR_SHARE * n_alike)
    most = np.partition(alike, limit)[limit]
    for place in range(n_alike):
        if n == len(found):
            break
        if alike[place] <= most:
            found[n] = place
            n += 1
    return found[:n]


def serendipitous(hot: HotLists, contents: Floats, liked: Slots64, wanted: int) -> Slots:
    """Slots of titles that are rated well and least like what the viewer watched last."""
    taste = contents[liked[:N_TASTE]].sum(axis=0)
    slots: Slots = hot.good[least_alike(hot.good_contents @ taste, wanted)]
    return slots
