"""Simulation: repeatable, shaped as it says, and the same events in every form."""

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.codec import decode_interaction
from features.decode import scan_all
from features.events import EVENT, NO_RATING, NO_SLOT, Interaction, problem_with
from features.ids import id_hashes
from features.vocabulary import N_TYPES, EventType
from offline.simulator import (
    SESSION_GAP_S,
    EventMix,
    SimulatedBatch,
    SimulationConfig,
    Simulator,
    encode_batch,
    enough_users,
    item_id,
    user_id,
)

START_MS = 1_700_000_000_000
WATCH_TYPES = {EventType.PROGRESS, EventType.COMPLETE, EventType.SKIP}


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return Simulator(SimulationConfig(n_users=5_000, n_items=1_000, seed=3))


@pytest.fixture(scope="module")
def events(simulator: Simulator) -> list[Interaction]:
    return list(simulator.interactions(40_000, START_MS, events_per_s=50.0))


def test_the_same_seed_simulates_the_same_events(simulator: Simulator) -> None:
    again = Simulator(SimulationConfig(n_users=5_000, n_items=1_000, seed=3))
    first = list(simulator.interactions(3_000, START_MS))
    assert list(again.interactions(3_000, START_MS)) == first
    assert list(simulator.interactions(3_000, START_MS)) == first
    assert again.catalogue() == simulator.catalogue()


def test_fewer_events_are_the_first_of_more(simulator: Simulator) -> None:
    many = list(simulator.interactions(23_000, START_MS))
    assert list(simulator.interactions(12_500, START_MS)) == many[:12_500]


@pytest.mark.parametrize(
    ("seed", "start_ms", "events_per_s"),
    [(4, START_MS, 1e3), (3, START_MS + 1, 1e3), (3, START_MS, 2e3)],
)
def test_another_simulation_has_other_event_ids(
    simulator: Simulator, seed: int, start_ms: int, events_per_s: float
) -> None:
    other = Simulator(SimulationConfig(n_users=5_000, n_items=1_000, seed=seed))
    ids = {event.event_id for event in simulator.interactions(500, START_MS, 1e3)}
    assert len(ids) == 500
    assert ids.isdisjoint(e.event_id for e in other.interactions(500, start_ms, events_per_s))


def test_every_event_is_valid_and_about_a_known_title(
    simulator: Simulator, events: list[Interaction]
) -> None:
    titles = {item.item_id for item in simulator.catalogue()}
    assert [problem for event in events if (problem := problem_with(event))] == []
    assert {event.item_id for event in events} <= titles


def test_events_come_at_the_rate_asked_for(events: list[Interaction]) -> None:
    times = [event.occurred_at_ms for event in events]
    assert times == [START_MS + 20 * number for number in range(len(events))]


@pytest.mark.parametrize("mix", [EventMix(), EventMix(0.55, 0.35, 0.10)])
def test_types_are_mixed_as_configured(mix: EventMix) -> None:
    simulator = Simulator(SimulationConfig(n_users=20_000, n_items=1_000, mix=mix))
    batches = simulator.batches(100_000, START_MS, events_per_s=5_000.0)
    counts = Counter(type_ for batch in batches for type_ in batch.type.tolist())
    shown = counts[EventType.IMPRESSION] + counts[EventType.PROGRESS]
    opened = counts[EventType.CLICK] + counts[EventType.PLAY]
    assert shown / 100_000 == pytest.approx(mix.shown_and_progress, abs=0.03)
    assert opened / 100_000 == pytest.approx(mix.click_and_play, abs=0.03)


def test_the_mix_holds_from_the_first_events_on() -> None:
    simulator = Simulator(SimulationConfig(n_users=1_000_000, n_items=1_000))
    (batch,) = simulator.batches(10_000, START_MS, events_per_s=50_000.0)
    shown = np.isin(batch.type, [EventType.IMPRESSION, EventType.PROGRESS]).mean()
    assert shown == pytest.approx(0.70, abs=0.03)
    assert len(np.unique(batch.user)) == len(batch)


def test_a_viewers_story_goes_from_shown_to_opened_to_watched(events: list[Interaction]) -> None:
    allowed = {
        EventType.CLICK: {EventType.IMPRESSION},
        EventType.PLAY: {EventType.CLICK},
        EventType.PROGRESS: {EventType.PLAY, EventType.PROGRESS},
        EventType.COMPLETE: {EventType.PROGRESS},
        EventType.SKIP: {EventType.PROGRESS},
        EventType.LIKE: {EventType.PROGRESS},
        EventType.RATE: {EventType.PROGRESS},
    }
    sessions = defaultdict(list)
    for event in events:
        sessions[event.session_id].append(event)
    n_checked = 0
    for session in sessions.values():
        for before, after in pairwise(session):
            if after.type in allowed:
                assert before.type in allowed[after.type]
                assert before.item_id == after.item_id
                n_checked += 1
    assert n_checked > 10_000


