"""Datasets: the stated rules, on small files in every format and on the real ones."""

from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from features.codec import decode_interaction, encode_interaction
from features.events import CatalogItem, Interaction, problem_with
from features.vocabulary import EventType
from offline.datasets import (
    DATASETS,
    Dataset,
    DatasetMissingError,
    Selection,
    UnknownDatasetError,
    find_data_folder,
    natural_title,
    open_dataset,
)

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"

needs_real_data = pytest.mark.skipif(
    not REAL.is_dir(), reason="no ../shared/data beside the repository"
)

RATINGS_DAT = "7::0133093::9::1362062400\n3::0000008::5::1362062100\n7::0000008::0::1362062400\n"
MOVIES_DAT = (
    "0000008::Edison Kinetoscopic Record of a Sneeze (1894)::Documentary|Short\n"
    "0133093::The Matrix :: Reloaded? (1999)::Action|Sci-Fi\n"
)
EXPOSURE = {
    "user_id": 1, "video_id": 2, "author_id": 3, "time_ms": 1_650_000_000_000, "tab": 1,
    "is_click": 0, "is_like": 0, "is_follow": 0, "is_comment": 0, "is_forward": 0, "is_hate": 0,
    "long_view": 0, "play_time_ms": 0, "duration_ms": 20_000,
}  # fmt: skip


@pytest.fixture
def movietweetings(tmp_path: Path) -> Path:
    """A folder with MovieTweetings as it is published."""
    (tmp_path / "ratings.dat").write_text(RATINGS_DAT)
    (tmp_path / "movies.dat").write_text(MOVIES_DAT)
    return tmp_path


@pytest.fixture
def movielens(tmp_path: Path) -> Path:
    """A folder with MovieLens as it is published, unpacked."""
    folder = tmp_path / "ml-latest-small"
    folder.mkdir()
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,2571,4.5,1000000200\n1,99,0.5,1000000100\n"
    )
    (folder / "movies.csv").write_text(
        'movieId,title,genres\n2571,"Matrix, The (1999)",Action|Sci-Fi|Thriller\n'
        "99,Halfmoon (1995),(no genres listed)\n"
    )
    (folder / "links.csv").write_text("movieId,imdbId,tmdbId\n2571,0133093,603\n99,,\n")
    return tmp_path


def exposures(folder: Path, *changes: dict[str, int]) -> list[Interaction]:
    """Interactions of prepared KuaiRand rows that differ from a bare exposure."""
    rows = [EXPOSURE | change for change in changes]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "kuairand_exposures_test.parquet")
    return list(open_dataset("kuairand", folder).interactions())


def types(events: list[Interaction]) -> list[EventType]:
    return [event.type for event in events]


def test_a_tweeted_rating_becomes_one_rating_of_as_many_points(movietweetings: Path) -> None:
    first, second, third = open_dataset("movietweetings", movietweetings).interactions()
    assert first == Interaction(
        "mt3-tt0000008-1362062100-rate",
        "mt3",
        "tt0000008",
        EventType.RATE,
        1_362_062_100_000,
        rating=5.0,
    )
    assert (second.item_id, second.rating) == ("tt0133093", 9.0)
    assert (third.item_id, third.rating) == ("tt0000008", 0.0)


def test_a_list_of_films_may_have_the_separator_in_a_title(movietweetings: Path) -> None:
    old, new = open_dataset("movietweetings", movietweetings).catalogue()
    assert old.genres == ("Documentary", "Short")
    assert old.available_from_ms == 0
    assert (new.title, new.year) == ("The Matrix :: Reloaded?", 1999)


def test_a_movielens_rating_counts_twice_its_stars(movielens: Path) -> None:
    events = list(open_dataset("movielens", movielens).interactions())
    assert [(e.user_id, e.item_id, e.rating) for e in events] == [
        ("ml1", "ml99", 1.0),
        ("ml1", "tt0133093", 9.0),
    ]


def test_titles_of_movielens_are_told_as_people_say_them(movielens: Path) -> None:
    matrix, halfmoon = open_dataset("movielens", movielens).catalogue()
    start_1999 = int(datetime(1999, 1, 1, tzinfo=UTC).timestamp() * 1_000)
    assert matrix == CatalogItem(
        "tt0133093",
        title="The Matrix",
        year=1999,
        genres=("Action", "Sci-Fi", "Thriller"),
        available_from_ms=start_1999,
    )
    assert (halfmoon.item_id, halfmoon.genres) == ("ml99", ())


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Human Centipede II (Full Sequence), The", "The Human Centipede II (Full Sequence)"),
        ("City of Lost Children, The (Cité des enfants perdus, La)",
         "The City of Lost Children (La Cité des enfants perdus)"),
        ("Beautiful Mind, A", "A Beautiful Mind"),
        ("I, Robot", "I, Robot"),
        ("Burn, Baby, Burn", "Burn, Baby, Burn"),
    ],
)  # fmt: skip
def test_an_article_at_the_end_moves_to_the_front(written: str, said: str) -> None:
    assert natural_title(written) == said


