"""Recommenders to be better than, refitted daily on the same events: ItemKNN, EASE, ALS.

Each is fitted at the start of a day on all events before it and scores titles from what a viewer
has rated up to the very event, so that only what is learned of titles is a day old.

    ItemKNN   B. Sarwar et al.: Item-based Collaborative Filtering Recommendation Algorithms, WWW
              2001; binary cosine with shrinkage, the nearest neighbours of each title
    EASE      H. Steck: Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019; the titles
              with most viewers, for its cost is cubic in their number
    ALS       Y. Hu et al., ICDM 2008; viewers are folded in exactly

Sizes were chosen for a refit a day on one core, on 100,000 events of 10,000 titles: the Gram
matrix of titles takes 0.3 s (it is counted anew: that is less than solving it once), EASE over
4,000 titles 3 s, ALS 3 s.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg.lapack import spotrf, spotri
from threadpoolctl import threadpool_limits

from features.windows import DAY_MS
from offline.next_title import AT, MISSED
from offline.train_als import AlsConfig, fit_factors

Codes = NDArray[np.int32]
Scores = NDArray[np.float32]  # (n_items,), by code
Seen = Any  # scipy's csr_matrix carries no types: (n_users, n_items), 1 where a viewer rated


class TitleModel(Protocol):
    """What a baseline has learned of titles."""

    def scores(self, history: Codes) -> Scores:
        """`(n_items,)` for a viewer of these titles, each named once; 0: nothing to say."""


def seen_matrix(users: Codes, items: Codes, n_users: int, n_items: int) -> Seen:
    """Viewers by titles, 1 where there is an event; repeats count once."""
    ones = np.ones(len(users), np.float32)
    seen = sparse.csr_matrix((ones, (users, items)), shape=(n_users, n_items))
    seen.data[:] = 1.0
    return seen


@dataclass(frozen=True, slots=True)
class ItemKnn:
    """Sums of cosines with the viewer's titles."""

    similar: Seen  # (n_items, n_items): row h has what speaks for other titles where h was rated

    @classmethod
    def fit(cls, seen: Seen, *, n_neighbours: int = 100, shrinkage: float = 20.0) -> "ItemKnn":
        """O(sum of squares of the viewers' numbers of titles)."""
        gram = sparse.coo_matrix(seen.T @ seen)
        own = gram.diagonal()
        rows, columns = gram.row, gram.col
        weights = gram.data / (np.sqrt(own[rows] * own[columns]) + shrinkage)
        kept = (rows != columns) & _is_among_best(columns, weights, n_neighbours)
        return cls(sparse.csr_matrix((weights[kept], (rows[kept], columns[kept])), gram.shape))

    def scores(self, history: Codes) -> Scores:
        """See TitleModel."""
        return np.asarray(self.similar[history].sum(axis=0), np.float32).ravel()


def _is_among_best(
    groups: NDArray[np.int32], weights: NDArray[np.float32], n: int
) -> NDArray[np.bool_]:
    """Which elements are among the `n` heaviest of their group, itself (a title's own) aside."""
    order = np.lexsort((-weights, groups))
    starts = np.searchsorted(groups[order], groups[order], side="left")
    best = np.zeros(len(groups), np.bool_)
    best[order] = np.arange(len(groups)) - starts < n + 1
    return best


@dataclass(frozen=True, slots=True)
class Ease:
    """A linear model of which titles go with which, over the titles with most viewers."""

    codes: NDArray[np.int64]  # (n,) of the titles it knows
    weights: NDArray[np.float32]  # (n, n), row h as in ItemKnn
    n_items: int

    @classmethod
    def fit(cls, seen: Seen, *, n_titles: int = 4_000, regularisation: float = 300.0) -> "Ease":
        """O(n_titles^3), one thread."""
        viewers = np.asarray(seen.sum(axis=0)).ravel()
        codes = np.sort(np.argsort(-viewers, kind="stable")[:n_titles])
        codes = codes[viewers[codes] > 0]
        part = seen[:, codes]
        gram = np.asfortranarray((part.T @ part).toarray(), np.float32)
        gram[np.diag_indices(len(codes))] += regularisation
        with threadpool_limits(1, "blas"):
            inverse = _inverse_of(gram)
        weights = inverse / -np.diag(inverse)
        weights[np.diag_indices(len(codes))] = 0.0
        return cls(codes, weights, seen.shape[1])

    def scores(self, history: Codes) -> Scores:
        """See TitleModel."""
        found = np.zeros(self.n_items, np.float32)
        places = np.searchsorted(self.codes, history)
        known = places < len(self.codes)
        known[known] = self.codes[places[known]] == history[known]
        found[self.codes] = self.weights[places[known]].sum(axis=0)
        return found


