"""Records of the log to a batch of events, in one compiled pass.

The pass understands the plain case of the protobuf wire format
(https://protobuf.dev/programming-guides/encoding/) and takes a record only when every field is
beyond doubt; ids are hashed where they lie, without a Python object for any of them. Everything
else (JSON, other alphabets, unusual encodings, nonsense) goes through the generated class and
`problem_with`, which alone decide what is a bad record and why.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from features.codec import WireError, decode_interaction
from features.compiled import Row, Rows, compiled, unlocked
from features.events import (
    CLAMPED,
    EVENT,
    MAX_ID_BYTES,
    MAX_RATING,
    MAX_REGION_BYTES,
    MAX_SLOT,
    MAX_WATCH_S,
    NO_RATING,
    NO_SLOT,
    BadRecord,
    Interaction,
    problem_with,
)
from features.ids import hash_range, id_hash, key_hash, murmur2, viewer_hash, with_profile
from features.log import CONTENT_TYPE, JSON_TYPE
from features.vocabulary import N_TYPES, Device, EventType, Page

MAX_FUTURE_MS = 60_000  # an event may run this far ahead of the broker's clock
MAX_FAST_BYTES = 4_096

_VARINT, _STRING, _FIXED32 = 0, 2, 5  # wire types
MAX_TAG = np.uint64((1 << 32) - 1)
USER = 2
CONTEXT = 13  # the last field of an Interaction; what stands behind it is newer than this code
DEVICE_TAG, PAGE_TAG, REGION_TAG = (1 << 3) | _VARINT, (2 << 3) | _VARINT, (3 << 3) | _STRING
N_DEVICES, N_PAGES = len(Device), len(Page)


class Record(Protocol):
    """What is read of a log record; `confluent_kafka.Message` is one."""

    def value(self) -> bytes | None: ...  # noqa: D102
    def key(self) -> bytes | None: ...  # noqa: D102
    def headers(self) -> Any: ...  # noqa: D102
    def topic(self) -> str | None: ...  # noqa: D102
    def partition(self) -> int | None: ...  # noqa: D102
    def offset(self) -> int | None: ...  # noqa: D102
    def timestamp(self) -> tuple[int, int]: ...  # noqa: D102


@dataclass(slots=True)
class Decoded:
    """A batch of events in log order, and the records that are none."""

    events: Rows
    bad: list[BadRecord] = field(default_factory=list)


def decode_records(records: Sequence[Record]) -> Decoded:
    """Events of a batch of records; about 0.6 us a record, in their order."""
    events = np.zeros(len(records), EVENT)
    values = [record.value() or b"" for record in records]
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    events["partition"] = [record.partition() for record in records]
    events["offset"] = [record.offset() for record in records]
    events["logged_at_ms"] = [record.timestamp()[1] for record in records]
    good = np.zeros(len(records), np.bool_)
    scan_all(np.frombuffer(b"".join(values), np.uint8), lengths, events, good)
    bad: list[BadRecord] = []
    for i in np.flatnonzero(~good).tolist():
        problem = _decode_with_care(records[i], events[i])
        if problem is None:
            good[i] = True
        else:
            bad.append(problem)
    _clamp_times(events)
    return Decoded(events if not bad else events[good], bad)


def _decode_with_care(record: Record, event: Row) -> BadRecord | None:
    """Fills `event` by way of the generated class, or says why it cannot be."""
    value = record.value()
    reason: str | None
    if not value:
        reason = "record must hold an Interaction; got no value"
    else:
        try:
            interaction = decode_interaction(value, as_json=_says_json(record))
            reason = problem_with(interaction)
        except WireError as error:
            reason = str(error)
    if reason is None:
        fill_event(interaction, event)
        return None
    return BadRecord(
        reason,
        record.topic() or "",
        int(event["partition"]),
        int(event["offset"]),
        record.key(),
        value,
    )


def _says_json(record: Record) -> bool:
    return any(
        name == CONTENT_TYPE and value == JSON_TYPE for name, value in record.headers() or ()
    )


def fill_event(interaction: Interaction, event: Row) -> None:
    """Writes a valid interaction into an EVENT record; log position and times of the log stay."""
    event["user"] = viewer_hash(interaction.user_id, interaction.profile_id)
    event["key_hash"] = key_hash(interaction.user_id)
    event["item"] = id_hash(interaction.item_id)
    event["event"] = id_hash(interaction.event_id)
    event["session"] = id_hash(interaction.session_id)
    event["request"] = id_hash(interaction.request_id)
    event["at_ms"] = interaction.occurred_at_ms
    event["region"] = id_hash(interaction.region) & 0xFFFFFFFF
    event["watch_position_s"] = interaction.watch_position_s
    event["watch_duration_s"] = interaction.watch_duration_s
    event["rating"] = NO_RATING if interaction.rating is None else interaction.rating
    event["slot"] = NO_SLOT if interaction.slot is None else interaction.slot
    event["type"] = interaction.type
    event["device"] = interaction.device
    event["page"] = interaction.page


def _clamp_times(events: Rows) -> None:
    """Gives events without a usable time the broker's, and lets none run far ahead of it."""
    at, logged = events["at_ms"], events["logged_at_ms"]
    latest = logged + MAX_FUTURE_MS
    absurd = (at < 0) | (at > latest)
    events["flags"][absurd] |= CLAMPED
    events["at_ms"] = np.where(at <= 0, logged, np.minimum(at, latest))


