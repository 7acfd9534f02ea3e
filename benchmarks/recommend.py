"""`Recommend` at a steady rate of calls while events flow in: latency as a client sees it.

Calls are due at fixed times whatever the server does (an open loop): a late answer delays no call,
and a call that had to wait counts its waiting. Viewers are those of the load, so rows change while
they are read. The bundle is trained on the same simulated world. The caller runs on the same cores.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from headrace.v1 import recommender_pb2
from headrace.v1.recommender_pb2_grpc import RecommendationServiceStub

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
from features.log import LogWriter
from infra import topics
from infra.stack import Stack, bundles_folder
from infra.train import train_bundle
from offline.replay import publish_catalogue, replay
from offline.simulated_dataset import SimulatedDataset
from offline.simulator import SimulationConfig, user_id

CALLS_PER_S = 300.0
EVENTS_PER_S = 10_000.0
N_USERS = 10_000
N_ITEMS = 20_000
SEED = 13
WORLD = SimulationConfig(n_users=N_USERS, n_items=N_ITEMS, seed=SEED)
COUNT = 20
CHANNELS = 4
FAILED = -1


async def call_at_rate(target: str, rate: float, seconds: float) -> tuple[list[float], list[int]]:
    """Latencies in ms and candidate counts of calls that are due every `1 / rate` seconds.

    A call that fails counts with the time until it did, and with -1 candidates.
    """
    rng = np.random.default_rng(SEED)
    channels = [
        grpc.aio.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)])
        for _ in range(CHANNELS)
    ]
    stubs: list[Any] = [RecommendationServiceStub(channel) for channel in channels]  # type: ignore[no-untyped-call]
    latencies: list[float] = []
    candidates: list[int] = []

    async def call(number: int, due_s: float) -> None:
        request = recommender_pb2.RecommendRequest(
            user_id=user_id(int(rng.integers(N_USERS))), count=COUNT
        )
        try:
            answer = await stubs[number % CHANNELS].Recommend(request, timeout=10)
            candidates.append(answer.n_candidates)
        except grpc.aio.AioRpcError:
            candidates.append(FAILED)
        latencies.append(1_000 * (time.perf_counter() - due_s))

    started_s = time.perf_counter()
    calls = []
    for number in range(int(rate * seconds)):
        due_s = started_s + number / rate
        await asyncio.sleep(max(due_s - time.perf_counter(), 0))
        calls.append(asyncio.create_task(call(number, due_s)))
    await asyncio.gather(*calls)
    for channel in channels:
        await channel.close(None)
    return latencies, candidates


def prepare(running: Stack) -> None:
    """Titles, a history, and a bundle trained on it; then the processes."""
    world = SimulatedDataset(WORLD)
    writer = LogWriter(running.settings.kafka.log_config(), **{"linger.ms": 5})
    publish_catalogue(world.catalogue(), writer, topics.CATALOG)
    replay(world.interactions(), writer, topics.INTERACTIONS)
    manifest = train_bundle(world, bundles_folder(running.settings))
    console.print(f"bundle {manifest.version}: {manifest.metrics}")
    running.start_features()
    running.start_serve()


def measure(running: Stack, seconds: float, warm_s: float) -> dict[str, Any]:
    """Latency, candidates, cores and memory while calls and events arrive at their rates."""
    before = applied(running)
    with load(
        running.addresses.broker,
        EVENTS_PER_S,
        warm_s + seconds + 4,
        N_USERS,
        n_items=N_ITEMS,
        seed=SEED,
    ) as sender:
        wait_until(lambda: applied(running) > before + EVENTS_PER_S * (warm_s + 0.5))
        serve = running.process("serve").pid
        asyncio.run(call_at_rate(running.addresses.grpc, CALLS_PER_S / 3, 1.0))  # connections
        cpu = Cpu({**pids(running), "serve": serve, "sender": sender.pid})
        started_s = time.perf_counter()
        calls = call_at_rate(running.addresses.grpc, CALLS_PER_S, seconds)
        latencies, candidates = asyncio.run(calls)
        taken_s = time.perf_counter() - started_s
        cores = cpu.cores()
        memory = psutil.Process(serve).memory_info().rss
    return {
        **percentiles(latencies),
        "calls_per_s": round(len(latencies) / taken_s, 1),
        "failed": candidates.count(FAILED),
        "candidates_mean": round(float(np.mean([n for n in candidates if n != FAILED]))),
        "serve_cpu_ms_per_call": round(1_000 * cores["cores_serve"] * taken_s / len(latencies), 2),
        "serve_rss_mib": round(memory / 2**20),
        **cores,
    }


def main() -> None:
    """Measures on the embedded broker and, but for a quick look, on Apache Kafka."""
    options = arguments(__doc__)
    seconds = 8.0 if options.quick else 30.0
    wanted = "embedded" if options.quick and options.broker == "both" else options.broker
    figures: dict[str, Any] = {}
    for kind in brokers(wanted):
        with tempfile.TemporaryDirectory() as home, stack(kind, Path(home)) as running:
            prepare(running)
            found = measure(running, seconds, warm_up_s(kind, seconds))
        console.print(kind, found)
        prefix = "kafka_" if kind == "kafka" else ""
        figures |= {f"{prefix}{name}": value for name, value in found.items()}
    load_ = {
        "calls_due_per_s": CALLS_PER_S,
        "events_per_s": EVENTS_PER_S,
        "users": N_USERS,
        "items": N_ITEMS,
        "slate": COUNT,
        "seconds": seconds,
    }
    report("recommend", load_, figures)


if __name__ == "__main__":
    main()
