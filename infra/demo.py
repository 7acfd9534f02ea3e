"""The demonstration: real viewing events change real recommendations, within milliseconds.

history -> log and training; the rest -> log as a live stream; a scripted viewer clicks; then
simulated viewers answer slates, and what they do moves the bandits.
"""

import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from features.events import Interaction
from features.log import LogWriter
from features.vocabulary import EventType
from infra import topics
from infra.demo_learning import HORIZON_S, show_learning
from infra.metrics_client import Metrics
from infra.producers import data_folders, dataset
from infra.settings import Settings
from infra.stack import Stack
from infra.train import train_bundle
from offline.datasets import Dataset, DatasetMissingError, Selection, find_data_folder
from offline.replay import ReplayResult, publish_catalogue, replay
from offline.simulated_dataset import SimulatedDataset
from offline.train import TrainConfig
from serving.client import Client, Recommendations

MAIN_DATASET = "movietweetings"
HISTORY_SHARE = 0.8
LIVE_RATE = 2_000.0  # events a second of the live part
# Sooner than `headrace train` has it: fewer examples, neighbours fitted anew less often.
TRAINING = TrainConfig(max_queries=8_000, refresh_days=14.0)
CLICKS = 3
LOOKS = 5
WAIT_MS = 1_000


@dataclass(frozen=True, slots=True)
class Shown:
    """A slate as the summary holds it."""

    titles: list[dict[str, Any]]

    @classmethod
    def of(cls, answer: Recommendations) -> "Shown":
        """What a viewer sees of an answer."""
        return cls(
            [
                {"item_id": i.item_id, "title": i.title, "source": i.source, "reason": i.reason}
                for i in answer.items
            ]
        )


def run_demo(settings: Settings, name: str, console: Console) -> dict[str, Any]:
    """Runs everything once, shows it, and leaves the summary in `demo.json` of the home folder."""
    started_s = time.monotonic()
    horizon = settings.attribution.model_copy(update={"horizon_s": HORIZON_S})
    apache = settings.apache.model_copy(update={"enabled": False})  # nothing of it shall stay
    changed = settings.model_copy(update={"attribution": horizon, "apache": apache})
    with Stack(changed) as stack:
        source = choose_dataset(settings, name, console)
        history = fill(stack, source, console)
        stack.start_features()
        stack.start_learning()
        stack.start_serve()
        live = stream_live(stack, source, console)
        summary = {
            "dataset": source.name,
            "events": history.delivered + live["events"],
            "events_per_s": live["events_per_s"],
            "freshness_p50_ms": live["freshness_p50_ms"],
            "freshness_p99_ms": live["freshness_p99_ms"],
            **scripted_viewer(stack, source, console),
            **show_learning(stack, console),
        }
    summary["wall_s"] = round(time.monotonic() - started_s, 1)
    path = settings.home / "demo.json"
    path.write_text(json.dumps(summary, indent=2) + "\n")
    console.print(_summary_table(summary))
    console.print(f"the same as JSON: {path}")
    return summary


def choose_dataset(settings: Settings, name: str, console: Console) -> Dataset:
    """The dataset of the demonstration, its last event now; the simulation where it is not here."""
    if name == "simulation":
        return SimulatedDataset()
    try:
        find_data_folder(data_folders(settings), name or MAIN_DATASET)
    except DatasetMissingError as error:
        if name:
            raise
        console.print(f"[yellow]{error}[/]\nA simulation takes its place.")
        return SimulatedDataset()
    return dataset(settings, name or MAIN_DATASET, until_now=True)


def fill(
    stack: Stack, source: Dataset, console: Console, *, share: float = HISTORY_SHARE
) -> ReplayResult:
    """Titles and history into the log, and a first bundle trained on that history."""
    prefix = stack.settings.kafka.prefix
    writer = LogWriter(stack.settings.kafka.log_config(), **{"linger.ms": 5})
    selection = Selection(first_share=share)
    console.rule("[bold]history")
    with _progress(console) as progress:
        titles = source.catalogue()
        task = progress.add_task("titles to the log", total=len(titles))
        publish_catalogue(titles, writer, prefix + topics.CATALOG, progress=_to(progress, task))
        progress.update(task, completed=len(titles))
        n_events = len(source.columns(selection))
        task = progress.add_task("events to the log", total=n_events)
        result = replay(
            source.interactions(selection),
            writer,
            prefix + topics.INTERACTIONS,
            progress=_to(progress, task),
        )
        progress.update(task, completed=n_events)
        manifest = train_bundle(
            source,
            stack.settings.bundles(),
            selection=selection,
            config=TRAINING,
            progress=progress,
        )
    console.print(f"bundle {manifest.version}: {_metrics_line(manifest.metrics)}")
    return result


def _to(progress: Progress, task: Any) -> Any:
    return lambda n: progress.update(task, completed=n)


