"""The features flow in several processes of this machine: started, watched and ended together.

    run_workers --> worker 0 <--> worker 1 <--> ...    Bytewax's own cluster, over loopback
         |
         +-- metrics of all of them on one endpoint, each with the label `worker`

A worker that ends takes the others along: events on their way between them are gone, so the whole
flow resumes from the last commit. Whoever started this process starts it again.
"""

import fcntl
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from threading import Event
from typing import Final

import structlog
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from features.log import LogError, partitions_of
from features.metrics import is_metric
from infra import topics
from infra.embedded import LOOPBACK, ChildServer, StartError, free_port
from infra.settings import Settings
from infra.stack import START_TIMEOUT_S, is_ready
from infra.telemetry import READY, serve_metrics

WATCH_EVERY_S = 0.2
STOP_GRACE_S = 8.0  # less than what the owner of this process grants it
SCRAPE_TIMEOUT_S = 1.0
FLOW_METRICS: Final = (
    "headrace_stream", "headrace_freshness", "headrace_source", "headrace_redis"
)  # fmt: skip
PANIC_S = 2.0  # the others notice a worker's end within that

log = structlog.get_logger(__name__)


def run_workers(settings: Settings, n_workers: int, stop: Event) -> None:
    """Runs `n_workers` processes until `stop` is set.

    Raises StartError when one of them ends by itself, after all others were ended; LogError where
    the log has fewer partitions than there are to be workers.
    """
    refuse_too_many(settings, n_workers)
    port = settings.metrics.features_port or free_port(1 + n_workers)
    with after_predecessors(settings), ExitStack() as cleanup:
        workers = start_all(settings, n_workers, port, cleanup)
        urls = [f"http://{LOOPBACK}:{port + 1 + i}/metrics" for i in range(n_workers)]
        hand_over_metrics()
        REGISTRY.register(WorkerMetrics(urls))
        serve_metrics(settings.metrics.host, port)
        READY.set(1)
        log.info("workers_ready", pids=[worker.pid for worker in workers], metrics_port=port)
        watch(workers, stop)
        READY.set(0)
        end_all(workers, STOP_GRACE_S)


def refuse_too_many(settings: Settings, n_workers: int) -> None:
    """Raises LogError when some worker would have no partition to read."""
    topic = settings.kafka.prefix + topics.INTERACTIONS
    n_partitions = len(partitions_of(settings.kafka.log_config(), topic))
    if n_workers > n_partitions:
        raise LogError(
            f"{topic} has {n_partitions} partitions: too few for {n_workers} workers, "
            "since each reads partitions of its own"
        )


