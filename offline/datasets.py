"""Public datasets as streams of interactions, each by a stated rule.

| dataset | a row is | what it becomes |
|---|---|---|
| `movietweetings` | a rating 0..10 | one `RATE` with that rating: the viewer watched and rated |
| `movielens` | a rating 0.5..5 | one `RATE` with twice the rating |
| `kuairand` | a video shown | `IMPRESSION`; then what followed, see `KuaiRand` |

Ids are `mt<user>`, `ml<user>`, `kr<user>` and, for films, the IMDb id as `tt<7 digits>`:
MovieTweetings and MovieLens speak of the same films. A film that IMDb does not know is
`ml<movie>`, a video `kr<video>`. The event id is `<user>-<item>-<time in the source>-<type>`: it
depends on the row alone, so a row that a dataset holds twice is the same event delivered twice.

A film counts as available from the first of January of its year, so a replay of 2013 is not
recommended a film of 2016; of a quarter of a million ratings ten are older than their film's year.
Popularity and votes of the catalogue are from years later and are not read.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv, parquet

from features.events import NO_RATING, CatalogItem, Interaction
from features.vocabulary import EventType

CATALOGUE_FILE: Final = "catalogue.parquet"
MOVIELENS_FOLDER: Final = "ml-latest-small"
KUAIRAND_FOLDER: Final = "KuaiRand-Pure/data"
CHUNK: Final = 8_192
CHINA: Final = timezone(timedelta(hours=8))
NO_GENRES: Final = "(no genres listed)"
ARTICLES: Final = "The|An?|L[aei]s?|L'|El|Los|Il|Un|Une|Uma|Der|Die|Das|Den|Det|Da|De|O|Os|As"

_TRAILING_ARTICLE = re.compile(rf"^(.+), ({ARTICLES})$|([^()]+), ({ARTICLES})(?=\s*[()])")
_TRAILING_YEAR = re.compile(r"\s*\((\d{4})[^()]*\)\s*$")

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Rows = Mapping[str, NDArray[Any]]  # columns of a source
Table = Any  # pyarrow carries no types


class DatasetError(Exception):
    """A dataset cannot be had; the message says which one and why."""


class DatasetMissingError(DatasetError):
    """The files of a dataset are not where they were looked for."""


class UnknownDatasetError(DatasetError):
    """There is no dataset of this name."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events of a dataset: a span of time, then a share of what lies in it.

    `from_ms` is included, `until_ms` is not; both count as the events do, after any shift. With
    `first_share=0.7` come the first 70 % in order of time, with `last_share=0.3` exactly the rest.
    """

    from_ms: int | None = None
    until_ms: int | None = None
    first_share: float = 1.0
    last_share: float = 1.0

    def __post_init__(self) -> None:
        for name in ("first_share", "last_share"):
            share: float = getattr(self, name)
            if not 0 <= share <= 1:
                raise ValueError(f"selection.{name} must be within 0..1; got {share}")
        if self.first_share < 1 and self.last_share < 1:
            raise ValueError("selection takes first_share or last_share; got both")

    def bounds(self, at_ms: Ints) -> tuple[int, int]:
        """First row and the row behind the last one, of sorted times."""
        start = 0 if self.from_ms is None else int(np.searchsorted(at_ms, self.from_ms))
        stop = len(at_ms) if self.until_ms is None else int(np.searchsorted(at_ms, self.until_ms))
        n = max(stop - start, 0)
        return start + round(n * (1 - self.last_share)), start + round(n * self.first_share)


EVERYTHING: Final = Selection()


@dataclass(frozen=True, slots=True)
class EventColumns:
    """Interactions as columns, `(n,)` each, sorted by time; equal times stay in arrival order.

    `user` and `item` are indices into `user_ids` and `item_ids`, which all selections of a dataset
    share: dense codes, ready for matrices.
    """

    user_ids: Sequence[str]
    item_ids: Sequence[str]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    type: NDArray[np.uint8]
    at_ms: Ints
    source_time: Ints  # as the source writes it, part of the event id
    rating: Floats  # 0..10, or NO_RATING
    watch_position_s: Floats
    watch_duration_s: Floats

    def __len__(self) -> int:
        return len(self.at_ms)

    def rows(self, start: int, stop: int) -> "EventColumns":
        """The events from `start` to before `stop`, as views."""
        columns = {f.name: getattr(self, f.name)[start:stop] for f in fields(self)[2:]}
        return EventColumns(self.user_ids, self.item_ids, **columns)

    def select(self, selection: Selection) -> "EventColumns":
        """The selected events, as views."""
        return self.rows(*selection.bounds(self.at_ms))

    def event_ids(self) -> list[str]:
        """Idempotency keys: what the source's row says, never where it stands."""
        return [interaction.event_id for interaction in self.interactions()]

    def interactions(self) -> Iterator[Interaction]:
        """The events one by one, in order."""
        for start in range(0, len(self), CHUNK):
            yield from _interactions(self.rows(start, start + CHUNK))


