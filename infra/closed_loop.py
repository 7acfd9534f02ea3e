"""Simulated viewers against a running stack: they ask for slates, and answer what they are shown.

    viewer -> Recommend -> slate -> looks from the top, opens, watches, judges -> TrackMany -> log

Taste, its drift and the position bias are those of `offline/simulator.py`; every answer carries the
slate's request id and its slot. Some of the titles are held back and released one by one.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from rich.progress import Progress
from rich.table import Table

from features.codec import encode_catalog_item
from features.events import CatalogItem, Interaction
from features.ids import id_hash
from features.log import LogWriter
from features.vocabulary import EventType
from infra import topics
from infra.running import read_status
from infra.settings import Settings
from offline.replay import publish_catalogue
from offline.simulator import Simulator, user_id
from online_models.reward import Deed, answers_of
from online_models.reward_table import RewardTable
from serving.client import Client, Recommendations, RequestError

STAYS: Final = 0.75  # the chance that a viewer asks for another slate in the session
N_ACTIVE: Final = 20  # viewers who are there at a time
MAX_FAILURES_IN_A_ROW: Final = 10
CALL_TIMEOUT_S: Final = 5.0
NO_TITLES: Final = (
    "slates are empty: the server knows no titles; `headrace up --dataset simulation` has some"
)


class ClosedLoopError(Exception):
    """The loop cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class LoopPlan:
    """How long, how fast, how much. The first bound that is reached ends the loop."""

    events: int | None = 10_000
    seconds: float | None = None
    slates_per_s: float = 20.0
    count: int = 10  # titles of a slate
    seed: int = 7

    def __post_init__(self) -> None:
        for name in ("events", "seconds", "slates_per_s", "count"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"closed_loop.{name} must be positive; got {value}")
        if self.events is None and self.seconds is None:
            raise ValueError("closed_loop.events or closed_loop.seconds must be given; got neither")


@dataclass(slots=True)
class Tally:
    """Slots shown, slots taken up, and what that was worth."""

    shown: int = 0
    taken_up: int = 0
    reward: float = 0.0

    def add(self, label: bool, reward: float) -> None:
        """Counts a slot."""
        self.shown += 1
        self.taken_up += label
        self.reward += reward

    @property
    def click_through(self) -> float:
        """Share of slots taken up; 0 of none."""
        return self.taken_up / self.shown if self.shown else 0.0

    @property
    def mean_reward(self) -> float:
        """Of a slot; 0 of none."""
        return self.reward / self.shown if self.shown else 0.0

    def to_dict(self) -> dict[str, float]:
        """As JSON has it."""
        return {
            "shown": self.shown,
            "click_through": round(self.click_through, 5),
            "mean_reward": round(self.mean_reward, 5),
        }


@dataclass(slots=True)
class LoopSummary:
    """What became of a closed loop."""

    slates: int = 0
    events: int = 0  # accepted by the log
    refused: int = 0
    failures: int = 0  # calls that failed
    first_failure: str = ""
    released: int = 0  # titles
    seconds: float = 0.0
    total: Tally = field(default_factory=Tally)
    by_arm: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    by_slot: dict[int, Tally] = field(default_factory=lambda: defaultdict(Tally))

    @property
    def succeeded(self) -> bool:
        """Whether slates were served and the log has every answer."""
        return self.total.shown > 0 and self.failures == 0 and self.refused == 0

    def to_dict(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "slates": self.slates,
            "events": self.events,
            "refused": self.refused,
            "failures": self.failures,
            "released": self.released,
            "seconds": round(self.seconds, 2),
            **self.total.to_dict(),
            "by_arm": {arm: tally.to_dict() for arm, tally in sorted(self.by_arm.items())},
            "by_slot": {str(k): tally.to_dict() for k, tally in sorted(self.by_slot.items())},
        }

    def failed(self, error: RequestError) -> None:
        """Counts a failed call."""
        self.failures += 1
        self.first_failure = self.first_failure or str(error)


class Audience:
    """Which viewer asks next, and in which session: seeded, a few of many at a time."""

    def __init__(self, n_users: int, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 3])
        self._n_users, self._n_sessions = n_users, 0
        self._run = f"{time.time_ns():x}"  # sessions of another run are others
        self._active = [self._arrive() for _ in range(min(N_ACTIVE, n_users))]

    def next(self) -> tuple[str, str]:
        """Ids of a viewer and of the session."""
        place = int(self._rng.integers(len(self._active)))
        found = self._active[place]
        if self._rng.random() >= STAYS:
            self._active[place] = self._arrive()
        return found

    def _arrive(self) -> tuple[str, str]:
        self._n_sessions += 1
        viewer = user_id(int(self._rng.integers(self._n_users)))
        return viewer, f"loop-{self._run}-{self._n_sessions}"


