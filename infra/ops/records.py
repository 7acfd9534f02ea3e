"""Any record of Headrace's topics as plain values, for people and scripts to read."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from confluent_kafka import Message

from features.codec import (
    WireError,
    decode_catalog_item,
    decode_erasure,
    decode_impression,
    decode_interaction,
    decode_rule,
)
from features.item_updates import UpdateError, decode_update
from features.learning_codec import decode_drift, decode_learning_record, decode_snapshot
from features.log import CONTENT_TYPE, JSON_TYPE
from features.model_snapshot import SnapshotError
from infra import topics
from streams.ops_views import event_of

SHOWN_BYTES: Final = 64  # of what cannot be decoded
DRIFT_KEY: Final = b"drift"

Values = dict[str, Any]


def described(record: Message, prefix: str = "") -> Values:
    """Where a record lies, when the log took it, its key, and its value decoded.

    What cannot be decoded is told as `undecodable` with the reason and its first bytes in hex: a
    look at the log never fails on what lies in it.
    """
    name = (record.topic() or "").removeprefix(prefix)
    found: Values = {
        "topic": record.topic(),
        "partition": record.partition(),
        "offset": record.offset(),
        "at_ms": record.timestamp()[1],
        "key": _text(record.key()),
    }
    value = record.value()
    if value is None:
        return {**found, "value": None}
    try:
        return {**found, "value": _plain(_DECODERS.get(name, _unknown)(record))}
    except (WireError, UpdateError, SnapshotError, ValueError) as error:
        return {**found, "undecodable": str(error), "bytes": value[:SHOWN_BYTES].hex(" ")}


def headers_of(record: Message) -> dict[str, bytes]:
    """Headers of a record; of several with one name the last."""
    return dict(record.headers() or [])


def _interaction(record: Message) -> Values:
    as_json = headers_of(record).get(CONTENT_TYPE) == JSON_TYPE
    return asdict(decode_interaction(record.value() or b"", as_json=as_json))


def _impression(record: Message) -> Values:
    """Without the feature values, which are hundreds of numbers."""
    found = asdict(decode_impression(record.value() or b""))
    for slot in found["slots"]:
        slot["features"] = len(slot["features"])
    return found


def _outcome(record: Message) -> Values:
    found = asdict(decode_learning_record(record.value() or b""))
    if "features" in found:
        found["features"] = len(found["features"])
    return dict(found)


def _model(record: Message) -> Values:
    """What a version says of itself, or a drift."""
    value = record.value() or b""
    try:
        snapshot = decode_snapshot(value)
    except (WireError, SnapshotError):
        return asdict(decode_drift(value))
    return {
        "name": snapshot.name,
        "sequence": snapshot.sequence,
        "feature_version": snapshot.feature_version,
        "created_at_ms": snapshot.created_at_ms,
        "restored_from": snapshot.restored_from,
        "bytes": len(value),
    }


def _item_update(record: Message) -> Values:
    update = decode_update(record.value() or b"")
    return {"items": len(update.ids), "now_ms": update.now_ms}


def _dead_letter(record: Message) -> Values:
    headers = headers_of(record)
    value = record.value() or b""
    return {
        **{name: _text(headers.get(name)) for name in ("reason", "topic", "partition", "offset")},
        "bytes": len(value),
        "begins": value[:SHOWN_BYTES].hex(" "),
    }


def _ops_event(record: Message) -> Values:
    found = event_of(record.value())
    if found is None:
        raise ValueError("record is no JSON object with a kind")
    return found


def _unknown(record: Message) -> Values:
    raise ValueError(f"{record.topic()} is no topic of Headrace")


_DECODERS: Final[Mapping[str, Callable[[Message], Values]]] = {
    topics.INTERACTIONS: _interaction,
    topics.IMPRESSIONS: _impression,
    topics.CATALOG: lambda record: asdict(decode_catalog_item(record.value() or b"")),
    topics.OUTCOMES: _outcome,
    topics.ITEM_UPDATES: _item_update,
    topics.MODELS: _model,
    topics.DEAD_LETTERS: _dead_letter,
    topics.OPS_EVENTS: _ops_event,
    topics.RULES: lambda record: asdict(decode_rule(record.value() or b"")),
    topics.RULE_CHANGES: lambda record: asdict(decode_rule(record.value() or b"")),
    topics.ERASURES: lambda record: asdict(
        decode_erasure(record.key() or b"", record.value() or b"")
    ),
}


def _plain(value: Any) -> Any:
    """Values that JSON takes: enumerations by name, no NaN."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "name") and hasattr(value, "value"):
        return value.name.lower()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="backslashreplace")
