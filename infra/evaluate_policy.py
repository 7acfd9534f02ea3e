"""What other policies would have earned: composition of logs, targets and estimators."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from infra import topics
from infra.archive import ARCHIVED
from infra.producers import data_folders
from infra.settings import Settings
from offline import decision_log, off_policy, open_bandit, reward_model, target_policies
from offline.logged_feedback import LoggedFeedback, OffPolicyError
from offline.off_policy import Estimate
from offline.target_policies import TargetPolicy

OPEN_BANDIT: Final = "open-bandit-men"
FEW_REWARDED: Final = 1_000  # rewarded rows: their number alone is uncertain by 6 %
FEW_EFFECTIVE: Final = 1_000
UNSUPPORTED_ERRORS: Final = 4.0  # standard errors by which weights may miss an average of one
NUMBERS: Final = ("value", "low", "high", "rows", "effective", "max w")
TARGETS: Final = ("logged", "uniform", "static", "fixed:ACTION", "greedy", "bts", "random")


@dataclass(frozen=True, slots=True)
class Options:
    """What to estimate, and how."""

    targets: tuple[str, ...] = ()  # none: those that fit the log
    estimators: tuple[str, ...] = off_policy.ALL
    weights: Mapping[str, float] | None = None  # of the actions, for the target `static`
    largest_weight: float = off_policy.LARGEST_WEIGHT
    n_bootstrap: int = off_policy.N_BOOTSTRAP
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Source:
    """A log, and policies whose actions it does not tell but another log does."""

    name: str
    logged: LoggedFeedback
    left_out: Mapping[str, int]
    shares: Mapping[str, Any]  # (n_positions, n_actions) by the name of the policy
    on_policy: Mapping[str, Estimate]  # what those earned in a log of their own
    default_targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PolicyEvaluation:
    """All estimates of a log, by target and estimator."""

    source: str
    rows: int
    slates: int
    rewarded: int  # rows with a reward above zero
    observed: float  # mean reward of the policy that wrote the log
    left_out: Mapping[str, int]
    estimates: Mapping[str, Mapping[str, Estimate]]
    on_policy: Mapping[str, Estimate]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def open_bandit_source(settings: Settings, behaviour: str, options: Options) -> Source:
    """The Open Bandit sample that one of its two policies logged. Raises OffPolicyError."""
    folders = data_folders(settings)
    folder = next((f for f in folders if open_bandit.path_of(f, behaviour).is_file()), folders[-1])
    logged = open_bandit.load(folder, behaviour)
    other = next(name for name in open_bandit.BEHAVIOURS if name != behaviour)
    logs = {behaviour: logged, other: open_bandit.load(folder, other)}
    return Source(
        f"{OPEN_BANDIT}, logged by {behaviour}",
        logged,
        {},
        {
            open_bandit.BTS: target_policies.shares_by_position(logs[open_bandit.BTS]),
            open_bandit.RANDOM: np.full(
                (logged.n_positions, logged.n_actions), 1 / logged.n_actions
            ),
        },
        {other: on_policy(logs[other], options)},
        ("logged", other, "greedy"),
    )


def archive_source(folder: Path) -> Source:
    """A lake that `headrace stream archive` wrote. Raises LakeError, OffPolicyError."""
    return _own(str(folder), decision_log.from_lake(folder))


def log_source(settings: Settings) -> Source:
    """The topics of a running engine. Raises LogError, OffPolicyError."""
    prefix = settings.kafka.prefix
    found = decision_log.from_log(
        settings.kafka.log_config(), lambda table: prefix + ARCHIVED[table]
    )
    return _own(f"topics {prefix}{topics.IMPRESSIONS}, {prefix}{topics.OUTCOMES}", found)


def _own(name: str, found: decision_log.DecisionLog) -> Source:
    return Source(name, found.logged, found.left_out, {}, {}, ("logged", "uniform", "greedy"))


def on_policy(logged: LoggedFeedback, options: Options) -> Estimate:
    """What the policy of a log earned, which needs no weights: the mean, and its interval."""
    target = target_policies.logged_policy(logged)
    of = off_policy.inputs_of(logged, target, np.zeros(target.probabilities.shape))
    rng = np.random.default_rng(options.seed)
    return off_policy.evaluate(
        of, logged.slates, rng, estimators=("ips",), n_bootstrap=options.n_bootstrap
    )["ips"]


def evaluate_policies(source: Source, options: Options) -> PolicyEvaluation:
    """All targets of a log by all estimators. Raises OffPolicyError. Seeded: the same each time."""
    logged = source.logged
    estimates, warnings = {}, _warnings_of_log(logged)
    for wanted in options.targets or source.default_targets:
        target, rows = target_of(wanted, source, options.weights)
        rng = np.random.default_rng(options.seed)
        q_hat = reward_model.cross_fitted(rows, rng)
        of = off_policy.inputs_of(rows, target, q_hat, options.largest_weight)
        estimates[target.name] = off_policy.evaluate(
            of, rows.slates, rng,
            estimators=options.estimators, n_bootstrap=options.n_bootstrap,
        )  # fmt: skip
        warnings += _warnings_of_target(target.name, of)
    return PolicyEvaluation(
        source.name,
        len(logged),
        logged.n_slates,
        int((logged.rewards > 0).sum()),
        float(logged.rewards.mean()),
        source.left_out,
        estimates,
        source.on_policy,
        tuple(warnings),
    )


def target_of(
    wanted: str, source: Source, weights: Mapping[str, float] | None
) -> tuple[TargetPolicy, LoggedFeedback]:
    """A target by its name, and the rows to try it on: the second half, if it learnt of the first.

    Raises OffPolicyError for a name that is none, or does not fit the log.
    """
    logged = source.logged
    kind, _, action = wanted.partition(":")
    if kind == "greedy":
        first, rest = logged.halves()
        return target_policies.greedy(reward_model.fit(first, logged.n_positions), rest), rest
    if kind == "fixed" and action:
        return target_policies.fixed(logged, action), logged
    if kind == "static":
        return target_policies.static(logged, weights or {}), logged
    if kind in source.shares:
        return target_policies.by_position(kind, source.shares[kind], logged), logged
    simple = {"logged": target_policies.logged_policy, "uniform": target_policies.uniform}
    if kind not in simple:
        known = ", ".join([*TARGETS[:5], *source.shares])
        raise OffPolicyError(f"target of this log must be one of {known}; got {wanted!r}")
    return simple[kind](logged), logged


def weights_of(texts: Sequence[str]) -> dict[str, float]:
    """Weights of actions from texts like `trending=2`. Raises OffPolicyError.

    >>> weights_of(["ranker=3", "trending=1"])
    {'ranker': 3.0, 'trending': 1.0}
    """
    weights = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            weights[name] = float(number)
        except ValueError:
            raise OffPolicyError(f"weight must be like trending=2; got {text!r}") from None
    return weights


def _warnings_of_log(logged: LoggedFeedback) -> list[str]:
    rewarded = int((logged.rewards > 0).sum())
    if rewarded >= FEW_REWARDED:
        return []
    return [
        f"{rewarded} of {len(logged):,} rows were rewarded: enough to check that estimators are "
        "right, too few to say which policy is better"
    ]


def _warnings_of_target(name: str, of: off_policy.Inputs) -> list[str]:
    found = []
    n, effective = len(of.weights), off_policy.effective_sample_size(of.weights)
    if effective < FEW_EFFECTIVE:
        weighed = int(((of.rewards > 0) & (of.weights > 0)).sum())
        found.append(
            f"{name}: {n:,} rows say as much as {effective:,.0f} of weight one would, and "
            f"{weighed:,} rewarded ones have any weight: intervals are too narrow"
        )
    mean, error = float(of.weights.mean()), float(of.weights.std()) / np.sqrt(n)
    if abs(mean - 1) > max(UNSUPPORTED_ERRORS * error, 1e-6):
        found.append(
            f"{name}: weights average {mean:.2f} and should 1: the log does not show all that this "
            "policy would, or tells wrong propensities"
        )
    return found


def table_of(found: PolicyEvaluation) -> Table:
    """An evaluation as people read it."""
    caption = f"observed {found.observed:.5f} a row; {found.rewarded:,} rows rewarded"
    for reason, n in found.left_out.items():
        caption += f"; left out: {n:,} {reason}"
    table = Table(
        "target",
        "estimator",
        *(Column(name, justify="right") for name in NUMBERS),
        title=f"{found.source}: {found.rows:,} rows of {found.slates:,} slates",
        caption=caption,
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for target, estimates in found.estimates.items():
        for name, estimate in estimates.items():
            table.add_row(target, name, *_cells(estimate))
        table.add_section()
    for policy, estimate in found.on_policy.items():
        table.add_row(policy, "own log", *_cells(estimate))
    return table


def _cells(estimate: Estimate) -> list[str]:
    return [
        f"{estimate.value:.5f}",
        f"{estimate.low:.5f}",
        f"{estimate.high:.5f}",
        f"{estimate.n:,}",
        f"{estimate.effective_n:,.0f}" if estimate.max_weight else "-",  # the direct method
        f"{estimate.max_weight:.2f}" if estimate.max_weight else "-",
    ]
