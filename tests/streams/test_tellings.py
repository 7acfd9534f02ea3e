"""Lines of log about records say where they lie and which event they are, and name nobody."""

import json
from dataclasses import dataclass

import numpy as np
from structlog.testing import capture_logs

from features.codec import encode_interaction
from features.events import EVENT, BadRecord, Interaction
from features.vocabulary import EventType
from streams.tellings import tell_bad, tell_flagged


@dataclass
class Logged:
    """A record of the log as its client gives it."""

    offset_: int
    value_: bytes

    def value(self) -> bytes:
        return self.value_

    def topic(self) -> str:
        return "interactions"

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return self.offset_


def test_a_batch_has_one_line_about_its_first_flagged_event_and_one_about_its_dead_letters():
    records = [
        Logged(k, encode_interaction(Interaction(f"e{k}", "ann", "i1", EventType.CLICK)))
        for k in range(5, 9)
    ]
    events = np.zeros(4, EVENT)
    events["partition"], events["offset"] = 3, range(5, 9)
    bad = [
        BadRecord("interaction.user_id is required; got ann", "t", 1, k, b"ann", b"")
        for k in (2, 3)
    ]
    with capture_logs() as entries:
        tell_flagged(records, events, "record_misrouted", np.array([False, True, False, True]))
        tell_flagged(records, events, "event_clamped", np.zeros(4, np.bool_))
        tell_bad(bad)
        tell_bad([])
    level = {"log_level": "warning"}
    assert entries == [
        {"event": "record_misrouted", "topic": "interactions", "partition": 3, "offset": 6,
         "event_id": "e6", "in_batch": 2, **level},
        {"event": "dead_letter", "topic": "t", "partition": 1, "offset": 2,
         "expected": "interaction.user_id is required~", "in_batch": 2, **level},
    ]  # fmt: skip
    assert "ann" not in json.dumps(entries)


def test_a_record_that_cannot_be_read_any_more_is_told_without_its_id():
    events = np.zeros(1, EVENT)
    events["partition"], events["offset"] = 3, 5
    with capture_logs() as entries:
        tell_flagged([Logged(5, b"\xff\xff")], events, "event_clamped", np.array([True]))
    assert (entries[0]["event_id"], entries[0]["offset"]) == ("", 5)
