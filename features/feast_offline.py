"""Feast's offline store over the lake: past values that are those which were served.

A join of tables could not give them: values over windows depend on the moment they are read.
`features.history` replays the lake instead, through the functions of the flow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.repo_config import FeastConfigBaseModel
from numpy.typing import NDArray

from features.history import BY_TIME, Moments, past_of
from features.ids import id_hashes, viewer_hash
from features.registry import LIST_VIEWS, POPULARITY, Entity, view_named

OFFLINE_TYPE: Literal["features.feast_offline.HeadraceOfflineStore"] = (
    "features.feast_offline.HeadraceOfflineStore"
)

TIMESTAMP = "event_timestamp"
JOIN_KEYS: dict[Entity, str] = {"user": "user_id", "item": "item_id"}
# Columns of an entity frame that say more exactly what a decision had seen; the lake's impressions
# have them.
PROFILE = "profile_id"
INCLUDED_OFFSET = "included_offset"
LOGGED_AT_MS = "logged_at_ms"


class HeadraceOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Section `offline_store` of `feature_store.yaml`: where the lake is."""

    type: Literal["features.feast_offline.HeadraceOfflineStore"] = OFFLINE_TYPE
    lake: Path


@dataclass(frozen=True, slots=True)
class Wanted:
    """One feature of the answer."""

    entity: Entity
    join_key: str  # the column of the entity frame with its ids
    place: int  # among all columns of the entity's row
    name: str  # of the column in the answer


class HeadraceOfflineStore(OfflineStore):  # type: ignore[misc]
    """Point-in-time values out of the lake; refuses to write.

    The entity frame has `event_timestamp` and the join keys. For a decision that was logged it may
    have, too: `profile_id`; `included_offset`, the last event of the viewer that was in it (-1:
    none, missing: by time); `logged_at_ms`, the time of the log, which is what titles' events are
    cut by where the stack ran on the clock of its events.
    """

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: Any,  # noqa: ARG004 (the signature is Feast's)
        project: str,  # noqa: ARG004
        full_feature_names: bool = False,
        **_kwargs: Any,
    ) -> RetrievalJob:
        """A job that replays the lake once when it is asked for its result.

        Raises ValueError when the frame is no pandas DataFrame or lacks a column, KeyError for a
        feature that the registry does not have; the job raises LakeError.
        """
        if not isinstance(entity_df, pd.DataFrame):
            raise ValueError(f"entity_df must be a pandas DataFrame; got {type(entity_df)}")
        wanted = [
            _wanted(ref, feature_views, full_names=full_feature_names) for ref in feature_refs
        ]
        needed = {TIMESTAMP, *(feature.join_key for feature in wanted)}
        if missing := sorted(needed - set(entity_df.columns)):
            raise ValueError(
                f"entity_df must have the columns {', '.join(sorted(needed))}; it lacks "
                f"{', '.join(missing)}"
            )
        lake = Path(config.offline_store.lake)
        metadata = RetrievalMetadata(
            list(feature_refs),
            sorted(needed - {TIMESTAMP}),
            entity_df[TIMESTAMP].min(),
            entity_df[TIMESTAMP].max(),
        )
        return HeadraceRetrievalJob(
            lambda: joined(lake, entity_df, wanted), metadata, full_names=full_feature_names
        )

    @staticmethod
    def pull_latest_from_table_or_query(*_args: Any, **_kwargs: Any) -> RetrievalJob:
        """Refuses: raises NotImplementedError. The online store needs no materialisation."""
        raise NotImplementedError("rows are written by the features flow; nothing to materialise")

    @staticmethod
    def pull_all_from_table_or_query(*_args: Any, **_kwargs: Any) -> RetrievalJob:
        """Refuses: raises NotImplementedError; there are values at moments, not a table of them."""
        raise NotImplementedError("ask for moments: get_historical_features(entity_df, ...)")


class HeadraceRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """The answer, computed when it is asked for."""

    def __init__(
        self,
        compute: Callable[[], pd.DataFrame],
        metadata: RetrievalMetadata,
        *,
        full_names: bool,
    ) -> None:
        self._compute = compute
        self._metadata = metadata
        self._full_names = full_names

    @property
    def full_feature_names(self) -> bool:
        """Whether columns are named `view__feature`."""
        return self._full_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        """None: nothing of a ranker's input is so cold that Feast should compute it."""
        return []

    @property
    def metadata(self) -> RetrievalMetadata:
        """What was asked for."""
        return self._metadata

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:  # noqa: ARG002
        return self._compute()

    def _to_arrow_internal(self, timeout: int | None = None) -> Any:  # noqa: ARG002
        return pa.Table.from_pandas(self._compute(), preserve_index=False)


def joined(lake: Path, frame: pd.DataFrame, wanted: list[Wanted]) -> pd.DataFrame:
    """The frame with the wanted columns, float32, missing where nothing was known. One pass."""
    now_ms = _milliseconds(frame[TIMESTAMP])
    keys = {feature.entity: feature.join_key for feature in wanted}
    moments: dict[Entity, Moments] = {
        entity: _moments(entity, frame, key, now_ms) for entity, key in keys.items()
    }
    users, items = past_of(lake, moments.get("user"), moments.get("item"))
    values = {"user": users, "item": items}
    answer = frame.reset_index(drop=True)
    columns = {}
    for feature in wanted:
        past = values[feature.entity]
        if past is not None:
            columns[feature.name] = past.values[:, feature.place]
    return pd.concat([answer, pd.DataFrame(columns, index=answer.index)], axis=1)


def _wanted(ref: str, views: list[FeatureView], *, full_names: bool) -> Wanted:
    """A feature reference, `view:feature`, as a place in a row."""
    view_name, _, name = ref.partition(":")
    view = next((v for v in views if v.projection.name_to_use() == view_name), None)
    known_name = view_name if view is None else view.name
    if known_name == POPULARITY or any(known_name == of_lists.name for of_lists in LIST_VIEWS):
        raise KeyError(f"feature view {known_name} has no past: ask with get_online_features")
    known = view_named(known_name)
    names = [column.name for column in known.columns]
    if name not in names:
        raise KeyError(f"feature view {known.name} has no feature {name}")
    key = JOIN_KEYS[known.entity]
    mapped = key if view is None else view.projection.join_key_map.get(key, key)
    answer_name = f"{view_name}__{name}" if full_names else name
    return Wanted(known.entity, mapped, known.start + names.index(name), answer_name)


def _moments(entity: Entity, frame: pd.DataFrame, key: str, now_ms: NDArray[np.int64]) -> Moments:
    ids = frame[key].astype(str)
    until_ms = now_ms
    if LOGGED_AT_MS in frame:
        until_ms = np.asarray(frame[LOGGED_AT_MS], np.int64)
    if entity == "item":
        return Moments(id_hashes(ids), now_ms, until_ms, np.full(len(frame), BY_TIME))
    until_offset = np.full(len(frame), BY_TIME)
    if INCLUDED_OFFSET in frame:
        until_offset[:] = np.asarray(frame[INCLUDED_OFFSET].fillna(BY_TIME), np.int64)
    profiles = frame[PROFILE].fillna("") if PROFILE in frame else [""] * len(frame)
    viewers = [viewer_hash(user, profile) for user, profile in zip(ids, profiles, strict=True)]
    return Moments(np.array(viewers, np.uint64), now_ms, until_ms, until_offset)


def _milliseconds(times: pd.Series) -> NDArray[np.int64]:
    """Milliseconds since 1970 UTC; times without a zone are UTC."""
    moments = pd.to_datetime(times, utc=True)
    since_1970 = moments - pd.Timestamp(0, tz="UTC")
    return np.asarray(since_1970 // pd.Timedelta(milliseconds=1), np.int64)
