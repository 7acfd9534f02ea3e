"""Policies in a closed loop with simulated viewers: reward, regret, and what freshness is worth.

    python -m benchmarks.closed_loop

Three questions, each over the world of `offline/closed_loop_world.py`, whose docstring says what it
assumes; seeds make worlds, and all policies meet the same ones (common random numbers).

1. A week of a small service (a slate every 30 s, 20,000 slates, 200,000 outcomes): what does each
   policy earn? `static` is the best of some fixed weightings, tuned on worlds of other seeds.
2. The same where contexts do not matter: what is left of the advantage?
3. A busy evening (10 slates a second for 20 minutes, tastes that move within minutes), learning
   from nothing: regret against the delay of updates.

Intervals are of Student's t over seeds; ratios are taken seed by seed.
"""

import argparse
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Table
from scipy import stats

from benchmarks import common
from benchmarks.common import console, report
from features.decision_context import DEPTH
from features.vocabulary import ARM_NAMES, N_ARMS
from offline.closed_loop import (
    N_LOOP_DRAWS,
    Contender,
    ContextTable,
    Freshness,
    LoopResult,
    run,
    run_oracle,
)
from offline.closed_loop_world import World, WorldConfig
from online_models.bandits import PolicyOptions, policy_of
from online_models.base import Learns
from online_models.beta_arms import BetaArms
from online_models.linear_arms import LinearArms

WEEK: Final = WorldConfig()
WEEKLY: Final = Freshness(0.0, 300.0)  # published every ten slates
EVENING: Final = WorldConfig(
    n_decisions=12_000,
    slates_per_s=10.0,
    n_viewers=10_000,
    start_ms=1_704_481_200_000,  # Friday, 5 January 2024, 19:00
    releases_per_day=288.0,  # one in five minutes
    buzz_s=600.0,
    waves_per_day=288.0,
    wave_s=300.0,
    refresh_s=10.0,
)
DELAYS_S: Final = (0.0, 1.0, 10.0, 60.0, 300.0, 3_600.0)
LAST_PART: Final = 3  # the last third of the evening is looked at by itself
TUNING_SEED: Final = 1_000
TUNING_SLATES: Final = 5_000
QUICK_SLATES: Final = 800
POWERS: Final = (1.0, 2.0, 4.0, 8.0)
NARROW_UCB: Final = 0.1

Shares = tuple[float, ...]


@dataclass(frozen=True)
class Kind:
    """A row of the table: a policy with its options."""

    label: str
    policy: str
    options: PolicyOptions

    def contender(self) -> Contender:
        """The policy with the part of the state that it reads."""
        return Contender(
            self.label, self._learner, lambda arrays: policy_of(self.policy, arrays, self.options)
        )

    def _learner(self) -> Learns | None:
        if self.policy in ("static", "uniform"):
            return None
        return LinearArms() if self.policy.startswith("lin") else BetaArms(is_net=True)


def kind(label: str, policy: str, **options: Any) -> Kind:
    """A row of the table, with options by name."""
    return Kind(label, policy, PolicyOptions(n_draws=N_LOOP_DRAWS, **options))


THOMPSON: Final = kind("thompson", "thompson")
EPSILON_GREEDY: Final = kind("epsilon_greedy", "epsilon_greedy")
UCB1: Final = kind("ucb1", "ucb1")
UNIFORM: Final = kind("uniform", "uniform")
LEARNERS: Final = (
    THOMPSON,
    kind("linear_thompson", "linear_thompson"),
    kind("linucb", "linucb"),
    EPSILON_GREEDY,
    UCB1,
    kind("epsilon_greedy by context", "epsilon_greedy", depth=DEPTH),
    kind("ucb1, narrow", "ucb1", ucb_width=NARROW_UCB),
    kind("ucb1 by context, narrow", "ucb1", depth=DEPTH, ucb_width=NARROW_UCB),
)
CONTEXT_TABLE: Final = "best arm of each context"
ORACLE: Final = "oracle"


