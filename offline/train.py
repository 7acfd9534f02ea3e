"""Interactions -> a bundle.

    events before the window -> factors, neighbours -> what the engine would have ranked in the
    window -> ranker;    all events -> factors, neighbours;    both -> bundle

The ranker learns from moments whose future none of its inputs has seen: factors and neighbours for
its examples are fitted on the events before the window alone, rows and trends are replayed event by
event. In the bundle stand factors and neighbours of all events, so in service they are a little
fresher than those that the ranker learned with; the age of both grows until the next training.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from features.bundle_format import ItemModels, Manifest
from features.events import CatalogItem
from features.ids import id_hashes
from features.vocabulary import EventType
from offline.bundle import Extras, Provenance, read_ranking, write_bundle
from offline.cheap_stage import CheapConfig, fit_cheap, measure_cheap
from offline.cold_factors import fit_content_map
from offline.datasets import EventColumns
from offline.faiss_index import build_index
from offline.neighbours import NeighboursConfig, fit_neighbours
from offline.train_als import AlsConfig, fit_factors
from offline.train_ranker import Examples, RankerConfig, fit_ranker, measure

# What says that a viewer wanted a title.
POSITIVE_TYPES = (
    EventType.CLICK, EventType.PLAY, EventType.COMPLETE, EventType.LIKE, EventType.RATE,
    EventType.ADD, EventType.SHARE,
)  # fmt: skip
NEWEST_SHARE = 0.001  # of the events are of titles later than `latest_year`


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything that can be chosen about a training."""

    als: AlsConfig = field(default_factory=AlsConfig)
    neighbours: NeighboursConfig = field(default_factory=NeighboursConfig)
    ranker: RankerConfig = field(default_factory=RankerConfig)
    cheap: CheapConfig = field(default_factory=CheapConfig)
    window_share: float = 0.4  # of the events, the last ones: the ranker's examples
    max_queries: int = 30_000  # examples at most; the newest
    n_held_out: int = 1_000  # of the examples, the last ones: for measuring alone
    refresh_days: float = 1.0  # age at which factors and neighbours are fitted anew

    def __post_init__(self) -> None:
        if not self.refresh_days > 0:
            raise ValueError(f"train.refresh_days must be above 0; got {self.refresh_days}")
        if not 0 < self.window_share < 1:
            raise ValueError(f"train.window_share must be within 0..1; got {self.window_share}")

    def parameters(self) -> dict[str, float | int | str]:
        """All of it, flat, for the manifest."""
        return dict(_flat(asdict(self)))


