"""The mix of whole slates."""

from collections import Counter
from itertools import groupby

import pytest

from benchmarks.load import messages
from benchmarks.mix import SLATE
from features.codec import decode_interaction
from features.vocabulary import EventType

N = 30_000


@pytest.fixture(scope="module")
def events():
    records = messages(N, 5_000, 7, 50_000.0, 2_000, mix="realistic")
    return [decode_interaction(record["value"]) for record in records]


def test_shares_are_those_of_the_mix(events):
    shares = Counter(event.type for event in events)
    opened = shares[EventType.CLICK] + shares[EventType.PLAY]
    shown = shares[EventType.IMPRESSION]
    assert len(events) == N
    assert abs(shown / N - 0.45) < 0.02
    assert abs(shares[EventType.PROGRESS] / N - 0.25) < 0.02
    assert abs(opened / N - 0.25) < 0.02


def test_a_slate_is_ten_impressions_of_one_viewer_one_behind_the_other(events):
    shown = [event for event in events if event.type == EventType.IMPRESSION]
    slates = [list(slate) for _, slate in groupby(shown, lambda event: event.request_id)]
    assert len({slate[0].request_id for slate in slates}) == len(slates)
    for slate in slates[:-1]:  # the last one may be cut off
        assert [event.slot for event in slate] == list(range(SLATE))
        assert (
            len({(event.user_id, event.session_id, event.occurred_at_ms) for event in slate}) == 1
        )


def test_no_two_events_have_one_id_and_times_rise(events):
    assert len({event.event_id for event in events}) == N
    times = [event.occurred_at_ms for event in events]
    assert times == sorted(times)
