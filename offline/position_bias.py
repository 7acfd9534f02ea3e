"""Position bias: clicks say what viewers saw as well as what they liked.

A click is an examination of the slot and a liking of the title, P(click) = examined[slot] P(liked).
How often each slot is looked at is estimated in one of two ways:

- `of_random_slots`: where chance decided what stands where, titles are alike in all slots, and
  their click rates differ by examination alone (T. Joachims, A. Swaminathan, T. Schnabel: Unbiased
  Learning-to-Rank with Biased Feedback, WSDM 2017). The bandits' exploration makes such slots, and
  the log has their propensities.
- `of_regression_em`: from all slots, with a model of liking from features (X. Wang et al.: Position
  Bias Estimation for Unbiased Learning to Rank in Personal Search, WSDM 2018). It needs features
  that explain liking, and titles that are met in several slots.

Training counts a click by the inverse of its slot's examination, and has the slot as a column,
which is a constant in service: `fit_logged_ranker`.
"""

from dataclasses import dataclass
from typing import Any, Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from features.ranking import RANKING_COLUMNS
from offline.train_ranker import MAX_BIN, RankerConfig, lambdarank

SLOT_COLUMN: Final = "slot"  # the last column of a ranker of logged slates; in service it is 0
LEAST_EXAMINED: Final = 0.05  # of the first slot: a rarer look is not believed
MOST_WEIGHT: Final = 10.0

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class EmConfig:
    """The model of liking is small: it need not rank, only tell slots' titles apart."""

    n_rounds: int = 60  # slow to arrive: 30 are .1 off where 60 are .03
    n_trees: int = 15
    n_leaves: int = 8
    learning_rate: float = 0.3
    seed: int = 5


def of_random_slots(slots: Ints, clicks: Bools, propensities: Floats | None = None) -> Floats:
    """`(n_slots,)`: examination of each slot, relative to the first, from slots left to chance.

    `propensities`, `(n,)`: of what stands there, unless all had the same. A slot that nobody met
    has that of the one before it.
    """
    masses = np.ones(len(slots)) if propensities is None else 1.0 / propensities
    n_slots = int(slots.max()) + 1
    shown = np.bincount(slots, masses, n_slots)
    clicked = np.bincount(slots, masses * clicks, n_slots)
    return _relative(np.where(shown > 0, clicked / np.where(shown > 0, shown, 1.0), np.nan))


def of_regression_em(
    features: NDArray[np.float32], slots: Ints, clicks: Bools, config: EmConfig | None = None
) -> Floats:
    """`(n_slots,)`: examination of each slot, relative to the first; `features` are `(n, p)`.

    O(rounds * trees * n * p); 3 s for 50,000 exposures of one column.
    """
    config = config or EmConfig()
    n_slots = int(slots.max()) + 1
    shown = np.maximum(np.bincount(slots, minlength=n_slots), 1)
    examined = np.linspace(1.0, 0.5, n_slots)
    liked = np.full(len(slots), max(float(clicks.mean()), 1e-3))
    data = lightgbm.Dataset(features, liked, params={"max_bin": 63, "verbose": -1})
    for _ in range(config.n_rounds):
        looked = np.minimum(examined[slots], 1 - 1e-3)
        neither = 1.0 - looked * liked
        was_seen = np.where(clicks, 1.0, looked * (1.0 - liked) / neither)
        was_liked = np.where(clicks, 1.0, (1.0 - looked) * liked / neither)
        examined = np.bincount(slots, was_seen, n_slots) / shown
        examined = np.clip(examined / examined[0], 1e-3, 1.0)  # the first slot's is the unit
        data.set_label(was_liked)
        liked = np.clip(_regress(data, features, config), 1e-3, 1 - 1e-3)
    return _relative(examined)


def _regress(data: Any, features: NDArray[np.float32], config: EmConfig) -> Floats:
    """The expected label of each row: trees by cross entropy, whose labels may be shares."""
    parameters: dict[str, Any] = {
        "objective": "cross_entropy",
        "num_leaves": config.n_leaves,
        "learning_rate": config.learning_rate,
        "seed": config.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "max_bin": 63,
        "verbose": -1,
    }
    booster = lightgbm.train(parameters, data, config.n_trees)
    return np.asarray(booster.predict(features, num_threads=1))


def _relative(rates: Floats) -> Floats:
    """To the first slot, at most 1 and at least LEAST_EXAMINED; holes filled from before."""
    if not rates[0] > 0:
        raise ValueError(f"the first slot must have been clicked; its rate is {rates[0]}")
    found = rates / rates[0]
    for slot in range(1, len(found)):
        if np.isnan(found[slot]):
            found[slot] = found[slot - 1]
    return np.asarray(np.clip(found, LEAST_EXAMINED, 1.0))


def inverse_propensities(
    slots: Ints, clicks: Bools, examined: Floats, most: float = MOST_WEIGHT
) -> Floats:
    """`(n,)` weights of exposures: a click counts 1 / examined, at most `most`; silence counts 1.

    Clipping trades a little bias for variance. Slots beyond the known ones count as the last.
    """
    looked = examined[np.minimum(slots, len(examined) - 1)]
    return np.asarray(np.where(clicks, np.minimum(1.0 / looked, most), 1.0))


@dataclass(frozen=True, slots=True)
class LoggedSlates:
    """Served slates, slot by slot, those of a slate together."""

    features: NDArray[np.float32]  # (n, N_COLUMNS) as logged
    slots: Ints  # (n,)
    clicks: Bools  # (n,)
    sizes: Ints  # (n_slates,) slots of each


def fit_logged_ranker(
    slates: LoggedSlates, examined: Floats, config: RankerConfig
) -> lightgbm.Booster:
    """LambdaMART on what was clicked, unbiased by position; columns and then SLOT_COLUMN.

    `serving.ranking.ranker.Ranker` takes the slot out when it loads the trees: there it is 0.
    """
    data = lightgbm.Dataset(
        np.column_stack([slates.features, slates.slots.astype(np.float32)]),
        slates.clicks.astype(np.int8),
        group=slates.sizes,
        weight=inverse_propensities(slates.slots, slates.clicks, examined),
        feature_name=[*RANKING_COLUMNS, SLOT_COLUMN],
        params={"max_bin": MAX_BIN, "verbose": -1},
    )
    return lightgbm.train(
        lambdarank(config, feature_fraction=config.feature_share),
        data,
        config.n_trees,
    )
