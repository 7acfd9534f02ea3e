"""A small world to recommend in: two circles of titles whose viewers hardly mix, and its bundle."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features import user_row
from features.bundle_format import ItemModels, Manifest
from features.compiled import Rows
from features.events import EVENT, NO_RATING, NO_SLOT, CatalogItem
from features.ids import id_hash, viewer_hash
from features.item_row import N_COLUMNS, NAMES
from features.vocabulary import EventType, genre_mask
from infra.train import EngineExamples
from offline.datasets import EventColumns
from offline.train import Silent, TrainConfig, fit_models, train
from offline.train_als import AlsConfig
from offline.train_ranker import RankerConfig
from serving.catalogue import CatalogueTable
from tests.clock import START_MS

N_TITLES = 240
N_VIEWERS = 160
N_EVENTS = 6_000
HOUR_MS = 3_600_000
SMALL = TrainConfig(
    als=AlsConfig(n_factors=8, n_iterations=4),
    ranker=RankerConfig(n_trees=10, n_negatives=20, min_rows_in_leaf=5),
)


def catalogue() -> list[CatalogItem]:
    """Even titles are crime, odd ones comedies; the last ten nobody has ever touched."""
    return [
        CatalogItem(f"t{k}", f"Title {k}", 1990 + k % 24, ("Crime" if k % 2 == 0 else "Comedy",))
        for k in range(N_TITLES)
    ]


def columns(n: int = N_EVENTS, seed: int = 5) -> EventColumns:
    """Ratings up to START_MS: each viewer stays in one circle, popular titles first."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, N_VIEWERS, n).astype(np.int32)
    rank = np.minimum(rng.exponential(30.0, n), (N_TITLES - 12) // 2 - 1).astype(np.int32)
    strays = rng.random(n) < 0.05
    item = (2 * rank + (user % 2 ^ strays)).astype(np.int32)
    at_ms = START_MS - (n - np.arange(n, dtype=np.int64)) * (30 * 24 * HOUR_MS // n)
    zeros = np.zeros(n, np.float32)
    rating = rng.integers(5, 11, n).astype(np.float32)
    return EventColumns(
        [f"u{k}" for k in range(N_VIEWERS)],
        [title.item_id for title in catalogue()],
        user, item, np.full(n, EventType.RATE, np.uint8), at_ms, at_ms, rating, zeros, zeros,
    )  # fmt: skip


def models() -> ItemModels:
    return fit_models(columns(), 2013, SMALL, Silent(), "of the test")


def train_small(folder: Path) -> Manifest:
    events, titles = columns(), catalogue()
    source = EngineExamples(events, titles)
    return train(events, titles, source, folder, created_at_ms=START_MS, config=SMALL)


@dataclass(slots=True)
class FixedMirror:
    """A mirror of the popularity of `columns`, as of START_MS."""

    values: np.ndarray

    @classmethod
    def of(cls, table: CatalogueTable) -> "FixedMirror":
        counts = np.bincount(columns().item, minlength=N_TITLES)
        values = np.zeros((len(table), N_COLUMNS), np.float32)
        for k, count in enumerate(counts.tolist()):
            slot = table.slot_of(f"t{k}")
            values[slot, NAMES.index("item_engaged_total")] = count
            values[slot, NAMES.index("item_engaged_7d")] = count // 4
            for name in ("item_trend_6h", "item_trend_1d", "item_trend_3d"):
                values[slot, NAMES.index(name)] = count / 30
            values[slot, NAMES.index("item_days_known")] = 30
        return cls(values)


def viewer_row(*watched: str, user_id: str = "new", kind: EventType = EventType.RATE) -> Rows:
    """`(1,) USER_ROW` of a viewer after touching titles, one an hour, the last just now."""
    row = user_row.new_row()
    row["id"] = viewer_hash(user_id)
    genres = {title.item_id: (title.genres, title.year) for title in catalogue()}
    for k, item_id in enumerate(watched):
        event = np.zeros(1, EVENT)
        event["item"], event["event"], event["offset"] = id_hash(item_id), k + 1, k
        event["at_ms"] = START_MS - (len(watched) - 1 - k) * HOUR_MS
        event["type"], event["slot"] = kind, NO_SLOT
        event["rating"] = 9.0 if kind == EventType.RATE else NO_RATING
        names, year = genres.get(item_id, ((), 0))
        event["genres"], event["year"] = genre_mask(names), year
        user_row.apply(row[0], event[0])
    return row
