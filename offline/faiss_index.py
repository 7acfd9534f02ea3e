"""Builds the index over titles' factors that servers search.

Largest products are not nearest neighbours. Norms of implicit ALS factors differ a hundredfold with
how much a title is watched, and a viewer's best titles are nearly all among the longest vectors: in
MovieTweetings' 10,506 titles the best 100 of a viewer lie in the upper 14 % by norm. FAISS puts a
vector into the list whose centroid has the largest product with it, so a few long centroids draw
everything. Here lists are those of k-means by distance, learned on titles drawn in proportion to
their norms; a list is then asked for by its mean's product with the viewer. Long vectors get short
lists of their own, and the many short ones lie in a few that nobody asks for. Factors are kept
in 16 bits. How many lists are asked is measured at the end of building: the fewest with which
made-up viewers get TARGET_RECALL of their best 100.

Measured, one thread, best 100 of 500 viewers folded in, on titles like those (see
benchmarks/retrieval.py; share found, median ms, seconds of building):

    titles       exact      these lists          FAISS's lists,  4-bit codes   graph of 16 links,
                                                 256 asked       and refined   400 wide
    20,000       1  .17     .97  .32    1        .88   .25       .83   .32
    50,000       1  .75     .98  .26    2
    200,000      1  3.4     .97  .24    8        .90  1.3        .76   .54     .88   .57   14
    1,000,000    1  17      .98  .29   33

So up to 20,000 titles every one is looked at, and beyond these lists are used.
"""

import math
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

FLAT_UP_TO: Final = 20_000  # titles; up to here an exact search costs at most 0.3 ms
LISTS_PER_ROOT: Final = 4  # lists by the square root of the number of titles
MOST_LISTS: Final = 8_192
TRAINED_PER_LIST: Final = 64  # titles drawn for k-means
ITERATIONS: Final = 6
TARGET_RECALL: Final = 0.975
LEAST_SHARE: Final = 10  # of the lists one in so many is asked at least: viewers may be odder
N_VIEWERS: Final = 200  # made up, for measuring
TITLES_OF_TASTE, NEAR = 3, 10
BEST: Final = 100

Floats = NDArray[np.float32]


def build_index(factors: Floats, seed: int = 7) -> bytes:
    """A serialised index over `(n_items, n_factors) float32`, by inner product.

    Exact up to FLAT_UP_TO titles, lists of k-means above. The same factors and seed make the same
    bytes. One thread; 35 s and about 1 GB beyond the factors for 1,000,000 x 64.
    """
    faiss.omp_set_num_threads(1)
    factors = np.ascontiguousarray(factors, np.float32)
    index = exact_index(factors) if len(factors) <= FLAT_UP_TO else listed_index(factors, seed)
    data: bytes = faiss.serialize_index(index).tobytes()
    return data


def exact_index(factors: Floats) -> Any:
    """Every vector as it is."""
    index = faiss.IndexFlatIP(factors.shape[1])
    index.add(factors)
    return index


def listed_index(factors: Floats, seed: int) -> Any:
    """Lists of k-means, tuned; see the module."""
    rng = np.random.default_rng(seed)
    n_items, n_factors = factors.shape
    places = _places(factors, n_lists(n_items), rng)
    means = _means(factors, places)
    of_means = exact_index(means)
    index = faiss.IndexIVFScalarQuantizer(
        of_means,
        n_factors,
        len(means),
        faiss.ScalarQuantizer.QT_fp16,
        faiss.METRIC_INNER_PRODUCT,
        False,
    )
    index.train(_drawn(factors, TRAINED_PER_LIST * len(means), rng))
    rows = np.arange(n_items, dtype=np.int64)
    index.add_core(n_items, faiss.swig_ptr(factors), faiss.swig_ptr(rows), faiss.swig_ptr(places))
    _ask_enough(index, factors, rng)
    index.own_fields = True
    of_means.this.disown()
    return index


