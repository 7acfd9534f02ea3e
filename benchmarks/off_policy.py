"""Off-policy estimates beside those of the Open Bandit Pipeline (obp) on the same rows.

obp 0.5.7 has an environment of its own (`make off-policy-install`): it wants Python and NumPy of
2022. Both sides get the same rows, the same evaluation policy and the same reward model q-hat:

    case                    log     evaluation policy                     q-hat, cross-fitted
    random_to_bts           random  shares in the bts log, by position    Headrace's table
    bts_to_uniform          bts     uniform                               Headrace's table
    random_to_obp_bts       random  obp's BernoulliTS, ZOZOTOWN's prior   Headrace's table
    bts_to_obp_bts_obp_q    bts     obp's BernoulliTS, ZOZOTOWN's prior   obp's RegressionModel
    synthetic               made    depends on the context                Headrace's table

The propensities are those that the data tell. BernoulliTS is simulated by obp, 100,000
times with the seed 12345, and both sides take what came out.

Where the Open Bandit sample is not here, the synthetic case alone is compared, and it says so.
`--write-golden` stores obp's values for tests/offline/test_off_policy.py.
"""

import argparse
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import console, report
from infra.producers import data_folders
from infra.settings import Settings
from offline import open_bandit, reward_model
from offline.logged_feedback import LoggedFeedback
from offline.off_policy import ESTIMATORS, inputs_of
from offline.target_policies import TargetPolicy, by_position, shares_by_position, uniform

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-obp" / "bin" / "python"
REFERENCE = ROOT / "benchmarks" / "off_policy_reference.py"
GOLDEN = ROOT / "tests" / "golden" / "off_policy.json"
SEED = 7
OBP = "obp"  # made by obp, and returned by it

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Case:
    """A comparison: a target of None and a `q_hat` of None are made by obp."""

    logged: LoggedFeedback
    behaviour: str  # of the Open Bandit sample; empty: synthetic
    target: TargetPolicy | None
    q_hat: Floats | None

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """As the reference reads it."""
        n_positions = self.logged.n_positions
        probabilities = None if self.target is None else self.target.probabilities
        return {
            "rewards": self.logged.rewards,
            "actions": self.logged.actions,
            "positions": self.logged.positions,
            "propensities": self.logged.propensities,
            "behaviour": np.array(self.behaviour),
            "action_dist": _by_position(probabilities, n_positions),
            "q_hat": _by_position(self.q_hat, n_positions),
        }


def _by_position(table: Floats | None, n_positions: int) -> NDArray[np.generic]:
    """`(n, n_actions, n_positions)`: obp reads a row's own position alone, so all are alike."""
    if table is None:
        return np.array(OBP)
    return np.repeat(table[:, :, None], n_positions, axis=2)


def synthetic_log(n: int = 2_000, seed: int = SEED) -> tuple[LoggedFeedback, Floats]:
    """A log of a policy that depends on the context, and another policy `(n, n_actions)`."""
    rng = np.random.default_rng(seed)
    n_actions, n_contexts, n_positions = 5, 3, 2
    contexts, positions = rng.integers(n_contexts, size=n), rng.integers(n_positions, size=n)
    behaviour, target = (
        np.exp(rng.normal(size=(n_contexts, n_actions))) for _ in ("behaviour", "target")
    )
    behaviour /= behaviour.sum(axis=1, keepdims=True)
    target /= target.sum(axis=1, keepdims=True)
    drawn = rng.random(n)[:, None] > np.cumsum(behaviour, axis=1)[contexts]
    actions = np.minimum(drawn.sum(axis=1), n_actions - 1)
    truth = rng.uniform(0.05, 0.5, size=(n_actions, n_contexts, n_positions))
    logged = LoggedFeedback(
        rewards=(rng.random(n) < truth[actions, contexts, positions]).astype(np.float64),
        actions=actions,
        positions=positions,
        propensities=behaviour[contexts, actions],
        contexts=contexts,
        slates=np.arange(n) // 2,
        action_names=tuple("abcde"),
        context_names=tuple("xyz"),
    )
    return logged, target[contexts]


def q_hat_of(logged: LoggedFeedback) -> Floats:
    """The reward model of these comparisons."""
    return reward_model.cross_fitted(logged, np.random.default_rng(SEED))


