"""What each region watches, read beside requests from the rows of the features flow."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import redis
import structlog
from numpy.typing import NDArray

from features.ids import id_hash
from features.segment_popularity import N_HOURS, POPULAR, hour_of, merge
from features.segment_popularity import row_id as segment_id
from features.store import SEGMENTS, InMemoryRowStore, RowStore
from serving.catalogue import CatalogueTable

N_REGIONAL: Final = 100  # titles of a chart
MOST_REGIONS: Final = 64  # of which charts are kept
EVERY_S: Final = 10.0
FORGET_AFTER_S: Final = 600.0  # regions that nobody asks for
AROUND: Final = (0, 1, N_HOURS - 1)  # hours of the day that count first: this one, those beside

_NOTHING: Final = np.zeros(0, np.int32)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Chart:
    """One region's."""

    slots: NDArray[np.int32] = field(default_factory=lambda: _NOTHING)
    read_s: float = float("-inf")
    asked_s: float = 0.0


class RegionCharts:
    """The charts of regions that were asked for lately; of any other there is none yet.

    A region without a chart (new, unknown, the store is away) is everywhere: the other charts.
    """

    def __init__(
        self,
        store: RowStore,
        n_partitions: int,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`store` has the rows of segments; `n_partitions` of the log feed them."""
        self.wake: Callable[[], None] | None = None  # of who reads what is wanted
        self._store = store
        self._n_partitions = n_partitions
        self._monotonic_s = monotonic_s
        self._charts: dict[str, _Chart] = {}
        self._is_failing = False

    def chart(self, region: str) -> NDArray[np.int32]:
        """Slots of what a region watches, heaviest first; none the first time that it is asked."""
        if not region:
            return _NOTHING
        chart = self._charts.get(region)
        if chart is None:
            if len(self._charts) >= MOST_REGIONS:
                return _NOTHING
            chart = self._charts[region] = _Chart()
            if self.wake is not None:
                self.wake()
        chart.asked_s = self._monotonic_s()
        return chart.slots

    def refresh(self, table: CatalogueTable, now_ms: int) -> None:
        """Reads charts that are old or missing, forgets those that nobody asked for; on a thread.

        While the store fails charts stay as they are.
        """
        now_s = self._monotonic_s()
        for region, chart in list(self._charts.items()):
            if now_s - chart.asked_s > FORGET_AFTER_S:
                del self._charts[region]
            elif now_s - chart.read_s >= EVERY_S:
                chart.read_s = now_s
                if not self._read(region, chart, table, now_ms):
                    return  # the others would wait for the same store

    def _read(self, region: str, chart: _Chart, table: CatalogueTable, now_ms: int) -> bool:
        try:
            ids = read_chart(self._store, region, now_ms, self._n_partitions)
        except (redis.RedisError, OSError) as error:
            if not self._is_failing:
                log.warning("regional_charts_unreadable", reason=str(error))
            self._is_failing = True
            return False
        self._is_failing = False
        slots = table.slots_of(ids)
        chart.slots = slots[slots >= 0].astype(np.int32)
        return True


def read_chart(store: RowStore, region: str, now_ms: int, n_partitions: int) -> NDArray[np.uint64]:
    """Ids of what a region watches, at most N_REGIONAL: around this hour first, then all day."""
    key = id_hash(region) & 0xFFFFFFFF
    wanted = [
        int(segment_id(key, hour, partition))
        for hour in range(N_HOURS)
        for partition in range(n_partitions)
    ]
    rows, _ = store.read(np.array(wanted, np.uint64))
    by_hour = rows.reshape(N_HOURS, n_partitions)
    hours = [(hour_of(now_ms) + beside) % N_HOURS for beside in AROUND]
    out = np.zeros(N_REGIONAL, POPULAR)
    n_now = merge(by_hour[hours].reshape(-1), now_ms, out)
    ids = out["item"][:n_now].copy()
    n = merge(rows, now_ms, out)
    later = out["item"][:n]
    found: NDArray[np.uint64] = np.concatenate([ids, later[~np.isin(later, ids)]])[:N_REGIONAL]
    return found


def warm_up(now_ms: int) -> None:
    """Has compiled what the first region that is asked for would wait for."""
    read_chart(InMemoryRowStore(SEGMENTS), "warm-up", now_ms, n_partitions=1)
