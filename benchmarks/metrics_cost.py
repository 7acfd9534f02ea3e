"""What metrics cost: the features flow and Recommend with metrics, and with them switched off.

Two of each run over one broker and one Redis, with names of their own: one as it is, lag measured
and its endpoint read every two seconds, one with HEADRACE_METRICS__ENABLED=false. They are measured
in turns, the other ones stopped meanwhile, so whatever else the machine does hits both.

The flow is given a full log, and has done it when the last viewer's row of each partition is in
Redis. A ratio is what is done with metrics over what is done without, by the upper quartile of
turns: other work on the machine only ever makes a turn slower. Its interval holds 90 % of what
turns drawn again and again from these come to (bootstrap); where that is wide, the machine was too
busy to say more, and `--pairs` has more turns.
"""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

from benchmarks.common import metric, options_parser, report, stack, wait_until
from benchmarks.load import messages, send
from benchmarks.recommend_load import run, strangers
from features.codec import encode_interaction
from features.events import Interaction
from features.ids import viewer_hash
from features.log import LogConfig, LogWriter
from features.position import Position
from features.redis_store import RedisLink, RedisRowStore
from features.store import USERS
from features.vocabulary import EventType
from infra import topics
from infra.embedded import LOOPBACK, ChildServer, free_port
from infra.settings import Settings
from infra.stack import create_topics, is_ready
from infra.train import train_bundle
from offline.replay import publish_catalogue
from offline.simulated_dataset import SimulatedDataset
from offline.simulator import SimulationConfig, item_id

SEED: Final = 29
N_USERS, N_ITEMS = 1_000, 3_000
CALLS_PER_S: Final = 200.0
READ_EVERY_S: Final = 2.0  # the endpoint, as the console does
N_LAST: Final = 64  # viewers whose events are sent last: some lie in every partition
START_S: Final = 300.0
LOOK_EVERY_S: Final = 0.01
N_DRAWN: Final = 2_000  # times that turns are drawn again


@dataclass
class Side:
    """Processes with metrics, or without, and what they work on."""

    name: str
    settings: Settings
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, ChildServer] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """Where the server is called."""
        return f"{LOOPBACK}:{self.ports['grpc']}"

    def url(self, process: str) -> str:
        """Where a process tells its metrics."""
        return f"http://{LOOPBACK}:{self.ports[process]}/metrics"

    def topic(self, name: str) -> str:
        """A topic as this side names it."""
        return self.settings.kafka.prefix + name

    def start(self, process: str, command: Sequence[str], cleanup: ExitStack) -> None:
        """Starts one of the processes."""
        self.ports[process] = free_port()
        child = ChildServer(
            f"{self.name}-{process}",
            [sys.executable, "-m", "infra.cli", *command],
            ready=lambda: is_ready(self.url(process)),
            directory=self.settings.home / "logs",
            env={
                **self.settings.environment(),
                f"HEADRACE_METRICS__{process.upper()}_PORT": str(self.ports[process]),
                "HEADRACE_SERVING__PORT": str(self.ports.get("grpc", 0)),
            },
            start_timeout_s=START_S,
            stop_grace_s=10.0,
        )
        self.processes[process] = cleanup.enter_context(child)


def side_of(base: Settings, name: str, *, enabled: bool) -> Side:
    """A side with topics, keys and a home of its own."""
    home = base.home / name
    (home / "logs").mkdir(parents=True)
    settings = base.model_copy(
        update={
            "kafka": base.kafka.model_copy(update={"prefix": f"{name}-"}),
            "redis": base.redis.model_copy(update={"prefix": name}),
            "stream": base.stream.model_copy(update={"group": f"{name}-features"}),
            "serving": base.serving.model_copy(update={"cache_ttl_s": 0.0, "http_port": None}),
            "metrics": base.metrics.model_copy(update={"enabled": enabled}),
            "home": home,
        }
    )
    create_topics(settings.kafka)
    return Side(name, settings, {"grpc": free_port()})


def prepare(sides: Sequence[Side], cleanup: ExitStack) -> None:
    """Titles and one bundle for both sides; then their processes."""
    world = SimulatedDataset(SimulationConfig(n_users=N_USERS, n_items=N_ITEMS, seed=SEED))
    for side in sides:
        writer = LogWriter(side.settings.kafka.log_config(), **{"linger.ms": 5})
        publish_catalogue(world.catalogue(), writer, side.topic(topics.CATALOG))
    first, *others = sides
    train_bundle(world, first.settings.bundles())
    for side in others:
        shutil.copytree(first.settings.bundles(), side.settings.bundles())
    for side in sides:
        side.start("features", ["stream", "features"], cleanup)
        side.start("serve", ["serve"], cleanup)


@contextmanager
def alone(side: Side, process: str, sides: Sequence[Side]) -> Iterator[None]:
    """All processes but one stand still."""
    others = [
        child.pid
        for each in sides
        for name, child in each.processes.items()
        if (each, name) != (side, process)
    ]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def being_read(side: Side, process: str) -> Iterator[None]:
    """Somebody reads the endpoint of a process, as the console does."""
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            with suppress(OSError):  # a machine as busy as that answers the next time
                metric(side.url(process), "headrace_ready")
            is_over.wait(READ_EVERY_S)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        is_over.set()
        reader.join()


@dataclass
class Done:
    """What was done in a turn."""

    per_s: float
    per_core_s: float  # by a second of the process's CPU