def cases(folder: Path | None) -> dict[str, Case]:
    """All comparisons that can be made here."""
    logged, probabilities = synthetic_log()
    target = TargetPolicy.of("synthetic", probabilities, logged)
    found = {"synthetic": Case(logged, "", target, q_hat_of(logged))}
    if folder is None:
        return found
    random, bts = (open_bandit.load(folder, name) for name in open_bandit.BEHAVIOURS)
    shares = by_position("bts", shares_by_position(bts), random)
    return found | {
        "random_to_bts": Case(random, "random", shares, q_hat_of(random)),
        "bts_to_uniform": Case(bts, "bts", uniform(bts), q_hat_of(bts)),
        "random_to_obp_bts": Case(random, "random", None, q_hat_of(random)),
        "bts_to_obp_bts_obp_q": Case(bts, "bts", None, None),
    }


def sample_folder() -> Path | None:
    """Where the Open Bandit sample is, None where it is not."""
    folders = data_folders(Settings())
    return next((f for f in folders if open_bandit.path_of(f, "random").is_file()), None)


def ask_obp(found: dict[str, Case]) -> tuple[dict[str, Any], dict[str, NDArray[np.generic]]]:
    """Values of obp, and the arrays that it made."""
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        asked, answered = Path(folder) / "cases.npz", Path(folder) / "answers.npz"
        columns = {
            f"{name}/{key}": values
            for name, case in found.items()
            for key, values in case.columns().items()
        }
        np.savez(asked, **columns)  # type: ignore[arg-type]
        run = [str(PYTHON), "-W", "ignore", str(REFERENCE), str(asked), str(answered)]
        told = subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True).stdout
        return json.loads(told), dict(np.load(answered))


def our_values(
    case: Case, action_dist: NDArray[np.generic] | None, q_hat: NDArray[np.generic] | None
) -> dict[str, float]:
    """Headrace's estimates; what obp made of policy `(n_actions, len_list)` or q-hat is taken."""
    logged, target, own = case.logged, case.target, case.q_hat
    if target is None:
        assert action_dist is not None  # noqa: S101 (asked for)
        target = by_position(OBP, action_dist.T.astype(np.float64), logged)
    if own is None:
        assert q_hat is not None  # noqa: S101 (asked for)
        own = q_hat[np.arange(len(logged)), :, logged.positions].astype(np.float64)
    of = inputs_of(logged, target, own)
    return {name: estimator(of).value for name, estimator in ESTIMATORS.items()}


def write_golden(told: dict[str, Any], made: dict[str, NDArray[np.generic]]) -> None:
    """What tests compare with, where obp is not: without the case that needs its q-hat."""
    kept = {name: v for name, v in told["values"].items() if not name.endswith("_obp_q")}
    policy = made["random_to_obp_bts/action_dist"]
    golden = {
        "versions": told["versions"],
        "classes": told["classes"],
        "values": kept,
        "obp_bts": np.asarray(policy).tolist(),
    }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    console.print(f"wrote {GOLDEN}")


def main() -> None:
    """Compares, prints, and writes benchmarks/out/off_policy.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write-golden", action="store_true", help="store obp's values for tests")
    wanted = parser.parse_args()
    if not PYTHON.exists():
        raise SystemExit("no .venv-obp: run `make off-policy-install` first")
    folder = sample_folder()
    if folder is None:
        console.print("the Open Bandit sample is not here: the synthetic log alone is compared")
    found = cases(folder)
    told, made = ask_obp(found)
    differences: dict[str, float] = {}
    figures: dict[str, Any] = {}
    for name, case in found.items():
        ours = our_values(case, made.get(f"{name}/action_dist"), made.get(f"{name}/q_hat"))
        for estimator, value in ours.items():
            theirs = told["values"][name][estimator]
            differences[f"{name}/{estimator}"] = abs(value - theirs)
            figures[f"{name}/{estimator}"] = value
            figures[f"{name}/{estimator}/obp"] = theirs
    load = {
        "rows": {name: len(case.logged) for name, case in found.items()},
        "reference": told["versions"],
        "classes_of_reference": told["classes"],
        "rows_are_those_that_obp_ships": told["rows_agree"],
    }
    largest = max(differences.values())
    report("off_policy", load, {**figures, "largest_difference_to_reference": largest})
    if wanted.write_golden and folder is not None:
        write_golden(told, made)


if __name__ == "__main__":
    main()
