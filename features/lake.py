"""The lake: the log as Parquet files, for replays, for training, and for people.

    <lake>/log.json                                      which log it holds
    <lake>/<table>/day=YYYY-MM-DD/<partition>-<first offset>-<last offset>.parquet

Days are those of the broker's append time, UTC. A file appears whole or not at all, under a name
that states what is in it: so the names alone tell where an archive goes on, and a record that lies
in one file can lie in no other.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

INTERACTIONS: Final = "interactions"
IMPRESSIONS: Final = "impressions"
OUTCOMES: Final = "outcomes"
CATALOG: Final = "catalog"
ERASURES: Final = "erasures"  # the ledger: what lies before an entry is to be learned from no more

LOG_FILE: Final = "log.json"
FILE_NAME: Final = re.compile(r"(\d+)-(\d+)-(\d+)\.parquet")
ROW_GROUP: Final = 50_000
BATCH_ROWS: Final = 20_000

HEADERS: Final = pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))
PLACE: Final = (
    ("partition", pa.int16()),
    ("offset", pa.int64()),
    ("logged_at_ms", pa.int64()),  # when the log received the record
)
RAW: Final = (*PLACE, ("key", pa.binary()), ("value", pa.binary()), ("headers", HEADERS))


class LakeError(Exception):
    """The lake cannot be written or read; the message says which file and why."""


@dataclass(frozen=True, slots=True, order=True)
class LakeFile:
    """A file and what its name states; sorted by partition, then by offset."""

    partition: int
    first: int  # offset of its first record
    last: int  # offset of its last record
    path: Path


class LakeRecord:
    """A record as the log had it; `features.decode` reads it like one of the log itself."""

    __slots__ = ("_headers", "_key", "_logged_at_ms", "_offset", "_partition", "_topic", "_value")

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        logged_at_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: list[dict[str, Any]] | None,
    ) -> None:
        self._topic = topic
        self._partition = partition
        self._offset = offset
        self._logged_at_ms = logged_at_ms
        self._key = key
        self._value = value
        self._headers = headers

    def topic(self) -> str:
        """The table that it lies in."""
        return self._topic

    def partition(self) -> int:
        """Its partition of the log."""
        return self._partition

    def offset(self) -> int:
        """Its place within the partition."""
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        """(2, append time): as the log's client says it; milliseconds since 1970 UTC."""
        return 2, self._logged_at_ms

    def key(self) -> bytes | None:
        """The key's bytes."""
        return self._key

    def value(self) -> bytes | None:
        """The value's bytes."""
        return self._value

    def headers(self) -> list[tuple[str, bytes | None]]:
        """Name and value of each header, in order."""
        return [(header["name"], header["value"]) for header in self._headers or ()]


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """Which log a lake holds: offsets of another one would mean other records."""

    cluster_id: str
    topics: Mapping[str, str]  # the topic of each table
    partitions: Mapping[str, int]  # how many each table's topic has

    def is_part_of(self, other: "LogIdentity") -> bool:
        """Whether this is the same log, of which the other may name more tables."""
        return (
            self.cluster_id == other.cluster_id
            and self.topics.items() <= other.topics.items()
            and self.partitions.items() <= other.partitions.items()
        )


def files_of(lake: Path, table: str) -> list[LakeFile]:
    """The files of a table by partition and offset; none where there is no such table.

    Raises LakeError when two of them hold the same record, which no archive writes: somebody has
    put files of another one here. O(files).
    """
    found = sorted(
        LakeFile(int(match[1]), int(match[2]), int(match[3]), path)
        for path in (lake / table).glob("day=*/*.parquet")
        if (match := FILE_NAME.fullmatch(path.name))
    )
    for file, after in pairwise(found):
        if file.partition == after.partition and after.first <= file.last:
            raise LakeError(f"{file.path} and {after.path} must not hold the same records")
    return found


def next_offsets(lake: Path, table: str) -> dict[int, int]:
    """Offset behind the last archived record of each partition that has any."""
    return {file.partition: file.last + 1 for file in files_of(lake, table)}


