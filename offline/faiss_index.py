"""Builds the index over titles' factors that servers search."""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

FLAT_UP_TO = 200_000  # titles; beyond, an exact search is assumed too slow (not measured)
HNSW_LINKS = 32
HNSW_EF_BUILD, HNSW_EF_SEARCH = 100, 512


def build_index(factors: NDArray[np.float32]) -> bytes:
    """A serialised index over `(n_items, n_factors) float32`, by inner product.

    Exact up to FLAT_UP_TO titles, a graph (HNSW) above. One thread.
    """
    faiss.omp_set_num_threads(1)
    n_items, n_factors = factors.shape
    index = faiss.IndexFlatIP(n_factors) if n_items <= FLAT_UP_TO else _graph(n_factors)
    index.add(np.ascontiguousarray(factors))
    data: bytes = faiss.serialize_index(index).tobytes()
    return data


def _graph(n_factors: int) -> Any:
    index = faiss.IndexHNSWFlat(n_factors, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = HNSW_EF_BUILD, HNSW_EF_SEARCH
    return index
