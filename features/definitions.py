"""Feast's catalogue of Headrace: entities, one view per feature group, and the ranking service.

Everything is generated from `features.registry`, so a column is described in one place. Feast finds
present values in the rows (`features.feast_store`) and past ones in the lake
(`features.feast_offline`); sources are named for its catalogue: the stream that feeds a view, and
the lake that keeps it.

A `user` is an account: its join key is `user_id`, and its row is the one that events without a
profile feed. Profiles of an account have rows of their own, which only the recommender reads; they
have no join key here. A frame for past values may name them in a column `profile_id`.

No view has a time to live: values are computed from the row as of the moment of reading, so age
already shows in them. Views of a ranker's columns have a past as well; those of lists, of rates of
genres and of places among all titles are of the present alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, KafkaSource
from feast.data_format import ProtoFormat
from feast.types import Array, Float32, Float64, String
from feast.value_type import ValueType

from features import lake
from features.registry import (
    LIST_VIEWS,
    POPULARITY,
    POPULARITY_COLUMNS,
    RATES,
    VIEWS,
    Column,
    ListView,
    feature_version,
    list_view_named,
)

TIMESTAMP_COLUMN = "event_timestamp"
IN_LISTS = "A list for each field, all in one order; no value where the list would be empty."
AMONG_ALL = (
    "Where a title stands among all titles of the lake's catalogue (without a lake: all that have "
    "had an event). Feast reads all rows for it at most once a minute: an answer may be that old."
)

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
REGION = Entity(
    name="region",
    join_keys=["region"],
    value_type=ValueType.STRING,
    description="Where viewers are, as producers name it; empty: everywhere.",
)
HOUR = Entity(
    name="hour",
    join_keys=["hour"],
    value_type=ValueType.INT64,
    description="An hour of the day, UTC, 0..23.",
)
GENRE = Entity(
    name="genre",
    join_keys=["genre"],
    value_type=ValueType.STRING,
    description="A genre by its name in the catalogue; empty: all titles together.",
)
ENTITIES = {entity.join_key: entity for entity in (USER, ITEM, REGION, HOUR, GENRE)}


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
    """One view per feature group, in the order of a ranker's columns."""
    return [
        _feature_view(
            view.name, [f"{view.entity}_id"], map(_field, view.columns), view.description, sources
        )
        for view in VIEWS
    ]


def other_views(sources: Sources) -> list[FeatureView]:
    """Views of what stands in no single row: lists, rates of genres, places among all titles."""
    lists = [
        _feature_view(
            view.name, list(view.key), _list_fields(view), f"{view.description} {IN_LISTS}", sources
        )
        for view in LIST_VIEWS
        if view.name != RATES
    ]
    rates = list_view_named(RATES)
    fields = [_field(replace(column, name=rates.feature(column))) for column in rates.columns]
    popularity = map(_field, POPULARITY_COLUMNS)
    return [
        *lists,
        _feature_view(RATES, ["genre"], fields, rates.description, sources),
        _feature_view(POPULARITY, ["item_id"], popularity, AMONG_ALL, sources),
    ]


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
    return [*ENTITIES.values(), *views, *other_views(sources), ranking_service(views)]


def _feature_view(
    name: str, keys: list[str], fields: Iterable[Field], description: str, sources: Sources
) -> FeatureView:
    archive = FileSource(
        name=f"{name}_archive",
        path=str(sources.lake / lake.INTERACTIONS),
        timestamp_field=TIMESTAMP_COLUMN,
        description="The lake's interactions, from which past values are replayed.",
    )
    return FeatureView(
        name=name,
        entities=[ENTITIES[key] for key in keys],
        schema=list(fields),
        source=KafkaSource(
            name=f"{name}_stream",
            kafka_bootstrap_servers=sources.bootstrap,
            topic=sources.topic,
            timestamp_field=TIMESTAMP_COLUMN,
            message_format=ProtoFormat("headrace.v1.Interaction"),
            batch_source=archive,
            description="Interactions, which the features flow turns into rows.",
        ),
        ttl=None,
        description=description,
    )


def _field(column: Column) -> Field:
    return Field(
        name=column.name,
        dtype=Float32,
        description=column.description,
        tags={"unit": column.unit, "default": f"{column.default:g}"},
    )


def _list_fields(view: ListView) -> list[Field]:
    ids = Field(
        name=view.ids_name,
        dtype=Array(String),
        description=f"The titles, {view.length} at most: each its 64-bit id as 16 digits.",
        tags={"unit": "id"},
    )
    numbers = [
        Field(
            name=view.feature(column),
            dtype=Array(Float64),
            description=column.description,
            tags={"unit": column.unit, "default": f"{column.default:g}"},
        )
        for column in view.columns
    ]
    return [ids, *numbers]
