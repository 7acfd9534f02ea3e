"""How many events a second go from Kafka through the features flow into Redis.

drain:     a log filled beforehand is read with nothing else to do; up to 1.1 million viewers have
           their rows in memory
live:      the load arrives at a steady rate while broker, Redis and the sender share the two cores
freshness: at half the ingestion of a service of 200 million viewers, from `produce()` of an event
           to its viewer's row in Redis, on Apache Kafka where it is at hand

The mix is that of `benchmarks.mix`: viewers are drawn evenly, titles by Zipf 1.0, and impressions
come as slates of ten.
"""

import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import (
    Cpu,
    applied,
    arguments,
    brokers,
    console,
    load,
    metric,
    percentiles,
    pids,
    report,
    stack,
    wait_until,
    warm_up_s,
)
from benchmarks.freshness import PROBE_EVERY_S, Probe
from benchmarks.load import N_ITEMS, messages, publish_titles, send
from features.codec import encode_interaction
from features.events import Interaction
from features.item_row import ITEM_ROW
from features.user_row import USER_ROW
from features.vocabulary import EventType
from infra.stack import Stack
from offline.simulator import item_id, user_id

ROWS = "headrace_stream_rows_written_total"
MIX = "realistic"
LIVE_RATE = 60_000.0
HALF_RATE = 57_850.0  # of 115,700 events/s
SEED = 7
MOST_USERS = 3_000_000
MOST_ROWS = 2**20 + 2**16  # in the flow's memory; of three million users, the others are in Redis
MEMORY_FOR_MOST_GIB = 17
CHUNK = 250_000
BLANK_EVENT = "w00000000"
LOOK_EVERY_S = 0.25  # at the counter: asked fifty times a second, the flow spent a tenth on answers


def one_event_per_user(n_users: int) -> Iterator[list[dict[str, bytes]]]:
    """A click for each user, so that every row is there before anything is measured; in parts.

    Only ids differ from record to record, so they are put into one encoded event, which is several
    times as fast as encoding a million.
    """
    blank = Interaction(BLANK_EVENT, user_id(0), item_id(0), EventType.CLICK, now_ms() - 60_000)
    encoded = encode_interaction(blank)
    marks = "|".join((blank.event_id, blank.user_id, blank.item_id)).encode()
    head, before_user, before_item, tail = re.split(marks, encoded)
    for first in range(0, n_users, CHUNK):
        records = []
        for k in range(first, min(first + CHUNK, n_users)):
            user, item = user_id(k).encode(), item_id(k % N_ITEMS).encode()
            parts = (head, b"w%08d" % k, before_user, user, before_item, item, tail)
            records.append({"key": user, "value": b"".join(parts)})
        yield records


def now_ms() -> int:
    """Wall time."""
    return time.time_ns() // 1_000_000


def drain(running: Stack, n_users: int, n_events: int) -> dict[str, Any]:
    """Throughput over a full log, and the share of each process in the two cores."""
    before = applied(running)
    rows_before = metric(metrics_url(running), ROWS)
    memory = {name: psutil.Process(pid).memory_info().rss for name, pid in pids(running).items()}
    records = messages(n_events, n_users, SEED, 50_000.0, mix=MIX)
    pid = running.process("features").pid
    os.kill(pid, signal.SIGSTOP)  # the log fills while nobody reads
    send(running.addresses.broker, "interactions", records, 0)
    del records
    cpu = Cpu(pids(running))
    started_s = time.perf_counter()
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: applied(running) >= before + n_events, 300, LOOK_EVERY_S)
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
    with load(running.addresses.broker, rate, seconds, n_users, seed=SEED + 2, mix=MIX) as sender:
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


