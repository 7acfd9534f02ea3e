"""Composition of the producers: datasets and simulations into the log."""

import json
import time
from collections.abc import Iterable
from pathlib import Path

from rich.progress import Progress

from features.codec import encode_erasure, encode_interaction
from features.erasure import Erasure, erase_event
from features.events import problem_with
from features.ids import viewer_hash
from features.log import CONTENT_TYPE, JSON_TYPE, LogWriter
from features.position import Position
from infra import topics
from infra.settings import Settings
from infra.stack import create_topics
from offline.datasets import Dataset, Selection, find_data_folder, open_dataset
from offline.replay import ReplayResult, publish_catalogue, replay
from offline.simulator import SimulationConfig, Simulator


class EraseError(Exception):
    """A viewer cannot be named so; the message says field, expectation and value."""


def data_folders(settings: Settings) -> list[Path]:
    """Where datasets are looked for, in order."""
    named = [settings.data] if settings.data is not None else []
    repository = Path(__file__).resolve().parent.parent
    return [*named, settings.home / "data", repository.parent / "shared" / "data"]


def dataset(settings: Settings, name: str, *, until_now: bool = False) -> Dataset:
    """A dataset by name; with `until_now` its times are shifted so that its last event is now."""
    folder = find_data_folder(data_folders(settings), name)
    found = open_dataset(name, folder)
    if not until_now:
        return found
    last_ms = int(found.columns().at_ms[-1])
    return open_dataset(name, folder, time.time_ns() // 1_000_000 - last_ms)


def replay_dataset(
    settings: Settings,
    name: str,
    selection: Selection,
    progress: Progress,
    *,
    rate: float | None,
    speed: float | None,
    until_now: bool,
    as_json: bool,
) -> ReplayResult:
    """Sends a dataset's titles, then its events. Creates topics that are missing."""
    source = dataset(settings, name, until_now=until_now)
    create_topics(settings.kafka)
    writer = LogWriter(settings.kafka.log_config())
    prefix = settings.kafka.prefix
    titles = source.catalogue()
    task = progress.add_task("titles", total=len(titles))
    published = publish_catalogue(
        titles,
        writer,
        prefix + topics.CATALOG,
        progress=lambda n: progress.update(task, completed=n),
    )
    if not published.succeeded:
        return published
    n_events = len(source.columns(selection))
    task = progress.add_task("events", total=n_events)
    return replay(
        source.interactions(selection),
        writer,
        prefix + topics.INTERACTIONS,
        rate=rate,
        speed=speed,
        as_json=as_json,
        progress=lambda n: progress.update(task, completed=n),
    )


def simulate_events(
    settings: Settings,
    progress: Progress,
    *,
    n_events: int,
    n_users: int,
    n_items: int,
    seed: int,
    rate: float | None,
) -> ReplayResult:
    """Sends a simulation's titles, then its events, which end now."""
    simulator = Simulator(SimulationConfig(n_users=n_users, n_items=n_items, seed=seed))
    create_topics(settings.kafka)
    writer = LogWriter(settings.kafka.log_config())
    prefix = settings.kafka.prefix
    published = publish_catalogue(simulator.catalogue(), writer, prefix + topics.CATALOG)
    if not published.succeeded:
        return published
    task = progress.add_task("events", total=n_events)
    per_s = rate or 100.0
    start_ms = time.time_ns() // 1_000_000 - (0 if rate else int(n_events / per_s * 1_000))
    return replay(
        simulator.interactions(n_events, start_ms, per_s),
        writer,
        prefix + topics.INTERACTIONS,
        rate=rate,
        progress=lambda n: progress.update(task, completed=n),
    )


def erase_user(settings: Settings, user_id: str, profile_id: str = "") -> Position:
    """Has a viewer forgotten; where in the log. Raises LogError, EraseError.

    The event first, then the entry of the ledger that says where the event lies.
    """
    prefix, now_ms = settings.kafka.prefix, time.time_ns() // 1_000_000
    event = erase_event(user_id, profile_id, now_ms)
    if problem := problem_with(event):
        raise EraseError(problem)
    writer = LogWriter(settings.kafka.log_config())
    positions: list[Position] = []

    def delivered(position: Position | None, reason: str | None) -> None:  # noqa: ARG001
        if position is not None:
            positions.append(position)

    value = encode_interaction(event)
    writer.append(prefix + topics.INTERACTIONS, user_id.encode(), value, delivered=delivered)
    writer.flush()
    (position,) = positions
    viewer = viewer_hash(user_id, profile_id)
    erasure = Erasure(viewer, position.partition, position.offset, now_ms)
    writer.append(prefix + topics.ERASURES, erasure.key, encode_erasure(erasure))
    writer.flush()
    return position


def send_lines(settings: Settings, lines: Iterable[bytes]) -> list[Position]:
    """Appends each line as it is, keyed by its `user_id` where it has one; where they lie now."""
    writer = LogWriter(settings.kafka.log_config())
    topic = settings.kafka.prefix + topics.INTERACTIONS
    positions: list[Position] = []

    def delivered(position: Position | None, reason: str | None) -> None:  # noqa: ARG001
        if position is not None:
            positions.append(position)

    for line in filter(None, map(bytes.strip, lines)):
        headers = [(CONTENT_TYPE, JSON_TYPE)]
        writer.append(topic, _user_of(line), line, headers=headers, delivered=delivered)
    writer.flush()
    return positions


def _user_of(line: bytes) -> bytes | None:
    try:
        return str(json.loads(line)["user_id"]).encode()
    except (ValueError, KeyError, TypeError):
        return None  # a bad record: the flow says what is wrong with it
