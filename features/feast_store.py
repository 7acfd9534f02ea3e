"""Feast's online store over our rows: what `get_online_features` reads is what the server reads.

Feast's own Redis layout costs a hash and a protobuf per feature. Here it reads the packed rows that
the features flow writes, and computes the columns with the functions that the server calls.
Nothing is written: a row has one writer.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
from feast import FeatureStore, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel
from numpy.typing import NDArray

from features import item_row, user_row
from features.clock import WallClock
from features.compiled import Rows, compiled
from features.definitions import Sources, catalogue
from features.feast_offline import OFFLINE_TYPE
from features.global_rates import DEFAULT_PRIORS
from features.ids import id_hashes
from features.partition_reads import read_priors
from features.redis_store import RedisConfig, RedisLink, RedisRowStore
from features.registry import Entity, View, view_named
from features.store import GLOBALS, ITEMS, USERS
from features.user_row import values as user_values

PROJECT = "headrace"
STORE_TYPE: Literal["features.feast_store.HeadraceOnlineStore"] = (
    "features.feast_store.HeadraceOnlineStore"
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

FeatureRow = tuple[datetime | None, dict[str, Value] | None]  # time of the last event, and values


class HeadraceOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Section `online_store` of `feature_store.yaml`: where the rows are, and what time it is."""

    type: Literal["features.feast_store.HeadraceOnlineStore"] = STORE_TYPE
    url: str
    prefix: str = "headrace"
    options: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies defaults); redis-py's own
    now_ms: int | None = None  # features as of this time; None: as of now, by this machine's clock
    give_up_after_s: float = 1.0  # how long a read waits for a Redis that is away


class HeadraceOnlineStore(OnlineStore):  # type: ignore[misc]
    """Reads feature values out of packed rows; refuses to write. Threads take turns."""

    def __init__(self) -> None:
        self._reader: RowReader | None = None
        self._lock = Lock()

    def online_read(
        self,
        config: RepoConfig,
        table: Any,
        entity_keys: Sequence[Any],
        requested_features: list[str] | None = None,
    ) -> list[FeatureRow]:
        """For each entity its last event's time and the requested values; (None, None): unknown.

        Raises redis.RedisError when Redis is away for longer than the configuration says, KeyError
        for a view or a feature that the registry does not have.
        """
        if not entity_keys:
            return []
        view = view_named(table.name)
        ids = id_hashes(key.entity_values[0].string_val for key in entity_keys)
        with self._lock:
            if self._reader is None:
                self._reader = RowReader(config.online_store)
            rows, found = self._reader.read(view.entity, ids)
            priors = self._reader.priors() if view.entity == "item" else DEFAULT_PRIORS
            now_ms = self._reader.now_ms()
        values = columns_of(view.entity, rows, now_ms, priors)[:, view.places]
        return _feature_rows(view, requested_features, rows, found, values)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: Any,
        entity_keys: Sequence[Any],
        requested_features: list[str] | None = None,
    ) -> list[FeatureRow]:
        """Not offered: the work is computing, which an event loop would have to wait for."""
        raise NotImplementedError("read features with get_online_features, from a thread")

    def online_write_batch(
        self,
        config: RepoConfig,  # noqa: ARG002 (the signature is Feast's)
        table: Any,
        data: Any,  # noqa: ARG002
        progress: Any = None,  # noqa: ARG002
    ) -> None:
        """Refuses: raises PermissionError. What Feast wrote, the next event would overwrite."""
        raise PermissionError(
            f"feature view {table.name} is read-only: its rows are written by the features flow "
            "alone, from the log; send interactions instead of feature values"
        )

    async def online_write_batch_async(
        self, config: RepoConfig, table: Any, data: Any, progress: Any = None
    ) -> None:
        """Refuses, as `online_write_batch` does."""
        self.online_write_batch(config, table, data, progress)

    def update(self, *_args: Any, **_kwargs: Any) -> None:
        """Called when definitions change; rows need no tables, so there is nothing to do."""

    def teardown(self, *_args: Any, **_kwargs: Any) -> None:
        """Called by `feast teardown`: lets the connection go. Never deletes a row."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
            self._reader = None

    async def close(self) -> None:
        """Lets the connection go."""
        self.teardown()


class RowReader:
    """Rows of both entities over one connection, and the clock they are read by. One thread."""

    def __init__(self, config: HeadraceOnlineStoreConfig) -> None:
        redis = RedisConfig(config.url, config.prefix, options=config.options)
        self._link = RedisLink(redis, give_up_after_s=config.give_up_after_s)
        self._stores = {
            "user": RedisRowStore(self._link, USERS, redis),
            "item": RedisRowStore(self._link, ITEMS, redis),
        }
        self._globals = RedisRowStore(self._link, GLOBALS, redis)
        self._fixed_now_ms = config.now_ms
        self._clock = WallClock()

    def read(self, entity: Entity, ids: NDArray[np.uint64]) -> tuple[Rows, NDArray[np.bool_]]:
        """`(n,)` rows and which of them exist; see RowStore."""
        return self._stores[entity].read(ids)

    def priors(self) -> NDArray[np.float32]:
        """The rates of genres by which those of titles are smoothed, as they are stored now."""
        return read_priors(self._globals)

    def now_ms(self) -> int:
        """The time that features are computed for, milliseconds since 1970 UTC."""
        return self._clock.now_ms() if self._fixed_now_ms is None else self._fixed_now_ms

    def close(self) -> None:
        """Closes the connection."""
        self._link.close()


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


def _feature_rows(
    view: View,
    requested: list[str] | None,
    rows: Rows,
    found: NDArray[np.bool_],
    values: NDArray[np.float32],
) -> list[FeatureRow]:
    """Values as Feast wants them: a message each, in a dict per entity."""
    names = [column.name for column in view.columns]
    wanted = names if requested is None else requested
    places = _places(view, names, wanted)
    protos = _protos(values[:, places])
    times_ms = rows["activity"]["last_ms"].tolist()
    return [
        (EPOCH + timedelta(milliseconds=at_ms), dict(zip(wanted, of_row, strict=True)))
        if is_known
        else (None, None)
        for is_known, at_ms, of_row in zip(found.tolist(), times_ms, protos, strict=True)
    ]


def _places(view: View, names: list[str], wanted: list[str]) -> list[int]:
    place_of = {name: place for place, name in enumerate(names)}
    if unknown := [name for name in wanted if name not in place_of]:
        raise KeyError(f"feature view {view.name} has no feature {', '.join(unknown)}")
    return [place_of[name] for name in wanted]


def _protos(values: NDArray[np.float32]) -> list[list[Value]]:
    """A message for each number; equal numbers share one, since most of them are zero."""
    distinct, inverse = np.unique(values, return_inverse=True)
    messages = [Value(float_val=number) for number in distinct.tolist()]
    by_row = inverse.reshape(len(values), -1).tolist()
    return [[messages[i] for i in row] for row in by_row]


def feature_store(
    redis: RedisConfig,
    folder: Path,
    *,
    lake: Path | None = None,
    now_ms: int | None = None,
) -> FeatureStore:
    """Feast over the rows in Redis, with its registry in `folder` and the definitions applied.

    Opening a store again on the same folder changes nothing. `lake` is where past values come from
    (`<folder>/lake` if not given); `now_ms` fixes the time that present ones are computed for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lake = (lake or folder / "lake").absolute()
    settings = _settings(redis, folder, lake, now_ms)
    store = FeatureStore(config=RepoConfig(**settings))
    store.apply(catalogue(Sources(lake)))
    return store


