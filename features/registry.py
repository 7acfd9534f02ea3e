"""The catalogue of features: every column of a model, in the order that training and serving share.

Plain tuples over what the feature groups say about themselves. The hot path reads them too, so
neither Feast nor a Kafka client is imported here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from features import (
    covisitation,
    global_rates,
    item_activity,
    item_row,
    popularity,
    segment_popularity,
    user_activity,
    user_habits,
    user_row,
    user_sessions,
    user_taste,
    viewing_state,
)
from features.ids import id_hash
from features.ranking import RANKING_COLUMNS

Entity = Literal["user", "item"]
Described = tuple[str, str, str, float]  # name, unit, description, default


@dataclass(frozen=True, slots=True)
class Column:
    """One float32 feature; `default` is what a row of which nothing is known has."""

    name: str
    unit: str
    description: str
    default: float


@dataclass(frozen=True, slots=True)
class View:
    """The columns of one feature group, which stand side by side among those of its row.

    >>> view_named("user_taste").columns[0].name
    'user_taste_action'
    """

    name: str
    entity: Entity
    description: str
    start: int  # place of its first column in `values(row, ...)` of the entity's row
    columns: tuple[Column, ...]

    @property
    def places(self) -> slice:
        """Where its columns stand among all columns of the entity's row."""
        return slice(self.start, self.start + len(self.columns))


@dataclass(frozen=True, slots=True)
class ListView:
    """A list of records by a key: each element has an id and these columns.

    Rows by source partition lie under `letter`; `features.partition_reads` merges them.
    """

    name: str
    key: tuple[str, ...]  # of the row, its partition aside
    element: str  # what an element is of
    letter: str  # of the table
    length: int  # at most, in a row of one partition
    description: str
    columns: tuple[Column, ...]

    @property
    def ids_name(self) -> str:
        """The feature that lists the elements themselves."""
        return f"{self.name}_items"

    def feature(self, column: Column) -> str:
        """The name of a column as a feature: several lists have a weight."""
        return f"{self.name}_{column.name}"


def _columns(described: Iterable[Described]) -> tuple[Column, ...]:
    return tuple(Column(*column) for column in described)


def _views(entity: Entity, *groups: tuple[str, tuple[Described, ...], str]) -> Iterator[View]:
    """The views of an entity's groups, in the order in which its row has them."""
    start = 0
    for name, described, description in groups:
        yield View(name, entity, description, start, _columns(described))
        start += len(described)


USER_COLUMNS = _columns(user_row.COLUMNS)
ITEM_COLUMNS = _columns(item_row.COLUMNS)

VIEWS = (
    *_views(
        "user",
        (
            "user_activity",
            user_activity.COLUMNS,
            "What a viewer did lately: counts over windows, ratings given.",
        ),
        (
            "user_sessions",
            user_sessions.COLUMNS,
            "What a viewer is doing now: the current session, its titles, watching and mode.",
        ),
        (
            "user_habits",
            user_habits.COLUMNS,
            "How a viewer uses the service: hours, weekdays, devices, finishing, stage of life.",
        ),
        (
            "user_taste",
            user_taste.COLUMNS,
            "What a viewer likes: genres, years, languages and cast, decayed over time.",
        ),
        (
            "viewing_state",
            viewing_state.COLUMNS,
            "How a viewer leaves titles: in progress, watched, abandoned.",
        ),
    ),
    *_views(
        "item",
        (
            "item_activity",
            item_activity.COLUMNS,
            "What viewers do with a title: counts over windows, rates smoothed by those of its "
            "genres, velocity, trend, ratings.",
        ),
    ),
)


LIST_VIEWS = (
    ListView(
        "covisitation",
        ("item_id",),
        "item_id",
        "c",
        covisitation.N_NEIGHBOURS,
        "Titles visited in the same sessions as this one, strongest first.",
        _columns(covisitation.COLUMNS),
    ),
    ListView(
        "segment_popularity",
        ("region", "hour"),
        "item_id",
        "s",
        segment_popularity.N_TITLES,
        "What a region watches at an hour of the day (UTC); region 0 is everywhere.",
        _columns(segment_popularity.COLUMNS),
    ),
    ListView(
        "global_rates",
        (),
        "genre",
        "g",
        len(global_rates.DEFAULT_PRIORS),
        "Rates by genre and of all titles, each smoothed; priors of the rates of titles.",
        _columns(global_rates.COLUMNS),
    ),
)

# Computed from the columns of all titles where they are needed; in no row.
POPULARITY_COLUMNS = _columns(popularity.COLUMNS)

# Views whose values stand in no single row, by their names in Feast.
RATES = "global_rates"
POPULARITY = "item_popularity"


def list_view_named(name: str) -> ListView:
    """The list view of a name. Raises KeyError, naming those there are."""
    for view in LIST_VIEWS:
        if view.name == name:
            return view
    raise KeyError(f"list view must be one of {', '.join(v.name for v in LIST_VIEWS)}; got {name}")


def names_of(view_name: str) -> list[str]:
    """The features of a view of any kind, in order. Raises KeyError."""
    if view_name == POPULARITY:
        return [column.name for column in POPULARITY_COLUMNS]
    if any(view.name == view_name for view in LIST_VIEWS):
        view = list_view_named(view_name)
        ids = [] if view_name == RATES else [view.ids_name]
        return [*ids, *(view.feature(column) for column in view.columns)]
    return [column.name for column in view_named(view_name).columns]


def view_named(name: str) -> View:
    """The view of a name. Raises KeyError, naming those there are."""
    for view in VIEWS:
        if view.name == name:
            return view
    raise KeyError(
        f"feature view must be one of {', '.join(view.name for view in VIEWS)}; got {name}"
    )


@cache
def feature_version() -> str:
    """Sixteen hexadecimal digits that change with any column, with their order, or with a layout.

    The same in every process and on every machine. A model that was trained on one version must
    not be fed another.
    """
    layouts = f"user:{user_row.LAYOUT},item:{item_row.LAYOUT}"
    columns = (column.name for column in (*USER_COLUMNS, *ITEM_COLUMNS))
    names = ",".join((*columns, *RANKING_COLUMNS))
    return f"{id_hash(f'{layouts};{names}'):016x}"
