"""How good probabilities were before their outcomes were learnt: test, then train, in windows.

The window is made of four panes of 4,096 outcomes; when one is full the oldest is emptied. So it
holds between 12,288 and 16,384 outcomes, and memory is fixed: some 400 bytes for each pane, series
and segment. Panes are counted by outcomes, never by a clock: they too are a function of the log.

ROC AUC comes from histograms of the logit in 64 bins, ties counted half; calibration error is the
mean distance between predicted and true rates in 10 bins of equal width, weighted by their size.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from features.compiled import Rows, compiled
from features.model_snapshot import Arrays
from online_models.segments import Segments
from online_models.state import checked

N_PANES: Final = 4
PANE: Final = 4_096  # outcomes; counts of a pane are 16 bits
N_BINS: Final = 10
N_LOGITS: Final = 64
LEAST_LOGIT: Final = -7.0  # a probability of 0.0009
MOST_LOGIT: Final = 5.0  # of 0.993
LEAST: Final = 1e-6  # probabilities are cut here, so that one surprise is worth 14 at most

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CELL = np.dtype(
    [
        ("n", "u2"),
        ("clicks", "u2"),
        ("loss", "f8"),
        ("bin_n", "u2", (N_BINS,)),
        ("bin_clicks", "u2", (N_BINS,)),
        ("bin_sum", "f8", (N_BINS,)),  # of probabilities
        ("logits", "u2", (2, N_LOGITS)),  # without and with a click
    ],
    align=True,
)


@dataclass(frozen=True, slots=True)
class Figures:
    """How one series of probabilities did in one segment, over the window. NaN: cannot be told."""

    series: str
    segment: str
    n: int
    click_rate: float
    log_loss: float
    roc_auc: float
    calibration_error: float


def log_losses(probabilities: Floats, labels: Bools) -> Floats:
    """-ln of the probability of what happened, elementwise."""
    p = np.clip(probabilities, LEAST, 1.0 - LEAST)
    return np.asarray(-np.log(np.where(labels, p, 1.0 - p)))


class WindowedMetrics:
    """Metrics of several series of probabilities for the same outcomes, by segment."""

    def __init__(self, series: Sequence[str], segments: Sequence[str]) -> None:
        self._series, self._segments = tuple(series), tuple(segments)
        self._cells = np.zeros((N_PANES, len(series), len(segments)), CELL)
        self._n = 0

    def add(self, probabilities: Floats, labels: Bools, segments: Segments) -> None:
        """Takes in `(n_series, n)` probabilities and their `(n,)` labels, in order."""
        start = 0
        while start < len(labels):
            room = PANE - self._n % PANE
            part = slice(start, start + room)
            if room == PANE:
                self._cells[self._n // PANE % N_PANES] = np.zeros((), CELL)
            pane = self._cells[self._n // PANE % N_PANES]
            tested = np.ascontiguousarray(probabilities[:, part])  # one layout to compile for
            _add(pane, tested, labels[part], segments[part])
            self._n += len(labels[part])
            start += room

    def figures(self) -> Iterator[Figures]:
        """Of each series and segment that was seen within the window."""
        for s, series in enumerate(self._series):
            for k, segment in enumerate(self._segments):
                panes = self._cells[:, s, k]
                if panes["n"].sum() > 0:
                    yield _figures(series, segment, panes)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The cells by column, and how many outcomes there were."""
        columns = {name: self._cells[name].copy() for name in CELL.names or ()}
        return {"seen": np.array([self._n], np.int64), **columns}

    def restore(self, arrays: Arrays) -> None:
        """The state of `arrays()`, bit for bit. Raises SnapshotError."""
        seen = int(checked(arrays, "seen", (1,), np.int64)[0])
        cells = np.zeros_like(self._cells)
        for name in CELL.names or ():
            kind = CELL[name]
            cells[name] = checked(arrays, name, (*cells.shape, *kind.shape), kind.base)
        self._n, self._cells = seen, cells


@compiled
def _add(pane: Rows, probabilities: Floats, labels: Bools, segments: Segments) -> None:
    """Adds one after the other, so that sums do not depend on how outcomes come in batches."""
    for s in range(len(probabilities)):
        for i in range(len(labels)):
            p, label = probabilities[s, i], np.int64(labels[i])
            cut = min(max(p, LEAST), 1.0 - LEAST)
            loss = -math.log(cut if labels[i] else 1.0 - cut)
            above = math.log(cut / (1.0 - cut)) - LEAST_LOGIT
            logit = above * (N_LOGITS / (MOST_LOGIT - LEAST_LOGIT))
            place = min(max(int(logit), 0), N_LOGITS - 1)
            percent = min(int(p * N_BINS), N_BINS - 1)
            for k in segments[i]:
                if k >= 0:
                    cell = pane[s, k]
                    cell["n"] += 1
                    cell["clicks"] += label
                    cell["loss"] += loss
                    cell["bin_n"][percent] += 1
                    cell["bin_clicks"][percent] += label
                    cell["bin_sum"][percent] += p
                    cell["logits"][label, place] += 1


def _figures(series: str, segment: str, panes: NDArray[np.void]) -> Figures:
    n, clicks = int(panes["n"].sum(dtype=np.int64)), int(panes["clicks"].sum(dtype=np.int64))
    counts = panes["bin_clicks"].sum(axis=0, dtype=np.float64)
    distance = np.abs(panes["bin_sum"].sum(axis=0) - counts).sum() / n
    logits = panes["logits"].sum(axis=0, dtype=np.float64)
    loss = float(panes["loss"].sum()) / n
    return Figures(series, segment, n, clicks / n, loss, auc_of(logits), float(distance))


def auc_of(histograms: Floats) -> float:
    """ROC AUC of scores in ascending bins, `(2, n_bins)` counts without and with a click.

    >>> auc_of(np.array([[3.0, 1.0], [1.0, 3.0]]))
    0.75
    """
    without, with_click = histograms
    pairs = without.sum() * with_click.sum()
    if pairs == 0.0:
        return float("nan")
    below = np.cumsum(without) - without / 2.0
    return float(cast(float, (with_click * below).sum()) / pairs)
