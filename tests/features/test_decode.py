"""The fast pass over bytes decides what the generated class decides, field by field."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from headrace.v1 import events_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.codec import (
    WireError,
    decode_interaction,
    encode_interaction,
    encode_interaction_json,
)
from features.decode import MAX_FAST_BYTES, MAX_FUTURE_MS, decode_records, fill_event, scan_all
from features.events import CLAMPED, EVENT, MAX_ID_BYTES, BadRecord, Interaction, problem_with
from features.log import CONTENT_TYPE, JSON_TYPE
from features.vocabulary import EventType
from tests.clock import START_MS
from tests.features.examples import interactions

JSON_HEADER = [(CONTENT_TYPE, JSON_TYPE)]
CLICK = Interaction("event-1", "ann", "tt0133093", EventType.CLICK, START_MS)


@dataclass(frozen=True)
class Record:
    """A record of the log, as the Kafka client hands it over."""

    bytes_: bytes | None
    number: int = 0
    headers_: Any = None
    logged_at_ms: int = START_MS

    def value(self) -> bytes | None:
        return self.bytes_

    def key(self) -> bytes | None:
        return b"the-key"

    def headers(self) -> Any:
        return self.headers_

    def topic(self) -> str | None:
        return "interactions"

    def partition(self) -> int | None:
        return 3

    def offset(self) -> int | None:
        return 100 + self.number

    def timestamp(self) -> tuple[int, int]:
        return 1, self.logged_at_ms


def with_care(record: Record) -> NDArray[np.void] | str:
    """The slow path: the `(1,)` event by way of the generated class, or why there is none."""
    try:
        interaction = decode_interaction(
            record.bytes_ or b"", as_json=record.headers_ == JSON_HEADER
        )
    except WireError as error:
        return str(error)
    if (problem := problem_with(interaction)) is not None:
        return problem
    made = np.zeros(1, EVENT)
    fill_event(interaction, made[0])
    made["partition"], made["offset"] = record.partition(), record.offset()
    made["logged_at_ms"] = record.logged_at_ms
    latest_ms = record.logged_at_ms + MAX_FUTURE_MS
    at_ms = interaction.occurred_at_ms
    made["at_ms"] = record.logged_at_ms if at_ms <= 0 else min(at_ms, latest_ms)
    made["flags"] = CLAMPED if at_ms < 0 or at_ms > latest_ms else 0
    return made


def listed(events: NDArray[np.void]) -> list[list[Any]]:
    """Every field of every event, those that are arrays as lists."""
    return [[event[name].tolist() for name in EVENT.names or ()] for event in events]


def same_decision(record: Record) -> None:
    """Asserts that a batch of this record alone comes out as the slow path has it."""
    decoded, expected = decode_records([record]), with_care(record)
    if isinstance(expected, str):
        assert len(decoded.events) == 0
        assert [bad.reason for bad in decoded.bad] == [expected]
    else:
        assert decoded.bad == []
        assert listed(decoded.events) == listed(expected)


def is_plain(value: bytes) -> bool:
    """Whether the fast pass takes these bytes."""
    good = np.zeros(1, np.bool_)
    scan_all(np.frombuffer(value, np.uint8), np.array([len(value)]), np.zeros(1, EVENT), good)
    return bool(good[0])


# --- the same decision ---------------------------------------------------------------------------


@given(interactions)
def test_a_valid_interaction_is_decoded_as_the_generated_class_has_it(
    interaction: Interaction,
) -> None:
    same_decision(Record(encode_interaction(interaction)))


@given(interactions)
def test_ascii_interactions_take_the_fast_pass(interaction: Interaction) -> None:
    value = encode_interaction(interaction)
    fields = [getattr(interaction, name) for name in interaction.__slots__]
    plain = all(field.isascii() for field in fields if isinstance(field, str))
    assert is_plain(value) == plain


@given(interactions)
def test_json_and_protobuf_give_the_same_event(interaction: Interaction) -> None:
    records = [
        Record(encode_interaction(interaction)),
        Record(encode_interaction_json(interaction)),
        Record(encode_interaction_json(interaction), headers_=JSON_HEADER),
    ]
    decoded = [decode_records([record]) for record in records]
    assert all(one.bad == [] for one in decoded)
    first, *others = (listed(batch.events) for batch in decoded)
    assert all(other == first for other in others)
    assert len(others) == 2


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid record with some bytes changed, taken out, put in, or cut off."""
    value = bytearray(encode_interaction(draw(interactions)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(value) - 1, 0)))
        action = draw(st.sampled_from(["change", "flip", "insert", "delete", "truncate"]))
        if action == "insert" or not value:
            value[place:place] = draw(st.binary(max_size=4))
        elif action == "change":
            value[place] = draw(st.integers(0, 255))
        elif action == "flip":
            value[place] ^= 1 << draw(st.integers(0, 7))
        elif action == "delete":
            del value[place]
        else:
            del value[place:]
    return bytes(value)


