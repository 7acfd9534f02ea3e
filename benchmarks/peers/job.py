"""The job of the features flow in plain Python: dictionaries and lists, one event at a time.

Faust and Quix Streams run the same functions; what differs is how records come in, where state
lies and how values go out. A state is what `json.dumps` takes, and what goes to Redis.
"""

from collections.abc import Iterator
from math import isfinite, sqrt
from typing import Any

from confluent_kafka import Consumer, TopicPartition
from google.protobuf.message import DecodeError
from headrace.v1 import events_pb2

Event = events_pb2.Interaction
State = dict[str, Any]
Genres = dict[str, tuple[str, ...]]

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
SESSION_GAP_MS = 30 * MINUTE_MS
HALF_LIFE_MS = 30 * DAY_MS
N_REMEMBERED, N_RECENT, N_TITLES = 32, 16, 32
MAX_ID_BYTES, MAX_WATCH_S, MAX_SLOT, MAX_FUTURE_MS = 128, 1e6, 10_000, 60_000

IMPRESSION, CLICK, PLAY, PROGRESS, COMPLETE, LIKE = 1, 2, 3, 4, 5, 6
DISLIKE, RATE, SKIP, ADD, SHARE, SEARCH = 7, 8, 9, 10, 11, 12
TYPES = (
    "", "impression", "click", "play", "progress", "complete", "like",
    "dislike", "rate", "skip", "add", "share", "search",
)  # fmt: skip
WEIGHTS = (0.0, 0.0, 0.2, 0.4, 0.1, 1.0, 0.8, -1.0, 0.0, -0.3, 0.5, 0.8, 0.2)

# Name, width of a bucket, number of buckets.
VIEWER_WINDOWS = (("5m", MINUTE_MS, 5), ("1h", 10 * MINUTE_MS, 6), ("24h", 3 * HOUR_MS, 8))
TITLE_WINDOWS = (("1h", 5 * MINUTE_MS, 12), ("24h", HOUR_MS, 24), ("14d", DAY_MS, 15))


def decode(value: bytes | None, logged_at_ms: int) -> Event | None:
    """The event of a record, None if it is none; an absurd time becomes the broker's."""
    try:
        event = Event.FromString(value or b"")
    except DecodeError:
        return None
    if not is_valid(event):
        return None
    at_ms = event.occurred_at_ms
    if at_ms <= 0:
        event.occurred_at_ms = logged_at_ms
    elif at_ms > logged_at_ms + MAX_FUTURE_MS:
        event.occurred_at_ms = logged_at_ms + MAX_FUTURE_MS
    return event


def is_valid(event: Event) -> bool:
    """Whether ids, type and numbers are within what the contract says."""
    for required in (event.event_id, event.user_id, event.item_id):
        if not 0 < len(required) <= MAX_ID_BYTES:
            return False
    kind = event.type
    if not 0 < kind < len(TYPES) or event.slot > MAX_SLOT:
        return False
    if not 0 <= event.watch_position_s <= MAX_WATCH_S:
        return False
    if not 0 <= event.watch_duration_s <= MAX_WATCH_S:
        return False
    if event.HasField("rating"):
        return isfinite(event.rating) and 0 <= event.rating <= 10
    return bool(kind != RATE)


def viewer_id(event: Event) -> str:
    """The viewer: an account, or one of its profiles."""
    return f"{event.user_id}/{event.profile_id}" if event.profile_id else str(event.user_id)


def new_viewer() -> State:
    """The state of a viewer of whom nothing is known."""
    return {
        "seen": [], "totals": {}, "5m": [], "1h": [], "24h": [], "recent": [],
        "session": "", "session_started_ms": 0, "session_events": 0, "first_ms": 0, "last_ms": 0,
        "ratings": 0, "rating_sum": 0.0, "rating_square_sum": 0.0,
        "taste": {}, "taste_weight": 0.0, "taste_at_ms": 0, "titles": {},
    }  # fmt: skip