@dataclass
class Stopwatch:
    """Time and CPU of a process since it was made."""

    pid: int

    def __post_init__(self) -> None:
        self._began_s, self._cpu_s = time.perf_counter(), self._spent_s()

    def _spent_s(self) -> float:
        """As the scheduler counts it, of all threads: `cpu_times` has hundredths alone."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def done(self, n: int) -> Done:
        """`n` things were done."""
        seconds = time.perf_counter() - self._began_s
        return Done(n / seconds, n / max(self._spent_s() - self._cpu_s, 1e-9))


def drain(side: Side, records: list[dict[str, bytes]], turn: int) -> Done:
    """Fills the log while the flow stands still; events a second until all are in Redis."""
    pid = side.processes["features"].pid
    topic, log = side.topic(topics.INTERACTIONS), side.settings.kafka.log_config()
    os.kill(pid, signal.SIGSTOP)
    send(log.bootstrap, topic, records, 0)
    last = send_last(log, topic, turn)
    redis = side.settings.redis.config()
    link = RedisLink(redis, give_up_after_s=1.0)
    store = RedisRowStore(link, USERS, redis)
    ids = np.array(list(last), np.uint64)
    wanted = np.array(list(last.values()))

    def are_in() -> bool:
        rows, _ = store.read(ids)
        return bool((rows["offset"] >= wanted).all())

    watch = Stopwatch(pid)
    os.kill(pid, signal.SIGCONT)
    with being_read(side, "features"):
        wait_until(are_in, 120, LOOK_EVERY_S)
        done = watch.done(len(records))
    link.close()
    return done


def send_last(log: LogConfig, topic: str, turn: int) -> dict[int, int]:
    """One event each of some viewers behind all others; their offsets, by viewer's id."""
    writer, found = LogWriter(log), {}
    now_ms = time.time_ns() // 1_000_000
    for k in range(N_LAST):
        user = f"last-{k}"
        event = Interaction(f"{turn}-{k}", user, item_id(k), EventType.CLICK, now_ms)

        def note(position: Position | None, _reason: str | None, user: str = user) -> None:
            if position is not None:
                found[viewer_hash(user, "")] = position.offset

        writer.append(topic, user.encode(), encode_interaction(event), delivered=note)
    writer.flush()
    return found


def ask(side: Side, seconds: float) -> Done:
    """Recommend calls at a steady rate, each of another viewer."""
    users = np.random.default_rng(SEED).permutation(N_USERS).tolist()
    watch = Stopwatch(side.processes["serve"].pid)
    with being_read(side, "serve"), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        answers = runner.run(run(side.target, strangers(CALLS_PER_S, seconds, users)))
    return watch.done(len(answers.read()))


def in_turns(
    sides: Sequence[Side], process: str, do: Callable[[Side, int], Done], n_pairs: int
) -> list[tuple[Done, Done]]:
    """Pairs of turns with metrics and without, the order of two turned round each time."""
    pairs = []
    for turn in range(-1, n_pairs):  # the first is to warm up
        found = {}
        for side in sides if turn % 2 else reversed(sides):
            with alone(side, process, sides):
                found[side.name] = do(side, turn)
        if turn >= 0:
            pairs.append((found[sides[0].name], found[sides[1].name]))
    return pairs


def ratios(
    pairs: Sequence[tuple[Done, Done]], value: str, prefix: str
) -> dict[str, float | list[float]]:
    """With metrics over without, with its interval, and the rates of both."""
    turns = np.array([[getattr(done, value) for done in pair] for pair in pairs])
    drawn = np.random.default_rng(SEED).integers(len(turns), size=(N_DRAWN, 2, len(turns)))
    on, off = (np.percentile(turns[drawn[:, side], side], 75, axis=1) for side in (0, 1))
    rate, rate_off = np.percentile(turns, 75, axis=0).tolist()
    return {
        f"{prefix}_ratio": round(rate / rate_off, 4),
        f"{prefix}_ratio_interval": np.percentile(on / off, [5, 95]).round(4).tolist(),
        f"{prefix}_ratio_median_of_pairs": round(float(np.median(turns[:, 0] / turns[:, 1])), 4),
        f"{prefix}_{value}": round(rate),
        f"{prefix}_{value}_off": round(rate_off),
    }


def parsed() -> argparse.Namespace:
    """The options."""
    parser = options_parser(__doc__)
    parser.add_argument("--pairs", type=int, default=0, help="turns of each kind")
    return parser.parse_args()


def main() -> None:
    """Measures the flow, then the server."""
    options = parsed()
    n_events, seconds, n_pairs = (60_000, 1.0, 8) if options.quick else (200_000, 4.0, 30)
    n_pairs = options.pairs or n_pairs
    with (
        tempfile.TemporaryDirectory() as home,
        stack("embedded", Path(home)) as running,
        ExitStack() as cleanup,
    ):
        sides = [side_of(running.settings, name, enabled=name == "on") for name in ("on", "off")]
        prepare(sides, cleanup)
        records = messages(n_events, N_USERS, SEED, 50_000.0, N_ITEMS, mix="realistic")
        flow = in_turns(sides, "features", lambda side, turn: drain(side, records, turn), n_pairs)
        server = in_turns(sides, "serve", lambda side, _: ask(side, seconds), n_pairs)
    figures: dict[str, Any] = {
        **ratios(flow, "per_s", "throughput"),
        **ratios(flow, "per_core_s", "cpu"),
        **ratios(server, "per_core_s", "recommend_cpu"),
    }
    report(
        "metrics_cost",
        {
            "events": n_events, "pairs": n_pairs, "users": N_USERS, "items": N_ITEMS,
            "calls_per_s": CALLS_PER_S, "endpoint_read_every_s": READ_EVERY_S,
        },
        figures,
    )  # fmt: skip


if __name__ == "__main__":
    main()
