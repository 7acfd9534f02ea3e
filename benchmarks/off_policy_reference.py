"""What the published Open Bandit Pipeline (obp) says of the same rows; runs in `.venv-obp`.

    .venv-obp/bin/python benchmarks/off_policy_reference.py CASES.npz ANSWERS.npz

CASES holds, by case, rewards, actions, positions (from 0), propensities; `action_dist` is
`(n, n_actions, len_list)` or, as text, `obp` for obp's own Bernoulli Thompson sampling; `q_hat` has
the same shape or is `obp` for its cross-fitted regression model. ANSWERS returns those that obp
made. Values and versions are printed as JSON. It imports nothing of Headrace.
"""

import json
import logging
import sys
import types
from typing import Any

import numpy as np

LARGEST_WEIGHT = 10.0
N_SIMULATIONS = 100_000
SEED = 12345


class _Absent(types.ModuleType):
    """Stands for PyTorch, which obp imports for its neural policies: nothing here uses them."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _stand_in(names: tuple[str, ...]) -> None:
    for name in names:
        module = sys.modules[name] = _Absent(name)
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, module)


_stand_in(
    ("torch", "torch.nn", "torch.nn.functional", "torch.optim", "torch.utils", "torch.utils.data")
)

import obp  # noqa: E402 (after its stand-in for PyTorch)
import sklearn  # noqa: E402
from obp.dataset import OpenBanditDataset  # noqa: E402
from obp.ope import (  # noqa: E402
    DirectMethod,
    DoublyRobust,
    InverseProbabilityWeighting,
    RegressionModel,
    SelfNormalizedInverseProbabilityWeighting,
    SwitchDoublyRobust,
)
from obp.policy import BernoulliTS  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

WEIGHTING = {
    "ips": InverseProbabilityWeighting(),
    "clipped-ips": InverseProbabilityWeighting(lambda_=LARGEST_WEIGHT),
    "snips": SelfNormalizedInverseProbabilityWeighting(),
}
WITH_MODEL = {
    "dm": DirectMethod(),
    "dr": DoublyRobust(),
    "switch-dr": SwitchDoublyRobust(lambda_=LARGEST_WEIGHT),
}


def sampled(campaign: str, behaviour: str) -> dict[str, Any]:
    """The sample that obp ships."""
    logging.disable(logging.WARNING)
    dataset = OpenBanditDataset(behavior_policy=behaviour, campaign=campaign)
    return dict(dataset.obtain_batch_bandit_feedback())


COLUMNS = (
    ("rewards", "reward"),
    ("actions", "action"),
    ("positions", "position"),
    ("propensities", "pscore"),
)


def same_rows(case: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether our rows are those that obp ships; those of one moment may come in another order."""
    ours, shipped = (
        np.array(sorted(zip(*(np.asarray(of[pair[side]], float) for pair in COLUMNS), strict=True)))
        for side, of in enumerate((case, theirs))
    )
    return ours.shape == shipped.shape and bool(np.allclose(ours, shipped, rtol=1e-6))


def thompson(n_actions: int, len_list: int, n: int) -> Any:
    """Probabilities of obp's Bernoulli Thompson sampling with the prior of ZOZOTOWN."""
    policy = BernoulliTS(
        n_actions=n_actions, len_list=len_list, is_zozotown_prior=True, campaign="men",
        random_state=SEED,
    )  # fmt: skip
    return policy.compute_batch_action_dist(n_rounds=n, n_sim=N_SIMULATIONS)


def regression(case: dict[str, Any], theirs: dict[str, Any]) -> Any:
    """Cross-fitted rewards by obp's RegressionModel over its own contexts, row by row ours."""
    if not np.array_equal(case["actions"], theirs["action"]):
        raise SystemExit("rows of one moment are ordered otherwise: contexts would be another's")
    model = RegressionModel(
        n_actions=theirs["n_actions"], len_list=3, action_context=theirs["action_context"],
        base_model=LogisticRegression(C=100, max_iter=2_000, random_state=SEED),
    )  # fmt: skip
    return model.fit_predict(
        context=theirs["context"], action=case["actions"], reward=case["rewards"],
        pscore=case["propensities"], position=case["positions"], action_dist=case["action_dist"],
        n_folds=3, random_state=SEED,
    )  # fmt: skip


def values_of(case: dict[str, Any]) -> dict[str, float]:
    """Estimates of obp."""
    common = {
        "reward": case["rewards"], "action": case["actions"], "position": case["positions"],
        "pscore": case["propensities"], "action_dist": case["action_dist"],
    }  # fmt: skip
    q_hat = case["q_hat"]
    found = {name: each.estimate_policy_value(**common) for name, each in WEIGHTING.items()}
    for name, each in WITH_MODEL.items():
        found[name] = each.estimate_policy_value(**common, estimated_rewards_by_reg_model=q_hat)
    return {name: float(value) for name, value in found.items()}


def main(cases_path: str, answers_path: str) -> None:
    """Reads the cases, prints values, writes what obp made."""
    columns = dict(np.load(cases_path, allow_pickle=False))
    names = sorted({key.split("/")[0] for key in columns})
    answers, values, rows_agree = {}, {}, {}
    for name in names:
        case = {key.split("/")[1]: v for key, v in columns.items() if key.split("/")[0] == name}
        behaviour = str(case["behaviour"])
        theirs = sampled("men", behaviour) if behaviour else {}
        if behaviour:
            rows_agree[name] = bool(same_rows(case, theirs))
        if case["action_dist"].dtype.kind == "U":
            case["action_dist"] = thompson(34, 3, len(case["rewards"]))
            answers[f"{name}/action_dist"] = case["action_dist"][0]
        if case["q_hat"].dtype.kind == "U":
            case["q_hat"] = regression(case, theirs)
            answers[f"{name}/q_hat"] = case["q_hat"]
        values[name] = values_of(case)
    np.savez(answers_path, **answers)
    classes = {name: type(each).__name__ for name, each in {**WEIGHTING, **WITH_MODEL}.items()}
    versions = {
        "obp": obp.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
    }
    told = {"versions": versions, "classes": classes, "rows_agree": rows_agree, "values": values}
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