@contextmanager
def after_predecessors(settings: Settings) -> Iterator[None]:
    """Waits until the workers of an owner that was killed are gone; then holds their lock too.

    They end by themselves, but not at once, and two flows would write the same rows. Raises
    StartError where they do not end.
    """
    with _lock_file(settings) as file:
        deadline_s = time.monotonic() + 2 * STOP_GRACE_S
        while not _locked(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline_s:
                raise StartError(f"workers of another flow still run over {settings.home}")
            time.sleep(WATCH_EVERY_S)
        _locked(file, fcntl.LOCK_SH)
        yield


@contextmanager
def holding_lock(settings: Settings) -> Iterator[None]:
    """A worker holds the lock for as long as it runs."""
    with _lock_file(settings) as file:
        if not _locked(file, fcntl.LOCK_SH):
            raise StartError(f"another flow starts over {settings.home}")
        yield


@contextmanager
def _lock_file(settings: Settings) -> Iterator[int]:
    settings.home.mkdir(parents=True, exist_ok=True)
    name = f"features-{settings.redis.prefix}-{settings.kafka.prefix}.lock"
    file = os.open(settings.home / name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def _locked(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def start_all(
    settings: Settings, n_workers: int, first_port: int, cleanup: ExitStack
) -> list[ChildServer]:
    """All workers, started at the same time; returns when each is ready to read."""
    first = free_port(n_workers)
    addresses = ",".join(f"{LOOPBACK}:{first + i}" for i in range(n_workers))
    workers = [_worker(settings, i, addresses, first_port + 1 + i) for i in range(n_workers)]
    for worker in workers:
        cleanup.callback(worker.close)
    with ThreadPoolExecutor(n_workers) as starters:
        list(starters.map(ChildServer.start, workers))
    return workers


def _worker(settings: Settings, process: int, addresses: str, metrics_port: int) -> ChildServer:
    command = ["stream", "features", "--process", str(process), "--addresses", addresses]
    return ChildServer(
        f"features-{process}",
        [sys.executable, "-m", "infra.cli", *command],
        ready=lambda: is_ready(f"http://{LOOPBACK}:{metrics_port}/metrics"),
        directory=settings.home / "logs",
        env={
            **settings.environment(),
            "HEADRACE_METRICS__HOST": LOOPBACK,
            "HEADRACE_METRICS__FEATURES_PORT": str(metrics_port),
        },
        start_timeout_s=START_TIMEOUT_S,
        stop_grace_s=STOP_GRACE_S,
    )


def watch(workers: list[ChildServer], stop: Event) -> None:
    """Returns when `stop` is set. Raises StartError when a worker has ended by itself."""
    while not stop.wait(WATCH_EVERY_S):
        if any(not worker.is_alive() for worker in workers):
            end_with_error(workers)


def end_with_error(workers: list[ChildServer]) -> None:
    """Ends those that are left, and tells how each has ended and what the first failure was."""
    deadline_s = time.monotonic() + PANIC_S
    for worker in workers:
        worker.wait(max(deadline_s - time.monotonic(), 0.0))
        worker.kill()
    ends = ", ".join(f"{worker.name} with status {worker.exit_status}" for worker in workers)
    failures = [line for worker in workers for line in worker.log_tail().splitlines()]
    failures = [line for line in failures if '"event": "step_failed"' in line]
    raise StartError(f"all workers have ended, {ends}; {next(iter(failures), 'none said why')}")


def end_all(processes: list[ChildServer], limit_s: float) -> None:
    """Tells all of them before it waits for any: none can end while another still reads."""
    for process in processes:
        with suppress(RuntimeError, ProcessLookupError):  # it has ended meanwhile
            os.kill(process.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + limit_s
    for process in processes:
        process.wait(max(deadline_s - time.monotonic(), 0.0))


def hand_over_metrics() -> None:
    """Leaves metrics to the processes that do the work: under each name one of them tells."""
    modules = (
        sys.modules.get(f"{package}.metrics") for package in ("features", "streams", "serving")
    )
    for module in filter(None, modules):
        for metric in filter(is_metric, vars(module).values()):
            with suppress(KeyError):  # it has gone already, by another name
                REGISTRY.unregister(metric)


class WorkerMetrics(Collector):
    """What several processes tell Prometheus, under the names they use, with a label more.

    `prefixes` are what the names begin with, `label` holds the number of the process.
    """

    def __init__(
        self,
        urls: list[str],
        prefixes: tuple[str, ...] = FLOW_METRICS,
        label: str = "worker",
    ) -> None:
        self._urls = urls
        self._prefixes = prefixes
        self._label = label

    def collect(self) -> Iterator[Metric]:
        """Headrace's own metrics of each process that answers, one family a name."""
        families: dict[str, Metric] = {}
        for worker, url in enumerate(self._urls):
            for family in _families(url, self._prefixes):
                known = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    labels = {**sample.labels, self._label: str(worker)}
                    known.add_sample(sample.name, labels, sample.value)
        yield from families.values()


def _families(url: str, prefixes: tuple[str, ...]) -> Iterator[Metric]:
    try:
        with urllib.request.urlopen(url, timeout=SCRAPE_TIMEOUT_S) as answer:  # noqa: S310 (loopback)
            text = answer.read().decode()
    except OSError:
        return  # it is missing from the answer, as a process that is gone would be
    for family in text_string_to_metric_families(text):
        if family.name.startswith(prefixes):
            yield family
