"""How many outcomes a second the learner takes in, and how soon one changes what serves.

drain: a log of outcomes filled beforehand is learnt with nothing else to do
live:  outcomes arrive at a steady rate; from `produce()` of one among them until a mirror like that
       of a server, in this process, has a version with it in use
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    Cpu,
    arguments,
    brokers,
    console,
    metric,
    percentiles,
    report,
    stack,
    wait_until,
)
from benchmarks.load import send
from benchmarks.outcome_load import messages, outcomes
from features.clock import WallClock
from features.learning_codec import encode_outcome
from features.log import LogWriter
from features.position import Position
from infra import topics
from infra.overlays import readers
from infra.stack import Stack
from serving.model_mirror import LearnedState, ModelMirror

RATE = 10_000.0
PROBE_EVERY_S = 0.01
LEARNT = "headrace_learning_outcomes_total"
LOOK_EVERY_S = 0.05


def drain(kind: str, n: int) -> dict[str, Any]:
    """Outcomes a second from a log that holds `n`, from the first look that finds any learnt."""
    with tempfile.TemporaryDirectory() as home, stack(kind, Path(home)) as running:
        send(running.addresses.broker, topics.OUTCOMES, messages(n), 0)
        running.start_learning()
        url = running.addresses.metrics["learning"]
        started_s, first = time.perf_counter(), 0.0
        while first == 0.0:
            started_s, first = time.perf_counter(), metric(url, LEARNT)
        cpu = Cpu({"learning": running.process("learning").pid})
        wait_until(lambda: metric(url, LEARNT) >= n, every_s=LOOK_EVERY_S)
        seconds = time.perf_counter() - started_s
        return {"outcomes_per_s": round((n - first) / seconds), **cpu.cores()}


@contextmanager
def load(bootstrap: str, rate: float, seconds: float) -> Iterator["subprocess.Popen[str]"]:
    """A process that sends outcomes at a rate, see benchmarks.outcome_load."""
    command = [
        sys.executable, "-m", "benchmarks.outcome_load", bootstrap, "--rate", str(rate),
        "--seconds", str(seconds),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None  # noqa: S101 (asked for above)
        process.stdout.readline()  # "ready"
        yield process
    finally:
        process.terminate()
        process.wait()


class Probe:
    """Outcomes of this process, and when a version with each came into use here."""

    def __init__(self, running: Stack) -> None:
        log = running.settings.kafka.log_config()
        self._writer = LogWriter(log)
        self._value = encode_outcome(outcomes(1, 11, time.time_ns() // 1_000_000)[0])
        self._lock = threading.Lock()
        self._sent: list[tuple[int, float]] = []  # offset, and when it was produced
        self.swaps: list[tuple[int, float]] = []  # sequence, and when it came into use
        self.mirror = ModelMirror(log, topics.MODELS, readers("thompson"), WallClock())
        self.mirror.subscribe(self._note_swap)

    def _note_swap(self, state: LearnedState) -> None:
        self.swaps.append((state.sequence, time.perf_counter()))

    def produce(self) -> None:
        """Produces one outcome, now."""
        started_s = time.perf_counter()

        def delivered(position: Position | None, reason: str | None) -> None:
            if position is None:
                raise RuntimeError(reason)
            with self._lock:
                self._sent.append((position.offset, started_s))

        self._writer.append(topics.OUTCOMES, b"probe", self._value, delivered=delivered)

    def poll(self, timeout_s: float) -> None:
        """Serves delivery reports."""
        self._writer.poll(timeout_s)

    def is_all_served(self) -> bool:
        """Whether a version with every outcome of this process is in use."""
        self._writer.poll(0)
        last = max((offset for offset, _ in self._sent), default=-1)
        return self._writer.pending() == 0 and bool(self.swaps) and self.swaps[-1][0] > last

    def served_ms(self, since_s: float) -> list[float]:
        """From `produce()` to use, of each outcome produced since, in milliseconds."""
        sequences = np.array([sequence for sequence, _ in self.swaps])
        times_s = np.array([at_s for _, at_s in self.swaps])
        sent = [(offset, at_s) for offset, at_s in self._sent if at_s >= since_s]
        offsets = np.array([offset for offset, _ in sent])
        produced_s = np.array([at_s for _, at_s in sent])
        first = np.searchsorted(sequences, offsets, side="right")  # a sequence above the offset
        found: list[float] = (1_000 * (times_s[first] - produced_s)).tolist()
        return found


def live(kind: str, rate: float, seconds: float) -> dict[str, Any]:
    """Probes every 10 ms among `rate` outcomes a second."""
    with tempfile.TemporaryDirectory() as home, stack(kind, Path(home)) as running:
        running.start_learning()
        url = running.addresses.metrics["learning"]
        probe = Probe(running)
        probe.mirror.start()
        try:
            with load(running.addresses.broker, rate, seconds + 4) as sender:
                wait_until(lambda: metric(url, LEARNT) > rate)
                pids = {"learning": running.process("learning").pid, "sender": sender.pid}
                cpu, started_s, before = Cpu(pids), time.perf_counter(), metric(url, LEARNT)
                while time.perf_counter() - started_s < seconds:
                    probe.produce()
                    probe.poll(PROBE_EVERY_S)
                    time.sleep(max(0.0, PROBE_EVERY_S - (time.perf_counter() % PROBE_EVERY_S)))
                learnt = (metric(url, LEARNT) - before) / (time.perf_counter() - started_s)
                cores = cpu.cores()
                wait_until(probe.is_all_served)
        finally:
            probe.mirror.stop()
        found = percentiles(probe.served_ms(started_s), "outcome_to_served_")
        return {**found, "live_outcomes_per_s": round(learnt), **cores}


def main() -> None:
    """Measures on the embedded broker and on Apache Kafka."""
    options = arguments(__doc__)
    n, seconds = (60_000, 6.0) if options.quick else (400_000, 25.0)
    figures: dict[str, Any] = {}
    for kind in brokers(options.broker):
        found = {**drain(kind, n), **live(kind, RATE, seconds)}
        console.print(kind, found)
        prefix = "kafka_" if kind == "kafka" else ""
        figures |= {f"{prefix}{name}": value for name, value in found.items()}
    parts = ", ".join(readers("thompson"))
    load_ = {"outcomes_per_s": RATE, "filled": n, "seconds": seconds, "parts": parts}
    report("learning", {f"load_{name}": value for name, value in load_.items()}, figures)


if __name__ == "__main__":
    main()
