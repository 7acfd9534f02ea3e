"""Factors of titles that nobody has watched yet, from what they are.

A ridge regression from `features.content` to the factors of titles that have some (as in Z. Gantner
et al.: Learning Attribute-to-Feature Mappings for Cold-Start Recommendations, ICDM 2010). A title
counts by how sure its factors are, support / (support + DOUBT); how far the map is shrunk is chosen
on titles that are held out. It errs towards the mean title: a new one is offered to those whose
taste it is, behind titles that others like them have watched.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.bundle_format import ItemModels
from features.content import N_CONTENT, content_vectors
from features.events import CatalogItem
from features.ids import id_hashes

DOUBT: Final = 10.0  # events that make a title count half
LEAST_TITLES: Final = 100  # with fewer there is no map
HELD_OUT: Final = 0.2
STRENGTHS: Final = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ContentMap:
    """`weights`, `(N_CONTENT + 1, n_factors) float32`, the last row of every title alike."""

    weights: NDArray[np.float32]
    explained: float  # share of the variance of held-out titles' factors; 0: none
    strength: float  # of the shrinkage


def fit_content_map(
    models: ItemModels, catalogue: list[CatalogItem], seed: int = 7
) -> ContentMap | None:
    """The map of a bundle's titles; None where too few of them are described.

    O(titles * N_CONTENT * (N_CONTENT + n_factors)); a second for 20,000 titles.
    """
    content, factors, counts = _known(models, catalogue)
    if len(content) < LEAST_TITLES:
        return None
    is_held = np.random.default_rng(seed).random(len(content)) < HELD_OUT
    explained = [
        _explained(
            content[is_held] @ _ridge(content[~is_held], factors[~is_held], counts[~is_held], s),
            factors[is_held],
            counts[is_held],
        )
        for s in STRENGTHS
    ]
    best = int(np.argmax(explained))
    weights = _ridge(content, factors, counts, STRENGTHS[best])
    return ContentMap(weights.astype(np.float32), explained[best], STRENGTHS[best])


def _known(models: ItemModels, catalogue: list[CatalogItem]) -> tuple[Floats, Floats, Floats]:
    """Content with a column of ones, factors and weights of titles that have both."""
    by_id = dict(zip(id_hashes(i.item_id for i in catalogue).tolist(), catalogue, strict=True))
    described = np.array([id_ in by_id for id_ in models.ids.tolist()], np.bool_)
    vectors = content_vectors(by_id[id_] for id_ in models.ids[described].tolist())
    content = np.ones((len(vectors), N_CONTENT + 1))
    content[:, :N_CONTENT] = vectors
    support = models.support[described].astype(np.float64)
    return content, models.factors[described].astype(np.float64), support / (support + DOUBT)


def _ridge(content: Floats, factors: Floats, counts: Floats, strength: float) -> Floats:
    """Weighted least squares with a penalty on all but the last row."""
    penalty = np.diag(np.append(np.full(N_CONTENT, strength), 1e-6))
    weighted = content * counts[:, np.newaxis]
    return np.asarray(np.linalg.solve(weighted.T @ content + penalty, weighted.T @ factors))


def _explained(predicted: Floats, factors: Floats, counts: Floats) -> float:
    """One minus the weighted squared error, relative to that of the mean."""
    if not len(factors):
        return 0.0
    mean = np.average(factors, axis=0, weights=counts)
    missed = float(counts @ ((predicted - factors) ** 2).sum(axis=1))
    spread = float(counts @ ((mean - factors) ** 2).sum(axis=1))
    return 1.0 - missed / max(spread, 1e-12)
