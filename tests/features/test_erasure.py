"""Erasing a viewer: what the row forgets, and what a second reading does not bring back."""

import numpy as np
import pytest

from features import user_row
from features.codec import WireError, decode_erasure, encode_erasure
from features.erasure import Erasure, ErasureLedger, erase_event, erasures_in
from features.events import DUPLICATE, ERASED, EVENT, problem_with
from features.store import USERS
from features.vocabulary import EventType
from tests.clock import START_MS
from tests.oracle import differences

VIEWER = 77


def event(offset, kind=EventType.COMPLETE, *, event_id=None, user=VIEWER):
    made = np.zeros(1, EVENT)
    made["user"], made["item"], made["genres"], made["year"] = user, 5, 3, 1999
    made["event"] = offset + 1_000 if event_id is None else event_id
    made["type"], made["offset"], made["partition"] = kind, offset, 2
    made["at_ms"] = made["logged_at_ms"] = START_MS + offset
    return made


def row_after(events):
    row = USERS.empty.copy()
    row["id"] = VIEWER
    effects = [user_row.apply(row[0], one[0]) for one in events]
    return row, effects


def test_an_erasure_leaves_the_row_of_a_new_viewer_at_its_place_in_the_log():
    row, _ = row_after([event(1), event(2, EventType.LIKE), event(3, EventType.ERASE)])
    expected = USERS.empty.copy()
    expected["id"], expected["partition"], expected["offset"] = VIEWER, 2, 3
    expected["logged_at_ms"] = START_MS + 3
    assert differences(expected, row) == []


def test_a_viewer_starts_anew_after_an_erasure():
    row, _ = row_after([event(1), event(2, EventType.ERASE), event(3)])
    fresh, _ = row_after([event(3)])
    assert differences(fresh, row) == []


def test_what_lies_before_the_erasure_is_not_taken_in_again():
    ledger = ErasureLedger()
    ledger.put(Erasure(VIEWER, 2, 3, START_MS))
    events = np.concatenate([event(1), event(2), event(3, EventType.ERASE), event(4)])
    ledger.flag(events)
    assert [bool(flags & ERASED) for flags in events["flags"]] == [True, True, False, False]
    row, effects = row_after([events[:1], events[1:2]])
    assert effects == [user_row.APPLIED, user_row.APPLIED]
    for group in ("activity", "taste", "viewing"):
        assert [x for x in differences(row, USERS.empty) if f": {group}." in x] == []
    assert row["offset"][0] == 2


def test_duplicates_before_the_erasure_are_still_known_to_be_duplicates():
    ledger = ErasureLedger()
    ledger.put(Erasure(VIEWER, 2, 9, START_MS))
    events = np.concatenate([event(1, event_id=8), event(2, event_id=8)])
    ledger.flag(events)
    _, effects = row_after([events[:1], events[1:]])
    assert effects == [user_row.APPLIED, user_row.SEEN_BEFORE]
    assert events["flags"][1] & DUPLICATE


def test_the_last_erasure_of_a_viewer_counts():
    ledger = ErasureLedger()
    for offset in (3, 9, 5):
        ledger.put(Erasure(VIEWER, 2, offset, START_MS))
    events = np.concatenate([event(8), event(10), event(8, user=78)])
    ledger.flag(events)
    assert [bool(flags & ERASED) for flags in events["flags"]] == [True, False, False]
    assert ledger.knows(Erasure(VIEWER, 2, 9, 0))
    assert not ledger.knows(Erasure(VIEWER, 2, 10, 0))


def test_events_of_another_partition_are_not_before_an_erasure():
    ledger = ErasureLedger()
    ledger.put(Erasure(VIEWER, 1, 9, START_MS))
    events = event(3)
    ledger.flag(events)
    assert events["flags"][0] == 0


def test_an_entry_of_the_ledger_comes_back_as_it_was():
    erasure = Erasure(VIEWER, 3, 12, START_MS)
    assert decode_erasure(erasure.key, encode_erasure(erasure)) == erasure
    with pytest.raises(WireError, match="16 hexadecimal digits"):
        decode_erasure(b"ann", encode_erasure(erasure))


def test_an_erasure_is_an_event_of_no_title():
    assert problem_with(erase_event("ann", "", START_MS)) is None
    assert problem_with(erase_event("", "", START_MS)) is not None
    found = erasures_in(np.concatenate([event(1), event(2, EventType.ERASE)]))
    assert found == [Erasure(VIEWER, 2, 2, START_MS + 2)]