@given(damaged())
@settings(max_examples=500)
def test_damaged_bytes_get_the_verdict_of_the_generated_class(value: bytes) -> None:
    same_decision(Record(value or b"\x00"))


@given(st.binary(min_size=1, max_size=60))
@settings(max_examples=300)
def test_random_bytes_get_the_verdict_of_the_generated_class(value: bytes) -> None:
    same_decision(Record(value))


def varint(number: int, padding: int = 0) -> bytes:
    """A varint, longer than it needs to be by `padding` bytes."""
    data = []
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    if padding:
        data[-1] |= 0x80
        data += [0x80] * (padding - 1) + [0]
    return bytes(data)


paddings = st.sampled_from([0, 0, 0, 0, 1, 3, 4, 5, 8, 9, 12])
wire_ids = st.sampled_from([b"", b"a", b"tt1", "\u65e5".encode(), b"\xff", b"x" * 128, b"x" * 129])
wire_numbers = st.one_of(
    st.integers(0, 14),
    st.sampled_from([10_000, 10_001, 2**31, 2**32 - 1, 2**32 + 2, 2**63 - 1, 2**63, 2**64 - 1]),
)
wire_floats = st.sampled_from(
    [np.float32(x).tobytes() for x in (0, -0.0, 1, 10, 10.5, -1, 1e6, 1.1e6, np.nan, np.inf)]
)


@st.composite
def one_wire_field(draw: st.DrawFn, numbers: st.SearchStrategy[int]) -> bytes:
    """A field of any number in any wire type, by hand: also what no writer should send."""
    number, wire = draw(numbers), draw(st.sampled_from([0, 0, 2, 2, 2, 5, 5, 1, 3, 4]))
    tag = varint(number << 3 | wire, draw(paddings))
    if wire == 0:
        return tag + varint(draw(wire_numbers), draw(paddings))
    if wire == 2:
        inner = st.lists(one_wire_field(st.integers(0, 4)), max_size=3).map(b"".join)
        body = draw(inner if number == 13 else wire_ids)
        return tag + varint(len(body), draw(paddings)) + body
    return tag + {5: draw(wire_floats), 1: bytes(8)}.get(wire, b"")


numbers_of_fields = st.one_of(st.integers(0, 16), st.sampled_from([13, 2**29 - 1]))


@given(st.lists(one_wire_field(numbers_of_fields), max_size=6), st.booleans())
@settings(max_examples=1_000)
def test_unusual_encodings_get_the_verdict_of_the_generated_class(
    fields: list[bytes], at_the_end: bool
) -> None:
    extra = b"".join(fields)
    sound = encode_interaction(CLICK)
    same_decision(Record(sound + extra if at_the_end else extra + sound))