def freshness(kind: str, seconds: float) -> dict[str, Any]:
    """From `produce()` to the row in Redis while HALF_RATE events arrive each second."""
    with warm_stack(100_000, kind) as running:
        running.start_serve()
        probe = Probe(
            running.settings.kafka.log_config(),
            running.settings.redis.config(),
            running.addresses.grpc,
        )
        for k in range(20):
            probe.row_ms(f"probe{k % 5}")
        before = applied(running)
        rows: list[float] = []
        whole_s = seconds + warm_up_s(kind, seconds) + 3
        with load(
            running.addresses.broker, HALF_RATE, whole_s, 100_000, seed=SEED + 3, mix=MIX
        ) as sender:
            wait_until(lambda: applied(running) - before > HALF_RATE * (whole_s - seconds - 2))
            cpu = Cpu({**pids(running), "sender": sender.pid})
            until_s = time.monotonic() + seconds
            while time.monotonic() < until_s:
                rows.append(probe.row_ms(f"probe{len(rows) % 50}"))
                time.sleep(PROBE_EVERY_S)
            cores = cpu.cores()
    return {
        **percentiles(rows, "freshness_"),
        **{f"freshness_{name}": value for name, value in cores.items()},
    }


@contextmanager
def warm_stack(n_users: int, kind: str = "embedded") -> Iterator[Stack]:
    """A stack whose features flow has met `n_users` users, with up to MOST_ROWS in memory."""
    rows = {"user_rows": min(n_users + 2**16, MOST_ROWS)}
    with (
        tempfile.TemporaryDirectory() as home,
        stack(kind, Path(home), stream=rows) as running,
    ):
        publish_titles(running.settings.kafka.log_config(), "catalog", n_users, SEED)
        running.start_features()
        for records in one_event_per_user(n_users):
            send(running.addresses.broker, "interactions", records, 0)
        wait_until(lambda: applied(running) >= n_users, 300, LOOK_EVERY_S)
        yield running


def drained(n_users: int, n_events: int) -> dict[str, Any]:
    """`drain` on servers of its own."""
    with warm_stack(n_users) as running:
        found = drain(running, n_users, n_events)
    console.print(f"drain, {n_users:,} users", found)
    return found


def with_most_users(n_events: int, small: dict[str, Any]) -> dict[str, Any]:
    """`drain` with three million users, two thirds of whose rows come from Redis when touched."""
    free_gib = psutil.virtual_memory().available / 2**30
    if free_gib < MEMORY_FOR_MOST_GIB:
        console.print(f"{MOST_USERS:,} users are left out: they need {MEMORY_FOR_MOST_GIB} GiB")
        return {}
    found = drained(MOST_USERS, n_events)
    ratio = round(found["events_per_s"] / small["events_per_s"], 3)
    return {
        **{f"users_3m_{name}": value for name, value in found.items()},
        "users_3m_over_10k_ratio": ratio,
    }


def main() -> None:
    """Measures at 10,000, at 1,000,000 and, with time and memory, at 3,000,000 users."""
    options = arguments(__doc__)
    n_events, seconds = (200_000, 5.0) if options.quick else (1_500_000, 30.0)
    small = drained(10_000, n_events)
    with warm_stack(1_000_000) as running:
        large = drain(running, 1_000_000, n_events)
        console.print("drain, 1,000,000 users", large)
        arriving = {} if options.quick else live(running, 1_000_000, LIVE_RATE, seconds)
    console.print(f"live, 1,000,000 users, {LIVE_RATE:,.0f} events/s", arriving)
    most = {} if options.quick else with_most_users(n_events, small)
    kind = brokers("both" if options.broker == "both" else options.broker)[-1]
    fresh = freshness(kind, seconds)
    console.print(f"freshness at {HALF_RATE:,.0f} events/s, {kind}", fresh)
    figures = {
        **{f"users_10k_{name}": value for name, value in small.items()},
        **large,
        "rows_1m_over_10k_ratio": round(large["events_per_s"] / small["events_per_s"], 3),
        **most,
        **arriving,
        **fresh,
        "user_row_bytes": USER_ROW.itemsize,
        "item_row_bytes": ITEM_ROW.itemsize,
    }
    report(
        "features_flow",
        {
            "broker_kind": "embedded",
            "freshness_broker_kind": kind,
            "events": n_events,
            "users": 1_000_000,
            "items": 50_000,
            "zipf": 1.0,
            "mix": "45 % impressions in slates, 25 % progress, 25 % clicks and plays, 5 % others",
            "live_rate": LIVE_RATE,
            "freshness_rate": HALF_RATE,
            "seconds": seconds,
        },
        figures,
    )


if __name__ == "__main__":
    main()
