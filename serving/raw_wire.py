"""Protobuf bytes written by hand, for what an answer and a decision have twenty of.

A generated message makes an object for each item and a Python float for each feature. These
functions write the same fields as they go over the wire: tag, length, bytes
(https://protobuf.dev/programming-guides/encoding/). Fields may stand in any order and messages may
be made of several pieces, one behind the other; numbers that are zero are written all the same.
Tests compare each with what the generated classes make of it.
"""

import struct
from functools import lru_cache
from typing import Final

from serving.slate import SlateItem

_ITEM_NUMBERS: Final = struct.Struct("<BdBdBdBdBdBd")
_PROGRESS: Final = struct.Struct("<2sf")
_SLOT_NUMBERS: Final = struct.Struct("<BdBdBdBdBd")
_KEPT: Final = 65_536  # of the texts below, which come again and again, those used last
_ONE_BYTE: Final = 0x80  # lengths below take one byte


def varint(number: int) -> bytes:
    """A number of zero or more, seven bits a byte.

    >>> varint(300).hex()
    'ac02'
    """
    written = bytearray()
    while number >= _ONE_BYTE:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def length_of(data: bytes) -> bytes:
    """The length of a field, as it stands before it.

    >>> [length_of(bytes(5)).hex(), length_of(bytes(300)).hex()]
    ['05', 'ac02']
    """
    size = len(data)
    if size < _ONE_BYTE:
        return b"%c" % size
    if size < _ONE_BYTE << 7:
        return b"%c%c" % (size & 0x7F | 0x80, size >> 7)
    return varint(size)


def text_field(tag: int, value: str) -> bytes:
    r"""A text with its tag; nothing where it is empty.

    >>> text_field(0x0A, "tt1")
    b'\n\x03tt1'
    """
    data = value.encode()
    return b"%b%b%b" % (varint(tag), length_of(data), data) if data else b""


def item_bytes(item: SlateItem) -> bytes:
    """The fields of a RecommendedItem, without features."""
    return b"%b%b%b%b" % (
        _title(item.item_id, item.title),
        _why(
            item.source, item.arm, item.cause_item_id, item.cause_title, item.reason,
            item.reason_kind, item.rule_id,
        ),
        _ITEM_NUMBERS.pack(
            0x19, item.score, 0x51, item.propensity, 0x59, item.item_propensity,
            0x61, item.posterior_mean, 0x69, item.posterior_weight, 0x71, item.click_probability,
        ),
        _PROGRESS.pack(b"\x8d\x01", item.progress) if item.progress else b"",
    )  # fmt: skip


def slot_bytes(item: SlateItem) -> bytes:
    """The fields of a SlateSlot."""
    features = b"" if item.features is None else item.features.tobytes()
    return b"%b%b\x3a%b%b" % (
        _slot_texts(item.item_id, item.source, item.arm, item.cause_item_id),
        _SLOT_NUMBERS.pack(
            0x21, item.propensity, 0x29, item.score, 0x41, item.item_propensity,
            0x49, item.posterior_mean, 0x51, item.posterior_weight,
        ),
        length_of(features),
        features,
    )  # fmt: skip


@lru_cache(_KEPT)
def _title(item_id: str, title: str) -> bytes:
    return text_field(0x0A, item_id) + text_field(0x12, title)


@lru_cache(_KEPT)
def _why(
    source: str, arm: str, cause_item_id: str, cause_title: str, reason: str, kind: str, rule: str
) -> bytes:
    fields = (
        (0x22, source), (0x4A, arm), (0x2A, cause_item_id), (0x32, cause_title), (0x3A, reason),
        (0x7A, kind), (0x12 << 3 | 2, rule),
    )  # fmt: skip
    return b"".join(text_field(*field) for field in fields)


@lru_cache(_KEPT)
def _slot_texts(item_id: str, source: str, arm: str, cause_item_id: str) -> bytes:
    fields = ((0x0A, item_id), (0x12, source), (0x1A, arm), (0x32, cause_item_id))
    return b"".join(text_field(*field) for field in fields)