@pytest.mark.parametrize("padding", [1, 4, 5, 8])
def test_a_tag_or_a_length_that_is_longer_than_needed_is_left_to_the_generated_class(
    padding: int,
) -> None:
    sound = encode_interaction(CLICK)
    for extra in (
        varint(5 << 3 | 2, padding) + b"\x01s",
        varint(5 << 3 | 2) + varint(1, padding) + b"s",
    ):
        assert not is_plain(sound + extra)
        same_decision(Record(sound + extra))


@given(st.binary(max_size=4), st.integers(0, 200), st.booleans())
def test_damaged_json_gets_a_verdict_and_never_an_exception(
    noise: bytes, place: int, has_header: bool
) -> None:
    value = encode_interaction_json(CLICK)
    value = b"{" + value[1:place] + noise + value[place:]
    same_decision(Record(value, headers_=JSON_HEADER if has_header else None))


# --- what newer writers send ---------------------------------------------------------------------


def test_fields_that_newer_writers_add_are_passed_over_on_the_fast_pass() -> None:
    newer = (
        encode_interaction(CLICK)
        + varint(14 << 3 | 2) + varint(3) + b"\xff\xfe\xfd"
        + varint(15 << 3) + varint(2**64 - 1)
        + varint(500 << 3 | 5) + bytes(4)
    )  # fmt: skip
    assert is_plain(newer)
    decoded = decode_records([Record(newer), Record(encode_interaction(CLICK))])
    assert decoded.bad == []
    first, second = decoded.events
    assert first == second


def test_a_newer_context_is_read_with_care() -> None:
    context = events_pb2.Context(region="DE").SerializeToString() + varint(9 << 3) + varint(4)
    newer = encode_interaction(CLICK) + varint(13 << 3 | 2) + varint(len(context)) + context
    assert not is_plain(newer)
    assert len(decode_records([Record(newer)]).events) == 1
    same_decision(Record(newer))


# --- bad records ---------------------------------------------------------------------------------


def only_bad(record: Record) -> BadRecord:
    decoded = decode_records([record])
    assert len(decoded.events) == 0
    (bad,) = decoded.bad
    return bad


@pytest.mark.parametrize("value", [None, b""], ids=["absent", "empty"])
def test_a_record_without_a_value_is_bad(value: bytes | None) -> None:
    assert only_bad(Record(value)).reason == "record must hold an Interaction; got no value"


def test_a_record_of_a_megabyte_is_bad_whatever_it_holds() -> None:
    for value in (
        bytes(1_000_000),
        encode_interaction(replace(CLICK, request_id="x" * 1_000_000)),
        b'{"event_id": "' + b"x" * 1_000_000 + b'"}',
    ):
        reason = only_bad(Record(value)).reason
        assert reason == f"record must be at most 65536 bytes; got {len(value)}"


def test_a_record_between_the_fast_limit_and_the_real_one_is_read_with_care() -> None:
    value = encode_interaction(CLICK) + varint(20 << 3 | 2) + varint(9_000) + bytes(9_000)
    assert len(value) > MAX_FAST_BYTES
    assert not is_plain(value)
    assert len(decode_records([Record(value)]).events) == 1


def test_a_bad_record_says_where_it_lay_and_keeps_its_bytes() -> None:
    bad = only_bad(Record(b"\xff\xff", number=7))
    assert (bad.topic, bad.partition, bad.offset) == ("interactions", 3, 107)
    assert (bad.key, bad.value) == (b"the-key", b"\xff\xff")
    assert bad.reason.startswith("record is not a Interaction as protobuf")


def raw(**fields: Any) -> bytes:
    sound = {"event_id": "e", "user_id": "u", "item_id": "i", "type": 2}
    return events_pb2.Interaction(**{**sound, **fields}).SerializeToString()


