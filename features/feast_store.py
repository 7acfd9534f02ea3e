"""Feast's online store over our rows: what `get_online_features` reads is what the server reads.

Feast's own Redis layout costs a hash and a protobuf per feature. Here it reads the packed rows that
the features flow writes, and computes the columns with the functions that the server calls
(`features.feast_reads`).
Nothing is written: a row has one writer.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from feast import FeatureStore, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.repo_config import FeastConfigBaseModel

from features.clock import WallClock
from features.definitions import Sources, catalogue
from features.feast_offline import OFFLINE_TYPE
from features.feast_reads import FeatureRow, ViewReader
from features.redis_config import RedisConfig

PROJECT = "headrace"
STORE_TYPE: Literal["features.feast_store.HeadraceOnlineStore"] = (
    "features.feast_store.HeadraceOnlineStore"
)


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
        self._reader: ViewReader | None = None
        self._lock = Lock()

    def online_read(
        self,
        config: RepoConfig,
        table: Any,
        entity_keys: Sequence[Any],
        requested_features: list[str] | None = None,
    ) -> list[FeatureRow]:
        """For each entity its last event's time and the requested values; (None, None): unknown.

        Where no single event is behind a value, its time is that of the reading. Raises
        redis.RedisError when Redis is away for longer than the configuration says, KeyError for a
        view or a feature that the registry does not have, ValueError for an hour beyond 0..23.
        """
        if not entity_keys:
            return []
        keys = [dict(zip(k.join_keys, k.entity_values, strict=True)) for k in entity_keys]
        with self._lock:
            if self._reader is None:
                self._reader = _reader_of(config)
            return self._reader.read(table.name, keys, requested_features)

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


def _reader_of(config: RepoConfig) -> ViewReader:
    online = config.online_store
    return ViewReader(
        RedisConfig(online.url, online.prefix, options=online.options),
        WallClock() if online.now_ms is None else FixedClock(online.now_ms),
        Path(config.offline_store.lake),
        give_up_after_s=online.give_up_after_s,
    )


@dataclass(frozen=True, slots=True)
class FixedClock:
    """Stands still: for values as of one moment."""

    at_ms: int

    def now_ms(self) -> int:
        """That moment."""
        return self.at_ms


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
