"""The simulation in the shape of a dataset: replayed and trained on where none is at hand."""

import time
from collections.abc import Iterator
from functools import cached_property
from typing import ClassVar

import numpy as np

from features.events import CatalogItem, Interaction
from offline.datasets import EVERYTHING, EventColumns, Selection
from offline.simulator import SimulationConfig, Simulator, item_id, user_id

N_EVENTS = 100_000
SPAN_S = 2 * 86_400  # the events lie in the two days up to now


DEFAULT_WORLD = SimulationConfig(n_users=3_000, n_items=2_000)


class SimulatedDataset:
    """100,000 events of a simulated world; the same configuration makes the same ones."""

    name: ClassVar[str] = "simulation"

    def __init__(
        self, config: SimulationConfig = DEFAULT_WORLD, *, now_ms: int | None = None
    ) -> None:
        self._config = config
        self._simulator = Simulator(config)
        end_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        self._start_ms = end_ms - 1_000 * SPAN_S

    def columns(self, selection: Selection = EVERYTHING) -> EventColumns:
        """The selected events as columns; see EventColumns."""
        return self._events.select(selection)

    def interactions(self, selection: Selection = EVERYTHING) -> Iterator[Interaction]:
        """The selected events one by one, in order, with what columns leave out (sessions)."""
        start, stop = selection.bounds(self._events.at_ms)
        made = self._simulator.interactions(N_EVENTS, self._start_ms, N_EVENTS / SPAN_S)
        return (event for place, event in enumerate(made) if start <= place < stop)

    def catalogue(self) -> list[CatalogItem]:
        """Every title."""
        return self._simulator.catalogue()

    @cached_property
    def _events(self) -> EventColumns:
        batches = list(self._simulator.batches(N_EVENTS, self._start_ms, N_EVENTS / SPAN_S))
        joined = {
            name: np.concatenate([getattr(batch, name) for batch in batches])
            for name in (
                "user", "item", "type", "at_ms", "rating", "watch_position_s", "watch_duration_s"
            )
        }  # fmt: skip
        return EventColumns(
            user_ids=[user_id(n) for n in range(self._config.n_users)],
            item_ids=[item_id(n) for n in range(self._config.n_items)],
            source_time=joined["at_ms"],
            **joined,
        )