def read_records(
    lake: Path, table: str, partition: int, *, start: int = 0, batch_rows: int = BATCH_ROWS
) -> Iterator[list[LakeRecord]]:
    """The records of a partition from offset `start` on, in their order, in batches.

    Each is exactly what the log had; holds one batch in memory. Not for the table of impressions,
    which has a row for each slot.
    """
    for file in files_of(lake, table):
        if file.partition != partition or file.last < start:
            continue
        for rows in read_rows(file, [name for name, _ in RAW], batch_rows):
            columns = [rows.column(name).to_pylist() for name, _ in RAW]
            records = [LakeRecord(table, *row) for row in zip(*columns, strict=True)]
            kept = [record for record in records if record.offset() >= start]
            if kept:
                yield kept


def read_rows(file: LakeFile, columns: list[str], batch_rows: int = BATCH_ROWS) -> Iterator[Any]:
    """Arrow record batches of a file. Raises LakeError where it is no Parquet file of its table."""
    try:
        with pq.ParquetFile(file.path) as parquet:
            yield from parquet.iter_batches(batch_rows, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise LakeError(f"{file.path} cannot be read: {error}") from error


def table_of(lake: Path, table: str, columns: list[str] | None = None) -> Any:
    """A whole table as one Arrow table, by partition and offset. O(rows) memory."""
    files = [pq.read_table(file.path, columns=columns) for file in files_of(lake, table)]
    if not files:
        raise LakeError(f"{lake / table} must hold Parquet files; it holds none")
    return pa.concat_tables(files)


def write_file(folder: Path, partition: int, first: int, last: int, rows: Any) -> Path:
    """Writes an Arrow table as a file of a day's folder, whole or not at all; it survives a crash.

    Raises LakeError when it cannot be: nothing of it is left then.
    """
    path = folder / f"{partition}-{first}-{last}.parquet"
    temporary = path.with_suffix(".tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            pq.write_table(rows, file, compression="zstd", row_group_size=ROW_GROUP)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        for changed in (folder, folder.parent):
            _sync_folder(changed)
    except (OSError, pa.ArrowException) as error:
        _forget(temporary)
        raise LakeError(
            f"{path} cannot be written: {error}; free the disk or mend the folder and start again: "
            "the archive goes on behind the last whole file"
        ) from error
    return path


def identity_of(lake: Path) -> LogIdentity:
    """Which log a lake holds. Raises LakeError where there is no lake."""
    try:
        return LogIdentity(**json.loads((lake / LOG_FILE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise LakeError(
            f"{lake} must be a lake that `headrace stream archive` writes: {error}"
        ) from error


def claim(lake: Path, identity: LogIdentity) -> None:
    """Makes a lake for a log, or checks that it is this log's, and removes unfinished files.

    A lake from before there was a table gets it. Raises LakeError when it holds another log, or
    cannot be written.
    """
    path = lake / LOG_FILE
    try:
        lake.mkdir(parents=True, exist_ok=True)
        for unfinished in lake.glob("*/day=*/*.tmp"):
            unfinished.unlink()
        found = identity_of(lake) if path.exists() else None
        if found is None or (found != identity and found.is_part_of(identity)):
            _write_identity(lake, identity)
            found = identity
    except OSError as error:
        raise LakeError(f"{lake} cannot be written: {error}") from error
    if found != identity:
        raise LakeError(
            f"{lake} holds another log: cluster {found.cluster_id}, topics "
            f"{', '.join(found.topics.values())}; expected cluster {identity.cluster_id}, topics "
            f"{', '.join(identity.topics.values())}: set HEADRACE_ARCHIVE__FOLDER to another folder"
        )


def _write_identity(lake: Path, identity: LogIdentity) -> None:
    path = lake / LOG_FILE
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        json.dump(_as_dict(identity), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    _sync_folder(lake)


def raw_columns(records: Iterable[Any]) -> dict[str, list[Any]]:
    """Columns of RAW of records of the log."""
    taken = list(records)
    return {
        **place_columns(taken),
        "key": [record.key() for record in taken],
        "value": [record.value() for record in taken],
        "headers": [
            [{"name": name, "value": value} for name, value in record.headers() or ()]
            for record in taken
        ],
    }


def place_columns(records: list[Any]) -> dict[str, list[Any]]:
    """Columns of PLACE of records of the log."""
    return {
        "partition": [record.partition() for record in records],
        "offset": [record.offset() for record in records],
        "logged_at_ms": [record.timestamp()[1] for record in records],
    }


def _as_dict(identity: LogIdentity) -> dict[str, Any]:
    return {
        "cluster_id": identity.cluster_id,
        "topics": dict(identity.topics),
        "partitions": dict(identity.partitions),
    }


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forget(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # what made the writing fail may stand in the way here, too
        return
