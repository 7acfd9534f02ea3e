"""The Open Bandit sample, campaign "men": feedback that two policies logged, with propensities.

ZOZOTOWN showed fashion items in three places; one policy chose uniformly, the other by Bernoulli
Thompson sampling, both in one week of 2019 (Saito et al. 2020, https://arxiv.org/abs/2008.07146).
The sample is the first 10,000 rows of each, with 46 and 69 clicks.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq

from offline.logged_feedback import LoggedFeedback, OffPolicyError

RANDOM: Final = "random"
BTS: Final = "bts"
BEHAVIOURS: Final = (RANDOM, BTS)
N_ITEMS: Final = 34
N_POSITIONS: Final = 3
COLUMNS: Final = ("timestamp", "item_id", "position", "click", "propensity_score")


def path_of(folder: Path, behaviour: str) -> Path:
    """Where a folder of datasets has the log of a policy. Raises OffPolicyError for no policy."""
    if behaviour not in BEHAVIOURS:
        raise OffPolicyError(f"behaviour must be {' or '.join(BEHAVIOURS)}; got {behaviour!r}")
    return folder / f"open_bandit_men_{behaviour}.parquet"


def load(folder: Path, behaviour: str) -> LoggedFeedback:
    """The log of one of the two policies by time; actions are items, rewards are clicks.

    Rows of one moment are taken for one slate: the sample does not tell requests. Raises
    OffPolicyError where the file is not there or lacks a column.
    """
    path = path_of(folder, behaviour)
    if not path.is_file():
        raise OffPolicyError(f"{path} must be the Open Bandit sample; there is no such file")
    schema = pq.read_schema(path).names
    if missing := [name for name in COLUMNS if name not in schema]:
        raise OffPolicyError(f"{path} must have the columns {', '.join(COLUMNS)}; lacks {missing}")
    rows = pq.read_table(path, columns=list(COLUMNS))
    times = np.array(rows["timestamp"].to_pylist())
    rows = rows.take(np.argsort(times, kind="stable"))
    times = np.sort(times)
    return LoggedFeedback(
        rewards=rows["click"].to_numpy().astype(np.float64),
        actions=rows["item_id"].to_numpy().astype(np.int64),
        positions=rows["position"].to_numpy().astype(np.int64) - 1,
        propensities=rows["propensity_score"].to_numpy().astype(np.float64),
        contexts=np.zeros(len(times), np.int64),
        slates=np.unique(times, return_inverse=True)[1].astype(np.int64),
        action_names=tuple(f"item-{number}" for number in range(N_ITEMS)),
    )
