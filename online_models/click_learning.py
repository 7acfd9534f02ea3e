"""The click model, its challengers, their metrics and its drift, as one part of learning.

Each outcome goes the same way: every model says what it expects, that is measured, then they learn.
Which outcomes are learnt:

- a first outcome (revision 0) with features is learnt, and measured;
- a correction that turns the label (no answer, then a late click) is learnt once more with its new
  label, beside the first one: its prediction is no test, so it is not measured;
- any other correction, and an outcome without features, is counted and left alone.

Drift is looked for after every 128 outcomes taken in, wherever batches end. So the state is a
function of the outcomes and their order alone, and `arrays()` restores it bit for bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import Rows
from features.model_snapshot import Arrays
from features.outcomes import Drift
from online_models.challengers import (
    Challenger,
    FactorizationChallenger,
    TreeChallenger,
    is_sampled,
)
from online_models.click_features import COLUMNS, columns_of
from online_models.click_model import ClickModel, ClickSettings
from online_models.drift import DriftMonitor, Response, ResponseSettings
from online_models.evaluation import Figures, WindowedMetrics, log_losses
from online_models.item_rates import ItemRates
from online_models.segments import SEGMENTS, Segments, segments_of
from online_models.state import Restorable, checked, named, part_of

BLOCK: Final = 128  # outcomes between two looks for drift
SERIES: Final = ("click_model", "item_rate", "global_rate")
SAMPLED_SERIES: Final = ("click_model", "factorization", "tree")

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ClickLearningSettings:
    """All settings of the click model and of what is done about drift."""

    click: ClickSettings = field(default_factory=ClickSettings)
    response: ResponseSettings = field(default_factory=ResponseSettings)
    responds: bool = True  # to drift, by learning faster
    challengers: bool = True


@dataclass(frozen=True, slots=True)
class ClickReport:
    """For metrics and for people: what the models are worth, as of now."""

    learnt: int
    left_alone: int
    drifts: int  # found so far
    pace: float  # of learning; above 1 after a drift
    falls_back: bool  # the plain rates of titles are served
    recent_log_loss: float  # of the click model; NaN before any outcome
    recent_log_loss_of_rates: float
    served: tuple[Figures, ...]  # of SERIES, all outcomes, every segment
    sampled: tuple[Figures, ...]  # of SAMPLED_SERIES, on what challengers see


class ClickLearner:
    """A part that `Learns`. About 40 us an outcome; `arrays()` is 190 to 290 kB."""

    def __init__(self, settings: ClickLearningSettings | None = None) -> None:
        self._settings = settings or ClickLearningSettings()
        self._model = ClickModel(COLUMNS, self._settings.click)
        self._rates = ItemRates()
        self._challengers: dict[str, Challenger] = {}
        if self._settings.challengers:
            self._challengers = {
                "factorization": FactorizationChallenger(),
                "tree": TreeChallenger(len(COLUMNS)),
            }
        self._metrics = WindowedMetrics(SERIES, SEGMENTS)
        self._sampled = WindowedMetrics(SAMPLED_SERIES, SEGMENTS[:1])
        self._monitor = DriftMonitor()
        self._response = Response(self._settings.response)
        self._counts = np.zeros(3, np.int64)  # learnt, left alone, drifts
        self._block = np.zeros(3)  # outcomes measured in this block; losses of model and rates
        self._events: list[Drift] = []

    def learn(self, outcomes: Rows) -> None:
        """Takes in `(n,) OUTCOME` records in their order, a batch of any size alike."""
        taken = outcomes[_is_learnt(outcomes)]
        self._counts[1] += len(outcomes) - len(taken)
        while len(taken) > 0:
            room = BLOCK - int(self._counts[0]) % BLOCK
            self._learn_run(taken[:room])
            self._counts[0] += len(taken[:room])
            if self._counts[0] % BLOCK == 0:
                self._end_block(int(taken["offset"][:room][-1]))
            taken = taken[room:]

    def take_events(self) -> list[Drift]:
        """Drifts found since the last call, for whoever publishes them."""
        events, self._events = self._events, []
        return events

    def _learn_run(self, outcomes: Rows) -> None:
        """Outcomes of one block."""
        rows = columns_of(outcomes["features"], outcomes["slot"])
        labels, is_new = outcomes["label"], outcomes["revision"] == 0
        shares = outcomes["watch_share"].astype(np.float64)
        of_model = self._model.learn(rows, labels, shares)
        of_all, of_item = self._rates.learn(outcomes["item"], labels, is_new)
        self._measure(np.array([of_model, of_item, of_all]), outcomes, is_new)
        if self._challengers:
            for k in np.flatnonzero(is_sampled(outcomes)).tolist():
                self._challenge(outcomes[k], rows[k], of_model[k], bool(is_new[k]))

    def _measure(self, probabilities: Floats, outcomes: Rows, is_new: Bools) -> None:
        labels, segments = outcomes["label"][is_new], segments_of(outcomes[is_new])
        tested = probabilities[:, is_new]
        self._metrics.add(tested, labels, segments)
        losses = log_losses(tested[:2], labels)
        self._monitor.add(losses[0], labels, segments)
        self._block[0] += len(labels)
        for k in (0, 1):
            for loss in losses[k].tolist():  # one after the other, see WindowedMetrics
                self._block[1 + k] += loss

    def _challenge(self, outcome: Rows, row: Floats, of_model: float, is_new: bool) -> None:
        challengers = self._challengers.values()
        if is_new:
            found = [of_model, *(each.probability(outcome, row) for each in challengers)]
            label = np.array([outcome["label"]])
            everything: Segments = np.zeros((1, 1), np.int64)
            self._sampled.add(np.array(found)[:, np.newaxis], label, everything)
        for each in challengers:
            each.learn_one(outcome, row)

    def _end_block(self, offset: int) -> None:
        n, of_model, of_item = self._block.tolist()
        self._block[:] = 0.0
        self._response.add(of_model, of_item, int(n))
        for event in self._monitor.check(offset):
            self._events.append(event)
            self._counts[2] += 1
            if self._settings.responds:
                self._response.on(event)
        self._model.set_pace(self._response.pace)

    def report(self) -> ClickReport:
        """Figures of the window that ends now."""
        learnt, left_alone, drifts = self._counts.tolist()
        return ClickReport(
            learnt,
            left_alone,
            drifts,
            self._response.pace,
            self._response.falls_back,
            *self._response.losses(),
            tuple(self._metrics.figures()),
            tuple(self._sampled.figures()),
        )

    def figures(self) -> tuple[Figures, ...]:
        """Those of everything that is served, and of the challengers on their sample."""
        report = self.report()
        challengers = (found for found in report.sampled if found.series in self._challengers)
        return (*report.served, *challengers)

    def _parts(self) -> Iterator[tuple[str, Restorable]]:
        yield "click", self._model
        yield "rates", self._rates
        yield "metrics", self._metrics
        yield "sampled", self._sampled
        yield "drift", self._monitor
        yield "response", self._response
        yield from self._challengers.items()

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything that learning goes on from; events not taken yet aside."""
        found: dict[str, NDArray[np.generic]] = {
            "counts": self._counts.copy(),
            "block": self._block.copy(),
        }
        for name, part in self._parts():
            found |= named(name, part.arrays())
        return found

    def restore(self, arrays: Arrays) -> None:
        """The state of `arrays()` at that moment, bit for bit. Raises SnapshotError."""
        counts = checked(arrays, "counts", (3,), np.int64)
        block = checked(arrays, "block", (3,))
        for name, part in self._parts():
            part.restore(part_of(arrays, name))
        self._counts, self._block = np.asarray(counts, np.int64), np.asarray(block, np.float64)
        self._events = []


def _is_learnt(outcomes: Rows) -> Bools:
    turned = outcomes["label"] != outcomes["previous_label"]
    return np.asarray(outcomes["has_features"] & ((outcomes["revision"] == 0) | turned))
