"""Factors of viewers and titles by implicit alternating least squares.

Y. Hu, Y. Koren, C. Volinsky: Collaborative Filtering for Implicit Feedback Datasets, ICDM 2008.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits


@dataclass(frozen=True, slots=True)
class AlsConfig:
    """Values of a prototype on MovieTweetings."""

    n_factors: int = 64
    confidence: float = 10.0  # of a seen pair, beyond the 1 that every pair has
    regularisation: float = 5.0
    n_iterations: int = 12
    seed: int = 7


def fit_factors(
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    n_items: int,
    config: AlsConfig,
    progress: Callable[[int], None],
) -> NDArray[np.float32]:
    """`(n_items, n_factors) float32` of titles, from pairs of dense codes; repeats count once.

    One thread; O(iterations * pairs * factors^2). `progress` is told each iteration's number.
    """
    seen = csr_matrix((np.ones(len(users), np.float32), (users, items)), dtype=np.float32)
    seen.resize(seen.shape[0], n_items)
    seen.data[:] = 1.0
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=config.n_factors,
            regularization=config.regularisation,
            alpha=1.0 + config.confidence,
            iterations=config.n_iterations,
            num_threads=1,
            random_state=config.seed,
        )
        model.fit(seen, show_progress=False, callback=lambda number, *_: progress(number + 1))
    return np.ascontiguousarray(model.item_factors, np.float32)