def test_a_session_belongs_to_one_viewer_and_sessions_are_half_an_hour_apart() -> None:
    config = SimulationConfig(n_items=200, n_users=2)
    config = SimulationConfig(n_items=200, n_users=enough_users(config, 5.0))
    ends: dict[str, tuple[str, int]] = {}
    owners: dict[str, str] = {}
    gaps = []
    for event in Simulator(config).interactions(60_000, START_MS, events_per_s=5.0):
        assert owners.setdefault(event.session_id, event.user_id) == event.user_id
        session, at_ms = ends.get(event.user_id, (event.session_id, event.occurred_at_ms))
        if session != event.session_id:
            gaps.append((event.occurred_at_ms - at_ms) / 1_000)
        ends[event.user_id] = event.session_id, event.occurred_at_ms
    assert len(gaps) > 500
    assert np.mean(np.array(gaps) >= SESSION_GAP_S) > 0.95


def test_watch_positions_stay_within_the_title_and_only_where_watched(
    events: list[Interaction],
) -> None:
    for event in events:
        assert 0 <= event.watch_position_s <= event.watch_duration_s
        assert (event.watch_duration_s > 0) == (event.type in WATCH_TYPES)
        assert (event.slot is not None) == (event.type == EventType.IMPRESSION)
        assert (event.rating is not None) == (event.type == EventType.RATE)
    assert all(
        e.watch_position_s == e.watch_duration_s for e in events if e.type == EventType.COMPLETE
    )


def test_popularity_falls_with_the_rank_as_zipf_says() -> None:
    simulator = Simulator(SimulationConfig(n_users=20_000, n_items=500, n_clusters=2))
    shares = np.sort(simulator.popularity())[::-1]
    assert shares[0] / shares[9] == pytest.approx(10.0)
    counts = np.zeros(500)
    for batch in simulator.batches(200_000, START_MS, events_per_s=5_000.0):
        counts += np.bincount(batch.item[batch.type == EventType.IMPRESSION], minlength=500)
    top = np.argsort(simulator.popularity())[::-1]
    assert counts[top[:50]].sum() > counts[top[50:]].sum()
    assert np.corrcoef(counts, simulator.popularity())[0, 1] > 0.9


def test_viewers_open_what_is_to_their_taste() -> None:
    simulator = Simulator(SimulationConfig(n_users=20_000, n_items=500))
    liked: dict[int, list[float]] = {EventType.IMPRESSION: [], EventType.CLICK: []}
    for batch in simulator.batches(50_000, START_MS, events_per_s=5_000.0):
        taste = simulator.affinity(batch.user, batch.item, batch.at_ms)
        for type_, values in liked.items():
            values.extend(taste[batch.type == type_].tolist())
    assert np.mean(liked[EventType.CLICK]) > 1.3 * np.mean(liked[EventType.IMPRESSION])


def test_taste_drifts_without_a_jump() -> None:
    config = SimulationConfig(n_users=100, n_items=64, n_clusters=16, drift_period_s=1_000.0)
    simulator = Simulator(config)
    items = [item_id(number) for number in range(16)]
    tastes = np.array([simulator.taste("ann", items, START_MS + s * 1_000) for s in range(5_000)])
    assert np.allclose(tastes.sum(axis=1), 1.0, atol=1e-4)
    assert np.abs(np.diff(tastes, axis=0)).max() < 0.01
    assert len(np.unique(tastes.argmax(axis=1))) >= 3


def test_all_forms_of_taste_agree(simulator: Simulator) -> None:
    users, items = np.array([7, 4_999], np.int32), np.array([11, 12], np.int32)
    pairs = simulator.affinity(users, items, np.full(2, START_MS))
    for user, item, pair in zip(users.tolist(), items.tolist(), pairs.tolist(), strict=True):
        assert simulator.taste(user_id(user), [item_id(item)], START_MS).tolist() == [pair]


def test_payloads_decode_to_the_interactions(simulator: Simulator) -> None:
    for batch in simulator.batches(12_000, START_MS, events_per_s=700.0):
        interactions = list(batch.interactions())
        payloads = encode_batch(batch)
        assert [decode_interaction(payload) for payload in payloads] == interactions
        assert batch.keys() == [interaction.user_id.encode() for interaction in interactions]


def test_payloads_take_the_fast_way_through_the_decoder(simulator: Simulator) -> None:
    (batch,) = simulator.batches(2_000, START_MS)
    payloads = encode_batch(batch)
    decoded, good = np.zeros(len(payloads), EVENT), np.zeros(len(payloads), np.bool_)
    lengths = np.array([len(payload) for payload in payloads])
    scan_all(np.frombuffer(b"".join(payloads), np.uint8), lengths, decoded, good)
    assert good.all()
    assert decoded["item"].tolist() == id_hashes(item_id(n) for n in batch.item.tolist()).tolist()
    assert decoded["at_ms"].tolist() == batch.at_ms.tolist()


