"""`Recommend` at a steady rate of calls while events flow in: latency, cost, stages, the cache.

Calls are due at fixed times whatever the server does (an open loop): a late answer delays no call,
and a call that had to wait counts its waiting. The caller runs on the same cores, by raw frames
(benchmarks/raw_caller), as cheap as can be. The bundle is trained on the same simulated world.
First every call is of another viewer, then of sessions; see benchmarks/recommend_load. With
`--processes` so many serving processes are compared with one, at a rate that is too much for them.
"""

import argparse
import asyncio
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.common import (
    Cpu,
    applied,
    brokers,
    console,
    load,
    options_parser,
    percentiles,
    pids,
    report,
    stack,
    wait_until,
    warm_up_s,
)
from benchmarks.plain_scoring import compared
from benchmarks.recommend_load import (
    ASKED,
    CLICKS,
    COUNT,
    PAUSE_S,
    UNKNOWN,
    Answers,
    Planned,
    run,
    sessions,
    strangers,
)
from features.log import LogWriter
from infra import topics
from infra.stack import Stack
from infra.train import train_bundle
from offline.replay import publish_catalogue, replay
from offline.simulated_dataset import SimulatedDataset
from offline.simulator import SimulationConfig
from serving.settings import ServingSettings

CALLS_PER_S = 300.0
EVENTS_PER_S = 10_000.0
N_USERS = 10_000
N_BUSY = 7_000  # viewers of the load of events; sessions are of the others
N_ITEMS = 20_000
SEED = 13
WORLD = SimulationConfig(n_users=N_USERS, n_items=N_ITEMS, seed=SEED)
STAGES = "headrace_serving_stage_seconds"
LOOKUPS = "headrace_serving_cache_lookups_total"


def prepare(running: Stack) -> tuple[Path, list[int]]:
    """Titles, a history, and a bundle trained on it; then the processes.

    Returns the bundle's folder, and the viewers of the history.
    """
    world = SimulatedDataset(WORLD)
    writer = LogWriter(running.settings.kafka.log_config(), **{"linger.ms": 5})
    publish_catalogue(world.catalogue(), writer, topics.CATALOG)
    replay(world.interactions(), writer, topics.INTERACTIONS)
    manifest = train_bundle(world, running.settings.bundles())
    console.print(f"bundle {manifest.version}: {manifest.metrics}")
    running.start_features()
    running.start_serve()
    known = np.unique(world.columns().user).tolist()
    return running.settings.bundles() / manifest.version, known


class Measured:
    """Runs a plan against the server and says what it cost."""

    def __init__(self, running: Stack, others: dict[str, int]) -> None:
        self._running = running
        self._serve = running.process("serve").pid
        self._others = others
        log = running.settings.kafka.log_config()
        self._producer = Producer({**log.producer(), "linger.ms": 5})

    def run(self, plan: Sequence[Planned]) -> tuple[Answers, dict[str, Any]]:
        """Answers and figures; cost by call, as the server's own histograms tell stages."""
        before = self._scraped()
        cpu = Cpu({**self._others, "serve": self._serve})
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            answers = runner.run(run(self._running.addresses.grpc, plan, self._send))
        cores, after = cpu.cores(), self._scraped()
        self._producer.flush(10)
        answered = len(answers.read())
        cpu_ms = 1_000 * cores["cores_serve"] * answers.taken_s / max(answered, 1)
        return answers, {
            **percentiles(answers.latencies_ms),
            "calls_per_s": round(answered / answers.taken_s, 1),
            "failed": len(answers.messages) - answered,
            "server_cpu_ms_per_call": round(cpu_ms, 3),
            "calls_per_core_s": round(1_000 / cpu_ms),
            **cores,
            **_stages(before, after),
            **_hits(before, after),
        }

    def _send(self, key: bytes, value: bytes) -> None:
        self._producer.produce(topics.INTERACTIONS, value, key)
        self._producer.poll(0)

    def _scraped(self) -> dict[tuple[str, str], float]:
        """Samples of the server's stages and look-ups, by name and label."""
        url = self._running.addresses.metrics["serve"]
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (loopback)
            families = text_string_to_metric_families(answer.read().decode())
            return {
                (sample.name, next(iter(sample.labels.values()))): sample.value
                for family in families
                for sample in family.samples
                if sample.name in {f"{STAGES}_sum", f"{STAGES}_count", LOOKUPS}
            }


def _stages(
    before: dict[tuple[str, str], float], after: dict[tuple[str, str], float]
) -> dict[str, float]:
    """Mean milliseconds of each stage, for the calls that had it."""
    found = {}
    for (name, stage), value in after.items():
        if name == f"{STAGES}_sum":
            count = after[f"{STAGES}_count", stage] - before.get((f"{STAGES}_count", stage), 0.0)
            if count > 0:
                spent_s = value - before.get((name, stage), 0.0)
                found[f"stage_{stage}_ms"] = round(1_000 * spent_s / count, 3)
    return found


