"""The serving half of the click model: what servers compute from its arrays, without River.

Equal to River's own answer within rounding; scaled values are cut at five deviations in both.
"""

from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from features.model_snapshot import Arrays
from online_models.click_features import COLUMNS, N_FEATURES, features_of
from online_models.item_rates import ItemRates
from online_models.state import checked, part_of

MOST_DEVIATIONS: Final = 5.0

Floats = NDArray[np.float64]


def inverse_deviations(variances: Floats) -> Floats:
    """1 / deviation; 0 where a column does not vary, as in River."""
    varies = variances > 0.0
    return np.where(varies, 1.0 / np.sqrt(np.where(varies, variances, 1.0)), 0.0)


def scale(rows: Floats, mean: Floats, inverse: Floats) -> Floats:
    """Rows in deviations from the mean, cut; what is not a number counts as the mean."""
    scaled = (rows - mean) * inverse
    np.clip(scaled, -MOST_DEVIATIONS, MOST_DEVIATIONS, out=scaled)
    if not np.isfinite(scaled.sum()):
        np.nan_to_num(scaled, copy=False, nan=0.0)
    return scaled


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + e^-x), elementwise."""
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


@dataclass(frozen=True, slots=True)
class ClickScorer:
    """What servers do with the learned arrays: plain NumPy, about 0.3 us a title. Immutable.

    While `falls_back`, the model is known to do worse than the plain rates of titles, which then
    answer in its place.
    """

    mean: Floats
    inverse: Floats
    click: Floats  # weights of the features, then the intercept
    watch: Floats
    rates: ItemRates
    falls_back: bool

    @classmethod
    def of(cls, arrays: Arrays) -> "ClickScorer":
        """From the arrays of a `ClickLearner`. Raises SnapshotError."""
        found, p = part_of(arrays, "click"), len(COLUMNS)
        mean, variance = (
            cast(Floats, checked(found, name, (p,)))[:N_FEATURES] for name in ("mean", "variance")
        )
        click, watch = (
            np.delete(cast(Floats, checked(found, name, (p + 1,))), np.arange(N_FEATURES, p))
            for name in ("click", "watch")
        )
        rates = ItemRates()
        rates.restore(part_of(arrays, "rates"))
        falls_back = bool(checked(arrays, "response.falls_back", (1,), np.bool_)[0])
        return cls(mean, inverse_deviations(variance), click, watch, rates, falls_back)

    def click_probabilities(
        self, features: NDArray[np.float32], items: NDArray[np.uint64] | None = None
    ) -> Floats:
        """`(n,)` probabilities of a click for `(n, N_COLUMNS)` vectors in the usual slot.

        `items`, `(n,)` hashes of the titles, are looked at only while `falls_back`: without them
        all titles then have the rate of all.
        """
        if self.falls_back:
            if items is None:
                return np.full(len(features), self.rates.global_rate)
            return self.rates.rates_of(items)
        return sigmoid(self._scaled(features) @ self.click[:-1] + self.click[-1])

    def watch_shares(self, features: NDArray[np.float32]) -> Floats:
        """`(n,)` expected watched shares, cut to 0..1."""
        shares = self._scaled(features) @ self.watch[:-1] + self.watch[-1]
        return np.asarray(np.clip(shares, 0.0, 1.0))

    def _scaled(self, features: NDArray[np.float32]) -> Floats:
        return scale(features_of(features), self.mean, self.inverse)
