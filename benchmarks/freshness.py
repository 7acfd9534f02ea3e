"""From `produce()` of an event to a `Recommend` answer that includes it, while a load flows in.

A probe produces one event of its own viewer, straight into Kafka, and asks at once for a slate
that includes it (`after`); the server answers as soon as it does. The clock runs from before
`produce()` to the answer. Beside it: from `produce()` to the row in the store, without the server.
"""

import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    Cpu,
    applied,
    arguments,
    brokers,
    console,
    load,
    percentiles,
    pids,
    report,
    stack,
    wait_until,
    warm_up_s,
)
from benchmarks.load import publish_titles
from features.codec import encode_interaction
from features.events import Interaction
from features.ids import viewer_hash
from features.log import LogConfig, LogWriter
from features.position import Position
from features.redis_config import RedisConfig
from features.redis_store import RedisLink, RedisRowStore
from features.store import USERS
from features.vocabulary import EventType
from infra.stack import Stack
from serving.client import Client

N_USERS = 100_000
RATE = 20_000.0
GIVE_UP_AFTER_S = 30.0
PROBE_EVERY_S = 0.02
LOOK_EVERY_S = 0.0002  # a probe that never sleeps would take a core from what it measures
SEED = 11


class Probe:
    """One viewer who clicks and looks."""

    def __init__(self, log: LogConfig, redis: RedisConfig, grpc: str) -> None:
        self._writer = LogWriter(log)
        self._client = Client(grpc, timeout_s=5.0)
        self._client.wait_until_connected()
        self._store = RedisRowStore(RedisLink(redis), USERS, redis)
        self._clicks = 0

    def click(self, user_id: str) -> tuple[threading.Event, list[Position]]:
        """Produces a click; the event is set when the log has it."""
        self._clicks += 1
        done, found = threading.Event(), []
        interaction = Interaction(
            uuid.uuid4().hex, user_id, f"i{self._clicks % 1_000:08d}", EventType.CLICK
        )

        def delivered(position: Position | None, reason: str | None) -> None:
            if position is None:
                raise RuntimeError(reason)
            found.append(position)
            done.set()

        self._writer.append(
            "interactions", user_id.encode(), encode_interaction(interaction), delivered=delivered
        )
        return done, found

    def answer_ms(self, user_id: str) -> float:
        """From `produce()` to an answer that includes the click."""
        started_s = time.perf_counter()
        done, found = self.click(user_id)
        while not done.is_set():
            self._writer.poll(0.001)
        is_included = False
        while not is_included:
            answer = self._client.recommend(user_id, after=found[0], wait_ms=1_000)
            is_included = answer.freshness.after_included
            if time.perf_counter() - started_s > GIVE_UP_AFTER_S:
                raise RuntimeError(f"an event was not included within {GIVE_UP_AFTER_S:g} s")
        return 1_000 * (time.perf_counter() - started_s)

    def row_ms(self, user_id: str) -> float:
        """From `produce()` to the viewer's row in the store."""
        id_ = np.array([viewer_hash(user_id)], np.uint64)
        before = int(self._store.read(id_)[0]["offset"][0])
        started_s = time.perf_counter()
        self.click(user_id)
        while int(self._store.read(id_)[0]["offset"][0]) <= before:
            self._writer.poll(0)
            time.sleep(LOOK_EVERY_S)
        return 1_000 * (time.perf_counter() - started_s)


def measure(running: Stack, rate: float, seconds: float, warm_s: float) -> dict[str, Any]:
    """Probes in turn, every 20 ms, while events arrive at `rate` and have for `warm_s`."""
    probe = Probe(
        running.settings.kafka.log_config(),
        running.settings.redis.config(),
        running.addresses.grpc,
    )
    for k in range(20):
        probe.answer_ms(f"probe{k % 5}")
        probe.row_ms(f"probe{k % 5}")
    answers: list[float] = []
    rows: list[float] = []
    before = applied(running)
    with load(running.addresses.broker, rate, warm_s + seconds + 2, N_USERS, seed=SEED) as sender:
        wait_until(lambda: applied(running) - before > rate * (warm_s + 0.5))
        found = {**pids(running), "serve": running.process("serve").pid, "sender": sender.pid}
        cpu = Cpu(found)
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            user_id = f"probe{len(answers) % 50}"
            answers.append(probe.answer_ms(user_id))
            time.sleep(PROBE_EVERY_S)
            rows.append(probe.row_ms(user_id))
            time.sleep(PROBE_EVERY_S)
        cores = cpu.cores()
    return {**percentiles(answers), **percentiles(rows, "row_"), **cores}


def measure_on(kind: str, rate: float, seconds: float) -> dict[str, Any]:
    """The figures over one kind of broker."""
    with tempfile.TemporaryDirectory() as home, stack(kind, Path(home)) as running:
        publish_titles(running.settings.kafka.log_config(), "catalog", N_USERS, SEED)
        running.start_features()
        running.start_serve()
        return measure(running, rate, seconds, warm_up_s(kind, seconds))


def main() -> None:
    """Measures on the embedded broker and on Apache Kafka."""
    options = arguments(__doc__)
    seconds = 6.0 if options.quick else 30.0
    figures: dict[str, Any] = {}
    for kind in brokers(options.broker):
        found = measure_on(kind, RATE, seconds)
        console.print(kind, found)
        prefix = "kafka_" if kind == "kafka" else ""
        figures |= {f"{prefix}{name}": value for name, value in found.items()}
    load_ = {"events_per_s": RATE, "users": N_USERS, "seconds": seconds, "bundle": "none"}
    report("freshness", load_, figures)


if __name__ == "__main__":
    main()
