"""A bundle over a catalogue: its rows mapped to slots, once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.bundle import Bundle
from serving.catalogue import CatalogueTable
from serving.retrieval.covisitation import Covisitation
from serving.retrieval.delta import DeltaIndex
from serving.retrieval.faiss_index import FoldIn

MOST_COLD: Final = 512  # titles; a search of them takes 10 us

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
    n_changes: int  # of the table, when this was made
    delta: DeltaIndex  # titles that came after the bundle, by factors from what they are

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
            table.n_changes,
            DeltaIndex(models.factors.shape[1], MOST_COLD),
        ).with_cold(table, table.arrivals[::-1].tolist())

    def with_cold(self, table: CatalogueTable, slots: Iterable[int]) -> "Learned":
        """This, finding titles by factors from what they are where the bundle has none for them.

        They are found by these and scored as titles without factors, as the ranker was trained on.
        """
        weights = self.bundle.content_map
        if weights is not None:
            for slot in slots:
                if not self.has_factors[slot]:
                    self.delta.add(slot, table.contents[slot] @ weights[:-1] + weights[-1])
        return self

    def misses(self, ids: NDArray[np.uint64]) -> bool:
        """Whether the bundle knows one of these titles that had no slot when this was made."""
        return bool(np.isin(ids, self.unseated).any())

    def is_behind(self, table: CatalogueTable) -> bool:
        """Whether the table has got titles since that the bundle knows."""
        came = table.changed_since(self.n_changes)
        return came is None or self.misses(table.ids[came])

    def viewer_factors(self, liked: Slots) -> Floats | None:
        """Factors of a viewer of these titles; None where none of them has any."""
        known = liked[self.has_factors[liked]]
        return self.fold_in.viewer(self.factors[known]) if len(known) else None

    def nearest(self, vector: Floats, n: int, allowed: NDArray[np.bool_] | None = None) -> Slots:
        """Slots of the titles whose factors go best with a vector, best first; `n` at most.

        With `allowed`, by slot, only of those; see `FaissIndex.nearest`.
        """
        of_rows = None if allowed is None else (self.slots >= 0) & allowed[self.slots]
        rows, products = self.bundle.index.nearest(vector, n, of_rows)
        slots = self.slots[rows]
        if len(self.delta):
            slots, _ = self.delta.merge(vector, slots, products, n)
        nearest: Slots = slots[slots >= 0]
        return nearest