def write_repo(redis: RedisConfig, folder: Path, sources: Sources) -> FeatureStore:
    """Makes `folder` a Feast repository and applies the catalogue to it.

    Then `FeatureStore(repo_path=folder)` opens it, and `feast apply` or `feast ui` run there. Its
    `feature_store.yaml` is for this user alone, since an address may hold a password.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources = replace(sources, lake=sources.lake.absolute())
    settings = _settings(redis, folder.absolute(), sources.lake, None)
    yaml = folder / "feature_store.yaml"
    yaml.touch(0o600)
    yaml.chmod(0o600)
    yaml.write_text(json.dumps(settings, indent=2) + "\n")  # JSON is YAML
    (folder / "definitions.py").write_text(
        DEFINITIONS.format(lake=str(sources.lake), bootstrap=sources.bootstrap, topic=sources.topic)
    )
    store = FeatureStore(repo_path=str(folder))
    store.apply(catalogue(sources))
    return store


DEFINITIONS = '''"""What `feast apply` registers; written by `headrace feast apply`."""

from pathlib import Path

from features.definitions import Sources, catalogue

globals().update(
    (made.name, made)
    for made in catalogue(Sources(Path({lake!r}), {bootstrap!r}, {topic!r}))
)
'''


def _settings(redis: RedisConfig, folder: Path, lake: Path, now_ms: int | None) -> dict[str, Any]:
    """What `feature_store.yaml` says."""
    online = {
        "type": STORE_TYPE,
        "url": redis.url,
        "prefix": redis.prefix,
        "options": dict(redis.options),
    }
    return {
        "project": PROJECT,
        "provider": "local",
        "registry": {
            "path": str(folder / "registry.db"),
            "cache_ttl_seconds": 0,  # never: whoever changes definitions applies them
        },
        "online_store": online if now_ms is None else {**online, "now_ms": now_ms},
        "offline_store": {"type": OFFLINE_TYPE, "lake": str(lake)},
        "entity_key_serialization_version": 3,
    }
