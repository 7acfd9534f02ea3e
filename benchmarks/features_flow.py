"""How many events a second go from Kafka through the features flow into Redis.

drain: a log filled beforehand is read with nothing else to do; the middle of the run counts.
live:  the load arrives at a steady rate while broker, Redis and the sender share the two cores.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import Cpu, arguments, console, load, metric, report, stack, wait_until
from benchmarks.load import messages, publish_titles, send
from features.item_row import ITEM_ROW
from features.user_row import USER_ROW
from infra.stack import Stack

LIVE_RATE = 60_000.0
SEED = 7


def applied(running: Stack) -> float:
    """Events that the flow has dealt with."""
    return metric(running.addresses.metrics["features"], "headrace_stream_events_total")


def drain(n_users: int, n_events: int, n_warm: int) -> dict[str, Any]:
    """Throughput over a full log: `n_warm` events bring in rows, the rest is measured."""
    with tempfile.TemporaryDirectory() as home, stack("embedded", Path(home)) as running:
        log = running.settings.kafka.log_config()
        publish_titles(log, "catalog", n_users, SEED)
        records = messages(n_warm + n_events, n_users, SEED, 50_000.0)
        send(running.addresses.broker, "interactions", records, 0)
        del records
        running.start_features()
        wait_until(lambda: applied(running) >= n_warm, 300)
        pids = {
            "features": running.process("features").pid,
            "broker": running.broker.pid,  # type: ignore[union-attr]
            "redis": running.redis.pid,  # type: ignore[union-attr]
        }
        cpu = Cpu(pids)
        before, started_s = applied(running), time.perf_counter()
        wait_until(lambda: applied(running) >= n_warm + 0.9 * n_events, 300)
        seconds = time.perf_counter() - started_s
        done = applied(running) - before
        rows = metric(running.addresses.metrics["features"], "headrace_stream_rows_written_total")
        return {
            "events_per_s": round(done / seconds),
            "rows_per_event": round(rows / applied(running), 2),
            **cpu.cores(),
        }


def live(n_users: int, rate: float, seconds: float) -> dict[str, Any]:
    """What arrives at a rate is applied at which rate, and how far behind it falls."""
    with tempfile.TemporaryDirectory() as home, stack("embedded", Path(home)) as running:
        publish_titles(running.settings.kafka.log_config(), "catalog", n_users, SEED)
        running.start_features()
        with load(running.addresses.broker, rate, seconds, n_users) as sender:
            started_s = time.perf_counter()
            cpu = Cpu(
                {
                    "features": running.process("features").pid,
                    "broker": running.broker.pid,  # type: ignore[union-attr]
                    "redis": running.redis.pid,  # type: ignore[union-attr]
                    "sender": sender.pid,
                }
            )
            while time.perf_counter() - started_s < seconds - 0.5:
                time.sleep(0.1)
            cores = cpu.cores()
            wait_until(lambda: applied(running) >= int(rate * seconds), 120)
        taken_s = time.perf_counter() - started_s
        return {
            "live_events_per_s": round(rate * seconds / taken_s),
            "live_catch_up_s": round(max(taken_s - seconds, 0.0), 2),
            **{f"live_{name}": value for name, value in cores.items()},
        }


def main() -> None:
    """Measures at 10,000 and at 1,000,000 users."""
    options = arguments(__doc__)
    n_events, n_warm = (300_000, 150_000) if options.quick else (1_500_000, 500_000)
    console.print("drain, 10,000 users")
    small = drain(10_000, n_events, n_warm)
    console.print(small)
    console.print("drain, 1,000,000 users")
    large = drain(1_000_000, n_events, n_warm)
    console.print(large)
    console.print(f"live, 1,000,000 users, {LIVE_RATE:,.0f} events/s")
    seconds = 6.0 if options.quick else 30.0
    figures = {
        **small,
        **{f"users_1m_{name}": value for name, value in large.items()},
        "rows_1m_over_10k_ratio": round(large["events_per_s"] / small["events_per_s"], 3),
        **live(1_000_000, LIVE_RATE, seconds),
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
