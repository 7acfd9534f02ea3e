"""Titles by factors: folding a viewer in, and finding what fits.

A viewer's factors are computed at the request from the titles in the row, so that the last event is
in them. With the matrix P = (Y'Y + regularisation I)^-1 kept ready, the exact solution of implicit
ALS for a viewer of m titles needs only an m x m system (Woodbury identity):

    x = (1 + c) / c * P Z' (Z P Z' + I / c)^-1 1        Z: the titles' factors, c: the confidence
"""

import faiss
import numpy as np
from numpy.typing import NDArray

from features.bundle_format import BundleError

Floats = NDArray[np.float32]


class FoldIn:
    """Factors of viewers from those of titles, `(n_items, n_factors) float32`."""

    def __init__(self, factors: Floats, confidence: float, regularisation: float) -> None:
        wide = factors.astype(np.float64)
        gram = wide.T @ wide + regularisation * np.eye(factors.shape[1])
        self._inverse = np.asarray(np.linalg.inv(gram), np.float64)
        self._confidence = confidence

    def viewer(self, titles: Floats) -> Floats:
        """`(n_factors,) float32` of a viewer of `(m, n_factors)` titles; O(m^3 + m n_factors^2)."""
        wide = titles.astype(np.float64)
        projected = wide @ self._inverse
        system = projected @ wide.T
        system[np.diag_indices(len(system))] += 1.0 / self._confidence
        weights = np.linalg.solve(system, np.ones(len(system)))
        scale = (1.0 + self._confidence) / self._confidence
        return np.asarray(scale * (weights @ projected), np.float32)


class FaissIndex:
    """Titles' factors, searched by inner product. Immutable; one thread."""

    def __init__(self, index: "faiss.Index") -> None:
        faiss.omp_set_num_threads(1)
        self._index = index

    @classmethod
    def of(cls, factors: Floats) -> "FaissIndex":
        """An exact index over factors."""
        index = faiss.IndexFlatIP(factors.shape[1])
        index.add(np.ascontiguousarray(factors))
        return cls(index)

    @classmethod
    def parse(cls, data: bytes, name: str) -> "FaissIndex":
        """The index that a file holds. Raises BundleError."""
        try:
            return cls(faiss.deserialize_index(np.frombuffer(data, np.uint8)))
        except RuntimeError as error:
            raise BundleError(f"{name} must be a FAISS index; {error}") from error

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def n_factors(self) -> int:
        """Length of a vector."""
        return int(self._index.d)

    def search(self, vector: Floats, n: int) -> NDArray[np.int64]:
        """Rows of the at most `n` titles with the largest products, largest first."""
        if len(self) == 0 or n <= 0:
            return np.zeros(0, np.int64)
        _, rows = self._index.search(vector[np.newaxis], min(n, len(self)))
        found: NDArray[np.int64] = rows[0][rows[0] >= 0]
        return found