def _interactions(columns: EventColumns) -> Iterator[Interaction]:
    users, items, types = columns.user_ids, columns.item_ids, _TYPES
    arrays = (getattr(columns, f.name).tolist() for f in fields(EventColumns)[2:])
    for user, item, type_, at_ms, source_time, rating, position, duration in zip(
        *arrays, strict=True
    ):
        user_id, item_id, (event_type, name) = users[user], items[item], types[type_]
        yield Interaction(
            f"{user_id}-{item_id}-{source_time}-{name}",
            user_id,
            item_id,
            event_type,
            at_ms,
            watch_position_s=position,
            watch_duration_s=duration,
            rating=None if rating == NO_RATING else rating,
        )


_TYPES = [(type_, type_.name.lower()) for type_ in EventType]


class Dataset(Protocol):
    """A source of interactions and of the titles that they speak of."""

    name: ClassVar[str]

    def columns(self, selection: Selection = EVERYTHING) -> EventColumns:
        """The selected events as columns."""

    def interactions(self, selection: Selection = EVERYTHING) -> Iterator[Interaction]:
        """The selected events one by one, in order of time."""

    def catalogue(self) -> list[CatalogItem]:
        """All titles."""


class FolderDataset(ABC):
    """A dataset read from files of a folder, once, on first use; all times move by `shift_ms`.

    Prepared Parquet files come first, the publisher's own files, as downloaded, second.
    """

    name: ClassVar[str]
    prepared: ClassVar[str]  # pattern of prepared Parquet files
    published: ClassVar[tuple[str, ...]]  # the publisher's files, patterns too; all are needed
    read: ClassVar[tuple[str, ...]]  # columns of the prepared files

    def __init__(self, folder: Path, shift_ms: int = 0) -> None:
        self.folder = folder
        self.shift_ms = shift_ms
        if not self.is_in(folder):
            raise DatasetMissingError(
                f"dataset {self.name} is not in {folder}: neither {self.prepared} nor "
                f"{' and '.join(self.published)} is there. {_remedy(self.name)}"
            )

    @classmethod
    def is_in(cls, folder: Path) -> bool:
        """Whether a folder holds this dataset, prepared or as published."""
        if any(folder.glob(cls.prepared)):
            return True
        return all(any(folder.glob(pattern)) for pattern in cls.published)

    def columns(self, selection: Selection = EVERYTHING) -> EventColumns:
        """The selected events as columns; views of one copy in memory."""
        return self._events.select(selection)

    def interactions(self, selection: Selection = EVERYTHING) -> Iterator[Interaction]:
        """The selected events one by one, in order of time."""
        return self.columns(selection).interactions()

    @abstractmethod
    def catalogue(self) -> list[CatalogItem]:
        """All titles."""

    @cached_property
    def _events(self) -> EventColumns:
        prepared = sorted(self.folder.glob(self.prepared))
        tables = [parquet.read_table(path, columns=list(self.read)) for path in prepared]
        rows = pa.concat_tables(tables or self._read_published(), promote_options="permissive")
        return self._map({name: rows[name].to_numpy() for name in self.read})

    @abstractmethod
    def _read_published(self) -> list[Table]:
        """The publisher's rows, columns named as in the prepared files."""

    @abstractmethod
    def _map(self, rows: Rows) -> EventColumns:
        """The stated rule from rows to events."""