def _hits(
    before: dict[tuple[str, str], float], after: dict[tuple[str, str], float]
) -> dict[str, float]:
    """Share of the calls that were answered with a slate made earlier."""
    lookups = {
        outcome: value - before.get((name, outcome), 0.0)
        for (name, outcome), value in after.items()
        if name == LOOKUPS
    }
    calls = sum(value for outcome, value in lookups.items() if outcome != "anonymous")
    given = lookups.get("hit", 0.0) + lookups.get("anonymous", 0.0)
    return {"hit_rate": round(given / calls, 3)} if calls else {}


def measure(running: Stack, known: list[int], seconds: float, warm_s: float) -> dict[str, Any]:
    """All figures of one broker, while events arrive at their rate."""
    rng = np.random.default_rng(SEED)
    before = applied(running)
    n_phases = 2
    with load(
        running.addresses.broker,
        EVENTS_PER_S,
        warm_s + n_phases * seconds + 8,
        N_BUSY,
        n_items=N_ITEMS,
        seed=SEED,
    ) as sender:
        wait_until(lambda: applied(running) > before + EVENTS_PER_S * (warm_s + 0.5))
        measured = Measured(running, {**pids(running), "sender": sender.pid})
        users = rng.permutation(known).tolist()
        measured.run(strangers(CALLS_PER_S / 3, 1.0, users))  # connections, first uses
        answers, found = measured.run(strangers(CALLS_PER_S, seconds, users))
        quiet = [user for user in users if user >= N_BUSY]
        _, cached = measured.run(sessions(CALLS_PER_S, seconds, quiet, N_ITEMS, rng))
    candidates = [answer.n_candidates for answer in answers.read()]
    memory = psutil.Process(running.process("serve").pid).memory_info().rss
    return {
        **found,
        "candidates_mean": round(float(np.mean(candidates))) if candidates else 0,
        "serve_rss_mib": round(memory / 2**20),
        **{f"{name}_cached": value for name, value in cached.items() if name in OF_SESSIONS},
    }


OF_SESSIONS = (
    "p50_ms", "p99_ms", "calls_per_s", "failed", "server_cpu_ms_per_call", "calls_per_core_s",
    "hit_rate", "stage_read_ms", "stage_build_ms", "stage_record_ms",
)  # fmt: skip


def processes_figures(n: int, transport: str, seconds: float) -> dict[str, Any]:
    """Answers a second of 1 and of `n` serving processes, asked more than they can answer."""
    figures: dict[str, Any] = {}
    for wanted in (1, n):
        sections = {"serving": {"processes": wanted, "cache_ttl_s": 0.0, "transport": transport}}
        with (
            tempfile.TemporaryDirectory() as home,
            stack("embedded", Path(home), **sections) as running,
        ):
            _, known = prepare(running)
            users = np.random.default_rng(SEED).permutation(known).tolist()
            measured = Measured(running, {})
            measured.run(strangers(CALLS_PER_S / 3, 1.0, users))
            _, found = measured.run(strangers(6 * CALLS_PER_S, seconds, users))
            figures[f"calls_per_s_{wanted}_processes"] = found["calls_per_s"]
    return figures


def parsed() -> argparse.Namespace:
    """The options."""
    parser = options_parser(__doc__)
    parser.add_argument(
        "--processes", type=int, default=0, help="also compare one serving process with so many"
    )
    parser.add_argument(
        "--transport", choices=("grpc", "lean"), help="in place of the one that the settings have"
    )
    options = parser.parse_args()
    if options.processes > 1 and "processes" not in ServingSettings.model_fields:
        parser.error("--processes needs the setting serving.processes, which this version has not")
    return options


def main() -> None:
    """Measures on the embedded broker and, but for a quick look, on Apache Kafka."""
    options = parsed()
    seconds = 5.0 if options.quick else 30.0
    wanted = "embedded" if options.quick and options.broker == "both" else options.broker
    figures: dict[str, Any] = {}
    transport = options.transport or ServingSettings().transport
    for kind in brokers(wanted):
        with (
            tempfile.TemporaryDirectory() as home,
            stack(kind, Path(home), serving={"transport": transport}) as running,
        ):
            bundle, known = prepare(running)
            found = measure(running, known, seconds, warm_up_s(kind, seconds))
            figures |= compared(bundle, np.random.default_rng(SEED))
        console.print(kind, found)
        prefix = "kafka_" if kind == "kafka" else ""
        figures |= {f"{prefix}{name}": value for name, value in found.items()}
    if options.processes > 1:
        figures |= processes_figures(options.processes, transport, seconds)
    load_ = {
        "transport": transport,
        "calls_due_per_s": CALLS_PER_S,
        "events_per_s": EVENTS_PER_S,
        "users": N_USERS,
        "items": N_ITEMS,
        "slate": COUNT,
        "seconds": seconds,
        "sessions": f"{ASKED} asks {PAUSE_S:g} s apart, clicks after {CLICKS:.0%}, "
        f"{UNKNOWN:.0%} unknown visitors",
    }
    report("recommend", load_, figures)


if __name__ == "__main__":
    main()
