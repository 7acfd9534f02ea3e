"""Titles by factors: folding a viewer in, and finding what fits.

A viewer's factors are computed at the request from the titles in the row, so that the last event is
in them. With the matrix P = (Y'Y + regularisation I)^-1 kept ready, the exact solution of implicit
ALS for a viewer of m titles needs only an m x m system (Woodbury identity):

    x = (1 + c) / c * P Z' (Z P Z' + I / c)^-1 1        Z: the titles' factors, c: the confidence
"""

import math
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from features.bundle_format import BundleError
from features.compiled import compiled

EXACT_UP_TO: Final = 20_000  # allowed rows: each is looked at, about 1 ms

_FAISS: Any = faiss  # keyword arguments that its stubs do not know

Floats = NDArray[np.float32]


class FoldIn:
    """Factors of viewers from those of titles, `(n_items, n_factors) float32`."""

    def __init__(self, factors: Floats, confidence: float, regularisation: float) -> None:
        wide = factors.astype(np.float64)
        gram = wide.T @ wide + regularisation * np.eye(factors.shape[1])
        self._inverse = np.asarray(np.linalg.inv(gram), np.float64)
        self._confidence = confidence

    def viewer(self, titles: Floats) -> Floats:
        """`(n_factors,) float32` of a viewer of `(m, n_factors)` titles; O(m^3 + m n_factors^2).

        20 us for 32 titles of 64 factors, where NumPy's general solution takes 75.
        """
        factors: Floats = _viewer(titles, self._inverse, self._confidence)
        return factors


@compiled
def fill_products(factors: Floats, slots: NDArray[Any], viewer: Floats, products: Floats) -> None:
    """Fills `products`, `(n,)`, of the factors of titles at `slots` with those of a viewer.

    Rows are read where they lie; eight sums side by side, since one would wait for itself. About
    50 ns a title of 64 factors, where gathering the rows for BLAS took 300.
    """
    n_factors = len(viewer)
    whole = n_factors - n_factors % 8
    for i in range(len(slots)):
        slot = slots[i]
        a = b = c = d = e = f = g = h = np.float32(0.0)
        for k in range(0, whole, 8):
            a += factors[slot, k] * viewer[k]
            b += factors[slot, k + 1] * viewer[k + 1]
            c += factors[slot, k + 2] * viewer[k + 2]
            d += factors[slot, k + 3] * viewer[k + 3]
            e += factors[slot, k + 4] * viewer[k + 4]
            f += factors[slot, k + 5] * viewer[k + 5]
            g += factors[slot, k + 6] * viewer[k + 6]
            h += factors[slot, k + 7] * viewer[k + 7]
        total = ((a + b) + (c + d)) + ((e + f) + (g + h))
        for k in range(whole, n_factors):
            total += factors[slot, k] * viewer[k]
        products[i] = total


@compiled
def _viewer(titles: Floats, inverse: NDArray[np.float64], confidence: float) -> Floats:
    wide = titles.astype(np.float64)
    projected = wide @ inverse
    system = projected @ wide.T
    for k in range(len(system)):
        system[k, k] += 1.0 / confidence
    weights = _solved_for_ones(system)
    scale = (1.0 + confidence) / confidence
    return (scale * (weights @ projected)).astype(np.float32)


@compiled
def _solved_for_ones(system: NDArray[np.float64]) -> NDArray[np.float64]:
    """The solution x of `system x = 1`; the system, symmetric and positive, is overwritten.

    Cholesky: L L' = system, then forwards and back. O(m^3 / 3).
    """
    m = len(system)
    for j in range(m):
        for i in range(j, m):
            rest = system[i, j]
            for k in range(j):
                rest -= system[i, k] * system[j, k]
            system[i, j] = math.sqrt(rest) if i == j else rest / system[j, j]
    solved = np.ones(m)
    for i in range(m):
        for k in range(i):
            solved[i] -= system[i, k] * solved[k]
        solved[i] /= system[i, i]
    for i in range(m - 1, -1, -1):
        for k in range(i + 1, m):
            solved[i] -= system[k, i] * solved[k]
        solved[i] /= system[i, i]
    return solved


