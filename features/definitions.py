"""Feast's catalogue of Headrace: entities, one view per feature group, and the ranking service.

Everything is generated from `features.registry`, so a column is described in one place. Feast finds
present values in the rows (`features.feast_store`) and past ones in the lake
(`features.feast_offline`); sources are named for its catalogue: the stream that feeds a view, and
the lake that keeps it.

A `user` is an account: its join key is `user_id`, and its row is the one that events without a
profile feed. Profiles of an account have rows of their own, which only the recommender reads; they
have no join key here. A frame for past values may name them in a column `profile_id`.

No view has a time to live: values are computed from the row as of the moment of reading, so age
already shows in them. No view is on demand: every column of a ranker is hot.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, KafkaSource
from feast.data_format import ProtoFormat
from feast.types import Float32
from feast.value_type import ValueType

from features import lake
from features.registry import VIEWS, Column, View, feature_version

TIMESTAMP_COLUMN = "event_timestamp"

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


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the catalogue says that features come from."""

    lake: Path
    bootstrap: str = ""  # host:port of the brokers
    topic: str = "interactions"


def service_name(version: str) -> str:
    """The feature service of the models that were trained on a feature version."""
    return f"ranking_v{version}"


RANKING_SERVICE = service_name(feature_version())


def feature_views(sources: Sources) -> list[FeatureView]:
    """One view per feature group."""
    return [_feature_view(view, sources) for view in VIEWS]


def ranking_service(views: list[FeatureView]) -> FeatureService:
    """All columns that models of this feature version see, in the order of the registry.

    A bundle names its version in its manifest. Applying the catalogue of another version adds that
    version's service and leaves this one.
    """
    return FeatureService(
        name=RANKING_SERVICE,
        features=views,
        tags={"feature_version": feature_version()},
        description="Every feature of a (viewer, title) pair: the columns of a ranker, in order.",
    )


def catalogue(sources: Sources) -> list[Any]:
    """Everything that is to be applied: entities, views and the service."""
    views = feature_views(sources)
    return [*ENTITIES.values(), *views, ranking_service(views)]


def _feature_view(view: View, sources: Sources) -> FeatureView:
    archive = FileSource(
        name=f"{view.name}_archive",
        path=str(sources.lake / lake.INTERACTIONS),
        timestamp_field=TIMESTAMP_COLUMN,
        description="The lake's interactions, from which past values are replayed.",
    )
    return FeatureView(
        name=view.name,
        entities=[ENTITIES[view.entity]],
        schema=[_field(column) for column in view.columns],
        source=KafkaSource(
            name=f"{view.name}_stream",
            kafka_bootstrap_servers=sources.bootstrap,
            topic=sources.topic,
            timestamp_field=TIMESTAMP_COLUMN,
            message_format=ProtoFormat("headrace.v1.Interaction"),
            batch_source=archive,
            description="Interactions, which the features flow turns into rows.",
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
