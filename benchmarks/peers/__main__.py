"""The features flow beside the same job in Faust and in Quix Streams, as ratios.

Each contestant runs alone: a broker, a Redis and a log of its own, filled before it starts. The log
begins with one event of each viewer, so that in the measured part behind it every viewer is known.
Afterwards what lies in Redis is added up: it must be what went in, each event once.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import redis
from headrace.v1 import events_pb2

from benchmarks.common import Cpu, console, kafka_missing, metric, report, stack, wait_until
from benchmarks.load import MIXES, N_ITEMS, messages, publish_titles, send, simulator
from features.item_activity import IMPRESSIONS
from features.item_row import ITEM_ROW
from features.user_row import USER_ROW
from features.vocabulary import EventType
from infra.embedded import ChildServer
from infra.stack import Stack
from offline.simulator import encode_batch

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-peers" / "bin" / "python"
N_USERS, RATE, SEED = 1_000_000, 50_000.0, 7
REPEAT_EVERY = 200  # one event in two hundred is sent twice
POLL_S = 0.05
MGET = 2_000

Record = dict[str, bytes]


@dataclass(slots=True)
class Log:
    """What a contestant reads, and what must be in Redis in the end."""

    first: list[Record]  # one event of each viewer
    measured: list[Record]
    events: int  # distinct ones
    impressions: int

    def __len__(self) -> int:
        return len(self.first) + len(self.measured)


@dataclass(slots=True)
class Stored:
    """What lies in Redis: events counted for viewers, impressions counted for titles."""

    events: int = 0
    impressions: int = 0


@dataclass(slots=True)
class Outcome:
    """How one contestant did."""

    events_per_s: float
    seconds: float
    cores: float
    stored: Stored
    expected: Stored = field(default_factory=Stored)


def make_log(n_events: int, mix: str, *, all_viewers: bool) -> Log:
    """A log of `n_events` distinct events behind one of each viewer that has any (or of all)."""
    events = messages(n_events, N_USERS, SEED, RATE, mix=mix)
    viewers = range(N_USERS) if all_viewers else {int(event["key"][1:]) for event in events}
    first = one_event_each(np.fromiter(viewers, np.int32, len(viewers)))
    shown = sum(map(is_impression, first)) + sum(map(is_impression, events))
    measured = []
    for at, event in enumerate(events):
        measured += [event] if at % REPEAT_EVERY else [event, event]
    return Log(first, measured, len(first) + n_events, shown)


def one_event_each(viewers: np.ndarray) -> list[Record]:
    """A record for each of these viewers."""
    records: list[Record] = []
    start_ms = time.time_ns() // 1_000_000 - 60_000
    for batch in simulator(N_USERS, SEED + 1).batches(len(viewers), start_ms, RATE):
        some = replace(batch, user=viewers[len(records) : len(records) + len(batch)])
        pairs = zip(some.keys(), encode_batch(some), strict=True)
        records += [{"key": key, "value": value} for key, value in pairs]
    return records


def is_impression(record: Record) -> bool:
    """Whether a record is an impression."""
    event = events_pb2.Interaction.FromString(record["value"])
    return int(event.type) == EventType.IMPRESSION


def timed(applied: Callable[[], float], log: Log, cpu: Cpu) -> tuple[float, float, float]:
    """Events a second, seconds and cores between the first and the last measured record.

    The last step of the counter does not count: a checkpoint may have waited with little to do.
    """
    wait_until(lambda: applied() >= len(log.first), 600)
    steps = [(time.perf_counter(), applied())]
    cpu.__post_init__()
    while steps[-1][1] < len(log):
        now = applied()
        if now > steps[-1][1]:
            steps.append((time.perf_counter(), now))
        elif time.perf_counter() - steps[-1][0] > 120:
            raise TimeoutError(f"no progress behind record {now:,.0f} of {len(log):,}")
        time.sleep(POLL_S)
    cores = next(iter(cpu.cores().values()))
    (started_s, before), (ended_s, behind) = steps[0], steps[-2 if len(steps) > 2 else -1]
    seconds = ended_s - started_s
    return (behind - before) / seconds, seconds, cores


def run_ours(running: Stack, log: Log) -> Outcome:
    """The features flow as it is in production, one worker."""
    running.start_features()
    process = running.process("features")
    url = running.addresses.metrics["features"]
    figures = timed(
        lambda: metric(url, "headrace_stream_events_total"), log, Cpu({"": process.pid})
    )
    process.stop()  # what is on its way to Redis arrives
    return Outcome(*figures, ours_in_redis(running.addresses.redis))


def run_peer(running: Stack, log: Log, name: str, python: Path) -> Outcome:
    """One of the peers, in the Python that has its packages."""
    addresses = running.addresses
    store = redis.Redis.from_url(addresses.redis)
    with tempfile.TemporaryDirectory() as home:
        state = Path(home) / "state"
        state.mkdir()
        process = ChildServer(
            name,
            [str(python), "-m", f"benchmarks.peers.{name}_job", addresses.broker, addresses.redis,
             str(state)],
            directory=Path(home),
            env={"PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"},
        )  # fmt: skip

        def applied() -> float:
            if not process.is_alive():
                raise RuntimeError(f"the {name} job has ended:\n{process.log_tail()}")
            return float(store.get("applied") or 0)

        with process:
            figures = timed(applied, log, Cpu({"": process.pid}))
        return Outcome(*figures, peers_in_redis(store))


def ours_in_redis(url: str) -> Stored:
    """Sums over the rows of the features flow."""
    store, found = redis.Redis.from_url(url), Stored()
    for values in values_of(store, "headrace:u:*"):
        rows = np.frombuffer(b"".join(values), USER_ROW)
        found.events += int(rows["activity"]["totals"].sum())
    for values in values_of(store, "headrace:i:*"):
        rows = np.frombuffer(b"".join(values), ITEM_ROW)
        found.impressions += int(rows["activity"]["totals"][:, IMPRESSIONS].sum())
    return found


def peers_in_redis(store: redis.Redis) -> Stored:
    """Sums over the values of a peer."""
    found = Stored()
    for values in values_of(store, "viewer:*"):
        found.events += sum(sum(json.loads(value)["totals"].values()) for value in values)
    for values in values_of(store, "title:*"):
        shown = (json.loads(value)["totals"].get("impressions", 0) for value in values)
        found.impressions += sum(shown)
    return found


def values_of(store: redis.Redis, pattern: str) -> Iterator[list[bytes]]:
    """All values whose keys fit a pattern, some at a time."""
    keys: list[bytes] = []
    for key in store.scan_iter(pattern, count=MGET):
        keys.append(key)
        if len(keys) == MGET:
            yield store.mget(keys)  # type: ignore[misc]
            keys = []
    if keys:
        yield store.mget(keys)  # type: ignore[misc]


@contextmanager
def filled_stack(kind: str, log: Log) -> Iterator[Stack]:
    """Servers of one contestant's own, with the catalogue and the whole log."""
    rows = {"user_rows": 2**20 + 2**16}
    with tempfile.TemporaryDirectory() as home, stack(kind, Path(home), stream=rows) as running:
        bootstrap = running.addresses.broker
        publish_titles(running.settings.kafka.log_config(), "catalog", N_USERS, SEED)
        for records in (log.first, log.measured):
            send(bootstrap, "interactions", records, 0)
        yield running


