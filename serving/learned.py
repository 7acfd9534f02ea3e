"""A bundle over a catalogue: its rows mapped to slots, once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.bundle import Bundle
from serving.catalogue import CatalogueTable
from serving.retrieval.covisitation import Covisitation
from serving.retrieval.faiss_index import FoldIn

Floats = NDArray[np.float32]
Slots = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Learned:
    """A bundle with its titles in the order of a catalogue table."""

    bundle: Bundle
    slots: Slots  # (n_rows,) of the bundle's rows, -1 where the catalogue has no such title
    factors: Floats  # (n_items, n_factors), zero where the bundle has no such title
    has_factors: NDArray[np.bool_]  # (n_items,)
    fold_in: FoldIn
    covisitation: Covisitation
    unseated: NDArray[np.uint64]  # ids of the bundle's titles without a slot, ascending

    @classmethod
    def of(cls, bundle: Bundle, table: CatalogueTable) -> "Learned":
        """The mapping; O(titles)."""
        models = bundle.models
        slots = table.slots_of(models.ids)
        known = slots >= 0
        factors = np.zeros((len(table), models.factors.shape[1]), np.float32)
        factors[slots[known]] = models.factors[known]
        has_factors = np.zeros(len(table), np.bool_)
        has_factors[slots[known]] = True
        return cls(
            bundle,
            slots,
            factors,
            has_factors,
            FoldIn(models.factors, models.confidence, models.regularisation),
            Covisitation(models, slots, len(table)),
            np.sort(models.ids[~known]),
        )

    def misses(self, ids: NDArray[np.uint64]) -> bool:
        """Whether the bundle knows one of these titles that had no slot when this was made."""
        return bool(np.isin(ids, self.unseated).any())

    def viewer_factors(self, liked: Slots) -> Floats | None:
        """Factors of a viewer of these titles; None where none of them has any."""
        known = liked[self.has_factors[liked]]
        return self.fold_in.viewer(self.factors[known]) if len(known) else None

    def nearest(self, vector: Floats, n: int) -> Slots:
        """Slots of the titles whose factors go best with a vector, best first; `n` at most."""
        slots = self.slots[self.bundle.index.search(vector, n)]
        nearest: Slots = slots[slots >= 0]
        return nearest
