"""The plain job of the peers comes to the same numbers as the rows of the features flow."""

from collections import defaultdict

import numpy as np
import pytest

from benchmarks.load import messages
from benchmarks.peers import job
from features import item_row, user_row
from features.decode import decode_records
from features.events import CatalogItem
from features.ids import id_hash
from features.item_activity import KINDS
from features.titles import TitleFacts
from features.vocabulary import GENRE_SLOT, EventType
from features.windows import MINUTE_MS

N_EVENTS, N_USERS, N_ITEMS = 600, 12, 40
GENRES = (("Drama", "War"), ("Comedy",), ("Crime", "Horror", "Thriller"))
STATES = ("", "seen", "in_progress", "watched", "abandoned", "rejected")


class Record:
    """A record as the decoder reads it."""

    def __init__(self, value: bytes, offset: int, logged_at_ms: int) -> None:
        self._value, self._offset, self._logged_at_ms = value, offset, logged_at_ms

    def value(self):
        return self._value

    def key(self):
        return None

    def headers(self):
        return None

    def topic(self):
        return "interactions"

    def partition(self):
        return 0

    def offset(self):
        return self._offset

    def timestamp(self):
        return 1, self._logged_at_ms


@pytest.fixture(scope="module")
def genres():
    return {f"i{k:08d}": GENRES[k % len(GENRES)] for k in range(N_ITEMS)}


@pytest.fixture(scope="module")
def records():
    """Half an hour of few viewers; every seventh record twice, and nonsense at the end."""
    values = [m["value"] for m in messages(N_EVENTS, N_USERS, 7, 1 / 3, N_ITEMS, mix="realistic")]
    twice = [value for k, value in enumerate(values) for _ in range(1 + (k % 7 == 0))]
    last_ms = job.Event.FromString(values[-1]).occurred_at_ms
    return [Record(v, k, last_ms) for k, v in enumerate([*twice, b"nonsense", b""])]


@pytest.fixture(scope="module")
def plain(records, genres):
    """States of viewers and titles by id, and how many records had no effect."""
    viewers, titles = defaultdict(job.new_viewer), defaultdict(job.new_title)
    left_out = 0
    for record in records:
        event = job.decode(record.value(), record.timestamp()[1])
        if event and job.update_viewer(viewers[job.viewer_id(event)], event, genres):
            job.update_title(titles[event.item_id], event)
        else:
            left_out += 1
    return viewers, titles, left_out


@pytest.fixture(scope="module")
def rows(records, genres):
    """Rows of viewers and titles by hashed id, as the flow makes them."""
    events = decode_records(records).events
    TitleFacts(CatalogItem(id_, genres=names) for id_, names in genres.items()).enrich(events)
    users = defaultdict(user_row.new_row)
    items = defaultdict(item_row.new_row)
    effect, slot = np.zeros(1, np.uint8), np.zeros(1, np.int64)
    for k in range(len(events)):
        one = events[k : k + 1]
        user_row.apply_all(users[int(one["user"][0])], slot, one, effect)
        item_row.apply_all(items[int(one["item"][0])], slot, one, effect)
    return users, items


def viewers_of(plain, rows):
    for id_, state in plain[0].items():
        yield state, rows[0][id_hash(id_)][0]


def test_second_deliveries_and_nonsense_have_no_effect(plain):
    viewers, _, left_out = plain
    assert left_out == len(range(0, N_EVENTS, 7)) + 2
    assert sum(sum(state["totals"].values()) for state in viewers.values()) == N_EVENTS


def test_counts_by_type_and_window_are_those_of_the_rows(plain, rows):
    fields = {"5m": "minutes", "1h": "ten_minutes", "24h": "three_hours"}
    kinds = {"impression": 1, "click": 2, "play": 3, "complete": 4, "rate": 5}  # counted by window
    for state, row in viewers_of(plain, rows):
        activity = row["activity"]
        for kind, name in enumerate(job.TYPES[1:]):
            assert state["totals"].get(name, 0) == activity["totals"][kind]
        for name, column in kinds.items():
            for window, field in fields.items():
                counted = sum(counts.get(name, 0) for _, counts in state[window])
                assert counted == activity[field][:, column].sum()


def test_sessions_and_last_items_are_those_of_the_rows(plain, rows):
    for state, row in viewers_of(plain, rows):
        activity, sessions = row["activity"], row["sessions"]
        assert state["session_events"] == sessions["events"]
        assert state["session_started_ms"] == sessions["started_ms"]
        assert state["last_ms"] == activity["last_ms"]
        ring = np.roll(activity["recent_items"], -int(activity["recent_next"]))
        assert [id_hash(item) for item, *_ in state["recent"]] == ring[ring != 0].tolist()


def test_tastes_are_those_of_the_rows(plain, rows):
    for state, row in viewers_of(plain, rows):
        affinity = row["taste"]["affinity"]
        for genre, slot in GENRE_SLOT.items():
            assert state["taste"].get(genre, 0.0) == pytest.approx(
                affinity[slot], rel=2e-3
            )  # by the hour there


def test_viewing_states_are_those_of_the_rows(plain, rows):
    for state, row in viewers_of(plain, rows):
        viewing = row["viewing"]
        known = {int(title["item"]): int(title["state"]) for title in viewing["titles"]}
        for item, (name, *_) in state["titles"].items():
            assert name == STATES[known[id_hash(item)]]


def test_counts_of_titles_are_those_of_the_rows(plain, rows):
    """All but duplicates: the rows here are told of them by the flag that the viewer's row sets."""
    for id_, state in plain[1].items():
        activity = rows[1][id_hash(id_)][0]["activity"]
        for kind, name in enumerate(KINDS):
            assert state["totals"].get(name, 0) == activity["totals"][kind]
            counted = sum(counts.get(name, 0) for _, counts in state["24h"])
            assert counted == activity["hours"][:, kind].sum()


def test_a_late_event_counts_in_its_own_bucket_and_never_outside_the_window():
    window = []
    for bucket in (10, 12, 11, 12, 8, 7):
        job.count(window, bucket, 5, "click")
    assert window == [[8, {"click": 1}], [10, {"click": 1}], [11, {"click": 1}], [12, {"click": 2}]]


def test_the_time_of_an_event_is_the_brokers_where_it_is_absurd():
    ahead = job.Event(event_id="e", user_id="u", item_id="i", type=EventType.CLICK)
    assert job.decode(ahead.SerializeToString(), 1_000).occurred_at_ms == 1_000
    ahead.occurred_at_ms = 10 * MINUTE_MS
    assert job.decode(ahead.SerializeToString(), 1_000).occurred_at_ms == 1_000 + MINUTE_MS