@dataclass(frozen=True)
class Earned:
    """What one run came to, by slot."""

    reward: float
    expected: float
    regret: float
    last_regret: float  # of the last part
    click_rate: float

    @classmethod
    def of(cls, result: LoopResult) -> "Earned":
        """The means of a run."""
        last = len(result.regret) * (LAST_PART - 1) // LAST_PART
        return cls(
            result.mean_reward,
            float(result.expected.mean()),
            float(result.regret.mean()),
            float(result.regret[last:].mean()),
            float(result.opened.mean()),
        )


def rng_of(config: WorldConfig) -> np.random.Generator:
    """The chance of a policy: its own, the same for each policy of a world."""
    return np.random.default_rng([config.seed, 99])


def run_kinds(
    config: WorldConfig, kinds: Sequence[Kind], freshness: Freshness, *, bounds: bool = False
) -> dict[str, Earned]:
    """Policies over one world; with `bounds` also what knowing the truth would earn."""
    world = World(config)
    runs = {row.label: run(world, row.contender(), freshness, rng_of(config)) for row in kinds}
    if bounds:
        runs[CONTEXT_TABLE] = best_of_contexts(world, runs[UNIFORM.label])
        runs[ORACLE] = run_oracle(world)
    return {label: Earned.of(result) for label, result in runs.items()}


def best_of_contexts(world: World, pilot: LoopResult) -> LoopResult:
    """The best arm of each context from the first decision on, told by a run of even shares."""
    means, counts = pilot.worth()
    values = np.where(counts > 0, means, -1.0)
    table = Contender(CONTEXT_TABLE, lambda: None, lambda _: ContextTable(values))
    return run(world, table, WEEKLY, rng_of(world.config))


def best_shares(config: WorldConfig, n_slates: int) -> tuple[Shares, float]:
    """The fixed weighting that earns most in a world of its own, and the reward expected of it.

    Candidates: even shares, each arm alone, and shares by powers of the arms' worth.
    """
    world = World(replace(config, seed=TUNING_SEED, n_decisions=n_slates,
                          slates_per_s=n_slates / config.span_s))  # fmt: skip
    even = run(world, UNIFORM.contender(), WEEKLY, rng_of(world.config))
    worth = np.array([even.expected[even.arms == arm].mean() for arm in range(N_ARMS)])
    alone = [tuple(np.eye(N_ARMS)[arm]) for arm in range(N_ARMS)]
    powers = [tuple((worth / worth.sum()) ** power) for power in POWERS]
    best, most = UNIFORM.options.shares, float(even.expected.mean())
    for shares in [*alone, *powers]:
        row = kind("static", "static", shares=tuple(float(share) for share in shares))
        earned = float(run(world, row.contender(), WEEKLY, rng_of(world.config)).expected.mean())
        if earned > most:
            best, most = row.options.shares, earned
    total = sum(best)
    return tuple(round(share / total, 3) for share in best), most


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval, by Student's t."""
    found = np.array(list(values))
    if len(found) < 2:
        return float(found.mean()), float("nan")
    half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return float(found.mean()), float(half)


def ratio(runs: Sequence[dict[str, Earned]], label: str, other: str) -> tuple[float, float]:
    """Mean over seeds of what one policy earned over what another did, and the low end of it."""
    mean, half = interval(found[label].reward / found[other].reward for found in runs)
    return round(mean, 3), round(mean - half, 3)


def rewards_table(title: str, runs: Sequence[dict[str, Earned]]) -> dict[str, Any]:
    """Prints what each policy earned; the same as figures."""
    table = Table("policy", "reward per slot", "+-", "over static", "+-", "regret", "opened",
                  title=title)  # fmt: skip
    figures: dict[str, Any] = {}
    for label in runs[0]:
        mean, half = interval(found[label].reward for found in runs)
        times, times_half = interval(found[label].reward / found["static"].reward for found in runs)
        regret, _ = interval(found[label].regret for found in runs)
        opened, _ = interval(found[label].click_rate for found in runs)
        table.add_row(label, f"{mean:.4f}", f"{half:.4f}", f"{times:.3f}", f"{times_half:.3f}",
                      f"{regret:.4f}", f"{100 * opened:.1f} %")  # fmt: skip
        figures[label] = {
            "reward": round(mean, 5), "reward_half_width": round(half, 5),
            "over_static": round(times, 4), "regret": round(regret, 5),
        }  # fmt: skip
    console.print(table)
    return figures