def n_lists(n_items: int) -> int:
    """A power of two near LISTS_PER_ROOT times the root of the number of titles.

    >>> n_lists(50_000), n_lists(1_000_000)
    (1024, 4096)
    """
    bits = round(math.log2(LISTS_PER_ROOT * math.sqrt(n_items)))
    return min(int(2**bits), MOST_LISTS)


def _places(factors: Floats, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`(n_items,)` lists of titles, by distance."""
    means = faiss.Kmeans(
        factors.shape[1],
        n,
        niter=ITERATIONS,
        seed=int(rng.integers(2**31)),
        min_points_per_centroid=1,
        max_points_per_centroid=TRAINED_PER_LIST,
    )
    means.train(_drawn(factors, TRAINED_PER_LIST * n, rng))
    _, found = means.index.search(factors, 1)
    _, places = np.unique(found[:, 0], return_inverse=True)  # no list is empty
    return np.ascontiguousarray(places, np.int64)


def _drawn(factors: Floats, n: int, rng: np.random.Generator) -> Floats:
    """At most `n` different titles, long vectors likelier, each with some chance."""
    if n >= len(factors):
        return factors
    norms = np.linalg.norm(factors, axis=1).astype(np.float64)
    chances = norms + max(norms.mean(), 1e-12) / 10
    return factors[rng.choice(len(factors), n, replace=False, p=chances / chances.sum())]


def _means(factors: Floats, places: NDArray[np.int64]) -> Floats:
    """`(n_lists, n_factors)`: the mean of each list, that its product says what it promises."""
    order = np.argsort(places, kind="stable")
    starts = np.searchsorted(places[order], np.arange(int(places.max()) + 1))
    sums = np.add.reduceat(factors[order], starts, axis=0, dtype=np.float64)
    sizes = np.diff(np.append(starts, len(places)))
    return np.ascontiguousarray(sums / sizes[:, np.newaxis], np.float32)


def _ask_enough(index: Any, factors: Floats, rng: np.random.Generator) -> None:
    """Sets how many lists are asked: the fewest that reach TARGET_RECALL, or all."""
    viewers = made_up_viewers(factors, N_VIEWERS, rng)
    _, best = exact_index(factors).search(viewers, BEST)
    index.nprobe = min(max(index.nlist // LEAST_SHARE, 16), index.nlist)
    while index.nprobe < index.nlist:
        _, found = index.search(viewers, BEST)
        if recall(found, best) >= TARGET_RECALL:
            return
        index.nprobe = min(math.ceil(index.nprobe * 1.25), index.nlist)


def recall(found: NDArray[np.int64], best: NDArray[np.int64]) -> float:
    """Share of the `(n, k)` best rows that are among the found ones.

    >>> recall(np.array([[1, 2, -1]]), np.array([[2, 1, 0]]))
    0.6666666666666666
    """
    hits = sum(len(np.intersect1d(f, b)) for f, b in zip(found, best, strict=True))
    return float(hits / best.size)


def made_up_viewers(factors: Floats, n: int, rng: np.random.Generator) -> Floats:
    """`(n, n_factors)`: vectors such as folding in gives, of titles near a title that is watched.

    A viewer has one to three tastes, each some of the titles nearest to one, of 1,000 drawn by
    norm; the sum of directions goes through the inverse of the Gram matrix, as in `FoldIn`.
    """
    wide = factors.astype(np.float64)
    gram = wide.T @ wide
    inverse = np.linalg.inv(gram + 1e-3 * (np.trace(gram) / len(gram) + 1e-12) * np.eye(len(gram)))
    known = _drawn(factors, 1_000, rng).astype(np.float64)
    known /= np.linalg.norm(known, axis=1, keepdims=True) + 1e-12
    viewers = np.zeros((n, factors.shape[1]))
    for k in range(n):
        for first in rng.integers(len(known), size=rng.integers(1, 4)):
            near = np.argsort(-(known @ known[first]))[:NEAR]
            viewers[k] += known[rng.choice(near, TITLES_OF_TASTE, replace=False)].sum(axis=0)
    return np.ascontiguousarray(viewers @ inverse, np.float32)
