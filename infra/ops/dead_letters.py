"""`headrace dead-letters`: what the flow refused, why, and sending it again once it is mended.

A redrive writes the raw record back to the topic it came from, with its key, and notes the dead
letter's place in a ledger (topic `redrives`, compacted, keyed by that place). Whatever the ledger
has is passed over, so a redrive that is run twice sends each record once. A crash between the two
writes may send one again: it has its event_id, and counts once.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from confluent_kafka import Message
from rich.table import Table

from features.events import kind_of
from features.log import LogConfig, LogWriter, read_to_end
from infra import topics
from infra.ops.records import headers_of

REDRIVEN: Final = "headrace-redriven"  # header of a record that was sent again: its dead letter
OWN_HEADERS: Final = frozenset(
    {"reason", "topic", "partition", "offset", "key_bytes", "value_bytes"}
)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused record as it lies in `dead-letters`."""

    offset: int
    at_ms: int
    reason: str
    topic: str
    partition: int
    place: int  # its offset where it was refused
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]  # of the producer
    is_whole: bool  # what is too large for the topic was cut

    @property
    def kind(self) -> str:
        """The rule that it breaks, as the metric `headrace_stream_bad_records_total` has it."""
        return kind_of(self.reason)

    @property
    def producer(self) -> str:
        """The account in the key, which is all that is known of who sent it."""
        return "" if self.key is None else self.key.decode(errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which dead letters are meant; what is empty means any."""

    reason: str = ""  # a part of it
    producer: str = ""
    from_ms: int = 0
    to_ms: int = 2**63 - 1

    def takes(self, letter: DeadLetter) -> bool:
        """Whether a dead letter is meant."""
        return (
            self.reason in letter.reason
            and self.producer in ("", letter.producer)
            and self.from_ms <= letter.at_ms < self.to_ms
        )


@dataclass(frozen=True, slots=True)
class Redrive:
    """What a redrive did, or would do."""

    chosen: int
    sent: int
    known: int  # sent by an earlier redrive
    cut: int  # not whole: cannot be sent
    is_dry: bool


def read(config: LogConfig, prefix: str = "", choice: Choice = Choice()) -> list[DeadLetter]:
    """The chosen dead letters, oldest first. O(dead letters kept). Raises LogError."""
    records = read_to_end(config, prefix + topics.DEAD_LETTERS)
    return [letter for letter in map(letter_of, records) if choice.takes(letter)]


def letter_of(record: Message) -> DeadLetter:
    """The dead letter in a record of the topic."""
    headers = headers_of(record)
    return DeadLetter(
        offset=int(record.offset() or 0),
        at_ms=record.timestamp()[1],
        reason=headers.get("reason", b"").decode(errors="replace"),
        topic=headers.get("topic", b"").decode(errors="replace"),
        partition=_number(headers.get("partition")),
        place=_number(headers.get("offset")),
        key=record.key(),
        value=record.value(),
        headers=tuple(
            (name, value)
            for name, value in record.headers() or []
            if name not in OWN_HEADERS and isinstance(value, bytes)
        ),
        is_whole=not {"key_bytes", "value_bytes"} & set(headers),
    )


def _number(text: bytes | None) -> int:
    return int(text) if text is not None and text.isdigit() else -1


def redrive(
    config: LogConfig, prefix: str, letters: Sequence[DeadLetter], *, dry_run: bool
) -> Redrive:
    """Sends dead letters again, each once. Raises LogError: then run it again."""
    known = set(_redriven(config, prefix))
    whole = [letter for letter in letters if letter.is_whole]
    left = [letter for letter in whole if letter.offset not in known]
    if left and not dry_run:
        _send(config, prefix, left)
    cut = len(letters) - len(whole)
    return Redrive(len(letters), len(left), len(whole) - len(left), cut, dry_run)


def _redriven(config: LogConfig, prefix: str) -> Iterator[int]:
    """Offsets of the dead letters that were sent again."""
    for record in read_to_end(config, prefix + topics.REDRIVES):
        key = record.key() or b""
        if key.isdigit():
            yield int(key)


def _send(config: LogConfig, prefix: str, letters: Iterable[DeadLetter]) -> None:
    """First the records, then the entries of the ledger."""
    letters = list(letters)
    writer = LogWriter(config, **{"linger.ms": 5})
    for letter in letters:
        headers = [*letter.headers, (REDRIVEN, str(letter.offset).encode())]
        writer.append(letter.topic, letter.key, letter.value, headers=headers)
    writer.flush()
    for letter in letters:
        entry = {"topic": letter.topic, "partition": letter.partition, "offset": letter.place}
        key = str(letter.offset).encode()
        writer.append(prefix + topics.REDRIVES, key, json.dumps(entry).encode())
    writer.flush()


def by_kind(letters: Sequence[DeadLetter]) -> Table:
    """How many of each kind of reason, with an example and who sent most of them."""
    table = Table("n", "kind of reason", "most from", "first", "last", "show one")
    kinds = Counter(letter.kind for letter in letters)
    for kind, n in kinds.most_common():
        alike = [letter for letter in letters if letter.kind == kind]
        producer, _ = Counter(letter.producer for letter in alike).most_common(1)[0]
        last = alike[-1]
        table.add_row(
            f"{n:,}", kind, producer, _time(alike[0].at_ms), _time(last.at_ms), str(last.offset)
        )
    return table


def as_dict(letter: DeadLetter) -> dict[str, Any]:
    """For scripts."""
    return {
        "offset": letter.offset,
        "at_ms": letter.at_ms,
        "reason": letter.reason,
        "kind": letter.kind,
        "from": {"topic": letter.topic, "partition": letter.partition, "offset": letter.place},
        "producer": letter.producer,
        "bytes": None if letter.value is None else len(letter.value),
        "hex": None if letter.value is None else letter.value[:256].hex(),
        "is_whole": letter.is_whole,
    }


def hexdump(value: bytes, limit: int = 512) -> str:
    """Sixteen bytes a line, in hex and as text.

    >>> hexdump(b"Heat")
    '0000  48 65 61 74                                      Heat'
    """
    lines = []
    for start in range(0, min(len(value), limit), 16):
        part = value[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:04x}  {part.hex(' '):47}  {text}")
    return "\n".join(lines)


def _time(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1_000, UTC):%Y-%m-%d %H:%M:%S}"