def _flat(section: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in section.items():
        nested = isinstance(value, Mapping)
        pairs += _flat(value, f"{prefix}{name}.") if nested else [(prefix + name, value)]
    return pairs


class Task(Protocol):
    """A bar of progress."""

    def __call__(self, done: int) -> None:
        """Says how much is done."""


class Progress(Protocol):
    """Where progress is shown."""

    def task(self, name: str, total: int) -> Task:
        """Begins a bar."""


class Silent:
    """Shows nothing."""

    def task(self, name: str, total: int) -> Task:  # noqa: ARG002
        """A bar that nobody sees."""
        return _ignore


def _ignore(done: int) -> None:
    """Shows nothing."""


class ExampleSource(Protocol):
    """The engine, asked what it would have ranked at moments of the past."""

    def examples(
        self,
        models: ItemModels,
        start: int,
        config: TrainConfig,
        progress: Callable[[int], None],
    ) -> Examples:
        """Rankings at the events from number `start` on, each before its event is learned.

        `models` were fitted on the events before `start`. `progress` is told events so far.
        """


class TrainingError(Exception):
    """There is nothing to train on; the message says what is missing."""


def train(
    events: EventColumns,
    catalogue: list[CatalogItem],
    source: ExampleSource,
    bundles: Path,
    *,
    created_at_ms: int,
    progress: Progress | None = None,
    config: TrainConfig | None = None,
) -> Manifest:
    """Fits everything on `events`, which are in order of time, and writes the bundle.

    Raises TrainingError, TooFewExamplesError, or BundleError where what came out is broken.
    """
    shown, config = progress or Silent(), config or TrainConfig()
    start = round(len(events) * (1 - config.window_share))
    latest = latest_year(events, catalogue)
    before = fit_models(events.rows(0, start), latest, config, shown, "before the window")
    bar = shown.task("examples from the engine", len(events))
    examples = source.examples(before, start, config, bar)
    bar = shown.task("ranker: trees", config.ranker.n_trees)
    booster = fit_ranker(examples, config.ranker, bar)
    models = fit_models(events, latest, config, shown, "of all events")
    content_map = fit_content_map(models, catalogue)
    cheap = fit_cheap(examples, config.cheap)
    return write_bundle(
        bundles,
        models,
        build_index(models.factors),
        booster.model_to_string(),
        Provenance(
            created_at_ms,
            int(events.at_ms[0]),
            int(events.at_ms[-1]),
            len(events),
            {
                "examples": float(len(examples.rows)),
                **measure(booster, examples),
                **measure_cheap(cheap, booster, examples),
            },
            config.parameters(),
        ),
        Extras(
            content_map=None if content_map is None else content_map.weights,
            cheap=cheap.model_to_string(),
        ),
    )


def refresh(
    events: EventColumns,
    catalogue: list[CatalogItem],
    bundles: Path,
    *,
    created_at_ms: int,
    progress: Progress | None = None,
    config: TrainConfig | None = None,
) -> Manifest:
    """Fits what is learned of titles anew; all that ranks is taken from the current bundle.

    Seconds instead of the minutes of `train`: what to run every day or hour. Raises TrainingError,
    or BundleError where there is no current bundle, or its ranker is of other columns.
    """
    shown, config = progress or Silent(), config or TrainConfig()
    before, ranker, extras = read_ranking(bundles)
    models = fit_models(events, before.latest_year, config, shown, "of all events")
    content_map = fit_content_map(models, catalogue)
    return write_bundle(
        bundles,
        models,
        build_index(models.factors),
        ranker,
        Provenance(
            created_at_ms,
            int(events.at_ms[0]),
            int(events.at_ms[-1]),
            len(events),
            before.metrics,
            before.parameters,
        ),
        replace(extras, content_map=None if content_map is None else content_map.weights),
    )


def fit_models(
    events: EventColumns, latest: int, config: TrainConfig, progress: Progress, name: str
) -> ItemModels:
    """Factors and neighbours of the titles in `events`. Raises TrainingError where there are none.

    Titles that nobody wanted have no row: a server knows them from the catalogue and the stream.
    """
    wanted = np.flatnonzero(np.isin(events.type, POSITIVE_TYPES))
    if not len(wanted):
        raise TrainingError(f"training needs events that say a title was wanted; got none {name}")
    codes, rows = np.unique(events.item[wanted], return_inverse=True)
    items: NDArray[np.int32] = rows.astype(np.int32)
    users = events.user[wanted]
    bar = progress.task(f"factors {name}", config.als.n_iterations)
    factors = fit_factors(users, items, len(codes), config.als, bar)
    bar = progress.task(f"neighbours {name}", len(wanted))
    neighbours = fit_neighbours(
        users, items, events.at_ms[wanted], len(codes), config.neighbours, bar
    )
    return ItemModels(
        ids=id_hashes(events.item_ids[code] for code in codes.tolist()),
        factors=factors,
        neighbours=neighbours.items,
        weights=neighbours.weights,
        support=np.bincount(items, minlength=len(codes)).astype(np.float32),
        confidence=config.als.confidence,
        regularisation=config.als.regularisation,
        latest_year=latest,
    )


def latest_year(events: EventColumns, catalogue: list[CatalogItem]) -> int:
    """The newest year of titles in `events`, but for the NEWEST_SHARE of events beyond it."""
    years = {item.item_id: item.year for item in catalogue}
    of_item: NDArray[np.int64] = np.array([years.get(id_, 0) for id_ in events.item_ids], np.int64)
    known = of_item[events.item]
    known = known[known > 0]
    return int(np.quantile(known, 1 - NEWEST_SHARE, method="lower")) if len(known) else 0
