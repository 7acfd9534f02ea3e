"""Outcomes of tests, the learning flow as its own process, and what a clean replay arrives at."""

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from features.decision_context import CONTEXT_NAMES
from features.learning_codec import (
    decode_learning_batch,
    decode_snapshot,
    encode_outcome,
    encode_rollback,
)
from features.log import LogConfig, LogWriter, end_offsets, read_to_end
from features.model_snapshot import Arrays, ModelSnapshot, pack
from features.model_versions import LEARNED, read_versions
from features.outcomes import Outcome, Rollback
from features.vocabulary import ARM_NAMES
from infra import topics
from infra.embedded import ChildServer, free_port
from infra.learned_parts import learners
from infra.settings import Settings
from infra.stack import is_ready
from online_models.learner import Learner
from tests.clock import START_MS
from tests.flows import wait_until

KEEP_EVERY_S = 1.0
COMMAND = [sys.executable, "-m", "infra.cli", "stream", "learning"]


def random_outcomes(
    rng: np.random.Generator, n: int, start_ms: int = START_MS, every_ms: int = 10, tag: str = "r"
) -> list[Outcome]:
    """Outcomes of all arms and contexts; some correct an earlier one, some have none of either."""
    found = []
    for k in range(n):
        corrects = rng.random() < 0.1
        found.append(
            Outcome(
                f"{tag}{k}",
                int(rng.integers(0, 20)),
                f"u{int(rng.integers(0, 40))}",
                f"i{int(rng.integers(0, 60))}",
                label=bool(rng.random() < 0.3),
                reward=float(rng.uniform(-1, 1)),
                revision=int(corrects),
                previous_reward=float(rng.uniform(-1, 1)) if corrects else 0.0,
                arm=str(rng.choice([*ARM_NAMES, "other"])),
                decision_context=str(rng.choice(CONTEXT_NAMES[:5])) if rng.random() < 0.9 else "",
                propensity=float(rng.uniform(0.1, 1)),
                decided_at_ms=start_ms + k * every_ms,
            )
        )
    return found


def batch_of(records: Sequence[Outcome | Rollback | bytes], first_offset: int = 0):
    """A batch as the flow decodes it; bytes stand for themselves."""
    values = [encoded(record) for record in records]
    return decode_learning_batch(values, range(first_offset, first_offset + len(values)))


def encoded(record: Outcome | Rollback | bytes) -> bytes:
    if isinstance(record, bytes):
        return record
    return encode_rollback(record) if isinstance(record, Rollback) else encode_outcome(record)


@dataclass
class LearningSite:
    """Topics of one test, and the learning process over them."""

    log: LogConfig
    redis_url: str
    prefix: str
    folder: Path

    def __post_init__(self) -> None:
        topics.ensure_topics({"bootstrap.servers": self.log.bootstrap}, topics.topics(self.prefix))
        self.writer = LogWriter(self.log)
        self._port = free_port()
        self.metrics_url = f"http://127.0.0.1:{self._port}/metrics"

    def topic(self, name: str) -> str:
        return self.prefix + name

    def settings(self) -> Settings:
        return Settings(
            kafka={"bootstrap": self.log.bootstrap, "prefix": self.prefix},
            redis={"url": self.redis_url, "prefix": self.prefix},
            learning={
                "group": f"{self.prefix}learning",
                "keep_every_s": KEEP_EVERY_S,
                "publish_every_s": 0.05,
            },
            metrics={"learning_port": self._port},
            home=self.folder,
        )

    def process(self) -> ChildServer:
        return ChildServer(
            "learning",
            COMMAND,
            ready=lambda: is_ready(self.metrics_url),
            directory=self.folder,
            env=self.settings().environment(),
            start_timeout_s=300,
            stop_grace_s=20,
        )

    def run_to_its_end(self) -> subprocess.CompletedProcess[str]:
        """A process that is expected to end by itself."""
        environment = {**os.environ, **self.settings().environment()}
        return subprocess.run(
            COMMAND, env=environment, capture_output=True, text=True, timeout=100, check=False
        )

    @contextmanager
    def running(self) -> Iterator[ChildServer]:
        with self.process() as process:
            yield process

    def send(self, records: Sequence[Outcome | Rollback | bytes]) -> None:
        for record in records:
            self.writer.append(self.topic("outcomes"), b"u", encoded(record))
        self.writer.flush()

    def end(self) -> int:
        return end_offsets(self.log, self.topic("outcomes"), [0])[0]

    def newest(self) -> ModelSnapshot | None:
        """The newest version that the learner has published."""
        stored = read_versions(self.log, self.topic("models")).get(LEARNED)
        return None if stored is None else decode_snapshot(stored.value)

    def acknowledged(self) -> float:
        """Sequence of the newest version that the process knows in the log."""
        return self.metric("headrace_learning_version_sequence")

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of a metric of the process that have these labels."""
        with urllib.request.urlopen(self.metrics_url, timeout=5) as answer:  # noqa: S310 (loopback)
            families = text_string_to_metric_families(answer.read().decode())
            return sum(
                sample.value
                for family in families
                for sample in family.samples
                if sample.name == name and labels.items() <= sample.labels.items()
            )

    def wait_until_published(self) -> ModelSnapshot:
        """The version of everything that the log holds now, by the process that runs."""
        end = self.end()
        wait_until(lambda: self.acknowledged() >= end)
        newest = self.newest()
        assert newest is not None
        return newest

    def clean_replay(self) -> Learner:
        """A learner that has read the whole log, one record at a time."""
        learner = Learner(learners(), int(1_000 * KEEP_EVERY_S))
        for record in read_to_end(self.log, self.topic("outcomes")):
            learner.learn(decode_learning_batch([record.value() or b""], [record.offset()]))
        return learner

    def assert_equals_clean_replay(self) -> None:
        """State, and the versions that can be gone back to, are those of a clean replay."""
        found = self.wait_until_published()
        expected = self.clean_replay()
        assert found.sequence == expected.sequence
        assert_same(found.arrays, expected.version().arrays)
        stored = read_versions(self.log, self.topic("models"))
        assert stored[LEARNED].kept == tuple(expected.kept)
        for sequence, version in expected.kept.items():
            assert_same(decode_snapshot(stored[f"learned@{sequence}"].value).arrays, version.arrays)

    def committed(self) -> int:
        """The offset that ordinary Kafka tools see; 0 for none."""
        consumer = Consumer(self.log.consumer(f"{self.prefix}learning"))
        try:
            place = TopicPartition(self.topic("outcomes"), 0)
            return max(consumer.committed([place], timeout=10)[0].offset, 0)
        finally:
            consumer.close()


def assert_same(found: Arrays, expected: Arrays) -> None:
    """The same names, types, shapes and bytes."""
    assert sorted(found) == sorted(expected)
    assert pack(found) == pack(expected)