def test_an_exposure_that_nothing_follows_is_an_impression(tmp_path: Path) -> None:
    (event,) = exposures(tmp_path, {})
    assert event == Interaction(
        "kr1-kr2-1650000000000-impression", "kr1", "kr2", EventType.IMPRESSION, 1_650_000_000_000
    )


def test_what_follows_an_exposure_is_spread_over_its_play_time(tmp_path: Path) -> None:
    happened = dict.fromkeys(("is_click", "is_like", "is_forward", "is_hate", "is_follow"), 1)
    events = exposures(tmp_path, happened | {"long_view": 1, "play_time_ms": 18_000})
    assert types(events) == [
        EventType.IMPRESSION,
        EventType.CLICK,
        EventType.LIKE,
        EventType.SHARE,
        EventType.DISLIKE,
        EventType.ADD,
        EventType.COMPLETE,
    ]
    since = [event.occurred_at_ms - EXPOSURE["time_ms"] for event in events]
    assert since == [0, 3_000, 6_000, 9_000, 12_000, 15_000, 18_000]
    assert (events[-1].watch_position_s, events[-1].watch_duration_s) == (18.0, 20.0)
    assert {event.watch_duration_s for event in events[:-1]} == {0.0}


def test_a_short_look_is_progress_and_never_beyond_the_end(tmp_path: Path) -> None:
    events = exposures(tmp_path, {"play_time_ms": 1_500}, {"play_time_ms": 61_000, "user_id": 5})
    assert Counter(types(events)) == {EventType.IMPRESSION: 2, EventType.PROGRESS: 2}
    assert [e.watch_position_s for e in events if e.type == EventType.PROGRESS] == [1.5, 20.0]


def test_a_row_that_comes_twice_is_the_same_event_delivered_twice(tmp_path: Path) -> None:
    events = exposures(tmp_path, {"is_click": 1}, {"is_click": 1})
    assert len(events) == 4
    assert len({event.event_id for event in events}) == 2
    assert len(set(events)) == 2


def test_equal_times_keep_the_order_of_arrival(tmp_path: Path) -> None:
    events = exposures(tmp_path, *({"user_id": user} for user in (9, 2, 7, 4)))
    assert [event.user_id for event in events] == ["kr9", "kr2", "kr7", "kr4"]


def test_published_kuairand_logs_are_read_where_nothing_is_prepared(tmp_path: Path) -> None:
    folder = tmp_path / "KuaiRand-Pure" / "data"
    folder.mkdir(parents=True)
    names = [*EXPOSURE, "is_rand"]
    for number, time_ms in (
        ("4_22_to_5_08", 1_650_700_000_000),
        ("4_08_to_4_21", 1_650_600_000_000),
    ):
        row = EXPOSURE | {"time_ms": time_ms, "is_rand": 0}
        values = ",".join(str(row[name]) for name in names)
        path = folder / f"log_standard_{number}_pure.csv"
        path.write_text(f"{','.join(names)}\n{values}\n")
    (folder / "video_features_basic_pure.csv").write_text(
        "video_id,author_id,upload_dt,video_duration,tag\n"
        '2,3,2022-04-10,90000.0,"39,68"\n4,5,2022-04-11,,\n'
    )
    dataset = open_dataset("kuairand", tmp_path)
    assert [e.occurred_at_ms for e in dataset.interactions()] == [
        1_650_600_000_000,
        1_650_700_000_000,
    ]
    tagged, bare = dataset.catalogue()
    assert (tagged.item_id, tagged.genres, tagged.runtime_min) == ("kr2", ("tag 39", "tag 68"), 2)
    assert (bare.genres, bare.runtime_min) == ((), 0)
    uploaded = datetime.fromisoformat("2022-04-10T00:00+08:00").timestamp() * 1_000
    assert tagged.available_from_ms == uploaded


def test_prepared_files_come_before_published_ones(movietweetings: Path) -> None:
    row = {"user_id": 1, "imdb_id": 5, "rating": 8, "timestamp": 100}
    parquet.write_table(pa.Table.from_pylist([row]), movietweetings / "movietweetings_x.parquet")
    events = list(open_dataset("movietweetings", movietweetings).interactions())
    assert [event.item_id for event in events] == ["tt0000005"]


def test_a_shift_moves_all_times_and_no_identity(movietweetings: Path) -> None:
    plain = list(open_dataset("movietweetings", movietweetings).interactions())
    moved = list(open_dataset("movietweetings", movietweetings, shift_ms=5_000).interactions())
    assert [e.event_id for e in moved] == [e.event_id for e in plain]
    assert [e.occurred_at_ms - 5_000 for e in moved] == [e.occurred_at_ms for e in plain]


