"""Composition of training: the engine itself, in this process, says what it would have ranked."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from features import global_rates, item_row, user_row
from features.bundle_format import ItemModels, Manifest
from features.compiled import Rows
from features.events import EVENT, NO_SLOT, CatalogItem
from features.global_rates import rates_of
from features.ids import id_hashes
from features.store import GLOBALS, ITEMS, USERS
from features.titles import TitleFacts
from features.windows import DAY_MS, MINUTE_MS
from offline.datasets import EVERYTHING, Dataset, EventColumns, Selection
from offline.train import (
    POSITIVE_TYPES,
    Silent,
    Task,
    TrainConfig,
    fit_models,
    refresh,
    train,
)
from offline.train_ranker import Examples
from serving.bundle import Bundle
from serving.catalogue import CatalogueTable
from serving.mirror import ItemMirror
from serving.recommender import Recommender
from serving.slate import Viewer

SWEEP_MS = 30 * MINUTE_MS  # titles that nobody touches are looked at again after this stream time
REFRESH_MS = 10 * MINUTE_MS  # of the hot lists, in stream time: they are whole charts, not rows
TELL_EVERY = 200  # events


def event_records(columns: EventColumns, titles: TitleFacts) -> Rows:
    """`(n,) EVENT` of columns, as the log would give them: one partition, offsets from 0."""
    events = np.zeros(len(columns), EVENT)
    events["user"] = id_hashes(columns.user_ids)[columns.user]
    events["item"] = id_hashes(columns.item_ids)[columns.item]
    events["event"] = id_hashes(columns.event_ids())
    for name in ("type", "at_ms", "rating", "watch_position_s", "watch_duration_s"):
        events[name] = getattr(columns, name)
    events["logged_at_ms"] = events["at_ms"]
    events["offset"] = np.arange(len(events))
    events["slot"] = NO_SLOT
    titles.enrich(events)
    return events


def next_titles(columns: EventColumns) -> NDArray[np.bool_]:
    """`(n,) bool`: events that say what a known viewer watched next, a title new to that viewer.

    The viewer has wanted some title before, and not this one.
    """
    wanted = np.isin(columns.type, POSITIVE_TYPES)
    pairs = columns.user.astype(np.int64) * len(columns.item_ids) + columns.item
    return wanted & ~_is_first(columns.user, wanted) & _is_first(pairs, wanted)


def _is_first(keys: NDArray[np.integer], among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which elements are the first of their key, of those chosen."""
    chosen = np.flatnonzero(among)
    first = np.zeros(len(keys), np.bool_)
    first[chosen[np.unique(keys[chosen], return_index=True)[1]]] = True
    return first


class LocalFeatures:
    """The features flow and the mirror without servers: rows in memory, one event after the other.

    Rows, updates and values are those of the flow; a sweep every SWEEP_MS of stream time stands for
    its sweep every minute.
    """

    def __init__(self, columns: EventColumns, catalogue: list[CatalogItem]) -> None:
        self.columns = columns
        self.table = CatalogueTable.of(catalogue)
        self.mirror = ItemMirror(self.table.ids)
        self.at = 0  # number of the next event
        self._events = event_records(columns, TitleFacts(catalogue))
        self._slots = self.table.slots_of(np.ascontiguousarray(self._events["item"]))
        self._users = np.repeat(USERS.empty, len(columns.user_ids))
        self._users["id"] = id_hashes(columns.user_ids)
        self._items = np.repeat(ITEMS.empty, len(self.table))
        self._items["id"] = self.table.ids
        self._globals = GLOBALS.empty.copy()
        self._touched = np.zeros(len(self.table), np.bool_)
        self._swept_ms = 0

    def advance(self, stop: int) -> None:
        """Takes in the events up to before number `stop`."""
        if stop <= self.at:
            return
        part = slice(self.at, stop)
        events, slots = self._events[part], self._slots[part]
        users = self.columns.user[part].astype(np.int64)
        effects = np.zeros(len(events), np.uint8)
        user_row.apply_all(self._users, users, events, effects)
        self._count(events, effects >= user_row.APPLIED)
        known = slots >= 0
        if not known.all():
            events, slots = events[known], slots[known]
        item_row.apply_all(self._items, slots, events, effects[: len(events)])
        self._touched[slots] = True
        self.at = stop
        self._reflect(np.unique(slots), self.now_ms(stop - 1))

    def _count(self, events: Rows, are_new: NDArray[np.bool_]) -> None:
        """The global row; pairs of titles are counted where bundles are trained."""
        partners = np.zeros(len(events), np.uint8)
        changed = np.zeros(1, np.bool_)
        slot = np.zeros(1, np.int64)
        global_rates.apply_all(self._globals, slot, events, are_new, partners, changed)

    def viewer(self, event: int) -> Viewer:
        """The viewer of an event, as the rows have it now."""
        user = int(self.columns.user[event])
        return Viewer(self._users[user : user + 1])

    def slot(self, event: int) -> int:
        """Catalogue slot of an event's title, -1 for an unknown one."""
        return int(self._slots[event])

    def now_ms(self, event: int) -> int:
        """When an event happened."""
        return int(self.columns.at_ms[event])

    def history(self, event: int) -> NDArray[np.int64]:
        """`(N_TITLES,)` slots of the titles that the viewer of an event touched last, or -1."""
        titles = self._users[int(self.columns.user[event])]["viewing"]["titles"]
        return self.table.slots_of(np.ascontiguousarray(titles["item"]))

    def counts(self, stop: int) -> NDArray[np.int64]:
        """`(n_titles,)` events of each title of the catalogue before number `stop`."""
        slots = self._slots[:stop]
        return np.bincount(slots[slots >= 0], minlength=len(self.table))

    def _reflect(self, slots: NDArray[np.int64], now_ms: int) -> None:
        """Brings the mirror up to date for titles, and for all now and then."""
        if now_ms - self._swept_ms >= SWEEP_MS:
            slots, self._swept_ms = np.flatnonzero(self._touched), now_ms
        values = np.empty((len(slots), item_row.N_COLUMNS), np.float32)
        item_row.values_of(self._items, slots, now_ms, rates_of(self._globals), values)
        self.mirror.values[slots] = values


