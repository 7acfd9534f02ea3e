"""Why a slot: the served decision as the log has it, and what became of it."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from features.codec import WireError, decode_impression
from features.events import Impression, ImpressionSlot
from features.ids import key_hash
from features.learning_codec import decode_learning_record
from features.log import LogConfig, partitions_of, read_to_end
from features.outcomes import NO_ANSWER_MS, Outcome
from infra import topics
from infra.settings import Settings


class DecisionNotFoundError(Exception):
    """The log holds no such decision; the text says where it was looked for."""


@dataclass(frozen=True, slots=True)
class Explained:
    """A decision and the newest outcome of each of its slots that has one."""

    impression: Impression
    outcomes: dict[int, Outcome]

    def as_dict(self) -> dict[str, Any]:
        """For scripts."""
        outcomes = {slot: asdict(outcome) for slot, outcome in self.outcomes.items()}
        return {"impression": asdict(self.impression), "outcomes": outcomes}


def explain(settings: Settings, request_id: str, user_id: str) -> Explained:
    """Looks through the viewer's partition of `impressions`, then through `outcomes`.

    O(records of that partition). Raises DecisionNotFoundError.
    """
    log, prefix = settings.kafka.log_config(), settings.kafka.prefix
    impression = _impression(log, prefix + topics.IMPRESSIONS, request_id, user_id)
    outcomes: dict[int, Outcome] = {}
    for record in read_to_end(log, prefix + topics.OUTCOMES):
        if record.key() == user_id.encode():
            outcome = _outcome(record.value() or b"")
            if outcome is not None and outcome.request_id == request_id:
                outcomes[outcome.slot] = outcome  # a later revision replaces the one before
    return Explained(impression, outcomes)


def _impression(log: LogConfig, topic: str, request_id: str, user_id: str) -> Impression:
    partition = key_hash(user_id) % len(partitions_of(log, topic))
    for record in read_to_end(log, topic, [partition]):
        value = record.value() or b""
        if record.key() == user_id.encode() and request_id.encode() in value:
            impression = decode_impression(value)
            if impression.request_id == request_id:
                return impression
    raise DecisionNotFoundError(
        f"request_id must name a slate that was served to {user_id!r}; partition {partition} of "
        f"{topic} holds none with {request_id!r}"
    )


def _outcome(value: bytes) -> Outcome | None:
    try:
        found = decode_learning_record(value)
    except WireError:
        return None
    return found if isinstance(found, Outcome) else None


def show(explained: Explained, console: Console, slot: int | None = None) -> None:
    """The decision as a table, whole or one slot of it."""
    found = explained.impression
    console.print(
        f"request {found.request_id} of {found.user_id}: {len(found.slots)} slots out of "
        f"{found.n_candidates} candidates\n"
        f"context [bold]{found.decision_context or 'none'}[/], policy {found.policy or 'none'}, "
        f"learned state {found.model_sequence}, bundle {found.bundle_version or 'none'}, "
        f"features {found.feature_version}"
    )
    table = Table("slot", "item", "arm", "P(arm)", "P(item)", "believed", "then", box=SIMPLE)
    for place, served in enumerate(found.slots):
        if slot is None or slot == place:
            table.add_row(str(place), *_cells(served), _then(explained.outcomes.get(place)))
    console.print(table)


def _cells(served: ImpressionSlot) -> list[str]:
    believed = f"{served.posterior_mean:.3f} of {served.posterior_weight:.0f}"
    return [
        served.item_id,
        served.arm,
        f"{served.propensity:.3f}",
        f"{served.item_propensity:.3f}",
        believed if served.posterior_weight else "",
    ]


def _then(outcome: Outcome | None) -> str:
    """What became of a slot, in words."""
    if outcome is None:
        return "not known yet"
    if outcome.delay_ms == NO_ANSWER_MS:
        return "no answer: reward 0"
    taken = "taken up" if outcome.label else "turned down"
    return f"{taken} after {outcome.delay_ms / 1_000:.1f} s: reward {outcome.reward:+.2f}"
