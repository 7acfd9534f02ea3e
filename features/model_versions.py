"""The topic `models`: under which key each version of learned state lies, and how to read them.

    learned             the newest version, by the learner
    learned@restored    the version that the last rollback went back to, by whoever ordered it
    learned@SEQUENCE    a version that can be gone back to, by the learner; a tombstone once thinned

Servers use whichever of the first two has the larger sequence. A record of the learner says in a
header which versions were kept as of it: from such a record a learner can go on.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Message

from features.log import Headers, LogConfig, read_to_end

LEARNED: Final = "learned"
RESTORED: Final = "learned@restored"
SERVED: Final = (LEARNED, RESTORED)
KEPT_PREFIX: Final = "learned@"
KEPT_HEADER: Final = "kept"
# How versions are written. Four a second of half a megabyte, mostly zeros, are worth compressing.
VERSION_OPTIONS: Final[dict[str, str | int]] = {
    "message.max.bytes": 8 << 20,
    "compression.type": "zstd",
}


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A record of the topic: an encoded version. `kept` is None where no learner wrote it."""

    value: bytes
    offset: int = -1
    kept: tuple[int, ...] | None = None


def kept_key(sequence: int) -> str:
    """Key of a version that can be gone back to.

    >>> kept_sequence(kept_key(17)), kept_sequence("learned@restored")
    (17, None)
    """
    return f"{KEPT_PREFIX}{sequence}"


def kept_sequence(key: str) -> int | None:
    """The sequence in the key of a kept version; None for any other key."""
    digits = key.removeprefix(KEPT_PREFIX)
    return int(digits) if digits != key and digits.isdecimal() else None


def kept_headers(kept: Iterable[int]) -> Headers:
    """The header with the kept versions, in their order.

    >>> read_kept(kept_headers([3, 17]))
    (3, 17)
    """
    return [(KEPT_HEADER, ",".join(map(str, kept)).encode())]


def read_kept(headers: Headers | None) -> tuple[int, ...] | None:
    """What `kept_headers` wrote; None where there is no such header."""
    for name, value in headers or ():
        if name == KEPT_HEADER:
            return tuple(int(digits) for digits in value.decode().split(",") if digits)
    return None


def key_of(record: Message) -> str:
    """The key as text; empty where there is none."""
    return (record.key() or b"").decode(errors="replace")


def read_versions(config: LogConfig, topic: str) -> dict[str, StoredVersion]:
    """The newest record of every key, without what a tombstone took out. Raises LogError."""
    found: dict[str, StoredVersion] = {}
    for record in read_to_end(config, topic):
        key, value = key_of(record), record.value()
        if value:
            found[key] = StoredVersion(value, record.offset() or 0, read_kept(record.headers()))
        else:
            found.pop(key, None)
    return found