def update_viewer(state: State, event: Event, genres: Genres) -> bool:
    """Takes an event in; False for the second one with an id among the last 32."""
    event_id, kind, at_ms, item = event.event_id, event.type, event.occurred_at_ms, event.item_id
    seen = state["seen"]
    if event_id in seen:
        return False
    seen.append(event_id)
    if len(seen) > N_REMEMBERED:
        del seen[0]
    name = TYPES[kind]
    for window, width_ms, n_buckets in VIEWER_WINDOWS:
        count(state[window], at_ms // width_ms, n_buckets, name)
    totals = state["totals"]
    totals[name] = totals.get(name, 0) + 1
    follow_session(state, event.session_id, at_ms)
    if kind == IMPRESSION:
        return True
    recent = state["recent"]
    recent.append((item, at_ms, name))
    if len(recent) > N_RECENT:
        del recent[0]
    rating = event.rating if event.HasField("rating") else None
    if kind == RATE and rating is not None:
        state["ratings"] += 1
        state["rating_sum"] += rating
        state["rating_square_sum"] += rating * rating
    weight = WEIGHTS[kind] if rating is None else (rating - 5) / 5
    update_taste(state, weight, genres.get(item, ()), at_ms)
    if kind != SEARCH:
        update_titles(state["titles"], event, rating)
    return True


def count(window: list[Any], bucket: int, n_buckets: int, name: str) -> None:
    """Counts in one of the last `n_buckets`; `window` is `[[bucket, {name: count}], ...]`."""
    if not window or bucket > window[-1][0]:
        window.append([bucket, {name: 1}])
        while window[0][0] <= bucket - n_buckets:
            del window[0]
        return
    for at in range(len(window) - 1, -1, -1):
        if window[at][0] == bucket:
            counts = window[at][1]
            counts[name] = counts.get(name, 0) + 1
            return
        if window[at][0] < bucket:
            window.insert(at + 1, [bucket, {name: 1}])
            return
    if bucket > window[-1][0] - n_buckets:
        window.insert(0, [bucket, {name: 1}])


def follow_session(state: State, session: str, at_ms: int) -> None:
    """A session ends after 30 idle minutes, or when the producer names another one."""
    last_ms = state["last_ms"]
    renamed = session and session != state["session"]
    if at_ms - last_ms > SESSION_GAP_MS or (renamed and at_ms >= last_ms):
        state["session"], state["session_started_ms"] = session, at_ms
        state["session_events"] = 0
    state["session_events"] += 1
    if not state["first_ms"] or at_ms < state["first_ms"]:
        state["first_ms"] = at_ms
    if at_ms > last_ms:
        state["last_ms"] = at_ms


def update_taste(state: State, weight: float, genres: tuple[str, ...], at_ms: int) -> None:
    """Adds to the genres of a title what its event says, decayed with a half-life of 30 days."""
    if not weight or not genres:
        return
    taste = state["taste"]
    passed_ms = at_ms - state["taste_at_ms"]
    if passed_ms > 0:
        left = 2.0 ** (-passed_ms / HALF_LIFE_MS)
        for genre in taste:
            taste[genre] *= left
        state["taste_weight"] *= left
        state["taste_at_ms"] = at_ms
    else:
        weight *= 2.0 ** (passed_ms / HALF_LIFE_MS)
    share = weight / sqrt(len(genres))
    for genre in genres:
        taste[genre] = taste.get(genre, 0.0) + share
    state["taste_weight"] += abs(weight)


def update_titles(titles: dict[str, Any], event: Event, rating: float | None) -> None:
    """Moves a title to the end with its new state; the one touched longest ago falls off."""
    kind, item, at_ms = event.type, event.item_id, event.occurred_at_ms
    state, fraction, kept_rating, last_ms = titles.pop(item, ("seen", 0.0, None, 0))
    if kind == COMPLETE:
        fraction = 1.0
    elif event.watch_duration_s > 0:
        fraction = max(fraction, min(event.watch_position_s / event.watch_duration_s, 1.0))
    state = next_state(state, kind, fraction)
    titles[item] = (
        state,
        fraction,
        kept_rating if rating is None else rating,
        max(at_ms, last_ms),
    )
    if len(titles) > N_TITLES:
        del titles[next(iter(titles))]


def next_state(state: str, kind: int, fraction: float) -> str:
    """The rules: a rating says watched; a dislike rejects until a like; a skip abandons."""
    if kind == DISLIKE:
        state = "rejected"
    elif kind == LIKE and state == "rejected":
        state = "seen"
    elif kind in (COMPLETE, RATE):
        state = "watched"
    elif kind in (PLAY, PROGRESS):
        state = "watched" if fraction >= 0.9 or state == "watched" else "in_progress"
    elif kind == SKIP and state == "in_progress":
        state = "abandoned"
    return state


def new_title() -> State:
    """The state of a title that nobody has touched."""
    return {
        "totals": {}, "1h": [], "24h": [], "14d": [],
        "ratings": 0, "rating_sum_tenths": 0, "rating_square_sum_tenths": 0,
        "first_ms": 0, "last_ms": 0,
    }  # fmt: skip


def update_title(state: State, event: Event) -> None:
    """Counts an event by its kinds."""
    at_ms = event.occurred_at_ms
    rating = event.rating if event.HasField("rating") else None
    for kind in kinds_of(event.type, rating):
        for window, width_ms, n_buckets in TITLE_WINDOWS:
            count(state[window], at_ms // width_ms, n_buckets, kind)
        state["totals"][kind] = state["totals"].get(kind, 0) + 1
    if event.type == RATE and rating is not None:
        tenths = int(rating * 10 + 0.5)
        state["ratings"] += 1
        state["rating_sum_tenths"] += tenths
        state["rating_square_sum_tenths"] += tenths * tenths
    if not state["first_ms"] or at_ms < state["first_ms"]:
        state["first_ms"] = at_ms
    state["last_ms"] = max(state["last_ms"], at_ms)


KINDS: tuple[tuple[str, ...], ...] = (
    (), ("impressions",), ("clicks", "engaged"), ("plays", "engaged"), (),
    ("completions", "engaged"), ("positives", "engaged"), ("negatives",), ("engaged",),
    ("negatives",), ("positives", "engaged"), ("positives", "engaged"), ("clicks", "engaged"),
)  # fmt: skip


def kinds_of(type_: int, rating: float | None) -> tuple[str, ...]:
    """What a title counts an event as; a rating of 7 is positive, of 4 negative."""
    kinds = KINDS[type_]
    if rating is None or not kinds or type_ == IMPRESSION:
        return kinds
    if rating >= 7 and "positives" not in kinds:
        return (*kinds, "positives")
    if rating <= 4 and "negatives" not in kinds:
        return (*kinds, "negatives")
    return kinds


def genres_of_titles(bootstrap: str, topic: str = "catalog") -> Genres:
    """Genres by title, from the beginning of the topic to its end."""
    genres = {}
    for value in values_of(bootstrap, topic):
        title = events_pb2.CatalogItem.FromString(value)
        genres[title.item_id] = tuple(title.genres)
    return genres


def values_of(bootstrap: str, topic: str) -> Iterator[bytes]:
    """Values of all records that a topic has now."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "peers-catalog", "enable.auto.commit": False}
    )
    partitions = consumer.list_topics(topic, 10).topics[topic].partitions
    ends = [consumer.get_watermark_offsets(TopicPartition(topic, p), 10) for p in partitions]
    left = sum(end - start for start, end in ends)
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    while left > 0:
        for record in consumer.consume(1_000, 1.0):
            left -= 1
            if record.value():
                yield record.value()
    consumer.close()