def test_a_first_share_and_the_last_share_make_the_whole(tmp_path: Path) -> None:
    exposures(tmp_path, *({"time_ms": 1_000 + n} for n in range(7)))
    dataset = open_dataset("kuairand", tmp_path)
    first = list(dataset.interactions(Selection(first_share=0.7)))
    last = list(dataset.interactions(Selection(last_share=0.3)))
    assert [*first, *last] == list(dataset.interactions())
    assert len(first) == 5


def test_a_span_takes_its_start_and_leaves_its_end(tmp_path: Path) -> None:
    exposures(tmp_path, *({"time_ms": 1_000 + n} for n in range(10)))
    dataset = open_dataset("kuairand", tmp_path)
    times = [
        e.occurred_at_ms for e in dataset.interactions(Selection(from_ms=1_003, until_ms=1_006))
    ]
    assert times == [1_003, 1_004, 1_005]
    halves = Selection(from_ms=1_002, until_ms=1_006, last_share=0.5)
    assert dataset.columns(halves).at_ms.tolist() == [1_004, 1_005]
    assert len(dataset.columns(Selection(from_ms=1_009, until_ms=1_001))) == 0


@pytest.mark.parametrize("shares", [(1.5, 1.0), (1.0, -0.1), (0.5, 0.5)])
def test_shares_that_make_no_sense_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="share"):
        Selection(first_share=shares[0], last_share=shares[1])


def test_columns_say_what_interactions_say(tmp_path: Path) -> None:
    exposures(tmp_path, {"is_click": 1, "play_time_ms": 900}, {"user_id": 8, "long_view": 1})
    dataset = open_dataset("kuairand", tmp_path)
    columns, events = dataset.columns(), list(dataset.interactions())
    assert [columns.user_ids[user] for user in columns.user] == [e.user_id for e in events]
    assert [columns.item_ids[item] for item in columns.item] == [e.item_id for e in events]
    assert columns.at_ms.tolist() == [e.occurred_at_ms for e in events]
    assert columns.event_ids() == [e.event_id for e in events]


def test_a_missing_dataset_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissingError, match="headrace datasets get movielens"):
        open_dataset("movielens", tmp_path)
    with pytest.raises(DatasetMissingError, match="headrace simulate"):
        find_data_folder([tmp_path, tmp_path / "nowhere"])


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownDatasetError, match="movietweetings, movielens, kuairand; got 'netf"):
        open_dataset("netflix", tmp_path)


def test_the_first_folder_that_has_the_dataset_is_found(
    movietweetings: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    assert find_data_folder([empty, movietweetings], "movietweetings") == movietweetings
    with pytest.raises(DatasetMissingError, match="no dataset kuairand"):
        find_data_folder([empty, movietweetings], "kuairand")


@pytest.fixture(scope="module", params=DATASETS)
def real(request: pytest.FixtureRequest) -> Dataset:
    """Each of the datasets, prepared for development."""
    return open_dataset(request.param, REAL)


@needs_real_data
def test_all_real_events_are_valid_in_order_and_in_the_catalogue(real: Dataset) -> None:
    events = list(real.interactions())
    titles = {item.item_id for item in real.catalogue()}
    assert [problem for event in events if (problem := problem_with(event))] == []
    assert all(a.occurred_at_ms <= b.occurred_at_ms for a, b in pairwise(events))
    assert {event.item_id for event in events} <= titles
    sample = events[:: len(events) // 500]
    assert [decode_interaction(encode_interaction(event)) for event in sample] == sample


@needs_real_data
def test_real_ids_repeat_only_where_rows_were_delivered_twice(real: Dataset) -> None:
    columns = real.columns()
    repeated = len(columns) - len(set(columns.event_ids()))
    assert (
        repeated / len(columns) == 0
        if real.name != "kuairand"
        else 0.02 < repeated / len(columns) < 0.04
    )


@needs_real_data
def test_hardly_any_real_event_comes_before_its_title_was_there(real: Dataset) -> None:
    available = {item.item_id: item.available_from_ms for item in real.catalogue()}
    early = sum(e.occurred_at_ms < available[e.item_id] for e in real.interactions())
    assert early < 10


@needs_real_data
def test_both_film_datasets_speak_of_the_same_films() -> None:
    tweeted, rated = (open_dataset(name, REAL) for name in ("movietweetings", "movielens"))
    common = set(tweeted.columns().item_ids) & set(rated.columns().item_ids)
    assert len(common) > 3_000
    matrix = next(item for item in rated.catalogue() if item.item_id == "tt0133093")
    assert matrix.title == "The Matrix"