@unlocked
def scan_all(
    buffer: NDArray[np.uint8], lengths: NDArray[np.int64], events: Rows, good: NDArray[np.bool_]
) -> None:
    """Scans every record of `buffer` into `events`; `good[i]` says whether record i is plain."""
    ids = np.zeros(9, np.uint64)  # by field number
    start = 0
    for i in range(len(lengths)):
        end = start + lengths[i]
        if 0 < lengths[i] <= MAX_FAST_BYTES:
            good[i] = _scan(buffer, start, end, events[i], ids)
        start = end


@compiled
def _scan(
    buffer: NDArray[np.uint8], at: int, end: int, event: Row, ids: NDArray[np.uint64]
) -> bool:
    ids[:] = 0
    event["rating"], event["slot"] = NO_RATING, NO_SLOT
    while 0 <= at < end:
        tag, at = _varint(buffer, at, end)
        number, wire = _signed(tag >> np.uint64(3)), _signed(tag & np.uint64(7))
        if at < 0 or number == 0 or tag > MAX_TAG:
            return False
        if wire == _STRING:
            at = _take_string(buffer, at, end, number, event, ids)
        elif wire == _VARINT:
            at = _take_varint(buffer, at, end, number, event)
        elif wire == _FIXED32:
            at = _take_fixed32(buffer, at, end, number, event)
        else:
            return False
    event["event"], event["item"] = ids[1], ids[4]
    event["session"], event["request"] = ids[5], ids[8]
    event["user"] = with_profile(ids[2], ids[3])
    has_ids = ids[1] != 0 and ids[2] != 0 and ids[4] != 0
    lacks_rating = event["type"] == EventType.RATE and event["rating"] == NO_RATING
    return at == end and has_ids and event["type"] != 0 and not lacks_rating


@compiled
def _take_string(
    buffer: NDArray[np.uint8], at: int, end: int, number: int, event: Row, ids: NDArray[np.uint64]
) -> int:
    """Takes a length-delimited field; the place behind it, or -1 when it is not plain."""
    length, at = _varint(buffer, at, end)
    if at < 0 or length > np.uint64(end - at):
        return -1
    stop = at + _signed(length)
    if number in (1, 2, 3, 4, 5, 8):
        if stop - at > MAX_ID_BYTES or not _is_ascii(buffer, at, stop):
            return -1
        ids[number] = hash_range(buffer, at, stop)
        if number == USER:
            event["key_hash"] = murmur2(buffer, at, stop)
    elif number == CONTEXT:
        if not _scan_context(buffer, at, stop, event):
            return -1
    elif number < CONTEXT:
        return -1
    return stop


@compiled
def _take_varint(buffer: NDArray[np.uint8], at: int, end: int, number: int, event: Row) -> int:
    """Takes a varint field; the place behind it, or -1 when it is not plain."""
    value, at = _varint(buffer, at, end)
    if number == 6:
        if value == 0 or value > np.uint64(N_TYPES):
            return -1
        event["type"] = value
    elif number == 7:
        event["at_ms"] = _signed(value)
    elif number == 9:
        if value > np.uint64(MAX_SLOT):
            return -1
        event["slot"] = value
    elif number <= CONTEXT:
        return -1
    return at


@compiled
def _take_fixed32(buffer: NDArray[np.uint8], at: int, end: int, number: int, event: Row) -> int:
    """Takes a four-byte field; the place behind it, or -1 when it is not plain."""
    if end - at < 4 or number < 10 or number == CONTEXT:
        return -1
    value = _float32(buffer, at)
    if number == 10 and 0 <= value <= MAX_WATCH_S:
        event["watch_position_s"] = value
    elif number == 11 and 0 <= value <= MAX_WATCH_S:
        event["watch_duration_s"] = value
    elif number == 12 and 0 <= value <= MAX_RATING:
        event["rating"] = value
    elif number < CONTEXT:
        return -1
    return at + 4


@compiled
def _scan_context(buffer: NDArray[np.uint8], at: int, end: int, event: Row) -> bool:
    while 0 <= at < end:
        tag, at = _varint(buffer, at, end)
        if at < 0:
            return False
        value, at = _varint(buffer, at, end)  # every field of a context begins with one
        if at < 0 or value > MAX_REGION_BYTES:
            return False
        if tag == DEVICE_TAG and value < N_DEVICES:
            event["device"] = value
        elif tag == PAGE_TAG and value < N_PAGES:
            event["page"] = value
        elif tag == REGION_TAG and value <= np.uint64(end - at):
            stop = at + _signed(value)
            if not _is_ascii(buffer, at, stop):
                return False
            event["region"] = np.uint32(hash_range(buffer, at, stop) & np.uint64(0xFFFFFFFF))
            at = stop
        else:
            return False
    return at == end


@compiled
def _varint(buffer: NDArray[np.uint8], at: int, end: int) -> tuple[Any, int]:
    """Reads a varint in its shortest form; the place behind it, or -1 when there is none."""
    value, shift = np.uint64(0), np.uint64(0)
    for _ in range(10):
        if at >= end:
            return value, -1
        byte = buffer[at]
        at += 1
        value |= np.uint64(byte & 0x7F) << shift
        if byte < 0x80:
            return value, at if byte > 0 or shift == 0 else -1
        shift += np.uint64(7)
    return value, -1


@compiled
def _is_ascii(buffer: NDArray[np.uint8], start: int, end: int) -> bool:
    high = np.uint8(0)
    for i in range(start, end):
        high |= buffer[i]
    return bool(high < 0x80)


@compiled
def _float32(buffer: NDArray[np.uint8], at: int) -> float:
    """The little-endian IEEE 754 number at a place."""
    return float(buffer[at : at + 4].view(np.float32)[0])


@compiled
def _signed(value: Any) -> int:
    """The same bits as int64: mixing it with uint64 would make a float."""
    return np.int64(value)  # type: ignore[return-value]
