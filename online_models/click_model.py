"""P(click) and expected watch share, learnt from one outcome after another.

River's StandardScaler, its LogisticRegression for clicks and its LinearRegression for watch shares,
over fixed columns, whatever they are. A row is learnt as River's `learn_one` does, in order, never
as a mean over a batch. Two things keep this within 30 us a row, both functions of the number of
rows learnt before, so state does not depend on how rows come in batches:

- the scaler learns each of the first 512 rows and then one in sixteen: its means and deviations are
  as good from a sample;
- rows between two such rows are scaled at once, in NumPy.

Scaled values are cut at five deviations, so that no single row can throw the weights. A value that
is not a number counts as the usual one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray
from river import linear_model, optim, preprocessing, utils

from features.model_snapshot import Arrays
from online_models.click_scorer import inverse_deviations, scale, sigmoid
from online_models.state import checked

SCALED_FIRST: Final = 512
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_ONE_IN_16: Final = np.uint64(60)  # of 64 bits, four are left

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ClickSettings:
    """Steps of stochastic gradient descent: `first_rate / sqrt(1 + n / 256)` for row n.

    Never below the last rates: what is old is forgotten. Tuned on KuaiRand, see the benchmark.
    """

    first_rate: float = 0.02
    last_rate: float = 0.002
    watch_factor: float = 0.2  # of these rates, for watch shares: squared loss has longer gradients

    def rate(self, n: float, pace: float) -> float:
        """The click model's step at row n, at a multiple of the usual pace."""
        return pace * max(self.last_rate, self.first_rate / math.sqrt(1.0 + n / 256.0))


class ClickModel:
    """The two models over `(n, len(names)) float64` rows. State: a few numbers for each column.

    Rows are learnt whole: a prediction for a row is made right before it, test, then train.
    """

    def __init__(self, names: Sequence[str], settings: ClickSettings | None = None) -> None:
        self.names = tuple(names)
        self._settings = settings or ClickSettings()
        self._n = 0
        nothing = np.zeros(len(self.names))
        self._load_scaler(0, nothing, nothing)
        self._click = linear_model.LogisticRegression()
        self._watch = linear_model.LinearRegression()
        self._load(self._click, nothing, 0.0)
        self._load(self._watch, nothing, 0.0)
        self.set_pace(1.0)

    def set_pace(self, factor: float) -> None:
        """The click model's steps from now on, as a multiple of the settings' own."""
        self._pace = factor
        self._set_rates()

    def _set_rates(self) -> None:
        """To be called whenever the scaler has learnt: its count is the clock of the rates."""
        n = min(self._n_scaled, SCALED_FIRST) + 16 * max(self._n_scaled - SCALED_FIRST, 0)
        settings = self._settings
        for model, rate in (
            (self._click, settings.rate(n, self._pace)),
            (self._watch, settings.rate(n, 1.0) * settings.watch_factor),
        ):
            model.optimizer.lr = model.intercept_lr = optim.schedulers.Constant(rate)

    def learn(self, rows: Floats, labels: Bools, shares: Floats) -> Floats:
        """Learns `(n, p)` rows in order; gives the click probabilities before each was learnt.

        `shares` are the watched shares, below zero where not known.
        """
        found: list[float] = []
        start = 0
        for stop in (np.flatnonzero(_is_measured(self._n, len(rows))) + 1).tolist():
            part = slice(start, stop)
            found += self._learn_scaled(rows[part], labels[part], shares[part])
            self._learn_scale(rows[stop - 1])
            start = stop
        found += self._learn_scaled(rows[start:], labels[start:], shares[start:])
        self._n += len(rows)
        return np.array(found, np.float64)

    def _learn_scaled(self, rows: Floats, labels: Bools, shares: Floats) -> list[float]:
        click, watch, names = self._click, self._watch, self.names
        found = []
        scaled = scale(rows, self._mean, self._inverse)
        for values, label, share in zip(
            scaled.tolist(), labels.tolist(), shares.tolist(), strict=True
        ):
            x = dict(zip(names, values, strict=True))
            found.append(click.predict_proba_one(x)[True])
            click.learn_one(x, label)
            if share >= 0.0:
                watch.learn_one(x, share)
        return found

    def _learn_scale(self, row: Floats) -> None:
        if np.isfinite(row).all():
            self._scaler.learn_one(dict(zip(self.names, row.tolist(), strict=True)))
            self._read_scaler()
            self._n_scaled += 1
            self._set_rates()

    def _read_scaler(self) -> None:
        self._mean = np.array([self._scaler.means[name] for name in self.names])
        variances = np.array([self._scaler.vars[name] for name in self.names])
        self._inverse = inverse_deviations(variances)

    def _load_scaler(self, count: int, means: Floats, variances: Floats) -> None:
        self._scaler = scaler = preprocessing.StandardScaler()
        self._n_scaled = count
        scaler.counts.update(dict.fromkeys(self.names, count))
        scaler.means.update(zip(self.names, means.tolist(), strict=True))
        scaler.vars.update(zip(self.names, variances.tolist(), strict=True))
        self._read_scaler()

    def _load(self, model: linear_model.base.GLM, weights: Floats, intercept: float) -> None:
        pairs = dict(zip(self.names, weights.tolist(), strict=True))
        model._weights = utils.VectorDict(pairs)  # River has no public way in
        model.intercept = intercept

    def _weights_of(self, model: linear_model.base.GLM) -> Floats:
        weights = model.weights
        return np.array([*(weights[name] for name in self.names), model.intercept])

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """`mean`, `variance` `(p,)`; `click`, `watch` `(p + 1,)`, the intercept last; counters."""
        scaler, names = self._scaler, self.names
        return {
            "counts": np.array([self._n, self._n_scaled], np.int64),
            "pace": np.array([self._pace]),
            "mean": np.array([scaler.means[name] for name in names]),
            "variance": np.array([scaler.vars[name] for name in names]),
            "click": self._weights_of(self._click),
            "watch": self._weights_of(self._watch),
        }

    def restore(self, arrays: Arrays) -> None:
        """The state of `arrays()`, bit for bit. Raises SnapshotError."""
        p = len(self.names)
        counts = checked(arrays, "counts", (2,), np.int64)
        mean, variance = checked(arrays, "mean", (p,)), checked(arrays, "variance", (p,))
        click, watch = checked(arrays, "click", (p + 1,)), checked(arrays, "watch", (p + 1,))
        pace = float(cast(Floats, checked(arrays, "pace", (1,)))[0])
        self._n = int(counts[0])
        self._load_scaler(int(counts[1]), cast(Floats, mean), cast(Floats, variance))
        self._load(self._click, cast(Floats, click[:-1]), float(click[-1]))
        self._load(self._watch, cast(Floats, watch[:-1]), float(watch[-1]))
        self.set_pace(pace)

    def probabilities(self, rows: Floats) -> Floats:
        """`(n,)` click probabilities of `(n, p)` rows as of now; nothing is learnt."""
        click = self._weights_of(self._click)
        return sigmoid(scale(rows, self._mean, self._inverse) @ click[:-1] + click[-1])


def _is_measured(n_before: int, n: int) -> Bools:
    """Which of the next n rows the scaler learns; spread so that no length of slates matters."""
    counts = np.arange(n_before, n_before + n, dtype=np.uint64)
    return np.asarray((counts < SCALED_FIRST) | ((counts * _GOLDEN) >> _ONE_IN_16 == 0))
