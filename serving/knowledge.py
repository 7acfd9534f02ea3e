"""What all stages look at: the catalogue, what was learned, what is learned from hour to hour.

Its parts are swapped by reference between requests, never during one.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from features.id_map import IdMap
from serving.catalogue import CatalogueTable
from serving.learned import Learned
from serving.overlay import Overlay
from serving.retrieval.content import ContentNeighbours
from serving.retrieval.regional import RegionCharts
from serving.retrieval.trending import HotLists, Trending
from serving.rules.book import NO_RULES, RuleBook


class Mirror(Protocol):
    """The matrix of titles' features; `serving.mirror.ItemMirror` is one."""

    values: NDArray[np.float32]  # (n_slots, item_row.N_COLUMNS), in the order of the table

    def prepare(self, ids: NDArray[np.uint64], slots: IdMap) -> NDArray[np.float32]:
        """Makes ready for a bigger table: the values that `switch` will show."""

    def switch(self) -> None:
        """Shows readers what was prepared."""


@dataclass(slots=True)
class Knowledge:
    """The parts; None where there is nothing yet."""

    table: CatalogueTable
    mirror: Mirror
    trending: Trending
    learned: Learned | None = None
    overlay: Overlay | None = None
    content: ContentNeighbours = field(init=False)
    regions: RegionCharts | None = None
    rules: RuleBook = NO_RULES

    def __post_init__(self) -> None:
        self.content = ContentNeighbours(self.table)

    def hot(self, now_ms: int) -> HotLists:
        """The charts as of a moment."""
        return self.trending.lists(self.mirror.values, now_ms)