TOO_LONG = "x" * (MAX_ID_BYTES + 1)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"event_id": ""}, "interaction.event_id is required"),
        ({"user_id": ""}, "interaction.user_id is required"),
        ({"item_id": ""}, "interaction.item_id is required"),
        ({"user_id": TOO_LONG}, "interaction.user_id must be at most 128 bytes; got 129 bytes"),
        ({"session_id": TOO_LONG}, "interaction.session_id must be at most 128 bytes"),
        ({"type": 0}, "interaction.type must be one of impression, click"),
        ({"type": 14}, "got 14"),
        ({"type": 8}, "interaction.rating is required for the type rate"),
        ({"rating": 42}, "interaction.rating must be within 0..10; got 42.0"),
        ({"rating": float("nan")}, "interaction.rating must be within 0..10; got nan"),
        ({"slot": 10_001}, "interaction.slot must be within 0..10000; got 10001"),
        ({"watch_position_s": -1}, "interaction.watch_position_s must be within 0..1000000"),
        ({"watch_duration_s": 1e9}, "interaction.watch_duration_s must be within"),
        ({"context": {"device": 9}}, "interaction.context.device must be within 0..4; got 9"),
        ({"context": {"page": 5}}, "interaction.context.page must be within 0..4; got 5"),
        ({"context": {"region": "x" * 17}}, "interaction.context.region must be at most 16"),
    ],
)
def test_an_unusable_interaction_is_bad_with_its_field_and_value(
    fields: dict[str, Any], reason: str
) -> None:
    assert reason in only_bad(Record(raw(**fields))).reason
    same_decision(Record(raw(**fields)))


def test_protobuf_that_is_announced_as_json_is_taken_where_it_is_plain() -> None:
    decoded = decode_records([Record(encode_interaction(CLICK), headers_=JSON_HEADER)])
    assert len(decoded.events) == 1


# --- batches -------------------------------------------------------------------------------------


def test_a_batch_keeps_the_order_of_the_log_around_bad_records() -> None:
    values = [
        encode_interaction(CLICK),
        b"\xff",
        encode_interaction_json(CLICK),
        None,
        encode_interaction(replace(CLICK, user_id="J\u00f3n")),
        encode_interaction(CLICK),
    ]
    decoded = decode_records([Record(value, number=n) for n, value in enumerate(values)])
    assert decoded.events["offset"].tolist() == [100, 102, 104, 105]
    assert [bad.offset for bad in decoded.bad] == [101, 103]
    assert (decoded.events["partition"] == 3).all()


def test_an_empty_batch_is_an_empty_batch() -> None:
    decoded = decode_records([])
    assert (len(decoded.events), decoded.bad) == (0, [])


@given(st.lists(st.one_of(interactions.map(encode_interaction), damaged()), max_size=8))
def test_a_record_is_decoded_the_same_in_any_company(values: list[bytes]) -> None:
    records = [Record(value, number=n) for n, value in enumerate(values)]
    together, alone = decode_records(records), [decode_records([record]) for record in records]
    assert listed(together.events) == [event for one in alone for event in listed(one.events)]
    assert together.bad == [bad for one in alone for bad in one.bad]


# --- times ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("occurred_at_ms", "at_ms", "flags"),
    [
        (START_MS - 5_000, START_MS - 5_000, 0),
        (1, 1, 0),
        (0, START_MS, 0),
        (-1, START_MS, CLAMPED),
        (-(2**63), START_MS, CLAMPED),
        (START_MS + MAX_FUTURE_MS, START_MS + MAX_FUTURE_MS, 0),
        (START_MS + MAX_FUTURE_MS + 1, START_MS + MAX_FUTURE_MS, CLAMPED),
        (2**63 - 1, START_MS + MAX_FUTURE_MS, CLAMPED),
    ],
)
def test_a_time_is_the_event_s_own_within_reason(
    occurred_at_ms: int, at_ms: int, flags: int
) -> None:
    value = encode_interaction(replace(CLICK, occurred_at_ms=occurred_at_ms))
    (event,) = decode_records([Record(value)]).events
    assert (event["at_ms"], event["flags"]) == (at_ms, flags)
    assert event["logged_at_ms"] == START_MS
