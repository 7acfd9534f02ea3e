"""What every benchmark shares: the machine's description, percentiles, tables, JSON, load."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from infra.settings import Settings
from infra.stack import Stack

OUT = Path(__file__).parent / "out"
JVM_OPTIONS = ("-Xmx512m", "-XX:+UseSerialGC")  # of Apache Kafka, with Java's whole compiler
LONG_ENOUGH_S = 20.0  # a run that is worth warming up for

console = Console()


def arguments(description: str | None) -> argparse.Namespace:
    """The options every benchmark has."""
    return options_parser(description).parse_args()


def options_parser(description: str | None) -> argparse.ArgumentParser:
    """The same, to be added to."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="end within 60 s, shorter loads")
    parser.add_argument(
        "--broker", choices=("both", "embedded", "kafka"), default="both", help="which brokers"
    )
    return parser


def machine() -> dict[str, Any]:
    """What this runs on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit that is measured, marked when files differ from it."""
    run = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    found = subprocess.run(run, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def percentiles(values_ms: Sequence[float], prefix: str = "") -> dict[str, float]:
    """p50, p95, p99 and maximum, in the unit of the values."""
    if not len(values_ms):
        return {}
    p50, p95, p99 = np.percentile(values_ms, [50, 95, 99])
    return {
        f"{prefix}p50_ms": round(float(p50), 3),
        f"{prefix}p95_ms": round(float(p95), 3),
        f"{prefix}p99_ms": round(float(p99), 3),
        f"{prefix}max_ms": round(float(max(values_ms)), 3),
        f"{prefix}samples": len(values_ms),
    }


def report(name: str, load: dict[str, Any], figures: dict[str, Any]) -> None:
    """Prints a table and writes `benchmarks/out/NAME.json`."""
    result = {"machine": machine(), "commit": commit(), "load": load, **figures}
    table = Table("figure", "value", title=f"{name} @ {result['commit']}")
    for key, value in {**load, **figures}.items():
        table.add_row(key, f"{value:,}" if isinstance(value, int | float) else str(value))
    console.print(table)
    console.print(f"{result['machine']}")
    OUT.mkdir(exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")


@contextmanager
def broker(kind: str) -> Iterator[str]:
    """Bootstrap address for the settings: empty for the embedded one, which the stack starts."""
    if kind == "embedded":
        yield ""
        return
    from tests.apache_kafka import ApacheKafka  # noqa: PLC0415 (needs Java)

    with ApacheKafka(jvm_options=JVM_OPTIONS) as kafka:
        yield kafka.bootstrap


def warm_up_s(kind: str, seconds: float) -> float:
    """How long a load runs before it is measured: Java compiles what is used much, after a while.

    Measured at 20,000 events/s: 0.69 cores in the first ten seconds, 0.26 after forty.
    """
    return 40.0 if kind == "kafka" and seconds >= LONG_ENOUGH_S else 0.0


def kafka_missing() -> str | None:
    """Why Apache Kafka cannot be measured here, None where it can."""
    from tests.apache_kafka import why_not_here  # noqa: PLC0415

    return why_not_here()


def brokers(wanted: str) -> list[str]:
    """The brokers to measure; says which is left out, and why."""
    kinds = ["embedded", "kafka"] if wanted == "both" else [wanted]
    reason = kafka_missing()
    if "kafka" in kinds and reason is not None:
        console.print(f"Apache Kafka is left out: {reason}")
        kinds.remove("kafka")
    return kinds


@contextmanager
def stack(kind: str, home: Path, **sections: dict[str, Any]) -> Iterator[Stack]:
    """A stack over a broker of this kind, without processes yet."""
    with ExitStack() as cleanup:
        bootstrap = cleanup.enter_context(broker(kind))
        settings = Settings(home=home, **sections)  # type: ignore[arg-type]
        settings.kafka.bootstrap = bootstrap
        yield cleanup.enter_context(Stack(settings))


def metric(url: str, name: str, **labels: str) -> float:
    """Sum of the samples of a metric that have these labels; 0 where there are none."""
    with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 (loopback)
        text = answer.read().decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def applied(running: Stack) -> float:
    """Events that the flow has dealt with."""
    return metric(running.addresses.metrics["features"], "headrace_stream_events_total")


def pids(running: Stack) -> dict[str, int]:
    """The processes whose share of the two cores is told."""
    servers = {"broker": running.broker, "redis": running.redis}
    found = {name: server.pid for name, server in servers.items() if server is not None}
    return {"features": running.process("features").pid, **found}


def wait_until(
    condition: Callable[[], bool], timeout_s: float = 120.0, every_s: float = 0.02
) -> None:
    """Returns when `condition()` holds, looked at every so often. Raises TimeoutError."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError("the awaited condition did not come true")
        time.sleep(every_s)


@dataclass
class Cpu:
    """CPU seconds of some processes since the start, as cores in use."""

    processes: dict[str, int]

    def __post_init__(self) -> None:
        self._started_s = time.monotonic()
        self._before = {name: self._seconds(pid) for name, pid in self.processes.items()}

    @staticmethod
    def _seconds(pid: int) -> float:
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)

    def cores(self) -> dict[str, float]:
        """Cores used by each process on average since the start."""
        elapsed_s = time.monotonic() - self._started_s
        return {
            f"cores_{name}": round((self._seconds(pid) - self._before[name]) / elapsed_s, 2)
            for name, pid in self.processes.items()
        }


@contextmanager
def load(
    bootstrap: str,
    rate: float,
    seconds: float,
    n_users: int,
    *,
    n_items: int = 50_000,
    seed: int = 7,
    mix: str = "steps",
) -> Iterator["subprocess.Popen[str]"]:
    """A process that sends simulated events at a rate, see benchmarks.load."""
    command = [
        sys.executable, "-m", "benchmarks.load", bootstrap, "--rate", str(rate),
        "--seconds", str(seconds), "--users", str(n_users), "--items", str(n_items),
        "--seed", str(seed), "--mix", mix,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None  # noqa: S101 (asked for above)
        process.stdout.readline()  # "ready": payloads are made, sending begins
        yield process
    finally:
        process.terminate()
        process.wait()