def _inverse_of(positive: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of a positive definite matrix, which is overwritten: by Cholesky, half the time of LU."""
    factor, _ = spotrf(positive, lower=1, overwrite_a=1)
    inverse, _ = spotri(factor, lower=1, overwrite_c=1)
    lower = np.tril(inverse)
    whole: NDArray[np.float32] = lower + np.tril(lower, -1).T
    return whole


@dataclass(frozen=True, slots=True)
class Als:
    """Factors of titles; a viewer's are solved for at each request."""

    factors: NDArray[np.float32]  # (n_items, n_factors)
    gram: NDArray[np.float64]  # of the factors, regularised
    confidence: float

    @classmethod
    def fit(cls, seen: Seen, config: AlsConfig | None = None) -> "Als":
        """See `offline.train_als`."""
        config = config or AlsConfig()
        users, items = seen.nonzero()
        factors = fit_factors(
            users.astype(np.int32), items.astype(np.int32), seen.shape[1], config, lambda _: None
        )
        factors[np.asarray(seen.sum(axis=0)).ravel() == 0] = 0.0
        wide = factors.astype(np.float64)
        gram = wide.T @ wide + config.regularisation * np.eye(wide.shape[1])
        return cls(factors, gram, config.confidence)

    def scores(self, history: Codes) -> Scores:
        """See TitleModel."""
        own = self.factors[history].astype(np.float64)
        system = self.gram + self.confidence * own.T @ own
        viewer = np.linalg.solve(system, (1.0 + self.confidence) * own.sum(axis=0))
        return np.asarray(self.factors @ viewer.astype(np.float32), np.float32)


Fit = Callable[[Seen], TitleModel]
BASELINES: Mapping[str, Fit] = {
    "itemknn": ItemKnn.fit,
    "ease": Ease.fit,
    "als": Als.fit,
}


def places_by_day(
    users: Codes,
    items: Codes,
    at_ms: NDArray[np.int64],
    is_chosen: NDArray[np.bool_],
    fit: Fit,
    progress: Callable[[int], None],
) -> NDArray[np.int64]:
    """`(n_chosen,)` place of each chosen event's title, MISSED from AT on, by a model of that day.

    Events are `(n,)` dense codes in order of time. A day (UTC) with chosen events begins with a
    refit on all events before it. What the viewer has rated before is left out. `progress` is told
    how many chosen events are done.
    """
    n_users, n_items = int(users.max(initial=-1)) + 1, int(items.max(initial=-1)) + 1
    histories: list[list[int]] = [[] for _ in range(n_users)]
    places: list[int] = []
    day, model = -1, None
    for event, (user, item) in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
        if is_chosen[event]:
            today = int(at_ms[event]) // DAY_MS
            if model is None or today != day:
                day, start = today, int(np.searchsorted(at_ms, today * DAY_MS))
                model = fit(seen_matrix(users[:start], items[:start], n_users, n_items))
                progress(len(places))
            history = np.unique(np.array(histories[user], np.int32))
            places.append(place_of(model.scores(history), history, item))
        histories[user].append(item)
    progress(len(places))
    return np.array(places, np.int64)


def place_of(scores: Scores, history: Codes, item: int) -> int:
    """Place of a title among those outside the history, MISSED from AT on; equal ones by code.

    A title that the model says nothing for is MISSED.

    >>> place_of(np.array([0.5, 0.9, 0.2, 0.9], np.float32), np.array([1]), 0)
    1
    """
    own = scores[item]
    if own <= 0:
        return MISSED
    ahead = scores > own
    ahead[:item] |= scores[:item] == own
    place = int(ahead.sum() - ahead[history].sum())
    return place if place < AT else MISSED