def contest(kind: str, name: str, log: Log, run: Callable[[Stack, Log], Outcome]) -> Outcome:
    """One contestant on servers of its own; complains if it left work undone."""
    with filled_stack(kind, log) as running:
        outcome = run(running, log)
    outcome.expected = Stored(log.events, log.impressions)
    right = outcome.stored == outcome.expected
    console.print(
        f"{name}: {outcome.events_per_s:,.0f} events/s over {outcome.seconds:.1f} s with "
        f"{outcome.cores:.2f} cores; in Redis {outcome.stored}, "
        + ("as it must be" if right else f"but it must be {outcome.expected}")
    )
    if not right:
        raise SystemExit(f"{name} has lost or double-counted events: its figure says nothing")
    return outcome


def arguments() -> argparse.Namespace:
    """The options of this benchmark."""
    parser = argparse.ArgumentParser("python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 60 s, shorter logs")
    parser.add_argument("--mix", choices=MIXES[::-1], default="realistic", help="the load")
    parser.add_argument(
        "--broker", choices=("embedded", "kafka"), default=None,
        help="default: Apache Kafka where it is at hand, else the embedded broker",
    )  # fmt: skip
    parser.add_argument(
        "--python", type=Path, default=PYTHON, help="an interpreter with the peers' packages"
    )
    return parser.parse_args()


def figures_of(outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """The figures of the report."""
    ours, faust, quix = (round(outcomes[name].events_per_s) for name in ("ours", "faust", "quix"))
    return {
        "events_per_s": ours,
        "faust_events_per_s": faust,
        "quix_events_per_s": quix,
        "ratio_to_faust": round(ours / faust, 1),
        "ratio_to_quix": round(ours / quix, 1),
        **{f"cores_{name}": outcome.cores for name, outcome in outcomes.items()},
        **{f"seconds_{name}": round(outcome.seconds, 1) for name, outcome in outcomes.items()},
    }


def main() -> None:
    """Runs all three, one after the other."""
    options = arguments()
    python: Path = options.python
    if not python.exists():
        sys.exit(f"the peers' packages are missing ({python}): run `make peers-install`")
    kind = options.broker or ("embedded" if kafka_missing() else "kafka")
    n_ours, n_peers = (150_000, 12_000) if options.quick else (1_500_000, 150_000)
    log = make_log(n_peers, options.mix, all_viewers=False)
    outcomes: dict[str, Outcome] = {}
    for name in ("faust", "quix"):
        outcomes[name] = contest(kind, name, log, partial(run_peer, name=name, python=python))
    log = make_log(n_ours, options.mix, all_viewers=not options.quick)
    outcomes = {"ours": contest(kind, "ours", log, run_ours), **outcomes}
    report(
        "peers",
        {
            "broker_kind": kind, "mix": options.mix, "users": N_USERS, "items": N_ITEMS,
            "zipf": 1.0, "events": n_ours, "events_of_peers": n_peers,
            "sent_twice": f"1 in {REPEAT_EVERY}",
        },
        figures_of(outcomes),
    )  # fmt: skip


if __name__ == "__main__":
    main()