def _metrics_line(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def stream_live(stack: Stack, source: Dataset, console: Console) -> dict[str, float]:
    """The rest of the dataset as a live stream, with throughput, lag and freshness on screen."""
    metrics = Metrics(stack.addresses.metrics["features"])
    console.rule("[bold]live")
    with console.status("the flow catches up with the history"):
        metrics.wait_until_idle()
    before = metrics.read()
    selection = Selection(last_share=round(1 - HISTORY_SHARE, 6))
    n_events = len(source.columns(selection))
    writer = LogWriter(stack.settings.kafka.log_config())
    started_s = time.monotonic()
    with Live(console=console, refresh_per_second=4) as live:

        def show(sent: int) -> None:
            live.update(_live_table(metrics.read(), before, sent, n_events, started_s))

        result = replay(
            source.interactions(selection),
            writer,
            stack.settings.kafka.prefix + topics.INTERACTIONS,
            rate=LIVE_RATE,
            progress=show,
        )
        metrics.wait_until_applied(before["events"] + result.delivered)
        seconds = time.monotonic() - started_s
        metrics.wait_until_idle()
        show(n_events)
    after = metrics.read()
    return {
        "events": result.delivered,
        "events_per_s": round((after["events"] - before["events"]) / seconds),
        "freshness_p50_ms": metrics.freshness_ms(0.50, before, after),
        "freshness_p99_ms": metrics.freshness_ms(0.99, before, after),
    }


def _live_table(
    now: dict[str, float], before: dict[str, float], sent: int, total: int, started_s: float
) -> Table:
    seconds = max(time.monotonic() - started_s, 1e-9)
    table = Table("sent", "applied", "events/s", "lag", "freshness p50", "p99")
    applied = now["events"] - before["events"]
    table.add_row(
        f"{sent:,} / {total:,}",
        f"{applied:,.0f}",
        f"{applied / seconds:,.0f}",
        f"{now['lag']:,.0f}",
        f"{Metrics.freshness_ms(0.5, before, now):.1f} ms",
        f"{Metrics.freshness_ms(0.99, before, now):.1f} ms",
    )
    return table


def scripted_viewer(stack: Stack, source: Dataset, console: Console) -> dict[str, Any]:
    """A new viewer asks, clicks three titles of a kind, and asks again after every click."""
    console.rule("[bold]a viewer")
    with Client(stack.addresses.grpc, timeout_s=5.0) as client:
        client.wait_until_connected()
        before = client.recommend("demo-viewer")
        # Some slots explore: what a mere second look would have shown is no change.
        looks = [before, *(client.recommend("demo-viewer") for _ in range(LOOKS - 1))]
        _print_slate("before", before, console)
        took_ms, answer = [], before
        for k, item_id in enumerate(titles_to_click(source), 1):
            started_s = time.perf_counter()
            position = client.track(
                Interaction("", "demo-viewer", item_id, EventType.CLICK, session_id="demo")
            )
            answer = client.recommend("demo-viewer", after=position, wait_ms=WAIT_MS)
            took_ms.append(1_000 * (time.perf_counter() - started_s))
            included = "included" if answer.freshness.after_included else "NOT included"
            console.print(
                f"click {k} on [bold]{_title(source, item_id)}[/] at {position.partition}/"
                f"{position.offset}: new slate after {took_ms[-1]:.1f} ms, click {included}"
            )
        _print_slate("after", answer, console)
    shown_before = {item.item_id for look in looks for item in look.items}
    changed = [item for item in answer.items if item.item_id not in shown_before]
    console.print(
        f"{len(changed)} of {len(answer.items)} titles stood in none of {LOOKS} slates before"
    )
    return {
        "click_to_change_ms": round(float(np.median(took_ms)), 2),
        "changed_titles": len(changed),
        "slate_before": Shown.of(before).titles,
        "slate_after": Shown.of(answer).titles,
    }


def titles_to_click(source: Dataset) -> list[str]:
    """Three titles that share a genre and that viewers have touched often: a taste to recognise."""
    columns = source.columns(Selection(first_share=HISTORY_SHARE))
    counts = np.bincount(columns.item, minlength=len(columns.item_ids))
    genres = {item.item_id: item.genres for item in source.catalogue()}
    popular = [columns.item_ids[k] for k in np.argsort(-counts)[:2_000]]
    for wanted in ("Animation", "Horror", "Sci-Fi", "Documentary"):
        fitting = [item for item in popular if wanted in genres.get(item, ())]
        if len(fitting) >= CLICKS:
            return fitting[:CLICKS]
    return popular[:CLICKS]


def _title(source: Dataset, item_id: str) -> str:
    return next((i.title for i in source.catalogue() if i.item_id == item_id), item_id)


def _print_slate(name: str, answer: Recommendations, console: Console) -> None:
    table = Table("", "title", "score", "source", "why", title=f"{name} ({len(answer.items)})")
    for place, item in enumerate(answer.items[:10], 1):
        table.add_row(str(place), item.title, f"{item.score:.3f}", item.source, item.reason)
    console.print(table)
    if answer.degraded:
        console.print(f"[yellow]degraded: {', '.join(answer.degraded)}[/]")


def _summary_table(summary: dict[str, Any]) -> Table:
    table = Table("figure", "value", title="Headrace demo")
    for name, value in summary.items():
        if not isinstance(value, list | dict):
            table.add_row(name, f"{value:,}" if isinstance(value, int | float) else str(value))
    return table