@given(
    number=st.integers(0, 16**10 - 1),
    user=st.integers(0, 10**9 - 1),
    item=st.integers(0, 10**8 - 1),
    at_ms=st.integers(0, (1 << 42) - 1),
    type_=st.sampled_from(list(EventType)[1 : N_TYPES + 1]),
    slot=st.none() | st.integers(0, 127),
    rating=st.floats(0, 10, width=32),
    position=st.floats(0, 1e6, width=32),
)
def test_any_columns_survive_the_wire(
    number: int, user: int, item: int, at_ms: int, type_: EventType, slot: int | None,
    rating: float, position: float,
) -> None:  # fmt: skip
    has_rating = slot is None and type_ == EventType.RATE
    batch = SimulatedBatch(
        run=number,
        number=np.array([number]),
        user=np.array([user], np.int32),
        item=np.array([item], np.int32),
        session=np.array([number]),
        type=np.array([type_], np.uint8),
        at_ms=np.array([at_ms]),
        slot=np.array([NO_SLOT if slot is None else slot], np.int16),
        rating=np.array([rating if has_rating else NO_RATING], np.float32),
        watch_position_s=np.array([position], np.float32),
        watch_duration_s=np.array([position], np.float32),
    )
    (payload,) = encode_batch(batch)
    assert [decode_interaction(payload)] == list(batch.interactions())


def test_a_slate_is_seen_whole_and_answered_in_order(simulator: Simulator) -> None:
    slate = [f"tt{number}" for number in range(10)]
    answer = simulator.answer("ann", slate, START_MS, request_id="r{1}")
    impressions = [event for event in answer if event.type == EventType.IMPRESSION]
    assert [event.item_id for event in impressions] == slate
    assert [event.slot for event in impressions] == list(range(10))
    assert all(a.occurred_at_ms <= b.occurred_at_ms for a, b in pairwise(answer))
    assert {event.request_id for event in answer} == {"r{1}"}
    assert [problem for event in answer if (problem := problem_with(event))] == []


def test_answers_have_ids_of_their_own_and_stay_within_a_minute(simulator: Simulator) -> None:
    slate = [item_id(number) for number in range(20)]
    ids: list[str] = []
    for number in range(200):
        answer = simulator.answer(f"viewer{number}", slate, START_MS)
        ids += [event.event_id for event in answer]
        assert answer[-1].occurred_at_ms < START_MS + 60_000
    assert len(set(ids)) == len(ids)


def test_viewers_open_the_top_more_than_the_bottom_and_taste_more_than_place() -> None:
    simulator = Simulator(SimulationConfig(n_items=160, n_clusters=8))
    slate = [item_id(number) for number in range(16)]
    by_slot = np.zeros(16)
    by_taste: dict[bool, list[bool]] = {True: [], False: []}
    for number in range(3_000):
        taste = simulator.taste(user_id(number), slate, START_MS)
        answer = simulator.answer(user_id(number), slate, START_MS)
        opened = {event.slot for event in answer if event.type == EventType.CLICK}
        for slot in range(16):
            by_slot[slot] += slot in opened
            by_taste[bool(taste[slot] > 0.5)].append(slot in opened)
    assert by_slot[:4].sum() > 1.5 * by_slot[-4:].sum()
    assert np.mean(by_taste[True]) > 3 * np.mean(by_taste[False])


def test_the_catalogue_has_every_title_once(simulator: Simulator) -> None:
    items = simulator.catalogue()
    assert [item.item_id for item in items] == [item_id(number) for number in range(1_000)]
    assert all(item.genres and item.title and 20 <= item.runtime_min < 150 for item in items)


@pytest.mark.parametrize(
    ("n_users", "n_items", "n_clusters"), [(2, 2, 2), (60, 2, 16), (60, 50, 1_024)]
)
def test_the_smallest_worlds_work(n_users: int, n_items: int, n_clusters: int) -> None:
    config = SimulationConfig(n_users=n_users, n_items=n_items, n_clusters=n_clusters)
    events = list(Simulator(config).interactions(500, START_MS, events_per_s=100.0))
    assert len(events) == 500
    assert {event.user_id for event in events} <= {user_id(n) for n in range(n_users)}


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_users", 1), ("n_items", 10**9), ("n_clusters", 0), ("seed", -1), ("step_s", 0.0),
     ("drift_period_s", float("nan")), ("session_titles", 0.5), ("zipf_exponent", -1.0)],
)  # fmt: skip
def test_a_configuration_that_makes_no_sense_names_its_field(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"simulation.{field} must"):
        SimulationConfig(**{field: value})  # type: ignore[arg-type]


def test_a_mix_must_sum_to_one() -> None:
    with pytest.raises(ValueError, match=r"simulation\.mix"):
        EventMix(0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("n", "start_ms", "rate"), [(-1, START_MS, 1.0), (1, -1, 1.0), (1, 1 << 42, 1.0), (1, 0, 0.0)]
)
def test_a_simulation_outside_of_time_is_refused(
    simulator: Simulator, n: int, start_ms: int, rate: float
) -> None:
    with pytest.raises(ValueError, match="simulat"):
        simulator.batches(n, start_ms, rate)