class MovieTweetings(FolderDataset):
    """Ratings that people tweeted, in the order of their tweets (MIT licence).

    S. Dooms, T. De Pessemier, L. Martens: MovieTweetings, a movie rating dataset collected from
    Twitter, CrowdRec 2013. Each rating is one `RATE` with its 0..10 points.
    """

    name = "movietweetings"
    prepared = "movietweetings_*.parquet"
    published = ("ratings.dat", "movies.dat")
    read = ("user_id", "imdb_id", "rating", "timestamp")

    def catalogue(self) -> list[CatalogItem]:
        """Titles of the catalogue, and those that only the publisher's own list has."""
        titles = {item.item_id: item for item in _film_catalogue(self.folder, self.shift_ms)}
        for item in _dat_catalogue(self.folder / "movies.dat", self.shift_ms):
            titles.setdefault(item.item_id, item)
        return list(titles.values())

    def _read_published(self) -> list[Table]:
        return [_read_dat(self.folder / "ratings.dat", self.read)]

    def _map(self, rows: Rows) -> EventColumns:
        codes, numbers = _codes(rows["imdb_id"])
        item_ids = [_imdb_item_id(number) for number in numbers.tolist()]
        return _ratings("mt", rows, codes, item_ids, points=1.0, shift_ms=self.shift_ms)


class MovieLens(FolderDataset):
    """Ratings of MovieLens, `ml-latest-small` or an excerpt (for research; see its README).

    F. M. Harper, J. A. Konstan: The MovieLens Datasets, ACM TiiS 2015. Each rating is one `RATE`
    with twice its 0.5..5 stars.
    """

    name = "movielens"
    prepared = "ml_*ratings*.parquet"
    published = tuple(f"{MOVIELENS_FOLDER}/{n}.csv" for n in ("ratings", "movies", "links"))
    read = ("user_id", "movie_id", "rating", "timestamp")

    def catalogue(self) -> list[CatalogItem]:
        """Titles of the catalogue."""
        return _film_catalogue(self.folder, self.shift_ms)

    def _read_published(self) -> list[Table]:
        rows = csv.read_csv(self.folder / MOVIELENS_FOLDER / "ratings.csv")
        return [rows.rename_columns(self.read)]

    def _map(self, rows: Rows) -> EventColumns:
        codes, movies = _codes(rows["movie_id"])
        imdb = _imdb_by_movie(self.folder)
        item_ids = [_film_item_id(imdb.get(movie), movie) for movie in movies.tolist()]
        return _ratings("ml", rows, codes, item_ids, points=2.0, shift_ms=self.shift_ms)