class FreshModels:
    """Models of titles as a scheduled refresh brings them to a server: fitted anew now and then.

    They are fitted on the events so far, and never on those to come.
    """

    def __init__(self, columns: EventColumns, latest_year: int, config: TrainConfig) -> None:
        self._columns = columns
        self._latest_year = latest_year
        self._config = config
        self._refresh_ms = config.refresh_days * DAY_MS
        self._fitted_ms: int | None = None

    def due(self, event: int) -> ItemModels | None:
        """Models fitted on the events before number `event`, where the last ones are too old.

        The first call finds them fresh.
        """
        now_ms = int(self._columns.at_ms[event])
        if self._fitted_ms is None:
            self._fitted_ms = now_ms
        if now_ms - self._fitted_ms < self._refresh_ms:
            return None
        self._fitted_ms = now_ms
        past = self._columns.rows(0, event)
        return fit_models(past, self._latest_year, self._config, Silent(), "so far")


@dataclass(slots=True)
class EngineExamples:
    """The ranker's examples: what the server's own stages bring up to the score."""

    columns: EventColumns
    catalogue: list[CatalogItem]

    def examples(
        self,
        models: ItemModels,
        start: int,
        config: TrainConfig,
        progress: Callable[[int], None],
    ) -> Examples:
        """See `offline.train.ExampleSource`."""
        local = LocalFeatures(self.columns, self.catalogue)
        bundle = Bundle.without_ranker(models)
        recommender = Recommender(local.table, local.mirror, bundle, refresh_ms=REFRESH_MS)
        fresh = FreshModels(self.columns, models.latest_year, config)
        chosen = np.flatnonzero(next_titles(self.columns))
        chosen = chosen[chosen >= start][-config.max_queries :]
        held_out = set(chosen[len(chosen) - min(config.n_held_out, len(chosen) // 5) :].tolist())
        rng = np.random.default_rng(config.ranker.seed)
        found = Examples()
        for number, event in enumerate(chosen.tolist()):
            local.advance(event)
            if (newer := fresh.due(event)) is not None:
                recommender.use(Bundle.without_ranker(newer))
            slots, features = recommender.candidates(local.viewer(event), local.now_ms(event))
            places = np.flatnonzero(slots == local.slot(event))
            _take(found, features, places, event in held_out, config.ranker.n_negatives, rng)
            if number % TELL_EVERY == 0:
                progress(event)
        progress(len(self.columns))
        return found


def _take(
    found: Examples,
    features: NDArray[np.float32],
    places: NDArray[np.int64],
    is_held_out: bool,
    n_negatives: int,
    rng: np.random.Generator,
) -> None:
    """Adds one ranking: whole if it is held out, else the title that came next and some others."""
    found.n_queries += 1
    found.n_found += len(places)
    others = np.delete(np.arange(len(features)), places)
    if is_held_out:
        found.held_out.append((features[np.concatenate([places, others])], bool(len(places))))
    elif len(places):
        drawn = rng.choice(others, min(n_negatives, len(others)), replace=False)
        found.rows.append(features[np.concatenate([places, drawn])])


class RichProgress:
    """Bars of `rich`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def task(self, name: str, total: int) -> Task:
        """Begins a bar."""
        bar = self._progress.add_task(name, total=total)
        return lambda done: self._progress.update(bar, completed=done)


def train_bundle(
    source: Dataset,
    bundles: Path,
    *,
    selection: Selection = EVERYTHING,
    progress: Progress | None = None,
    config: TrainConfig | None = None,
) -> Manifest:
    """Trains on the selected events of a dataset and makes the bundle current in its folder.

    Raises what `offline.train.train` raises.
    """
    columns, catalogue = source.columns(selection), source.catalogue()
    return train(
        columns,
        catalogue,
        EngineExamples(columns, catalogue),
        bundles,
        created_at_ms=time.time_ns() // 1_000_000,
        progress=None if progress is None else RichProgress(progress),
        config=config,
    )


def refresh_bundle(
    source: Dataset,
    bundles: Path,
    *,
    selection: Selection = EVERYTHING,
    progress: Progress | None = None,
) -> Manifest:
    """Fits models of titles anew and makes them current with the ranker that is current now.

    Raises what `offline.train.refresh` raises.
    """
    return refresh(
        source.columns(selection),
        source.catalogue(),
        bundles,
        created_at_ms=time.time_ns() // 1_000_000,
        progress=None if progress is None else RichProgress(progress),
    )
