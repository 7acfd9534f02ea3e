"""Slates, answers and what must become of them: records made by hand, and a clean run."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from headrace.v1 import events_pb2

from features.codec import encode_interaction
from features.events import Interaction
from features.learning_codec import decode_learning_record
from features.log import LogConfig, read_to_end
from features.outcomes import Outcome
from features.vocabulary import EventType
from streams.open_slates import Attribution, AttributionRules

ANSWER_TYPES = [EventType(t) for t in range(2, 13)]
END_OF_TIME_MS = 1 << 60
HORIZON_MS = 10_000


@dataclass(frozen=True)
class Logged:
    """A record as the log's client gives it."""

    offset_: int
    at_ms: int
    value_: bytes | None = field(repr=False)
    partition_: int = 0

    def value(self) -> bytes | None:
        return self.value_

    def key(self) -> bytes | None:
        return None

    def headers(self) -> None:
        return None

    def topic(self) -> str:
        return "interactions"

    def partition(self) -> int:
        return self.partition_

    def offset(self) -> int:
        return self.offset_

    def timestamp(self) -> tuple[int, int]:
        return 2, self.at_ms


def slate(
    request: str,
    user: str = "ann",
    items: Sequence[str] = ("i0", "i1", "i2"),
    *,
    profile: str = "",
    n_features: int = 2,
    arm: str = "trending",
) -> bytes:
    """An impression, as the server logs it."""
    slots = [
        events_pb2.SlateSlot(
            item_id=item, source="week", arm=arm, propensity=0.5, item_propensity=0.25,
            features=[0.5 * k] * n_features,
        )
        for k, item in enumerate(items)
    ]  # fmt: skip
    return events_pb2.Impression(
        request_id=request, user_id=user, profile_id=profile, served_at_ms=7, slots=slots,
        bundle_version="b1", feature_version="f1", decision_context="new/start", model_sequence=3,
    ).SerializeToString()  # fmt: skip


def random_answer(rng: np.random.Generator, event: str, user: str, item: str) -> Interaction:
    """An answer of any type, without a request."""
    kind = ANSWER_TYPES[int(rng.integers(len(ANSWER_TYPES)))]
    return Interaction(
        event_id=event,
        user_id=user,
        item_id=item,
        type=kind,
        occurred_at_ms=1 + int(rng.integers(1_000)),
        rating=float(rng.integers(0, 11)) if kind == EventType.RATE else None,
        watch_position_s=float(rng.integers(0, 100)),
        watch_duration_s=100.0,
    )


def random_logs(
    rng: np.random.Generator, n: int, *, with_requests: float = 0.7
) -> tuple[list[tuple[int, bytes]], list[tuple[int, Interaction]]]:
    """Slates and answers of a few viewers; some answers late, twice, or before their slate.

    Over six times HORIZON_MS; `with_requests`: the share of answers that name their request.
    """
    slates, interactions, times = [], [], np.sort(rng.integers(0, 6 * HORIZON_MS, n))
    for k, at_ms in enumerate(times.tolist()):
        user = f"u{int(rng.integers(4))}"
        items = [f"i{int(i)}" for i in rng.choice(8, 3, replace=False)]
        slates.append((at_ms, slate(f"r{k}", user, items)))
        for j in range(int(rng.integers(0, 4))):
            said = random_answer(rng, f"e{k}-{j}", user, items[int(rng.integers(3))])
            delay_ms = int(rng.choice([-300, 50, 900, 4_000, HORIZON_MS, 15_000, 25_000]))
            request = f"r{k}" if rng.random() < with_requests else ""
            said = replace(said, request_id=request)
            interactions.append((max(at_ms + delay_ms, 0), said))
            if rng.random() < 0.1:
                interactions.append((max(at_ms + delay_ms, 0) + 100, said))
    return slates, sorted(interactions, key=lambda pair: pair[0])


def records(values: Iterable[tuple[int, bytes | Interaction]], partition: int = 0) -> list[Logged]:
    """Records of one partition: (append time, what), in the order of the log."""
    return [
        Logged(
            k, at, encode_interaction(what) if isinstance(what, Interaction) else what, partition
        )
        for k, (at, what) in enumerate(values)
    ]


def outcomes_of(
    impressions: Sequence, interactions: Sequence, rules: AttributionRules
) -> list[Outcome]:
    """What a clean run over the records of one partition says, long after all of them."""
    attribution = Attribution(rules)
    return list(attribution.take(impressions, interactions, END_OF_TIME_MS))


def final(outcomes: Iterable[Outcome]) -> dict[tuple[str, int], Outcome]:
    """The last that was said of each slot; fails where revisions do not follow each other."""
    found: dict[tuple[str, int], Outcome] = {}
    for outcome in outcomes:
        before = found.get((outcome.request_id, outcome.slot))
        assert outcome.revision == (0 if before is None else before.revision + 1)
        if before is not None:
            assert outcome.previous_label == before.label
            assert outcome.previous_reward == before.reward
        found[outcome.request_id, outcome.slot] = outcome
    return found


def clean_outcomes(
    config: LogConfig, impressions: str, interactions: str, rules: AttributionRules
) -> Counter[str]:
    """How often the log of learning must hold each outcome: encoded, of all partitions."""
    by_place: dict[tuple[str, int], list] = {}
    for topic in (impressions, interactions):
        for record in read_to_end(config, topic):
            by_place.setdefault((topic, record.partition()), []).append(record)
    partitions = {partition for _, partition in by_place}
    return Counter(
        as_written(outcome)
        for p in partitions
        for outcome in outcomes_of(
            by_place.get((impressions, p), []), by_place.get((interactions, p), []), rules
        )
    )


def as_written(outcome: Outcome) -> str:
    """An outcome in full, its numbers rounded as the wire rounds them."""
    share = float(np.float32(outcome.watch_share))
    return repr((outcome, share)).replace(f"watch_share={outcome.watch_share!r}", "")


def written_outcomes(config: LogConfig, topic: str) -> Counter[str]:
    """How often the log of learning holds each outcome."""
    values = [record.value() for record in read_to_end(config, topic)]
    return Counter(as_written(decode_learning_record(value)) for value in values)