class KuaiRand(FolderDataset):
    """Short videos shown in an app, and what each viewer did with each (CC BY-SA 4.0).

    C. Gao et al.: KuaiRand, CIKM 2022; of the published files the two standard logs. A row is one
    exposure of `play_time_ms` from `time_ms` on. It becomes, in this order,

    - `IMPRESSION`, always, at `time_ms`;
    - `CLICK` if `is_click`, `LIKE` if `is_like`, `SHARE` if `is_forward`, `DISLIKE` if `is_hate`,
      `ADD` if `is_follow` (the author is put on the viewer's list);
    - `COMPLETE` if `long_view` (18 s, or all of a shorter video), else `PROGRESS` if it was played,
      with the watch position it reached and the duration of the video, in seconds.

    What follows the impression is spread evenly over the play time: the k-th of n lies at
    `time_ms + play_time_ms * k / n`, so that the last one, where playing ended, lies at its end.
    2 to 3 % of the rows come twice: real duplicate delivery, with the same event ids.
    """

    name = "kuairand"
    prepared = "kuairand_exposures*.parquet"
    published = (f"{KUAIRAND_FOLDER}/log_standard_*.csv",)
    read = (
        "user_id", "video_id", "time_ms", "is_click", "is_like", "is_follow", "is_forward",
        "is_hate", "long_view", "play_time_ms", "duration_ms",
    )  # fmt: skip

    def catalogue(self) -> list[CatalogItem]:
        """Videos: no titles are published; tags stand for genres, the author for the director."""
        return [self._video(row) for row in self._read_videos().to_pylist()]

    def _read_videos(self) -> Table:
        prepared = self.folder / "kuairand_videos.parquet"
        if prepared.exists():
            return parquet.read_table(prepared)
        published = self.folder / KUAIRAND_FOLDER / "video_features_basic_pure.csv"
        if published.exists():
            return csv.read_csv(published)
        raise DatasetMissingError(f"no videos of kuairand in {self.folder}. {_remedy(self.name)}")

    def _video(self, row: Mapping[str, Any]) -> CatalogItem:
        video, uploaded = row["video_id"], date.fromisoformat(str(row["upload_dt"]))
        return CatalogItem(
            f"kr{video}",
            title=f"Video {video}",
            year=uploaded.year,
            genres=tuple(f"tag {tag}" for tag in _text(row["tag"]).split(",") if tag.isdigit()),
            director=f"author {row['author_id']}",
            runtime_min=round(_number(row["video_duration"]) / 60_000),
            available_from_ms=_midnight_ms(uploaded, CHINA) + self.shift_ms,
        )

    def _read_published(self) -> list[Table]:
        logs = sorted(self.folder.glob(self.published[0]))
        return [csv.read_csv(log).select(self.read) for log in logs]

    def exposures(self) -> dict[str, NDArray[np.int64]]:
        """Columns as the publisher names them, `(n,)` each, by time: each exposure once.

        Beside those of the events there are `tab`, and `author_id` from the video's metadata, -1
        where it has none.
        """
        read = [*self.read, "tab"]
        found = [
            parquet.read_table(path, columns=read)
            for path in sorted(self.folder.glob(self.prepared))
        ]
        logs = sorted(self.folder.glob(self.published[0]))
        rows = pa.concat_tables(
            found or [csv.read_csv(log).select(read) for log in logs], promote_options="permissive"
        )
        columns = {name: rows[name].to_numpy().astype(np.int64) for name in read}
        keys = np.column_stack([columns[name] for name in ("time_ms", "user_id", "video_id")])
        _, first = np.unique(keys, axis=0, return_index=True)  # sorted by time
        videos = self._read_videos()
        authors = dict(
            zip(videos["video_id"].to_pylist(), videos["author_id"].to_pylist(), strict=True)
        )
        known = [authors.get(video, -1) for video in columns["video_id"].tolist()]
        columns["author_id"] = np.array(known, np.int64)
        return {name: values[first] for name, values in columns.items()}

    def _map(self, rows: Rows) -> EventColumns:
        row, type_, step, steps = _follow_ups(rows)
        user, users = _codes(rows["user_id"])
        item, items = _codes(rows["video_id"])
        shown, play = (rows[name].astype(np.int64) for name in ("time_ms", "play_time_ms"))
        length_s = (rows["duration_ms"] / 1_000).astype(np.float32)
        at_ms = shown[row] + play[row] * step // np.maximum(steps, 1)
        order = np.argsort(at_ms, kind="stable")
        row, type_, at_ms = row[order], type_[order], at_ms[order]
        played_s = np.minimum((play / 1_000).astype(np.float32), length_s)
        watched = (type_ == EventType.COMPLETE) | (type_ == EventType.PROGRESS)
        return EventColumns(
            [f"kr{number}" for number in users.tolist()],
            [f"kr{number}" for number in items.tolist()],
            user[row],
            item[row],
            type_,
            at_ms + self.shift_ms,
            shown[row],
            np.full(len(row), NO_RATING, np.float32),
            np.where(watched, played_s[row], np.float32(0)),
            np.where(watched, length_s[row], np.float32(0)),
        )


