"""`headrace up`, `down` and `status`: one stack on this machine, found again by its run file."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from features.log import end_offsets
from infra import topics
from infra.servers import read_servers
from infra.settings import Settings
from infra.stack import RUN_FILE, START_TIMEOUT_S, Stack, is_ready

STOP_TIMEOUT_S = 60.0  # Apache Kafka closes its files, the flow waits until Redis has synced
WATCH_EVERY_S = 1.0
NEEDED = {"features", "learning", "serve"}  # processes without which a stack is not healthy
AUTO = "auto"  # the main dataset, or the simulation where it is not here


class NotRunningError(Exception):
    """There is no stack that could be asked or stopped."""


def run(settings: Settings, dataset: str, console: Console) -> None:
    """Runs a stack until SIGINT or SIGTERM; processes that end are started again."""
    from infra.demo import choose_dataset, fill  # noqa: PLC0415 (training is not always needed)

    refuse_second(settings.home)
    signal.signal(signal.SIGTERM, _interrupt)
    with Stack(settings) as stack:
        if dataset:
            refuse_second_filling(stack.settings)
            source = choose_dataset(settings, "" if dataset == AUTO else dataset, console)
            fill(stack, source, console, share=1.0)
        stack.start_features()
        stack.start_learning()
        stack.start_serve()
        if settings.archive.enabled:
            stack.start_archive()
        if settings.agents.enabled:
            stack.start_agents()
        print_how_to_call(
            stack.addresses.grpc, stack.addresses.broker, stack.addresses.http or "", console
        )
        try:
            while True:
                time.sleep(WATCH_EVERY_S)
                stack.watch()
        except KeyboardInterrupt:
            console.print("stopping")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def start_detached(settings: Settings, dataset: str, console: Console) -> None:
    """Starts `headrace up` in the background and waits until everything is healthy."""
    refuse_second(settings.home)
    logs = settings.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "infra.cli", "up", "--dataset", dataset]
    command += ["--archive"] if settings.archive.enabled else []
    command += ["--kafka", "apache"] if settings.apache.enabled else []
    with (logs / "up.log").open("wb") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    deadline_s = time.monotonic() + 5 * START_TIMEOUT_S
    with console.status("starting"):
        while time.monotonic() < deadline_s:
            if child.poll() is not None:
                raise NotRunningError(f"headrace up ended; see {logs / 'up.log'}")
            if (settings.home / RUN_FILE).exists() and read_status(settings.home)["healthy"]:
                break
            time.sleep(0.2)
        else:
            child.terminate()
            raise NotRunningError(f"not healthy in time; see {logs / 'up.log'}")
    addresses = read_status(settings.home)["addresses"]
    print_how_to_call(addresses["grpc"], addresses["broker"], addresses.get("http", ""), console)


def connected(settings: Settings) -> Settings:
    """The settings with the addresses of the stack that runs here, where they name none."""
    if settings.kafka.bootstrap:
        return settings
    addresses = read_status(settings.home)["addresses"]
    kafka = settings.kafka.model_copy(update={"bootstrap": addresses["broker"]})
    url = settings.redis.url or addresses["redis"]
    redis = settings.redis.model_copy(update={"url": url})
    folder = settings.archive.folder or addresses.get("lake")
    archive = settings.archive.model_copy(update={"folder": folder and Path(folder)})
    return settings.model_copy(update={"kafka": kafka, "redis": redis, "archive": archive})


def refuse_second(home: Path) -> None:
    """Raises NotRunningError when a stack already runs here: its files would be overwritten."""
    if _run_pid(home) is not None:
        raise NotRunningError(f"a stack already runs in {home}: `headrace down` stops it")


def refuse_second_filling(settings: Settings) -> None:
    """Raises NotRunningError where the log has events: a dataset's would count twice."""
    topic = settings.kafka.prefix + topics.INTERACTIONS
    ends = end_offsets(settings.kafka.log_config(), topic, range(settings.kafka.partitions))
    if any(ends.values()):
        raise NotRunningError(
            f"the log in {settings.home} holds {sum(ends.values()):,} events, and --dataset fills "
            "an empty one: leave it out"
        )


