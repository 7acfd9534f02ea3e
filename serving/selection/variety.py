"""What a slate gains or loses by a title's likeness to those that stand on it already.

Maximal marginal relevance (J. Carbonell, J. Goldstein, SIGIR 1998): of the best candidates that are
left the next title is the one with the largest

    (1 - diversity) * standing - diversity * largest cosine to a title on the slate

Cosines are those of content vectors, and count from 0 on. Candidates are looked at in the order of
their standing, and no further than where even a title like nothing on the slate would fall behind
the best found; one that is looked at catches up with the titles chosen since it last was. So a slot
costs a few products of vectors, not one for each candidate.

No genre takes more than a share of the slate, as long as another title of the arm is left.
"""

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from features.vocabulary import N_GENRES

POOL: Final = 100  # candidates of an arm that a title is chosen from
NO_PLACE: Final = -1

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Masks = NDArray[np.int64]
Vectors = NDArray[np.float32]  # (n_items, n) of length one or zero, by catalogue slot


class Company(NamedTuple):
    """The titles on a slate so far, and what candidates have to do with them."""

    slots: NDArray[np.int32]  # (n,) catalogue slots of the candidates
    genres: Masks  # (n,) masks of the candidates
    vectors: Vectors
    chosen: Ints  # (k,) catalogue slots, in the order in which they were chosen
    n_chosen: Ints  # (1,)
    compared: Ints  # (n,) how many of the chosen a candidate was compared with
    likeness: Floats  # (n,) the largest cosine to these
    counts: Ints  # (N_GENRES,) titles on the slate
    limits: Ints  # (N_GENRES,) most titles
    full: Masks  # (1,) genres that have as many


@compiled
def no_company(
    slots: NDArray[np.int32],
    genres: NDArray[np.uint32],
    vectors: Vectors,
    n: int,
    n_slots: int,
    most: int,
    wanted_genres: int,
) -> Company:
    """An empty slate of `n_slots`, for the first `n` of `slots`; `genres` are by catalogue slot.

    A genre may have `most` titles, those of `wanted_genres` (a mask) any number.
    """
    limits = np.full(N_GENRES, most, np.int64)
    for genre in range(N_GENRES):
        if (wanted_genres >> genre) & 1:
            limits[genre] = n_slots + 1
    masks = np.empty(n, np.int64)
    for i in range(n):
        masks[i] = genres[slots[i]]
    return Company(
        slots,
        masks,
        vectors,
        np.zeros(n_slots, np.int64),
        np.zeros(1, np.int64),
        np.zeros(n, np.int64),
        np.zeros(n, np.float32),
        np.zeros(N_GENRES, np.int64),
        limits,
        np.zeros(1, np.int64),
    )


@compiled
def join(company: Company, place: int) -> None:
    """A candidate stands on the slate now."""
    company.chosen[company.n_chosen[0]] = company.slots[place]
    company.n_chosen[0] += 1
    for genre in range(N_GENRES):
        if (company.genres[place] >> genre) & 1:
            company.counts[genre] += 1
            if company.counts[genre] >= company.limits[genre]:
                company.full[0] |= np.int64(1) << genre


@compiled
def likeness(company: Company, place: int) -> float:
    """The largest cosine of a candidate to the titles on the slate; 0 at least."""
    slot, found = company.slots[place], company.likeness[place]
    for k in range(company.compared[place], company.n_chosen[0]):
        found = max(found, product(company.vectors, slot, company.chosen[k]))
    company.compared[place] = company.n_chosen[0]
    company.likeness[place] = found
    return float(found)


@compiled
def product(vectors: Vectors, a: int, b: int) -> np.float32:
    """Of two rows. Four sums that do not wait for each other take a third of the time of one."""
    one = two = three = four = np.float32(0.0)
    n = vectors.shape[1]
    for k in range(0, n - 3, 4):
        one += vectors[a, k] * vectors[b, k]
        two += vectors[a, k + 1] * vectors[b, k + 1]
        three += vectors[a, k + 2] * vectors[b, k + 2]
        four += vectors[a, k + 3] * vectors[b, k + 3]
    for k in range(n - n % 4, n):
        one += vectors[a, k] * vectors[b, k]
    return np.float32((one + two) + (three + four))


@compiled
def intra_list_diversity(company: Company) -> float:
    """Mean of 1 - cosine over all pairs of the slate (C.-N. Ziegler et al., WWW 2005); O(k^2).

    0 for a slate of one.
    """
    n, total = int(company.n_chosen[0]), 0.0
    for i in range(n):
        for k in range(i):
            cosine = product(company.vectors, company.chosen[i], company.chosen[k])
            total += 1.0 - max(float(cosine), 0.0)
    return total / max(n * (n - 1) // 2, 1)


@compiled
def genre_entropy(company: Company) -> float:
    """Of the genres on a slate, in bits; 0 where all are one."""
    total, entropy = company.counts.sum(), 0.0
    for count in company.counts:
        if count > 0:
            entropy -= count / total * math.log2(count / total)
    return max(entropy, 0.0)