def _follow_ups(rows: Rows) -> tuple[Ints, NDArray[np.uint8], Ints, Ints]:
    """Events of exposures: `(n_events,)` source row, type, number within its row, last number."""
    long_view = rows["long_view"].astype(bool)
    happened = {
        EventType.IMPRESSION: np.ones_like(long_view),
        EventType.CLICK: rows["is_click"].astype(bool),
        EventType.LIKE: rows["is_like"].astype(bool),
        EventType.SHARE: rows["is_forward"].astype(bool),
        EventType.DISLIKE: rows["is_hate"].astype(bool),
        EventType.ADD: rows["is_follow"].astype(bool),
        EventType.COMPLETE: long_view,
        EventType.PROGRESS: ~long_view & (rows["play_time_ms"] > 0),
    }
    table = np.column_stack(list(happened.values()))
    row, column = np.nonzero(table)
    steps = table.cumsum(axis=1) - 1
    types = np.fromiter(happened, np.uint8)
    return row, types[column], steps[row, column], steps[row, -1]


DATASETS: Final[Mapping[str, type[FolderDataset]]] = {
    kind.name: kind for kind in (MovieTweetings, MovieLens, KuaiRand)
}


def open_dataset(name: str, folder: Path, shift_ms: int = 0) -> Dataset:
    """The dataset of this name in a folder, its times moved by `shift_ms` milliseconds.

    Raises UnknownDatasetError, or DatasetMissingError where its files are not there.
    """
    return _kind(name)(folder, shift_ms)


def find_data_folder(candidates: Iterable[Path], name: str | None = None) -> Path:
    """The first folder that holds the dataset `name`, or any. Raises DatasetMissingError."""
    kinds = list(DATASETS.values()) if name is None else [_kind(name)]
    folders = list(candidates)
    for folder in folders:
        if any(kind.is_in(folder) for kind in kinds):
            return folder
    looked_in = ", ".join(map(str, folders)) or "no folder at all"
    raise DatasetMissingError(f"no dataset {name or ''} in {looked_in}. {_remedy(name or 'NAME')}")


def _kind(name: str) -> type[FolderDataset]:
    if name not in DATASETS:
        raise UnknownDatasetError(f"dataset must be one of {', '.join(DATASETS)}; got {name!r}")
    return DATASETS[name]


def _remedy(name: str) -> str:
    return (
        f"`headrace datasets get {name}` downloads it from its publisher; "
        "`headrace simulate` needs no data"
    )


def _ratings(
    prefix: str,
    rows: Rows,
    item: NDArray[np.int32],
    item_ids: Sequence[str],
    *,
    points: float,
    shift_ms: int,
) -> EventColumns:
    """Ratings as events: `points` out of ten for each star; times of the rows in seconds."""
    time_s = rows["timestamp"].astype(np.int64)
    order = np.argsort(time_s, kind="stable")
    user, users = _codes(rows["user_id"])
    zeros = np.zeros(len(time_s), np.float32)
    return EventColumns(
        [f"{prefix}{number}" for number in users.tolist()],
        item_ids,
        user[order],
        item[order],
        np.full(len(time_s), EventType.RATE, np.uint8),
        time_s[order] * 1_000 + shift_ms,
        time_s[order],
        (rows["rating"].astype(np.float32) * np.float32(points))[order],
        zeros,
        zeros,
    )


def _codes(numbers: NDArray[Any]) -> tuple[NDArray[np.int32], Ints]:
    """Dense codes of numbers, and the number of each code, ascending."""
    unique, codes = np.unique(numbers, return_inverse=True)
    return codes.astype(np.int32), unique.astype(np.int64)


def _film_catalogue(folder: Path, shift_ms: int) -> list[CatalogItem]:
    """Films of the prepared catalogue, else of MovieLens' own files, else none."""
    prepared = folder / CATALOGUE_FILE
    if prepared.exists():
        return [_film(row, shift_ms) for row in parquet.read_table(prepared).to_pylist()]
    published = folder / MOVIELENS_FOLDER / "movies.csv"
    if not published.exists():
        return []
    imdb = _imdb_by_movie(folder)
    columns = csv.read_csv(published).select(["movieId", "title", "genres"]).columns
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    return [
        _titled(_film_item_id(imdb.get(movie), movie), title, genres, shift_ms)
        for movie, title, genres in rows
    ]


