"""The demonstration's last part: simulated viewers answer slates, and the bandits learn from it.

Nothing is known of the arms at first: each wins a slot that explores with the same chance. Then
viewers answer; attribution makes outcomes of it, the learner moves posteriors, and the server uses
them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from features.decision_context import CONTEXT_CODES
from features.learning_codec import decode_snapshot
from features.model_snapshot import ModelSnapshot
from features.model_versions import LEARNED, read_versions
from features.vocabulary import ARM_NAMES, N_ARMS
from infra import topics
from infra.closed_loop import LoopPlan, LoopSummary, run_closed_loop
from infra.learned_parts import learners
from infra.models import ArmRow, arm_rows
from infra.settings import Settings
from infra.stack import Stack
from infra.why import DecisionNotFoundError, explain, show
from offline.simulator import SimulationConfig, Simulator
from online_models.bandits import policy_of
from online_models.base import BANDITS
from online_models.learner import Learner, arrays_of
from online_models.propensity import win_shares
from online_models.situation import situation_of
from serving.client import Client

HORIZON_S = 3.0  # of attribution in the demonstration: its viewers answer within a second or not
PLAN = LoopPlan(events=None, seconds=12.0, slates_per_s=40.0, count=10)
N_VIEWERS = 200
N_CONTEXTS_SHOWN = 2
LEARNT_WITHIN_S = 30.0
SEED = 7


@dataclass(frozen=True, slots=True)
class Learnt:
    """A version at the end: its number, what is known of arms, and what each now wins."""

    sequence: int
    arms: Sequence[ArmRow]
    chances: dict[str, list[float]]  # of each arm, by context


def show_learning(stack: Stack, console: Console) -> dict[str, Any]:
    """Runs the loop, then shows posteriors, chances by context, and why a slot was filled so."""
    console.rule("[bold]viewers answer, bandits learn")
    summary = _answer_slates(stack.addresses.grpc, console)
    learnt = _wait_for(stack.settings, summary)
    contexts = _most_met(learnt.arms)
    console.print(
        f"{summary.slates:,} slates answered with {summary.events:,} events; version "
        f"{learnt.sequence} of what was learnt serves"
    )
    for context in contexts:
        console.print(_table(context, learnt))
    _show_why(stack, console)
    return {
        "slates_answered": summary.slates,
        "outcomes_learnt": learnt.sequence,
        "arms": {
            context: {
                row.arm: {
                    "slots": row.slots,
                    "mean_reward": round(row.mean_reward, 4),
                    "posterior_mean": round(row.posterior_mean or 0.0, 4),
                    "chance_before": round(1 / N_ARMS, 4),
                    "chance_after": round(learnt.chances[context][ARM_NAMES.index(row.arm)], 4),
                }
                for row in learnt.arms
                if row.context == context and row.arm in ARM_NAMES
            }
            for context in contexts
        },
    }


def _answer_slates(address: str, console: Console) -> LoopSummary:
    simulator = Simulator(SimulationConfig(n_users=N_VIEWERS, seed=SEED))
    columns = TextColumn("{task.description:28}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress, Client(address, timeout_s=5.0) as client:
        client.wait_until_connected()
        task = progress.add_task("simulated viewers answer", total=PLAN.seconds)
        return run_closed_loop(
            client, simulator, PLAN,
            progress=lambda now: progress.update(task, completed=now.seconds),
        )  # fmt: skip


def _wait_for(settings: Settings, summary: LoopSummary) -> Learnt:
    """The version behind the outcome of every slot, or the newest after half a minute."""
    until_s = time.monotonic() + LEARNT_WITHIN_S
    snapshot = _newest(settings)
    while snapshot.sequence < summary.total.shown and time.monotonic() < until_s:
        time.sleep(0.5)
        snapshot = _newest(settings)
    arms = arm_rows(snapshot)
    policy = policy_of("thompson", arrays_of(BANDITS, snapshot.arrays))
    rng, everything = np.random.default_rng(SEED), np.ones(N_ARMS, np.bool_)
    chances = {}
    for context in _most_met(arms):
        code = CONTEXT_CODES[context]
        draws = policy.draws(code, situation_of(code), rng)
        chances[context] = win_shares(draws, everything).tolist()
    return Learnt(snapshot.sequence, arms, chances)


def _newest(settings: Settings) -> ModelSnapshot:
    """The newest version; one of nothing while there is none."""
    log, topic = settings.kafka.log_config(), settings.kafka.prefix + topics.MODELS
    stored = read_versions(log, topic).get(LEARNED)
    if stored is not None:
        return decode_snapshot(stored.value)
    learner = Learner(learners())
    return ModelSnapshot(LEARNED, 0, learner.version().arrays)


def _most_met(arms: Sequence[ArmRow]) -> list[str]:
    """The contexts with the most slots, most first."""
    slots: dict[str, int] = {}
    for row in arms:
        if row.context in CONTEXT_CODES:
            slots[row.context] = slots.get(row.context, 0) + row.slots
    return sorted(slots, key=lambda context: -slots[context])[:N_CONTEXTS_SHOWN]


def _table(context: str, learnt: Learnt) -> Table:
    table = Table(
        "arm", "slots", "mean reward", "believed, at first", "believed, now", "chance, at first",
        "chance, now", title=f"arms in {context}",
    )  # fmt: skip
    for row in learnt.arms:
        if row.context == context and row.arm in ARM_NAMES:
            chance = learnt.chances[context][ARM_NAMES.index(row.arm)]
            believed = "" if row.posterior_mean is None else f"{row.posterior_mean:.3f}"
            table.add_row(
                row.arm, f"{row.slots:,}", f"{row.mean_reward:.3f}", "0.500", believed,
                f"{1 / N_ARMS:.3f}", f"{chance:.3f}",
            )  # fmt: skip
    return table


def _show_why(stack: Stack, console: Console) -> None:
    """One more slate, and its first slots as the log of decisions has them."""
    with Client(stack.addresses.grpc, timeout_s=5.0) as client:
        answer = client.recommend("demo-viewer", count=5)
    console.print(f"why these: headrace why {answer.request_id} --user demo-viewer")
    until_s = time.monotonic() + 5.0
    while True:
        try:
            show(explain(stack.settings, answer.request_id, "demo-viewer"), console)
            return
        except DecisionNotFoundError:  # decisions go to the log behind the answer
            if time.monotonic() > until_s:
                raise
            time.sleep(0.1)