def stop(home: Path, console: Console) -> None:
    """Stops the stack of this folder and waits for its end."""
    pid = _run_pid(home)
    if pid is None:
        raise NotRunningError(f"no stack runs in {home}; `headrace up` starts one")
    process = psutil.Process(pid)
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except psutil.TimeoutExpired:
        process.kill()  # its children end with it
    console.print("stopped")


def read_status(home: Path) -> dict[str, Any]:
    """What runs: `processes` (name, pid, healthy), `addresses`, and whether all is `healthy`."""
    if _run_pid(home) is None:
        raise NotRunningError(f"no stack runs in {home}; `headrace up` starts one")
    found = json.loads((home / RUN_FILE).read_text())
    metrics = found["addresses"].pop("metrics")
    processes = [
        {
            "name": name,
            "pid": process["pid"],
            "healthy": _is_healthy(process["pid"], metrics.get(name)),
        }
        for name, process in found["processes"].items()
    ]
    serve = found["processes"].get("serve", {}).get("pid")
    processes += [
        {"name": name, "pid": one["pid"], "healthy": _is_healthy(one["pid"], one["metrics"])}
        for name, one in read_servers(home, serve).items()
    ]
    addresses = {name: address for name, address in found["addresses"].items() if address}
    addresses |= {f"metrics_{name}": url for name, url in metrics.items()}
    names = {process["name"] for process in processes}
    healthy = all(p["healthy"] for p in processes) and names >= NEEDED
    return {"healthy": healthy, "processes": processes, "addresses": addresses}


def read_addresses(home: Path) -> dict[str, Any]:
    """Where the stack that runs here answers, `metrics` by process. Raises NotRunningError.

    Unlike `read_status` it asks no process: one that hangs holds nobody up.
    """
    if _run_pid(home) is None:
        raise NotRunningError(f"no stack runs in {home}; `headrace up` starts one")
    try:
        found: dict[str, Any] = json.loads((home / RUN_FILE).read_text())["addresses"]
    except (OSError, ValueError, KeyError) as error:
        raise NotRunningError(f"the stack in {home} is ending") from error
    return found


def _is_healthy(pid: int | None, metrics_url: str | None) -> bool:
    if pid is None or not psutil.pid_exists(pid):
        return False
    return metrics_url is None or is_ready(metrics_url)


def _run_pid(home: Path) -> int | None:
    """Process id of the stack that wrote the run file, None where it is gone."""
    try:
        pid = int(json.loads((home / RUN_FILE).read_text())["pid"])
    except (OSError, ValueError, KeyError):
        return None
    if pid == os.getpid() or not psutil.pid_exists(pid):
        return None
    return pid


def print_how_to_call(grpc: str, broker: str, http: str, console: Console) -> None:
    """Lines to copy: a slate, an event over gRPC, an event over Kafka."""
    console.print(
        f"""[bold]Headrace runs.[/]
  gRPC   {grpc}
  JSON   {http or "not opened: the extra http is not installed"}
  broker {broker}

[bold]A slate[/]
  grpcurl -plaintext -d '{{"user_id":"ann","count":5}}' {grpc} \\
    headrace.v1.RecommendationService/Recommend
[bold]An event[/]
  grpcurl -plaintext -d '{{"interaction":{{"user_id":"ann","item_id":"tt0113277",\\
    "type":"INTERACTION_TYPE_CLICK"}}}}' {grpc} headrace.v1.IngestService/Track
[bold]The same straight into the log[/]
  echo '{{"event_id":"e1","user_id":"ann","item_id":"tt0113277",\
    "type":"INTERACTION_TYPE_CLICK"}}' | headrace send
[bold]Stop[/]
  headrace down""",
        highlight=False,
        soft_wrap=True,
    )
