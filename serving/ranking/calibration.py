"""Final scores to probabilities of a click, by a table from the bundle (offline/calibration.py).

A score orders titles; of those that are shown the answer also says how likely a click is, and of
all titles said to be clicked in one showing out of ten, one out of ten should be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.bundle_format import MANIFEST, BundleError

Floats = NDArray[np.float64]

FIELDS = ("scores", "probabilities")


@dataclass(frozen=True, slots=True)
class Calibration:
    """Points of a rising line, `(k,)` each, k at least 1; beyond its ends it is level. Immutable.

    >>> table = Calibration.of({"scores": [0.0, 1.0], "probabilities": [0.1, 0.3]})
    >>> table.probabilities(np.array([-5.0, 0.5])).tolist()
    [0.1, 0.2]
    """

    scores: Floats
    chances: Floats

    @classmethod
    def of(cls, table: Mapping[str, Sequence[float]]) -> "Calibration | None":
        """As a manifest has it; None for an empty one. Raises BundleError."""
        if not table:
            return None
        if set(table) != set(FIELDS):
            raise BundleError(
                f"{MANIFEST} must have a calibration of {' and '.join(FIELDS)}; got {sorted(table)}"
            )
        scores, chances = (np.asarray(table[name], np.float64) for name in FIELDS)
        is_rising = len(scores) == len(chances) > 0 and (
            (np.diff(scores) > 0).all() and (np.diff(chances) >= 0).all()
        )
        if not is_rising or not np.isfinite(scores).all() or not _are_chances(chances):
            raise BundleError(
                f"{MANIFEST} must have a calibration whose scores rise and whose probabilities "
                f"within 0..1 do not fall; got {len(scores)} and {len(chances)} that do not"
            )
        return cls(scores, chances)

    def probabilities(self, scores: Floats) -> Floats:
        """`(n,)` chances of a click of `(n,)` final scores."""
        return np.asarray(np.interp(scores, self.scores, self.chances))


def _are_chances(values: Floats) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())
