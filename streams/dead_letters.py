"""Dead letters: records that are no events, kept with their reason, fit to be sent again."""

from features.events import BadRecord
from streams.kafka import OutRecord

MAX_REASON_BYTES = 1_000
MAX_KEY_BYTES = 65_536
MAX_VALUE_BYTES = 1 << 20  # as much as the topics take; a compressed record may unfold to more


def dead_letter(bad: BadRecord, topic: str) -> OutRecord:
    """The raw record under its original key, with where it lay and why it is here as headers.

    Of a key or a value too large for the topic only the beginning is kept; a header `key_bytes` or
    `value_bytes` then says how long it was.
    """
    headers = [
        ("reason", bad.reason.encode()[:MAX_REASON_BYTES]),
        ("topic", bad.topic.encode()),
        ("partition", str(bad.partition).encode()),
        ("offset", str(bad.offset).encode()),
    ]
    key, value = bad.key, bad.value
    if key is not None and len(key) > MAX_KEY_BYTES:
        headers.append(("key_bytes", str(len(key)).encode()))
        key = key[:MAX_KEY_BYTES]
    if value is not None and len(value) > MAX_VALUE_BYTES:
        headers.append(("value_bytes", str(len(value)).encode()))
        value = value[:MAX_VALUE_BYTES]
    return OutRecord(topic, key, value, headers)
