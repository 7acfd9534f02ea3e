"""Runs the features flow as its own process against given servers, and waits for what it does."""

import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, KafkaException, TopicPartition
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from features.codec import encode_catalog_item, encode_interaction
from features.erasure import ErasureLedger
from features.events import CatalogItem, Interaction
from features.log import LogConfig, LogWriter, end_offsets
from features.redis_config import RedisConfig
from features.store import TABLES, Table
from features.titles import TitleFacts
from features.vocabulary import EventType
from infra import topics
from infra.embedded import ChildServer, free_port
from infra.settings import Settings
from infra.stack import is_ready
from streams.erasures import LedgerFollower
from tests.oracle import clean_replay, differences, stored

N_ITEMS = 60
REGIONS = ("", "DE", "US-CA")
MAX_WORKERS = 4
GENRES = ("Drama", "Comedy", "Action", "Horror")
# Of a server: a busy machine is no overload, and Redis is not away because it is slow.
PATIENT = {"delay_target_ms": 1_000, "delay_limit_ms": 10_000, "redis_timeout_ms": 1_000}


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Returns when `condition()` holds; fails when it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "the awaited condition did not come true"
        time.sleep(0.02)


@dataclass
class FeaturesSite:
    """Topics, titles and Redis of one test, and the features process over them."""

    log: LogConfig
    redis: RedisConfig
    prefix: str
    folder: Path
    n_workers: int = 1  # of processes that are made from now on
    epoch_s: float = 0.2

    def __post_init__(self) -> None:
        topics.ensure_topics({"bootstrap.servers": self.log.bootstrap}, topics.topics(self.prefix))
        self.items = [
            CatalogItem(f"i{k}", f"Title {k}", 1950 + k, (GENRES[k % 4],)) for k in range(N_ITEMS)
        ]
        writer = LogWriter(self.log)
        for item in self.items:
            writer.append(self.topic("catalog"), item.item_id.encode(), encode_catalog_item(item))
        writer.flush()
        self.writer = writer
        self._port = free_port(1 + MAX_WORKERS)

    def topic(self, name: str) -> str:
        return self.prefix + name

    @property
    def metrics_url(self) -> str:
        """Where the features process, or the owner of several, tells its metrics."""
        return f"http://127.0.0.1:{self._port}/metrics"

    def process(self) -> ChildServer:
        url = self.metrics_url
        return ChildServer(
            "features",
            [sys.executable, "-m", "infra.cli", "stream", "features"],
            ready=lambda: is_ready(url),
            directory=self.folder,
            env=self.environment(),
            start_timeout_s=300,
            stop_grace_s=20,
        )

    def environment(self) -> dict[str, str]:
        """What a command of Headrace needs to know of this site."""
        return {
            "HEADRACE_KAFKA__BOOTSTRAP": self.log.bootstrap,
            "HEADRACE_KAFKA__PREFIX": self.prefix,
            "HEADRACE_REDIS__URL": self.redis.url,
            "HEADRACE_REDIS__PREFIX": self.redis.prefix,
            "HEADRACE_STREAM__GROUP": f"{self.prefix}features",
            "HEADRACE_STREAM__EPOCH_S": str(self.epoch_s),
            "HEADRACE_STREAM__USER_ROWS": "1024",
            "HEADRACE_STREAM__ITEM_ROWS": "1024",
            "HEADRACE_STREAM__COVISITATION_ROWS": "1024",
            "HEADRACE_STREAM__SEGMENT_ROWS": "1024",
            "HEADRACE_STREAM__WORKERS": str(self.n_workers),
            "HEADRACE_HOME": str(self.folder),
            "HEADRACE_METRICS__FEATURES_PORT": str(self._port),
        }

    def settings(self) -> Settings:
        """The same as settings, for what runs in this process."""
        return Settings(
            kafka={"bootstrap": self.log.bootstrap, "prefix": self.prefix},
            redis={"url": self.redis.url, "prefix": self.redis.prefix},
            stream={"group": f"{self.prefix}features", "user_rows": 1024, "item_rows": 1024},
        )

    @contextmanager
    def running(self) -> Iterator[ChildServer]:
        with self.process() as process:
            yield process

    def send(self, interactions: list[Interaction]) -> None:
        for interaction in interactions:
            self.writer.append(
                self.topic("interactions"),
                interaction.user_id.encode(),
                encode_interaction(interaction),
            )
        self.writer.flush()

    def titles(self) -> TitleFacts:
        return TitleFacts(self.items)

    def ledger(self) -> ErasureLedger:
        """The erasures that the ledger has."""
        follower = LedgerFollower(self.log, self.topic("erasures"))
        follower.close()
        return follower.ledger

    def wrong_rows(
        self, *, are_rebuilt: bool = False, left_out: Collection[Table] = ()
    ) -> list[str]:
        """Where the rows in Redis differ from a clean replay of the log.

        `are_rebuilt`: since the last erasure, so that no row has seen what lies before one.
        """
        expected = clean_replay(
            self.log,
            self.topic("interactions"),
            self.titles(),
            ledger=self.ledger() if are_rebuilt else None,
        )
        wrong = []
        for table in TABLES:
            if table in left_out:
                continue
            rows = expected[table.letter]
            found = differences(rows, stored(self.redis, table, rows["id"]))
            wrong += [f"table {table.letter}, {difference}" for difference in found]
        return wrong

    def is_applied(self) -> bool:
        """Whether the group has committed everything that the log holds now."""
        return self.committed() == end_offsets(self.log, self.topic("interactions"), range(4))

    def wait_until_applied(self, timeout_s: float = 60.0) -> None:
        """Returns when the group has committed everything that the log holds."""
        topic = self.topic("interactions")
        ends = end_offsets(self.log, topic, range(4))
        wait_until(lambda: self.committed() == ends, timeout_s)

    @retry(
        retry=retry_if_exception_type(KafkaException),  # a broker that has just started
        stop=stop_after_delay(30),
        wait=wait_fixed(0.2),
        reraise=True,
    )
    def committed(self) -> dict[int, int]:
        """Offsets that ordinary Kafka tools see; 0 for a partition nobody has read."""
        consumer = Consumer(self.log.consumer(f"{self.prefix}features"))
        try:
            topic = self.topic("interactions")
            found = consumer.committed([TopicPartition(topic, p) for p in range(4)], timeout=10)
            return {tp.partition: max(tp.offset, 0) for tp in found}
        finally:
            consumer.close()


def random_interactions(
    rng: np.random.Generator, n: int, start_ms: int, n_users: int = 40, tag: str = "e"
) -> list[Interaction]:
    """Events of every type; some twice, late, far in the future, or of unknown items."""
    found: list[Interaction] = []
    for k in range(n):
        if found and rng.random() < 0.05:
            found.append(found[int(rng.integers(max(0, len(found) - 20), len(found)))])
            continue
        kind = EventType(int(rng.integers(1, 13)))
        shift_ms = int(
            rng.choice(
                [0, 0, 0, -3_600_000, -90_000_000, 10**12], p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05]
            )
        )
        found.append(
            Interaction(
                event_id=f"{tag}{k}",
                user_id=f"u{int(rng.integers(n_users))}",
                item_id=f"i{int(rng.integers(N_ITEMS + 5))}",
                type=kind,
                occurred_at_ms=max(start_ms + 10 * k + shift_ms, 1),
                rating=float(rng.integers(0, 11)) if kind == EventType.RATE else None,
                watch_position_s=float(rng.integers(0, 6000)),
                watch_duration_s=6000.0,
                session_id=f"s{k // 50}",
                region=str(rng.choice(REGIONS)),
            )
        )
    return found
