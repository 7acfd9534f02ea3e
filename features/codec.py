"""The wire format at its edges: dataclasses to bytes and back.

With the servicers the one place that touches generated classes. Batches of records are decoded by
`features.decode`, which comes here for whatever is not plainly good.
"""

from typing import TypeVar, cast

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from headrace.v1 import events_pb2

from features.erasure import Erasure
from features.events import CatalogItem, Exposure, Impression, ImpressionSlot, Interaction
from features.position import Position
from features.rules import Rule, RuleKind, RuleScope
from features.vocabulary import Device, EventType, Page

MAX_RECORD_BYTES = 65_536

E = TypeVar("E", EventType, Device, Page, RuleKind)


class WireError(Exception):
    """Bytes that are not the message they should be; the text is fit for a dead letter."""


def encode_interaction(interaction: Interaction) -> bytes:
    """Protobuf bytes of an interaction."""
    return interaction_message(interaction).SerializeToString()


def encode_interaction_json(interaction: Interaction) -> bytes:
    """The same message as JSON with the field names of the proto file."""
    message = interaction_message(interaction)
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, indent=None
    ).encode()


def interaction_message(interaction: Interaction) -> events_pb2.Interaction:
    """The generated message of an interaction."""
    message = events_pb2.Interaction(
        event_id=interaction.event_id,
        user_id=interaction.user_id,
        profile_id=interaction.profile_id,
        item_id=interaction.item_id,
        session_id=interaction.session_id,
        type=int(interaction.type),  # type: ignore[arg-type]
        occurred_at_ms=interaction.occurred_at_ms,
        request_id=interaction.request_id,
        slot=interaction.slot,
        watch_position_s=interaction.watch_position_s,
        watch_duration_s=interaction.watch_duration_s,
        rating=interaction.rating,
    )
    if interaction.device or interaction.page or interaction.region:
        message.context.device = int(interaction.device)  # type: ignore[assignment]
        message.context.page = int(interaction.page)  # type: ignore[assignment]
        message.context.region = interaction.region
    return message


def interaction_of(message: events_pb2.Interaction) -> Interaction:
    """The dataclass of a generated message, unknown enum numbers as they came."""
    return Interaction(
        event_id=message.event_id,
        user_id=message.user_id,
        profile_id=message.profile_id,
        item_id=message.item_id,
        session_id=message.session_id,
        type=_member(EventType, message.type),
        occurred_at_ms=message.occurred_at_ms,
        request_id=message.request_id,
        slot=message.slot if message.HasField("slot") else None,
        watch_position_s=message.watch_position_s,
        watch_duration_s=message.watch_duration_s,
        rating=message.rating if message.HasField("rating") else None,
        device=_member(Device, message.context.device),
        page=_member(Page, message.context.page),
        region=message.context.region,
    )


def _member(kind: type[E], number: int) -> E:
    """The member of an enumeration, or the bare number where it has none: validation names it."""
    try:
        return kind(number)
    except ValueError:
        return cast("E", number)


def decode_interaction(value: bytes, *, as_json: bool = False) -> Interaction:
    """The interaction in the bytes of a record. Raises WireError."""
    if len(value) > MAX_RECORD_BYTES:
        raise WireError(f"record must be at most {MAX_RECORD_BYTES} bytes; got {len(value)}")
    message = events_pb2.Interaction()
    _parse(value, message, as_json=as_json or value[:1] == b"{")
    return interaction_of(message)


def encode_catalog_item(item: CatalogItem) -> bytes:
    """Protobuf bytes of a title."""
    return events_pb2.CatalogItem(
        item_id=item.item_id,
        title=item.title,
        year=item.year,
        genres=item.genres,
        overview=item.overview,
        director=item.director,
        cast=item.cast,
        runtime_min=item.runtime_min,
        language=item.language,
        certification=item.certification,
        available_from_ms=item.available_from_ms,
        removed=item.removed,
        series_id=item.series_id,
        season=item.season,
        episode=item.episode,
        available_until_ms=item.available_until_ms,
        regions=item.regions,
        category=item.category,
    ).SerializeToString()


def decode_catalog_item(value: bytes) -> CatalogItem:
    """The title in the bytes of a record. Raises WireError."""
    message = events_pb2.CatalogItem()
    _parse(value, message, as_json=value[:1] == b"{")
    if not message.item_id:
        raise WireError("catalog_item.item_id is required; got an empty string")
    return CatalogItem(
        item_id=message.item_id,
        title=message.title,
        year=message.year,
        genres=tuple(message.genres),
        overview=message.overview,
        director=message.director,
        cast=tuple(message.cast),
        runtime_min=message.runtime_min,
        language=message.language,
        certification=message.certification,
        available_from_ms=message.available_from_ms,
        removed=message.removed,
        series_id=message.series_id,
        season=message.season,
        episode=message.episode,
        available_until_ms=message.available_until_ms,
        regions=tuple(message.regions),
        category=message.category,
    )


