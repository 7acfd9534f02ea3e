"""The archive flow as its own process, and what must lie in the lake."""

import os
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from features import lake
from features.decode import Record
from features.log import LogConfig, LogWriter, read_to_end
from infra import topics
from infra.archive import ARCHIVED
from infra.embedded import ChildServer, free_port
from infra.stack import is_ready
from tests.flows import wait_until

COMMAND = [sys.executable, "-m", "infra.cli", "stream", "archive"]


@dataclass
class ArchiveSite:
    """Topics and a lake of one test, and the archive process between them."""

    log: LogConfig
    prefix: str
    folder: Path
    flush_s: float = 0.3

    def __post_init__(self) -> None:
        topics.ensure_topics({"bootstrap.servers": self.log.bootstrap}, topics.topics(self.prefix))
        self.writer = LogWriter(self.log)
        self.lake = self.folder / "lake"
        self._port = free_port()
        self.metrics_url = f"http://127.0.0.1:{self._port}/metrics"

    def topic(self, name: str) -> str:
        return self.prefix + name

    def environment(self) -> dict[str, str]:
        return {
            "HEADRACE_KAFKA__BOOTSTRAP": self.log.bootstrap,
            "HEADRACE_KAFKA__PREFIX": self.prefix,
            "HEADRACE_ARCHIVE__FOLDER": str(self.lake),
            "HEADRACE_ARCHIVE__GROUP": f"{self.prefix}archive",
            "HEADRACE_ARCHIVE__FLUSH_S": str(self.flush_s),
            "HEADRACE_ARCHIVE__ROWS_PER_FILE": "500",
            "HEADRACE_METRICS__ARCHIVE_PORT": str(self._port),
        }

    def process(self) -> ChildServer:
        return ChildServer(
            "archive",
            COMMAND,
            ready=lambda: is_ready(self.metrics_url),
            directory=self.folder,
            env=self.environment(),
            start_timeout_s=300,
            stop_grace_s=20,
        )

    def run_to_its_end(self) -> subprocess.CompletedProcess[str]:
        """A process that is expected to end by itself."""
        environment = {**os.environ, **self.environment(), "HEADRACE_METRICS__ARCHIVE_PORT": "0"}
        return subprocess.run(
            COMMAND, env=environment, capture_output=True, text=True, timeout=100, check=False
        )

    def n_waiting(self) -> int:
        """Records that the process has in memory."""
        with urllib.request.urlopen(self.metrics_url, timeout=5) as answer:  # noqa: S310 (loopback)
            text = answer.read().decode()
        return int(float(text.split("\nheadrace_archive_waiting ")[1].split("\n")[0]))

    def logged(self, table: str) -> list[tuple]:
        """Every record of a table's topic, as the log has it."""
        return sorted(map(all_of, read_to_end(self.log, self.topic(ARCHIVED[table]))))

    def archived(self, table: str, n_partitions: int = 4) -> list[tuple]:
        """Every record of a table, as the lake has it: read through the reader that replays use."""
        return [
            all_of(record)
            for partition in range(n_partitions)
            for records in lake.read_records(self.lake, table, partition)
            for record in records
        ]

    def n_archived(self, table: str) -> int:
        return sum(file.last - file.first + 1 for file in lake.files_of(self.lake, table))

    def wait_until_archived(self, table: str, timeout_s: float = 60.0) -> None:
        """Returns when everything that the log holds lies in files."""
        wanted = len(self.logged(table))
        wait_until(lambda: self.n_archived(table) >= wanted, timeout_s)


def all_of(record: Record) -> tuple:
    """Everything that a record says; sorted by its place."""
    place = record.partition(), record.offset(), record.timestamp()[1]
    return (*place, record.key(), record.value(), tuple(record.headers() or ()))
