"""What the rows that partitions feed say together, read from wherever they are stored."""

import numpy as np
from numpy.typing import NDArray

from features import covisitation, global_rates, segment_popularity
from features.compiled import Rows
from features.covisitation import NEIGHBOUR
from features.item_row import MAX_PARTITIONS
from features.segment_popularity import POPULAR
from features.store import RowStore


def read_globals(store: RowStore) -> Rows:
    """The global rows of all partitions that have one; one look-up."""
    ids = [int(global_rates.row_id(partition)) for partition in range(MAX_PARTITIONS)]
    rows, found = store.read(np.array(ids, np.uint64))
    return rows[found]


def read_priors(store: RowStore) -> NDArray[np.float32]:
    """`(N_GENRES + 1, N_RATES) float32`: the rates by which titles' own are smoothed, of now."""
    return global_rates.rates_of(read_globals(store))


def read_neighbours(
    covisitations: RowStore,
    globals_: RowStore,
    item: int,
    now_ms: int,
    count: int,
    n_partitions: int = MAX_PARTITIONS,
) -> Rows:
    """`(n,) NEIGHBOUR`, at most `count`: titles visited together with `item`, strongest first.

    Three look-ups: the title's rows, those of its neighbours, the global ones.
    """
    rows = _rows_of(covisitations, [item], n_partitions)[0]
    out = np.zeros(count, NEIGHBOUR)
    out = out[: covisitation.merge(rows, now_ms, out)]
    if len(out):
        others = _rows_of(covisitations, out["item"].tolist(), n_partitions)
        weights = np.array([covisitation.weight_of(other, now_ms) for other in others])
        total = global_rates.pair_weight_of(read_globals(globals_), now_ms)
        covisitation.fill_lift(out, covisitation.weight_of(rows, now_ms), weights, total)
    return out


def _rows_of(store: RowStore, items: list[int], n_partitions: int) -> list[Rows]:
    """Rows of each title over all partitions; empty ones where a partition has none."""
    ids = [
        int(covisitation.row_id(np.uint64(item), partition))
        for item in items
        for partition in range(n_partitions)
    ]
    rows, _ = store.read(np.array(ids, np.uint64))
    return list(rows.reshape(len(items), n_partitions))


def read_segment(
    store: RowStore,
    region: int,
    hour: int,
    now_ms: int,
    count: int,
    n_partitions: int = MAX_PARTITIONS,
) -> Rows:
    """`(n,) POPULAR`, at most `count`: what a region watches at an hour of the day, heaviest first.

    `region` is the low half of `id_hash` of its name, as in events; 0 is everywhere.
    """
    ids = [
        int(segment_popularity.row_id(region, hour, partition)) for partition in range(n_partitions)
    ]
    rows, _ = store.read(np.array(ids, np.uint64))
    out = np.zeros(count, POPULAR)
    return out[: segment_popularity.merge(rows, now_ms, out)]
