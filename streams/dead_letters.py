"""Dead letters: records that are no events, kept with their reason, fit to be sent again."""

from features.events import BadRecord
from streams.kafka import OutRecord

MAX_REASON_BYTES = 1_000


def dead_letter(bad: BadRecord, topic: str) -> OutRecord:
    """The raw record under its original key, with where it lay and why it is here as headers."""
    headers = [
        ("reason", bad.reason.encode()[:MAX_REASON_BYTES]),
        ("topic", bad.topic.encode()),
        ("partition", str(bad.partition).encode()),
        ("offset", str(bad.offset).encode()),
    ]
    return OutRecord(topic, bad.key, bad.value, headers)
