"""How well the online models do, and what has changed: from the newest version in the log."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from features.codec import WireError
from features.learning_codec import decode_drift, decode_snapshot
from features.log import read_to_end
from features.model_versions import LEARNED, key_of
from features.outcomes import Drift
from infra import topics
from infra.settings import Settings
from online_models.base import CLICKS
from online_models.click_learning import ClickLearner, ClickReport
from online_models.learner import arrays_of
from streams.learning_news import KEY, WHOLE


@dataclass(frozen=True, slots=True)
class LearningReport:
    """Figures of a version, and the newest drift of each detector that ever found one."""

    sequence: int  # 0: nothing was published yet
    clicks: ClickReport
    drifts: tuple[Drift, ...]

    def as_dict(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)


def read_report(settings: Settings) -> LearningReport:
    """Reads the topic of versions to its end. Raises LogError and SnapshotError."""
    drifts: dict[str, Drift] = {}
    newest: bytes | None = None
    for record in read_to_end(settings.kafka.log_config(), settings.kafka.prefix + topics.MODELS):
        key, value = key_of(record), record.value()
        if key == LEARNED and value:
            newest = value
        elif key.startswith(f"{KEY}/") and value:
            drifts[key] = _drift(value)
    learner, sequence = ClickLearner(), 0
    if newest is not None:
        snapshot = decode_snapshot(newest)
        sequence = snapshot.sequence
        learner.restore(arrays_of(CLICKS, snapshot.arrays))
    found = tuple(sorted(drifts.values(), key=lambda drift: drift.offset))
    return LearningReport(sequence, learner.report(), found)


def _drift(value: bytes) -> Drift:
    try:
        return decode_drift(value)
    except WireError:
        return Drift("unreadable", "", 0, 0.0, 0.0)


def show_report(report: LearningReport, console: Console, *, by_segment: bool) -> None:
    """Figures by series, of all outcomes or by segment, and drifts."""
    clicks = report.clicks
    console.print(
        f"version {report.sequence}: {clicks.learnt:,} outcomes learnt, {clicks.left_alone:,} left "
        f"alone, {clicks.drifts} drifts; learning at pace {clicks.pace:g}, answers by "
        + ("the plain rates of titles" if clicks.falls_back else "the click model")
    )
    table = Table("model", "segment", "outcomes", "clicked", "log loss", "ROC AUC", "calibration")
    for found in (*clicks.served, *clicks.sampled):
        if found.n and (by_segment or found.segment == WHOLE):
            table.add_row(
                found.series, found.segment, f"{found.n:,}", f"{found.click_rate:.3f}",
                f"{found.log_loss:.4f}", f"{found.roc_auc:.4f}", f"{found.calibration_error:.4f}",
            )  # fmt: skip
    console.print(table)
    for drift in report.drifts:
        console.print(
            f"drift of {drift.what} in {drift.segment} at offset {drift.offset}: "
            f"{drift.before:.4f} before, {drift.after:.4f} since"
        )
