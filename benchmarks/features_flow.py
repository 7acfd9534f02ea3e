"""How many events a second go from Kafka through the features flow into Redis.

drain: a log filled beforehand is read with nothing else to do; every user has a row in memory.
live:  the load arrives at a steady rate while broker, Redis and the sender share the two cores.
"""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.common import Cpu, arguments, console, load, metric, report, stack, wait_until
from benchmarks.load import messages, publish_titles, send, simulator
from features.item_row import ITEM_ROW
from features.user_row import USER_ROW
from infra.stack import Stack
from offline.simulator import encode_batch

ROWS = "headrace_stream_rows_written_total"
LIVE_RATE = 60_000.0
SEED = 7


def applied(running: Stack) -> float:
    """Events that the flow has dealt with."""
    return metric(running.addresses.metrics["features"], "headrace_stream_events_total")


def one_event_per_user(n_users: int) -> list[dict[str, bytes]]:
    """A record for each user, so that every row is there before anything is measured."""
    records: list[dict[str, bytes]] = []
    for batch in simulator(n_users, SEED + 1).batches(n_users, now_ms(), 50_000.0):
        users = (np.arange(len(batch)) + len(records)).astype(np.int32)
        batch = replace(batch, user=users)  # noqa: PLW2901 (the same events of other users)
        payloads = zip(batch.keys(), encode_batch(batch), strict=True)
        records += [{"key": key, "value": value} for key, value in payloads]
    return records


def now_ms() -> int:
    """Wall time."""
    return time.time_ns() // 1_000_000


def pids(running: Stack) -> dict[str, int]:
    """The processes whose share of the two cores is told."""
    servers = {"broker": running.broker, "redis": running.redis}
    found = {name: server.pid for name, server in servers.items() if server is not None}
    return {"features": running.process("features").pid, **found}


def drain(running: Stack, n_users: int, n_events: int) -> dict[str, Any]:
    """Throughput over a full log, and the share of each process in the two cores."""
    before = applied(running)
    rows_before = metric(metrics_url(running), ROWS)
    memory = {name: psutil.Process(pid).memory_info().rss for name, pid in pids(running).items()}
    records = messages(n_events, n_users, SEED, 50_000.0)
    pid = running.process("features").pid
    os.kill(pid, signal.SIGSTOP)  # the log fills while nobody reads
    send(running.addresses.broker, "interactions", records, 0)
    del records
    cpu = Cpu(pids(running))
    started_s = time.perf_counter()
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: applied(running) >= before + n_events, 300)
    seconds = time.perf_counter() - started_s
    rows = metric(metrics_url(running), ROWS) - rows_before
    return {
        "events_per_s": round(n_events / seconds),
        "rows_per_event": round(rows / n_events, 2),
        **cpu.cores(),
        **{f"rss_mib_{name}": round(size / 2**20) for name, size in memory.items()},
    }


def metrics_url(running: Stack) -> str:
    """Where the features flow tells its metrics."""
    return running.addresses.metrics["features"]


def live(running: Stack, n_users: int, rate: float, seconds: float) -> dict[str, Any]:
    """What arrives at a rate is applied at which rate, and how far behind it falls."""
    before = applied(running)
    with load(running.addresses.broker, rate, seconds, n_users, seed=SEED + 2) as sender:
        started_s = time.perf_counter()
        cpu = Cpu({**pids(running), "sender": sender.pid})
        time.sleep(seconds - 0.5)
        cores = cpu.cores()
        wait_until(lambda: applied(running) >= before + int(rate * seconds), 120)
        taken_s = time.perf_counter() - started_s
    return {
        "live_events_per_s": round(rate * seconds / taken_s),
        "live_catch_up_s": round(max(taken_s - seconds, 0.0), 2),
        **{f"live_{name}": value for name, value in cores.items()},
    }


@contextmanager
def warm_stack(n_users: int) -> Iterator[Stack]:
    """A stack whose features flow has a row in memory for each of `n_users` users."""
    rows = {"user_rows": 2**20 + 2**16}
    with (
        tempfile.TemporaryDirectory() as home,
        stack("embedded", Path(home), stream=rows) as running,
    ):
        publish_titles(running.settings.kafka.log_config(), "catalog", n_users, SEED)
        running.start_features()
        send(running.addresses.broker, "interactions", one_event_per_user(n_users), 0)
        wait_until(lambda: applied(running) >= n_users, 300)
        yield running


def main() -> None:
    """Measures at 10,000 and at 1,000,000 users."""
    options = arguments(__doc__)
    n_events, seconds = (300_000, 6.0) if options.quick else (1_500_000, 30.0)
    with warm_stack(10_000) as running:
        small = drain(running, 10_000, n_events)
    console.print("drain, 10,000 users", small)
    with warm_stack(1_000_000) as running:
        large = drain(running, 1_000_000, n_events)
        console.print("drain, 1,000,000 users", large)
        arriving = live(running, 1_000_000, LIVE_RATE, seconds)
    console.print(f"live, 1,000,000 users, {LIVE_RATE:,.0f} events/s", arriving)
    figures = {
        **small,
        **{f"users_1m_{name}": value for name, value in large.items()},
        "rows_1m_over_10k_ratio": round(large["events_per_s"] / small["events_per_s"], 3),
        **arriving,
        "user_row_bytes": USER_ROW.itemsize,
        "item_row_bytes": ITEM_ROW.itemsize,
    }
    report(
        "features_flow",
        {
            "broker_kind": "embedded",
            "events": n_events,
            "items": 50_000,
            "zipf": 1.0,
            "mix": "70 % impressions and progress, 25 % clicks and plays, 5 % others",
            "live_rate": LIVE_RATE,
            "live_seconds": seconds,
        },
        figures,
    )


if __name__ == "__main__":
    main()
