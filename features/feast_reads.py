"""What Feast's views answer, read from the rows in Redis by the functions that the server calls.

A view is answered by its entity: columns of a row, lists that several rows make together, rates of
genres, or where a title stands among all titles.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from feast.protos.feast.types.Value_pb2 import DoubleList, StringList, Value
from numpy.typing import NDArray

from features import item_row, lake, user_row
from features.clock import Clock
from features.compiled import Rows, compiled
from features.global_rates import ALL, DEFAULT_PRIORS
from features.history import title_ids_of
from features.ids import id_hash, id_hashes
from features.partition_reads import read_neighbours, read_priors, read_segment
from features.popularity import popularity_of
from features.redis_config import RedisConfig
from features.redis_store import HEX_DIGITS, RedisLink, RedisRowStore, packed
from features.registry import (
    POPULARITY,
    RATES,
    VIEWS,
    Entity,
    ListView,
    View,
    list_view_named,
    names_of,
)
from features.segment_popularity import N_HOURS
from features.store import TABLES
from features.user_row import values as user_values
from features.vocabulary import genre_slot

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
POPULARITY_HOLDS_S = 60.0  # ranks among all titles are read anew after so long
ROWS_AT_ONCE = 4_096
SCAN_COUNT = 1_000

Key = dict[str, Value]  # an entity: its value for each join key
Values = dict[str, Value]  # by the name of the feature
FeatureRow = tuple[datetime | None, Values | None]  # time of the last event, and values


class ViewReader:
    """Answers of every view over one connection, as of a clock. One thread."""

    def __init__(
        self,
        redis: RedisConfig,
        clock: Clock,
        folder: Path,
        *,
        give_up_after_s: float = 1.0,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = RedisLink(redis, give_up_after_s=give_up_after_s)
        self._stores = {table.letter: RedisRowStore(self._link, table, redis) for table in TABLES}
        self._clock = clock
        self._ranks = _AllTitles(self._link, redis, self._stores["i"], folder, monotonic_s)
        self._lists = {"covisitation": self._neighbours, "segment_popularity": self._segment}

    def read(self, view_name: str, keys: Sequence[Key], requested: list[str] | None) -> list[Any]:
        """A FeatureRow for each key with the requested features; (None, None): unknown.

        Raises redis.RedisError when Redis is away for too long, KeyError for a view or a feature
        that the registry does not have, ValueError for an hour that is none.
        """
        names = names_of(view_name)
        wanted = names if requested is None else requested
        if unknown := [name for name in wanted if name not in names]:
            raise KeyError(f"feature view {view_name} has no feature {', '.join(unknown)}")
        places = [names.index(name) for name in wanted]
        for view in VIEWS:
            if view.name == view_name:
                return self._columns(view, keys, wanted, places)
        now_ms = self._clock.now_ms()
        if view_name in (RATES, POPULARITY):
            read = self._rates if view_name == RATES else self._popularity
            found, values = read(keys, now_ms)
            return feature_rows(wanted, found, [now_ms] * len(keys), values[:, places])
        list_view = list_view_named(view_name)
        answers = [self._lists[view_name](list_view, key, now_ms) for key in keys]
        return [_list_row(list_view, wanted, answer, now_ms) for answer in answers]

    def _columns(
        self, view: View, keys: Sequence[Key], wanted: list[str], places: list[int]
    ) -> list[FeatureRow]:
        ids = id_hashes(key[f"{view.entity}_id"].string_val for key in keys)
        rows, found = self._stores[view.entity[0]].read(ids)
        priors = read_priors(self._stores["g"]) if view.entity == "item" else DEFAULT_PRIORS
        values = columns_of(view.entity, rows, self._clock.now_ms(), priors)[:, view.places]
        times_ms = rows["activity"]["last_ms"].tolist()
        return feature_rows(wanted, found, times_ms, values[:, places])

    def _neighbours(self, view: ListView, key: Key, now_ms: int) -> Rows:
        item = int(id_hashes([key["item_id"].string_val])[0])
        stores = self._stores["c"], self._stores["g"]
        return read_neighbours(*stores, item, now_ms, view.length)

    def _segment(self, view: ListView, key: Key, now_ms: int) -> Rows:
        hour = key["hour"].int64_val
        if not 0 <= hour < N_HOURS:
            raise ValueError(f"hour must be within 0..{N_HOURS - 1}; got {hour}")
        region = region_hash(key["region"].string_val)
        return read_segment(self._stores["s"], region, hour, now_ms, view.length)

    def _rates(
        self, keys: Sequence[Key], _now_ms: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Of genres by name, of all titles by the empty one; whatever is asked for is known."""
        names = [key["genre"].string_val for key in keys]
        slots = [genre_slot(name) if name else ALL for name in names]
        return np.ones(len(keys), np.bool_), read_priors(self._stores["g"])[slots]

    def _popularity(
        self, keys: Sequence[Key], now_ms: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        return self._ranks.of(id_hashes(key["item_id"].string_val for key in keys), now_ms)

    def close(self) -> None:
        """Closes the connection."""
        self._link.close()


class _AllTitles:
    """Where titles stand among all titles, read from all rows at most once a minute.

    All titles are those of the lake's catalogue, as they are of the server's. Without a lake they
    are those that have a row: ranks are the same then, percentiles lack the untouched.
    """

    def __init__(
        self,
        link: RedisLink,
        redis: RedisConfig,
        store: RedisRowStore,
        folder: Path,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._link = link
        self._redis = redis
        self._store = store
        self._folder = folder
        self._monotonic_s = monotonic_s
        self._read_s: float | None = None
        self._ids = np.empty(0, np.uint64)  # sorted
        self._values = np.empty((0, 3), np.float32)

    def of(
        self, ids: NDArray[np.uint64], now_ms: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Which titles there are, and `(n, 3) float32`: rank, percentile, long tail."""
        now_s = self._monotonic_s()
        if self._read_s is None or now_s - self._read_s >= POPULARITY_HOLDS_S:
            self._read(now_ms)
            self._read_s = now_s
        if not len(self._ids):
            return np.zeros(len(ids), np.bool_), np.zeros((len(ids), 3), np.float32)
        places = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return self._ids[places] == ids, self._values[places]

    def _read(self, now_ms: int) -> None:
        has_catalogue = bool(
            (self._folder / lake.LOG_FILE).exists() and lake.files_of(self._folder, lake.CATALOG)
        )
        ids = title_ids_of(self._folder) if has_catalogue else self._ids_of_rows()
        self._ids = np.unique(ids)
        matrix = np.empty((len(self._ids), item_row.N_COLUMNS), np.float32)
        for start in range(0, len(self._ids), ROWS_AT_ONCE):
            rows, _ = self._store.read(self._ids[start : start + ROWS_AT_ONCE])
            values = columns_of("item", rows, now_ms, DEFAULT_PRIORS)
            matrix[start : start + len(rows)] = values  # rates do not tell in popularity
        self._values = np.stack(popularity_of(matrix), axis=1).astype(np.float32)

    def _ids_of_rows(self) -> NDArray[np.uint64]:
        head = self._redis.key_head(self._store.table)
        cursor, ids = b"0", []
        while True:
            scan = packed("SCAN", cursor, "MATCH", head + b"*", "COUNT", SCAN_COUNT)
            cursor, keys = self._link.run([scan])[0]
            ids += [int(k[len(head) :], 16) for k in keys if len(k) == len(head) + HEX_DIGITS]
            if cursor == b"0":
                return np.array(ids, np.uint64)


def region_hash(name: str) -> int:
    """A region as events have it: 32 bits of the id of its name, as it is; 0: everywhere.

    >>> region_hash(""), region_hash("DE") == region_hash("de")
    (0, False)
    """
    return id_hash(name) & 0xFFFFFFFF


def columns_of(
    entity: Entity, rows: Rows, now_ms: int, priors: NDArray[np.float32]
) -> NDArray[np.float32]:
    """`(n_rows, n_columns) float32`: all columns of rows of an entity. O(n).

    `priors`, the rates of genres, are what those of titles are smoothed by.
    """
    if entity == "user":
        out = np.empty((len(rows), user_row.N_COLUMNS), np.float32)
        user_values_of(rows, now_ms, out)
    else:
        out = np.empty((len(rows), item_row.N_COLUMNS), np.float32)
        item_row.values_of(rows, np.arange(len(rows)), now_ms, priors, out)
    return out


@compiled
def user_values_of(rows: Rows, now_ms: int, out: NDArray[np.float32]) -> None:
    """Columns of viewers into `out`, `(n_rows, N_COLUMNS) float32`. Pure."""
    for i in range(len(rows)):
        user_values(rows[i], now_ms, out[i])


def feature_rows(
    names: list[str],
    found: NDArray[np.bool_],
    times_ms: Iterable[int],
    values: NDArray[np.float32],
) -> list[FeatureRow]:
    """Values, `(n, n_names)`, as Feast wants them: a message each, in a dict per entity."""
    return [
        (_time(at_ms), dict(zip(names, of_row, strict=True))) if is_known else (None, None)
        for is_known, at_ms, of_row in zip(found.tolist(), times_ms, _protos(values), strict=True)
    ]


def _time(at_ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=at_ms)


def _protos(values: NDArray[np.float32]) -> list[list[Value]]:
    """A message for each number; equal numbers share one, since most of them are zero."""
    distinct, inverse = np.unique(values, return_inverse=True)
    messages = [Value(float_val=number) for number in distinct.tolist()]
    by_row = inverse.reshape(len(values), -1).tolist()
    return [[messages[i] for i in row] for row in by_row]


def _list_row(view: ListView, wanted: list[str], elements: Rows, now_ms: int) -> FeatureRow:
    """Records of one list as features, a list for each field; an empty list is no answer."""
    if not len(elements):
        return None, None
    lists = {view.ids_name: Value(string_list_val=StringList(val=hexadecimal(elements["item"])))}
    for column in view.columns:
        numbers = elements[column.name].astype(np.float64).tolist()
        lists[view.feature(column)] = Value(double_list_val=DoubleList(val=numbers))
    return _time(now_ms), {name: lists[name] for name in wanted}


def hexadecimal(ids: NDArray[np.uint64]) -> list[str]:
    """Ids of titles as 16 digits each: rows know titles by the hashes of their ids alone.

    >>> hexadecimal(np.array([255], np.uint64))
    ['00000000000000ff']
    """
    return [f"{id_:016x}" for id_ in ids.tolist()]
