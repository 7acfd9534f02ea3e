"""Feast's catalogue of Headrace: entities, one view per feature group, and the ranking service.

Everything is generated from `features.registry`, so a column is described in one place. Feast finds
past values in the archive (Parquet, one folder a view) and present ones in the rows (see
`features.feast_store`).

A `user` is an account: its join key is `user_id`, and its row is the one that events without a
profile feed. Profiles of an account have rows of their own, which only the recommender reads; they
have no join key here, because every training set and report so far is by account.

No view has a time to live: values are computed from the row as of the moment of reading, so age
already shows in them.
"""

from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.types import Float32
from feast.value_type import ValueType

from features.registry import VIEWS, Column, View, feature_version

RANKING_SERVICE = "ranking_v1"
TIMESTAMP_COLUMN = "event_timestamp"  # of the last event that a row of the archive includes

USER = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=ValueType.STRING,
    description="A viewer's account, by the id that producers send.",
)
ITEM = Entity(
    name="item",
    join_keys=["item_id"],
    value_type=ValueType.STRING,
    description="A title, by its id in the catalogue.",
)
ENTITIES = {"user": USER, "item": ITEM}


def feature_views(archive: Path) -> list[FeatureView]:
    """One view per feature group; past values lie in `archive / <view>`, as Parquet files."""
    return [_feature_view(view, archive) for view in VIEWS]


def ranking_service(views: list[FeatureView]) -> FeatureService:
    """All columns that a ranker sees, in the order of the registry."""
    return FeatureService(
        name=RANKING_SERVICE,
        features=views,
        tags={"feature_version": feature_version()},
        description="Every feature of a (viewer, title) pair: the columns of a ranker, in order.",
    )


def _feature_view(view: View, archive: Path) -> FeatureView:
    return FeatureView(
        name=view.name,
        entities=[ENTITIES[view.entity]],
        schema=[_field(column) for column in view.columns],
        source=FileSource(
            name=f"{view.name}_archive",
            path=str(archive / view.name),
            timestamp_field=TIMESTAMP_COLUMN,
        ),
        ttl=None,
        description=view.description,
    )


def _field(column: Column) -> Field:
    return Field(
        name=column.name,
        dtype=Float32,
        description=column.description,
        tags={"unit": column.unit, "default": f"{column.default:g}"},
    )
