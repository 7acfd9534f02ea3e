"""Dead letters for the eye: the reason, where the record lay, its bytes, and what they may mean."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from features.codec import WireError, decode_interaction
from infra.ops.dead_letters import DeadLetter, hexdump

MAX_DECODED: Final = 2_000  # characters
MAX_DUMPED: Final = 256  # bytes
KEPT: Final = 50


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as the page shows it. All of it may be text of a stranger."""

    offset: int
    at_ms: int
    reason: str
    kind: str
    topic: str
    partition: int
    place: int
    producer: str
    size: int
    decoded: str
    form: str  # of `decoded`: protobuf, JSON, text, or nothing
    dump: str
    is_whole: bool


def letter_for_eyes(letter: DeadLetter) -> Letter:
    """What the page shows of a dead letter."""
    value = letter.value or b""
    form, decoded = _decoded(value)
    return Letter(
        letter.offset, letter.at_ms, letter.reason[:500], letter.kind[:200], letter.topic[:200],
        letter.partition, letter.place, letter.producer[:200], len(value), decoded[:MAX_DECODED],
        form, hexdump(value, MAX_DUMPED), letter.is_whole,
    )  # fmt: skip


def _decoded(value: bytes) -> tuple[str, str]:
    """In which form the bytes can be read, and how they read.

    >>> _decoded(b'{"user_id": "ann", "rating": 42}')[0]
    'JSON'
    >>> _decoded(bytes([0xFF, 0x00, 0x01]))
    ('nothing', '')
    """
    if value[:1] in (b"{", b"["):
        try:
            return "JSON", json.dumps(json.loads(value[:65_536]), indent=1, ensure_ascii=False)
        except (ValueError, RecursionError):
            pass
    try:
        found = {name: of for name, of in asdict(decode_interaction(value)).items() if _tells(of)}
        if found:
            return "protobuf", json.dumps(found, indent=1, default=str, ensure_ascii=False)
    except WireError:
        pass
    try:
        text = value[:MAX_DECODED].decode()
    except UnicodeDecodeError:
        return "nothing", ""
    return ("text", text) if text.isprintable() and text else ("nothing", "")


def _tells(value: Any) -> bool:
    return value not in (None, "", 0, 0.0)


def by_kind(letters: Sequence[Letter], limit: int = 8) -> list[dict[str, Any]]:
    """How many of each kind of reason, the most frequent first."""
    counts = Counter(letter.kind for letter in letters)
    return [{"kind": kind, "n": n} for kind, n in counts.most_common(limit)]