def simulate_closed_loop(
    settings: Settings, simulator: Simulator, plan: LoopPlan, progress: Progress, *,
    titles: bool, releases: int,
) -> LoopSummary:  # fmt: skip
    """A loop against the stack that runs here.

    With `titles` the simulation's titles are sent first, but for the last `releases` of them, which
    come out during the loop. Raises LogError, NotRunningError, RequestError, ClosedLoopError.
    """
    target = read_status(settings.home)["addresses"]["grpc"]
    catalogue = simulator.catalogue() if titles else []
    held_back = catalogue[len(catalogue) - releases :] if releases else []
    topic = settings.kafka.prefix + topics.CATALOG
    writer = LogWriter(settings.kafka.log_config())
    publish_catalogue(catalogue[: len(catalogue) - len(held_back)], writer, topic)

    def release(title: CatalogItem) -> None:
        writer.append(topic, title.item_id.encode(), encode_catalog_item(title))

    task = progress.add_task("events", total=plan.events)
    with Client(target, timeout_s=CALL_TIMEOUT_S) as client:
        client.wait_until_connected()
        summary = run_closed_loop(
            client, simulator, plan, release=release, held_back=held_back,
            progress=lambda now: progress.update(task, completed=now.events),
        )  # fmt: skip
    writer.flush()
    return summary


def run_closed_loop(
    client: Client,
    simulator: Simulator,
    plan: LoopPlan,
    *,
    release: Callable[[CatalogItem], None] | None = None,
    held_back: Sequence[CatalogItem] = (),
    progress: Callable[[LoopSummary], None] | None = None,
) -> LoopSummary:
    """Asks, answers and tracks until the plan is fulfilled; titles held back come out evenly.

    Raises ClosedLoopError after ten calls in a row have failed, or if the first slates are empty.
    """
    summary, failed_in_a_row = LoopSummary(), 0
    audience = Audience(simulator.config.n_users, plan.seed)
    coming = list(held_back)[::-1]
    started_s = time.monotonic()
    for k in _paced(plan.slates_per_s, started_s):
        summary.seconds = time.monotonic() - started_s
        done = _share_done(plan, summary)
        if done >= 1:
            break
        while release and coming and summary.released < done * len(held_back):
            release(coming.pop())
            summary.released += 1
        before = summary.failures
        _one_slate(client, simulator, plan, audience, summary)
        failed_in_a_row = failed_in_a_row + 1 if summary.failures > before else 0
        if failed_in_a_row >= MAX_FAILURES_IN_A_ROW:
            raise ClosedLoopError(f"{failed_in_a_row} calls in a row: {summary.first_failure}")
        if k == MAX_FAILURES_IN_A_ROW and not summary.total.shown:
            raise ClosedLoopError(NO_TITLES)
        if progress is not None:
            progress(summary)
    return summary


def _paced(per_s: float, started_s: float) -> Iterator[int]:
    """0, 1, 2 and on, each not before its time."""
    k = 0
    while True:
        time.sleep(max(0.0, started_s + k / per_s - time.monotonic()))
        yield k
        k += 1


def _share_done(plan: LoopPlan, summary: LoopSummary) -> float:
    """How much of the plan is fulfilled, 1 and more at its end."""
    by_events = (summary.events + summary.refused) / plan.events if plan.events else 0.0
    by_time = summary.seconds / plan.seconds if plan.seconds else 0.0
    return max(by_events, by_time)


def _one_slate(
    client: Client, simulator: Simulator, plan: LoopPlan, audience: Audience, summary: LoopSummary
) -> None:
    viewer, session = audience.next()
    try:
        slate = client.recommend(viewer, count=plan.count, session_id=session)
        items = [item.item_id for item in slate.items]
        now_ms = time.time_ns() // 1_000_000
        told = simulator.answer(viewer, items, now_ms, slate.request_id)
        events = [replace(event, session_id=session) for event in told]
        tracked = client.track_many(events)
    except RequestError as error:
        summary.failed(error)
        return
    summary.slates += 1
    summary.events += tracked.accepted
    summary.refused += tracked.refused
    count_slate(summary, slate, events)


def count_slate(
    summary: LoopSummary, slate: Recommendations, events: Iterable[Interaction]
) -> None:
    """Adds a slate's slots, rewarded as the engine rewards them."""
    by_slot: dict[int, list[Deed]] = defaultdict(list)
    for event in events:
        if event.slot is not None and event.type != EventType.IMPRESSION:
            by_slot[event.slot].append(_deed(event))
    table = RewardTable()
    for slot, item in enumerate(slate.items):
        answers = answers_of(by_slot[slot])
        for tally in (summary.total, summary.by_arm[item.arm], summary.by_slot[slot]):
            tally.add(answers.label(), answers.reward(table))


def _deed(event: Interaction) -> Deed:
    return Deed(
        type=int(event.type),
        at_ms=event.occurred_at_ms,
        event=id_hash(event.event_id),
        rating=event.rating or 0.0,
        watch_position_s=event.watch_position_s,
        watch_duration_s=event.watch_duration_s,
    )


def tables_of(summary: LoopSummary) -> Iterator[Table]:
    """What became of a loop, to print: by arm, by slot."""
    parts: list[tuple[str, dict[str, Tally]]] = [
        ("arm", dict(sorted(summary.by_arm.items()))),
        ("slot", {str(slot): tally for slot, tally in sorted(summary.by_slot.items())}),
    ]
    for name, tallies in parts:
        table = Table(name, "shown", "taken up", "mean reward", title=f"by {name}")
        for key, tally in {**tallies, "all": summary.total}.items():
            rate = f"{100 * tally.click_through:.1f} %"
            table.add_row(key, f"{tally.shown:,}", rate, f"{tally.mean_reward:.4f}")
        yield table
