"""Where a backfill takes its events from: a dataset, or the archive of the log itself.

A dataset happened before the log began: its rows stand before every record of the log. The archive
holds the log's own records with their places: its rows stand where the archive ends.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from features import lake
from features.compiled import Rows
from features.decode import decode_records
from features.erasure import ErasureLedger
from features.events import EVENT, NO_SLOT
from features.history import ledger_of
from features.ids import id_hashes, key_hash
from features.lake import LakeRecord
from features.titles import TitleFacts
from offline.datasets import Dataset, EventColumns, Selection

BEFORE_THE_LOG = -1

Places = dict[int, int]  # offsets by partition


class BackfillError(Exception):
    """History that cannot be built upon without a gap or a double count; the message says why."""


class History(Protocol):
    """Events to build rows from, in an order in which a flow could have read them."""

    name: str
    titles: TitleFacts
    handover: Places  # where the live flow goes on

    def __len__(self) -> int:
        """How many events or records there are."""

    def batches(self, size: int, ledger: ErasureLedger) -> Iterator[Rows]:
        """The events, flagged where their viewer was erased later, with rising offsets."""

    def settle(self, rows: Rows) -> None:
        """Puts rows, which may be changed, to the place in the log at which they are to stand."""


class DatasetHistory:
    """Events of a dataset, before the beginning of the log."""

    def __init__(
        self, dataset: Dataset, selection: Selection, log_begins: Places, n_partitions: int
    ) -> None:
        self.name = f"dataset {dataset.name}"
        self.titles = TitleFacts(dataset.catalogue())
        self.handover = log_begins
        self._columns = dataset.columns(selection)
        self._users = id_hashes(self._columns.user_ids)
        self._items = id_hashes(self._columns.item_ids)
        hashes = [key_hash(user) for user in self._columns.user_ids]
        self._key_hashes = np.array(hashes, np.uint32)
        self._n_partitions = n_partitions

    def __len__(self) -> int:
        return len(self._columns)

    def batches(self, size: int, ledger: ErasureLedger) -> Iterator[Rows]:
        """See History. Offsets rise from 0, and `settle` takes them back."""
        for start in range(0, len(self), size):
            events = self._events(self._columns.rows(start, start + size))
            ledger.flag(events)
            events["offset"] = np.arange(start, start + len(events))
            yield events

    def _events(self, columns: EventColumns) -> Rows:
        events = np.zeros(len(columns), EVENT)
        events["user"] = self._users[columns.user]
        events["item"] = self._items[columns.item]
        events["event"] = id_hashes(columns.event_ids())
        for name in ("type", "at_ms", "rating", "watch_position_s", "watch_duration_s"):
            events[name] = getattr(columns, name)
        events["logged_at_ms"] = events["at_ms"]
        events["slot"] = NO_SLOT
        events["key_hash"] = self._key_hashes[columns.user]
        events["partition"] = events["key_hash"] % self._n_partitions
        events["offset"] = BEFORE_THE_LOG
        self.titles.enrich(events)
        return events

    def settle(self, rows: Rows) -> None:
        """Before the log: whatever it holds comes later."""
        for name in ("offset", "offsets"):
            if name in rows.dtype.names:
                rows[name] = BEFORE_THE_LOG


PLACE = tuple(name for name, _ in lake.PLACE)
WHOLE = tuple(name for name, _ in lake.RAW)


class ArchiveHistory:
    """Records of the log from its archive: `FOLDER/interactions/day=YYYY-MM-DD/*.parquet`.

    Of each partition the archive must hold every offset from its first to its last: what lies
    behind a hole would be lost. A record that is there twice counts once. A day of the archive is
    held in memory at a time. Erasures count by the archive's own ledger, too, where it is a lake
    that has one.
    """

    def __init__(
        self, folder: Path, until_ms: int | None, titles: TitleFacts, n_partitions: int
    ) -> None:
        self.name = f"archive {folder}"
        self.titles = titles
        self._n_partitions = n_partitions
        self._ledger = _ledger_of(folder)
        self._days = sorted((folder / "interactions").glob("day=*"))
        if not self._days:
            raise BackfillError(f"{folder}/interactions must hold folders day=YYYY-MM-DD; got none")
        self._starts: Places = {}
        self._stops: Places = {}
        self._survey(until_ms)
        self.handover = dict(self._stops)

    def __len__(self) -> int:
        return sum(self._stops[p] - self._starts[p] for p in self._stops)

    @property
    def begins(self) -> Places:
        """The first offset of each partition."""
        return self._starts

    def _survey(self, until_ms: int | None) -> None:
        """Where each partition begins and ends, without holes. Raises BackfillError."""
        table = _read([file for day in self._days for file in _files(day)], PLACE)
        partitions, offsets, logged = (np.asarray(table[name]) for name in PLACE)
        for partition in np.unique(partitions).tolist():
            if not 0 <= partition < self._n_partitions:
                raise BackfillError(
                    f"archive.partition must be within 0..{self._n_partitions - 1}, as the log's; "
                    f"got {partition}"
                )
            mine = partitions == partition
            found = np.unique(offsets[mine])
            stop = int(found[-1]) + 1
            if until_ms is not None:
                later = offsets[mine][logged[mine] >= until_ms]
                stop = min(stop, int(later.min())) if len(later) else stop
            found = found[found < stop]
            if not len(found):
                continue
            if len(found) != found[-1] - found[0] + 1:
                hole = int(found[:-1][np.diff(found) > 1][0]) + 1
                raise BackfillError(f"archive lacks offset {hole} of partition {partition}")
            self._starts[partition], self._stops[partition] = int(found[0]), stop

    def batches(self, size: int, ledger: ErasureLedger) -> Iterator[Rows]:
        """See History; each partition in the order of its offsets."""
        for records in self._records(size):
            events = decode_records(records).events
            events = events[events["key_hash"] % self._n_partitions == events["partition"]]
            ledger.flag(events)
            self._ledger.flag(events)
            self.titles.enrich(events)
            yield events

    def _records(self, size: int) -> Iterator[list[LakeRecord]]:
        due = dict(self._starts)
        early: list[LakeRecord] = []  # in the folder of a day before their predecessors'
        for day in self._days:
            columns = [_read(_files(day), WHOLE)[name].to_pylist() for name in WHOLE]
            early += [
                LakeRecord(lake.INTERACTIONS, *fields) for fields in zip(*columns, strict=True)
            ]
            early.sort(key=lambda record: (record.partition(), record.offset()))
            ready, early = self._take_due(early, due)
            for start in range(0, len(ready), size):
                yield ready[start : start + size]

    def _take_due(
        self, records: Sequence[LakeRecord], due: Places
    ) -> tuple[list[LakeRecord], list[LakeRecord]]:
        """Records whose predecessors have all been taken, and those that have to wait."""
        ready, early = [], []
        for record in records:
            partition, offset = record.partition(), record.offset()
            if partition not in due or offset >= self._stops[partition]:
                continue
            if offset == due[partition]:
                ready.append(record)
                due[partition] += 1
            elif offset > due[partition]:
                early.append(record)
        return ready, early

    def settle(self, rows: Rows) -> None:
        """Rows stand where the log has them."""


def _ledger_of(folder: Path) -> ErasureLedger:
    """The archive's ledger; an empty one where files were put together without a lake's names."""
    is_lake = (folder / lake.LOG_FILE).exists()
    return ledger_of(folder) if is_lake else ErasureLedger()


def _files(day: Path) -> list[Path]:
    return sorted(day.glob("*.parquet"))


def _read(files: Sequence[Path], names: Sequence[str]) -> Any:
    """Columns of files as one table of Arrow."""
    import pyarrow as pa  # noqa: PLC0415 (only here, and not small)
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        return pa.concat_tables(pq.ParquetFile(file).read(columns=list(names)) for file in files)
    except (pa.ArrowInvalid, KeyError) as error:
        raise BackfillError(f"the archive cannot be read: {error}") from error


def none_missing(places: Places, n_partitions: int, default: Places) -> Places:
    """The same for every partition.

    >>> none_missing({1: 7}, 2, {0: 3, 1: 0})
    {0: 3, 1: 7}
    """
    return {p: places.get(p, default[p]) for p in range(n_partitions)}
