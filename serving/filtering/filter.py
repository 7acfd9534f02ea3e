"""The filter stage: of the candidates what may be shown, and others where few are left."""

import numpy as np
from numpy.typing import NDArray

from features import item_row
from serving.filtering.allow import allow, best_allowed
from serving.knowledge import Knowledge
from serving.request import Request
from serving.retrieval.base import Candidates, Floats, Slots, Source

_TREND_3D = item_row.NAMES.index("item_trend_3d")
_TOTAL = item_row.NAMES.index("item_engaged_total")


class Filter:
    """Of one request at a time: `begin`, then any of the others, then `end`."""

    def __init__(self, knowledge: Knowledge, capacity: int) -> None:
        self._knowledge = knowledge
        self._blocked = np.zeros(len(knowledge.table), np.bool_)
        self._marked: list[int] = []
        self._allowed = np.zeros(capacity, np.bool_)

    def begin(self, request: Request) -> None:
        """Marks what is excluded from this request."""
        slot_of = self._knowledge.table.slot_of
        excluded = (*request.query.exclude_item_ids, request.query.item_id)
        self._marked = [slot for id_ in excluded if (slot := slot_of(id_)) is not None]
        self._blocked[self._marked] = True

    def end(self) -> None:
        """Leaves nothing of the request behind."""
        self._blocked[self._marked] = False
        self._marked = []

    def apply(self, request: Request, found: Candidates) -> None:
        """Leaves what may be shown. O(candidates)."""
        table, n = self._knowledge.table, found.n
        allow(
            found.slots[:n],
            request.row["viewing"][0],
            table.ids,
            table.genres,
            table.available_from_ms,
            self._blocked,
            request.wanted_genres,
            request.now_ms,
            self._allowed[:n],
        )
        found.keep(self._allowed[:n])

    def refill(self, request: Request, found: Candidates, wanted: int) -> None:
        """Fills up to `wanted` candidates from the whole catalogue, by popularity."""
        if found.n < wanted:
            missing = self.best(request, self._popularity(), wanted - found.n, found.places)
            found.offer(missing, len(missing), Source.POPULAR)

    def best(
        self, request: Request, order_by: Floats, wanted: int, places: Slots
    ) -> NDArray[np.int32]:
        """Slots of the `wanted` best titles by `order_by` that may be shown and have no place.

        One pass over the catalogue.
        """
        table = self._knowledge.table
        best: NDArray[np.int32] = best_allowed(
            order_by,
            wanted,
            places,
            request.row["viewing"][0],
            table.ids,
            table.genres,
            table.available_from_ms,
            self._blocked,
            request.wanted_genres,
            request.now_ms,
        )
        return best

    def _popularity(self) -> Floats:
        """`(n_items,) float32` order of the whole catalogue: trend, then total, then newness."""
        values = self._knowledge.mirror.values
        order: Floats = values[:, _TREND_3D] + np.float32(1e-3) * values[:, _TOTAL]
        order += np.float32(1e-8) * self._knowledge.table.years
        return order