def delays_table(runs: Sequence[dict[float, Earned]]) -> list[dict[str, float]]:
    """Prints regret by delay of updates; the same as figures."""
    table = Table("delay", "regret per slot", "+-", "over 0 s", "+-", "in the last third",
                  "reward per slot", title="a busy evening: regret against the delay of updates"
                  )  # fmt: skip
    figures = []
    for delay_s in runs[0]:
        regret, half = interval(found[delay_s].regret for found in runs)
        more, more_half = interval(found[delay_s].regret / found[0.0].regret for found in runs)
        last, _ = interval(found[delay_s].last_regret for found in runs)
        reward, _ = interval(found[delay_s].reward for found in runs)
        table.add_row(f"{delay_s:g} s", f"{regret:.4f}", f"{half:.4f}", f"{more:.3f}",
                      f"{more_half:.3f}", f"{last:.4f}", f"{reward:.4f}")  # fmt: skip
        figures.append({
            "delay_s": delay_s, "regret": round(regret, 5), "regret_half_width": round(half, 5),
            "over_no_delay": round(more, 4), "regret_last_third": round(last, 5),
            "reward": round(reward, 5),
        })  # fmt: skip
    console.print(table)
    return figures


def run_delay(delay_s: float, config: WorldConfig) -> dict[float, Earned]:
    """Thompson sampling over one evening, with one delay."""
    freshness = Freshness(delay_s, 1.0)
    result = run(World(config), THOMPSON.contender(), freshness, rng_of(config))
    return {delay_s: Earned.of(result)}


def draw_delays(figures: Sequence[dict[str, float]], even_regret: float, path: Path) -> None:
    """A picture of regret against delay."""
    import matplotlib as mpl  # noqa: PLC0415 (a second that the workers need not wait)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    places = np.arange(len(figures))
    figure, axis = plt.subplots(figsize=(8, 4.5))
    axis.errorbar(
        places,
        [found["regret"] for found in figures],
        [found["regret_half_width"] for found in figures],
        marker="o", capsize=4, label="Thompson sampling, the whole evening",
    )  # fmt: skip
    last = [found["regret_last_third"] for found in figures]
    axis.plot(places, last, marker="s", linestyle="--", label="its last third")
    axis.axhline(even_regret, color="grey", linewidth=1, label="even shares, never learning")
    axis.set_xticks(places, [f"{found['delay_s']:g} s" for found in figures])
    axis.set_xlabel("delay of updates, on top of the viewers' own")
    axis.set_ylabel("regret per slot")
    axis.set_ylim(bottom=0)
    axis.set_title("What freshness is worth: 10 slates a second for 20 minutes, from nothing")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 60 s, shorter runs")
    parser.add_argument("--seeds", type=int, default=10, help="worlds of the week")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    return parser.parse_args()


def compare(
    pool: ProcessPoolExecutor, config: WorldConfig, kinds: Sequence[Kind], n_seeds: int
) -> list[dict[str, Earned]]:
    """Policies over worlds of seeds 0, 1, 2 and on."""
    worlds = [replace(config, seed=seed) for seed in range(n_seeds)]
    return list(pool.map(partial(run_kinds, kinds=kinds, freshness=WEEKLY, bounds=True), worlds))


def with_static(
    config: WorldConfig, kinds: Sequence[Kind], n_slates: int
) -> tuple[tuple[Kind, ...], Shares]:
    """The rows of a table, with the static weighting that is best in such worlds."""
    shares, _ = best_shares(config, n_slates)
    return (*kinds, kind("static", "static", shares=shares), UNIFORM), shares


def shares_text(shares: Shares) -> str:
    """Which arm has which share."""
    given = [(share, name) for share, name in zip(shares, ARM_NAMES, strict=True) if share]
    return ", ".join(f"{name} {share:g}" for share, name in sorted(given, reverse=True))


