"""What is written is read again; the vocabularies are those of the wire format."""

from enum import IntEnum

import pytest
from headrace.v1 import events_pb2
from hypothesis import given
from hypothesis import strategies as st

from features.codec import (
    MAX_RECORD_BYTES,
    WireError,
    decode_catalog_item,
    decode_interaction,
    encode_catalog_item,
    encode_interaction,
    encode_interaction_json,
)
from features.events import CatalogItem, Interaction
from features.vocabulary import N_TYPES, Device, EventType, Page
from tests.features.examples import interactions, texts

catalog_items = st.builds(
    CatalogItem,
    item_id=texts.filter(bool),
    title=texts,
    year=st.integers(0, 2**32 - 1),
    genres=st.lists(texts, max_size=3).map(tuple),
    overview=texts,
    director=texts,
    cast=st.lists(texts, max_size=3).map(tuple),
    runtime_min=st.integers(0, 2**32 - 1),
    language=texts,
    certification=texts,
    available_from_ms=st.integers(-(2**63), 2**63 - 1),
    removed=st.booleans(),
    series_id=texts,
    season=st.integers(0, 2**32 - 1),
    episode=st.integers(0, 2**32 - 1),
)


@pytest.mark.parametrize(
    ("ours", "theirs", "prefix"),
    [
        (EventType, events_pb2.InteractionType, "INTERACTION_TYPE_"),
        (Device, events_pb2.Device, "DEVICE_"),
        (Page, events_pb2.Page, "PAGE_"),
    ],
)
def test_a_vocabulary_has_the_names_and_numbers_of_the_wire_format(
    ours: type[IntEnum], theirs: object, prefix: str
) -> None:
    wire = {name.removeprefix(prefix): number for name, number in theirs.items()}  # type: ignore[attr-defined]
    assert {member.name: int(member) for member in ours} == wire


def test_every_type_but_the_unspecified_one_is_counted() -> None:
    assert len(EventType) == N_TYPES + 2  # nothing, and an erasure


@given(interactions)
def test_an_interaction_comes_back_from_protobuf_as_it_was(interaction: Interaction) -> None:
    assert decode_interaction(encode_interaction(interaction)) == interaction


@given(interactions)
def test_an_interaction_comes_back_from_json_as_it_was(interaction: Interaction) -> None:
    assert decode_interaction(encode_interaction_json(interaction), as_json=True) == interaction


@given(catalog_items)
def test_a_title_comes_back_as_it_was(item: CatalogItem) -> None:
    assert decode_catalog_item(encode_catalog_item(item)) == item


def test_a_slot_of_zero_and_a_rating_of_zero_are_not_absent() -> None:
    given_zero = Interaction("e", "u", "i", EventType.RATE, slot=0, rating=0.0)
    for decoded in (
        decode_interaction(encode_interaction(given_zero)),
        decode_interaction(encode_interaction_json(given_zero)),
    ):
        assert (decoded.slot, decoded.rating) == (0, 0.0)
    absent = decode_interaction(encode_interaction(Interaction("e", "u", "i", EventType.CLICK)))
    assert (absent.slot, absent.rating) == (None, None)


def test_json_is_recognised_without_being_announced() -> None:
    click = Interaction("e", "u", "i", EventType.CLICK)
    assert decode_interaction(encode_interaction_json(click)) == click


def test_json_takes_names_of_types_and_names_in_camel_case() -> None:
    value = b'{"eventId": "e", "user_id": "u", "itemId": "i", "type": "INTERACTION_TYPE_PLAY"}'
    assert decode_interaction(value) == Interaction("e", "u", "i", EventType.PLAY)


@pytest.mark.parametrize(
    "value",
    [b"\x00", b"\xff" * 20, b"{", b'{"slot": -1}', b'{"rating": "x"}', b'{"event_id": "\xff"}'],
)
def test_bytes_that_are_no_interaction_are_a_wire_error(value: bytes) -> None:
    with pytest.raises(WireError, match="record is not a"):
        decode_interaction(value)


def test_an_oversized_record_is_refused_with_its_size() -> None:
    value = encode_interaction(Interaction("e" * MAX_RECORD_BYTES, "u", "i", EventType.CLICK))
    with pytest.raises(WireError, match=f"at most {MAX_RECORD_BYTES} bytes; got {len(value)}"):
        decode_interaction(value)


def test_a_title_without_an_id_is_refused() -> None:
    with pytest.raises(WireError, match=r"catalog_item\.item_id is required"):
        decode_catalog_item(encode_catalog_item(CatalogItem("", title="Nameless")))