def encode_erasure(erasure: Erasure) -> bytes:
    """Protobuf bytes of an entry of the ledger of erasures, whose key is the viewer."""
    return events_pb2.Erasure(
        partition=erasure.partition, offset=erasure.offset, erased_at_ms=erasure.erased_at_ms
    ).SerializeToString()


def decode_erasure(key: bytes, value: bytes) -> Erasure:
    """The entry in the key and the bytes of a record. Raises WireError."""
    message = events_pb2.Erasure()
    _parse(value, message, as_json=False)
    try:
        viewer = int(key, 16)
    except ValueError as error:
        raise WireError(f"key must be 16 hexadecimal digits; got {key[:32]!r}") from error
    return Erasure(viewer, message.partition, message.offset, message.erased_at_ms)


def rule_message(rule: Rule) -> events_pb2.Rule:
    """The generated message of a rule."""
    scope = rule.scope
    return events_pb2.Rule(
        rule_id=rule.rule_id,
        kind=int(rule.kind),  # type: ignore[arg-type]
        item_ids=rule.item_ids,
        genres=rule.genres,
        scope=events_pb2.RuleScope(
            pages=[int(page) for page in scope.pages],  # type: ignore[misc]
            devices=[int(device) for device in scope.devices],  # type: ignore[misc]
            regions=scope.regions,
            user_id=scope.user_id,
            profile_id=scope.profile_id,
        ),
        from_ms=rule.from_ms,
        until_ms=rule.until_ms,
        slot=rule.slot,
        boost=rule.boost,
        max_age=rule.max_age,
        reason=rule.reason,
        author=rule.author,
        changed_at_ms=rule.changed_at_ms,
    )


def rule_of(message: events_pb2.Rule) -> Rule:
    """The dataclass of a generated message, unknown enum numbers as they came."""
    scope = message.scope
    return Rule(
        message.rule_id,
        _member(RuleKind, message.kind),
        tuple(message.item_ids),
        tuple(message.genres),
        RuleScope(
            tuple(_member(Page, page) for page in scope.pages),
            tuple(_member(Device, device) for device in scope.devices),
            tuple(scope.regions),
            scope.user_id,
            scope.profile_id,
        ),
        message.from_ms,
        message.until_ms,
        message.slot,
        message.boost,
        message.max_age,
        message.reason,
        message.author,
        message.changed_at_ms,
    )


def encode_rule(rule: Rule) -> bytes:
    """Protobuf bytes of a rule, whose key is its id."""
    return rule_message(rule).SerializeToString()


def decode_rule(value: bytes) -> Rule:
    """The rule in the bytes of a record, checked by nobody yet. Raises WireError."""
    message = events_pb2.Rule()
    _parse(value, message, as_json=value[:1] == b"{")
    if not message.rule_id:
        raise WireError("rule.rule_id is required; got an empty string")
    return rule_of(message)


def decode_impression(value: bytes) -> Impression:
    """The served decision in the bytes of a record. Raises WireError."""
    message = events_pb2.Impression()
    _parse(value, message, as_json=False)
    return Impression(
        request_id=message.request_id,
        user_id=message.user_id,
        profile_id=message.profile_id,
        session_id=message.session_id,
        served_at_ms=message.served_at_ms,
        slots=tuple(_slot_of(slot) for slot in message.slots),
        bundle_version=message.bundle_version,
        feature_version=message.feature_version,
        included=tuple(Position(p.topic, p.partition, p.offset) for p in message.included),
        degraded=tuple(message.degraded),
        n_candidates=message.n_candidates,
        device=_member(Device, message.context.device),
        page=_member(Page, message.context.page),
        region=message.context.region,
        decision_context=message.decision_context,
        policy=message.policy,
        model_sequence=message.model_sequence,
        rules=tuple(message.rules),
    )


def decode_exposure(value: bytes) -> Exposure:
    """What of a served decision experiments count; a twentieth of the work. Raises WireError."""
    message = events_pb2.Impression()
    _parse(value, message, as_json=False)
    return Exposure(
        policy=message.policy,
        bundle_version=message.bundle_version,
        arms=tuple(slot.arm for slot in message.slots),
        cached=message.cached,
    )


def _slot_of(slot: events_pb2.SlateSlot) -> ImpressionSlot:
    return ImpressionSlot(
        item_id=slot.item_id,
        source=slot.source,
        arm=slot.arm,
        propensity=slot.propensity,
        score=slot.score,
        cause_item_id=slot.cause_item_id,
        features=tuple(slot.features),
        item_propensity=slot.item_propensity,
        posterior_mean=slot.posterior_mean,
        posterior_weight=slot.posterior_weight,
    )


def _parse(value: bytes, message: Message, *, as_json: bool) -> None:
    name = message.DESCRIPTOR.name
    try:
        if as_json:
            json_format.Parse(value, message, max_recursion_depth=8)
        else:
            message.ParseFromString(value)
    except (json_format.ParseError, DecodeError, UnicodeDecodeError, RecursionError) as error:
        form = "JSON" if as_json else "protobuf"
        raise WireError(f"record is not a {name} as {form}: {str(error)[:200]}") from error