def week(pool: ProcessPoolExecutor, config: WorldConfig, n_seeds: int) -> dict[str, Any]:
    """The first question."""
    kinds, shares = with_static(config, LEARNERS, min(TUNING_SLATES, config.n_decisions))
    runs = compare(pool, config, kinds, n_seeds)
    figures: dict[str, Any] = {"static_weights": shares_text(shares)}
    figures["policies"] = rewards_table(f"a week, {n_seeds} worlds", runs)
    better = max("static", "uniform", key=lambda label: interval(r[label].reward for r in runs)[0])
    for name, other in (
        ("static", better), ("even_shares", "uniform"), ("epsilon_greedy", "epsilon_greedy"),
        ("ucb1", "ucb1"), ("epsilon_greedy_by_context", "epsilon_greedy by context"),
        ("ucb1_by_context_narrow", "ucb1 by context, narrow"),
    ):  # fmt: skip
        figures[f"thompson_over_{name}"], figures[f"thompson_over_{name}_low"] = ratio(
            runs, "thompson", other
        )
    return figures


def plain_week(pool: ProcessPoolExecutor, config: WorldConfig, n_seeds: int) -> dict[str, Any]:
    """The second question."""
    plain = replace(config, has_contexts=False)
    some = (THOMPSON, EPSILON_GREEDY, UCB1)
    kinds, shares = with_static(plain, some, min(TUNING_SLATES, plain.n_decisions) // 2)
    runs = compare(pool, plain, kinds, n_seeds)
    figures: dict[str, Any] = {"plain_static_weights": shares_text(shares)}
    figures["plain_policies"] = rewards_table(f"contexts do not matter, {n_seeds} worlds", runs)
    figures["plain_thompson_over_static"], figures["plain_thompson_over_static_low"] = ratio(
        runs, "thompson", "static"
    )
    return figures


def evening(pool: ProcessPoolExecutor, config: WorldConfig, n_seeds: int) -> dict[str, Any]:
    """The third question."""
    tasks = [(delay_s, replace(config, seed=s)) for s in range(n_seeds) for delay_s in DELAYS_S]
    found = list(pool.map(run_delay, *zip(*tasks, strict=True)))
    n = len(DELAYS_S)
    runs = [{k: v for part in found[i * n : i * n + n] for k, v in part.items()}
            for i in range(n_seeds)]  # fmt: skip
    figures = delays_table(runs)
    even = run(World(config), UNIFORM.contender(), WEEKLY, rng_of(config))
    path = common.OUT / "closed_loop_delay.png"
    draw_delays(figures, float(even.regret.mean()), path)
    console.print(f"the picture: {path}")
    return {"delays": figures, "evening_even_shares_regret": round(float(even.regret.mean()), 5)}


def shortened(config: WorldConfig) -> WorldConfig:
    """The same time with fewer slates: for a quick look, not for figures."""
    return replace(config, n_decisions=QUICK_SLATES, slates_per_s=QUICK_SLATES / config.span_s)


def main() -> None:
    """Prints three tables; writes `benchmarks/out/closed_loop.json` and a picture."""
    options = arguments()
    started_s = time.monotonic()
    small = options.quick
    n_seeds = 2 if small else options.seeds
    a_week, an_evening = (shortened(WEEK), shortened(EVENING)) if small else (WEEK, EVENING)
    run(World(replace(a_week, n_decisions=100)), THOMPSON.contender(), WEEKLY, rng_of(WEEK))
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        figures = week(pool, a_week, n_seeds)
        figures |= plain_week(pool, a_week, max(2, n_seeds // 3))
        figures |= evening(pool, an_evening, max(2, n_seeds // 2))
    load = {
        "seeds": n_seeds,
        "slates": a_week.n_decisions,
        "slots": a_week.n_slots,
        "evening_slates": an_evening.n_decisions,
        "publish_s": WEEKLY.publish_s,
        "wall_s": round(time.monotonic() - started_s, 1),
    }
    report("closed_loop", load, figures)


if __name__ == "__main__":
    main()