def _film(row: Mapping[str, Any], shift_ms: int) -> CatalogItem:
    year = int(_number(row["year"]))
    return CatalogItem(
        _film_item_id(row["imdb_id"], row["movie_id"]),
        title=natural_title(_text(row["title"])),
        year=year,
        genres=_genres(_text(row["genres"])),
        overview=_text(row["overview"]),
        director=_text(row["director"]),
        cast=tuple(name for name in _text(row["cast"]).split(", ") if name),
        runtime_min=round(_number(row["runtime_min"])),
        language=_text(row["language"]),
        certification=_text(row["certification"]),
        available_from_ms=_new_year_ms(year, shift_ms),
    )


def _dat_catalogue(path: Path, shift_ms: int) -> Iterator[CatalogItem]:
    """Films of MovieTweetings' `movies.dat`: `imdb::Title (year)::Genre|Genre`."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        imdb, _, rest = line.partition("::")
        title, _, genres = rest.rpartition("::")
        if imdb.isdigit():
            yield _titled(_imdb_item_id(int(imdb)), title, genres, shift_ms)


def _titled(item_id: str, title: str, genres: str, shift_ms: int) -> CatalogItem:
    """A film of which only `Title, The (year)` and `Genre|Genre` are known."""
    match = _TRAILING_YEAR.search(title)
    year = int(match[1]) if match else 0
    return CatalogItem(
        item_id,
        title=natural_title(_TRAILING_YEAR.sub("", title)),
        year=year,
        genres=_genres(genres),
        available_from_ms=_new_year_ms(year, shift_ms),
    )


def natural_title(title: str) -> str:
    """A title as people say it, with its article in front.

    >>> natural_title("Matrix, The"), natural_title("Avventura, L' (Adventure, The)")
    ('The Matrix', "L'Avventura (The Adventure)")
    """
    return _TRAILING_ARTICLE.sub(_with_article_in_front, title.strip())


def _with_article_in_front(match: re.Match[str]) -> str:
    title, article = (match[1], match[2]) if match[1] else (match[3], match[4])
    space = "" if article.endswith("'") else " "
    return f"{article}{space}{title}"


def _genres(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split("|") if name and name != NO_GENRES)


def _imdb_by_movie(folder: Path) -> dict[int, int]:
    """IMDb number of each MovieLens movie that has one. Raises DatasetMissingError."""
    prepared = folder / CATALOGUE_FILE
    published = folder / MOVIELENS_FOLDER / "links.csv"
    if prepared.exists():
        links = parquet.read_table(prepared, columns=["movie_id", "imdb_id"])
    elif published.exists():
        links = csv.read_csv(published).select(["movieId", "imdbId"])
    else:
        raise DatasetMissingError(
            f"neither {CATALOGUE_FILE} nor {MOVIELENS_FOLDER}/links.csv is in {folder}: no IMDb "
            f"ids for the films of movielens. {_remedy('movielens')}"
        )
    movies, imdb = (column.to_pylist() for column in links.drop_null().columns)
    return dict(zip(movies, imdb, strict=True))


def _film_item_id(imdb: int | None, movie: int | None) -> str:
    return f"ml{movie}" if imdb is None else _imdb_item_id(imdb)


def _imdb_item_id(imdb: int) -> str:
    return f"tt{imdb:07d}"


def _read_dat(path: Path, names: Sequence[str]) -> Table:
    """Whole numbers separated by `::`, the way of MovieLens' oldest files."""
    numbers = BytesIO(path.read_bytes().replace(b"::", b","))
    return csv.read_csv(numbers, read_options=csv.ReadOptions(column_names=list(names)))


def _new_year_ms(year: int, shift_ms: int) -> int:
    """When a year began, moved by the shift; 0 (always) for none, or before 1970."""
    if year < 1970:
        return 0
    return max(_midnight_ms(date(year, 1, 1), UTC) + shift_ms, 0)


def _midnight_ms(day: date, zone: timezone) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1_000


def _number(value: float | None) -> float:
    """A number, 0 where there is none."""
    return 0.0 if value is None or math.isnan(value) else value


def _text(value: object) -> str:
    """A text, empty where there is none."""
    return "" if value is None else str(value).strip()