class FaissIndex:
    """Titles' factors, searched by inner product. Immutable: any number of threads may search.

    An index of lists looks at some of them; `factors`, `(n_items, n_factors)`, are kept beside it
    for what it must not miss: see `nearest`.
    """

    def __init__(self, index: "faiss.Index", factors: Floats) -> None:
        faiss.omp_set_num_threads(1)
        self._index = index
        self._factors = factors
        self._n_lists, self._n_asked = _lists_of(index)

    @classmethod
    def of(cls, factors: Floats) -> "FaissIndex":
        """An exact index over factors."""
        index = faiss.IndexFlatIP(factors.shape[1])
        index.add(np.ascontiguousarray(factors))
        return cls(index, factors)

    @classmethod
    def parse(cls, data: bytes, name: str, factors: Floats) -> "FaissIndex":
        """The index over `factors` that a file holds. Raises BundleError, for other factors too."""
        try:
            index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
        except RuntimeError as error:
            raise BundleError(f"{name} must be a FAISS index; {error}") from error
        if (index.ntotal, index.d) != factors.shape:
            raise BundleError(
                f"{name} must hold {len(factors)} vectors of {factors.shape[1]}; "
                f"got {index.ntotal} of {index.d}"
            )
        return cls(index, factors)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def n_factors(self) -> int:
        """Length of a vector."""
        return int(self._index.d)

    def search(
        self, vector: Floats, n: int, allowed: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Rows of the `n` titles with the largest products, largest first; see `nearest`."""
        return self.nearest(vector, n, allowed)[0]

    def nearest(
        self, vector: Floats, n: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], Floats]:
        """Rows of the `n` titles with the largest products, largest first, and the products.

        With `allowed`, `(n_items,) bool`, only of rows that it has. Never short: all rows there are
        if they are no more than `n`. Few allowed ones are all looked at, O(allowed), and many too
        where the lists asked hold less than `n` of them: of those there are more the fewer titles
        are allowed, by the fourth root, as measured. A graph, as bundles once had them, loses
        its way among titles that are not allowed, and is not asked.
        """
        if allowed is None:
            return self._unfiltered(vector, min(n, len(self)))
        n_allowed = int(np.count_nonzero(allowed))
        n = min(n, n_allowed)
        if n_allowed <= EXACT_UP_TO or isinstance(self._index, faiss.IndexHNSW):
            return self._exact(vector, n, np.flatnonzero(allowed))
        packed = np.packbits(allowed, bitorder="little")
        selector = _FAISS.IDSelectorBitmap(packed)
        found = self._ask(vector, n, selector, (len(self) / n_allowed) ** 0.25)
        return found if len(found[0]) == n else self._exact(vector, n, np.flatnonzero(allowed))

    def _unfiltered(self, vector: Floats, n: int) -> tuple[NDArray[np.int64], Floats]:
        if n <= 0:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        found = self._ask(vector, n, None, 1.0)
        return found if len(found[0]) == n else self._exact(vector, n, np.arange(len(self)))

    def _ask(
        self, vector: Floats, n: int, selector: Any, wider: float
    ) -> tuple[NDArray[np.int64], Floats]:
        """What the index finds in `wider` times its usual lists; fewer where they hold too few."""
        parameters: Any = None
        if self._n_lists:
            wanted = math.ceil(self._n_lists * n / len(self))  # as many as `n` titles fill
            lists = min(max(math.ceil(wider * self._n_asked), 2 * wanted), self._n_lists)
            parameters = _FAISS.SearchParametersIVF(sel=selector, nprobe=lists)
        elif selector is not None:
            parameters = _FAISS.SearchParameters(sel=selector)
        products, rows = self._index.search(vector[np.newaxis], n, params=parameters)
        is_found = rows[0] >= 0  # -1 stands for nothing
        return rows[0][is_found], products[0][is_found]

    def _exact(
        self, vector: Floats, n: int, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], Floats]:
        """The best of rows, each looked at."""
        products = self._factors[rows] @ vector
        if n < len(rows):
            best = np.argpartition(-products, n)[:n]
            rows, products = rows[best], products[best]
        order = np.argsort(-products, kind="stable")
        return rows[order], products[order]


def _lists_of(index: "faiss.Index") -> tuple[int, int]:
    """How many lists an index has, and how many are asked; zeros for one without lists."""
    if not isinstance(index, faiss.IndexIVF):
        return 0, 0
    return int(index.nlist), int(index.nprobe)
