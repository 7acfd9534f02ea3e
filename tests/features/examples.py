"""Events and rows to test with: builders with sound defaults, and strategies over them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from features import item_row, user_row
from features.events import EVENT, MAX_SLOT, NO_RATING, NO_SLOT, Interaction
from features.global_rates import DEFAULT_PRIORS
from features.vocabulary import N_TYPES, Device, EventType, Page
from features.windows import DAY_MS, MINUTE_MS
from tests.clock import START_MS

USER = 77
Events = NDArray[np.void]


def event(**fields: Any) -> Events:
    """`(1,) EVENT`: a click of one viewer, except for the given fields."""
    made = np.zeros(1, EVENT)
    made["user"], made["item"], made["event"] = USER, 1, fields.get("offset", 0) + 1_000
    made["at_ms"] = made["logged_at_ms"] = START_MS
    made["rating"], made["slot"], made["type"] = NO_RATING, NO_SLOT, EventType.CLICK
    for name, value in fields.items():
        made[name] = value
    return made


def log_of(*made: Events, first_offset: int = 0) -> Events:
    """The events one behind the other in a partition: offsets rise, ids of their own."""
    events = np.concatenate(made) if made else np.zeros(0, EVENT)
    events["offset"] = np.arange(first_offset, first_offset + len(events))
    events["event"] = events["offset"] + 1_000
    return events


def apply_to_user(row: NDArray[np.void], events: Events) -> list[int]:
    """Takes events into a `(1,)` row of a viewer; what became of each."""
    effects = np.zeros(len(events), np.uint8)
    user_row.apply_all(row, np.zeros(len(events), np.int64), events, effects)
    return effects.tolist()


def user_after(*made: Events) -> NDArray[np.void]:
    """`(1,) USER_ROW` after events that lie one behind the other in the log."""
    row = user_row.new_row()
    apply_to_user(row, log_of(*made))
    return row


def apply_to_item(row: NDArray[np.void], events: Events) -> list[int]:
    """Takes events into a `(1,)` row of a title; 1 for each that was applied."""
    effects = np.zeros(len(events), np.uint8)
    item_row.apply_all(row, np.zeros(len(events), np.int64), events, effects)
    return effects.tolist()


def item_after(*made: Events) -> NDArray[np.void]:
    """`(1,) ITEM_ROW` after events that lie one behind the other in the log."""
    row = item_row.new_row()
    apply_to_item(row, log_of(*made))
    return row


def user_values(row: NDArray[np.void], now_ms: int = START_MS) -> dict[str, float]:
    """All columns of a viewer by name."""
    out = np.empty(user_row.N_COLUMNS, np.float32)
    user_row.values(row[0], now_ms, out)
    return dict(zip(user_row.NAMES, out.tolist(), strict=True))


def item_values(
    row: NDArray[np.void], now_ms: int = START_MS, priors: NDArray[np.float32] = DEFAULT_PRIORS
) -> dict[str, float]:
    """All columns of a title by name."""
    out = np.empty(item_row.N_COLUMNS, np.float32)
    item_row.values(row[0], now_ms, priors, out)
    return dict(zip(item_row.NAMES, out.tolist(), strict=True))


# Near the edge of the windows, within them, and far outside.
ages_ms = st.one_of(
    st.integers(0, 10 * MINUTE_MS),
    st.integers(0, DAY_MS),
    st.integers(0, 20 * DAY_MS),
    st.integers(-MINUTE_MS, 0),
)


@st.composite
def one_event(draw: st.DrawFn) -> Events:
    """Any event of one viewer; few titles and sessions, so that they meet again."""
    kind = draw(st.sampled_from(list(EventType)[1 : N_TYPES + 1]))
    has_rating = kind == EventType.RATE or draw(st.booleans())
    at_ms = START_MS - draw(ages_ms)
    item = draw(st.integers(1, 5))
    return event(
        item=item,
        type=kind,
        at_ms=at_ms,
        logged_at_ms=max(at_ms, START_MS),
        session=draw(st.integers(0, 2)),
        rating=draw(st.integers(0, 20)) / 2 if has_rating else NO_RATING,
        genres=draw(st.integers(0, 2**32 - 1)),
        year=draw(st.sampled_from([0, 1925, 1950, 1999, 2020])),
        language=item % 4,
        cast=(item, 10 + item, 20 + item) if item > 1 else 0,
        series=item // 3,
        episode=1_000 + item,
        runtime_min=90 * (item % 2),
        device=item % len(Device),
        watch_position_s=draw(st.integers(0, 6_000)),
        watch_duration_s=draw(st.sampled_from([0, 3_000, 6_000])),
    )


def logs(min_size: int = 0, max_size: int = 30) -> st.SearchStrategy[Events]:
    """Events of one viewer as they lie in one partition."""
    return st.lists(one_event(), min_size=min_size, max_size=max_size).map(join)


def join(made: Sequence[Events]) -> Events:
    """`log_of` over a sequence."""
    return log_of(*made)


texts = st.one_of(st.text("abcXYZ019-_:", max_size=20), st.text(max_size=12))
ids = texts.filter(bool)
seconds = st.floats(0, 1e6, width=32)
ratings = st.floats(0, 10, width=32)


@st.composite
def _interactions(draw: st.DrawFn) -> Interaction:
    kind = draw(st.sampled_from(list(EventType)[1 : N_TYPES + 1]))
    return Interaction(
        event_id=draw(ids),
        user_id=draw(ids),
        item_id=draw(ids),
        type=kind,
        occurred_at_ms=draw(st.one_of(st.just(0), st.integers(-(2**63), 2**63 - 1))),
        profile_id=draw(texts),
        session_id=draw(texts),
        request_id=draw(texts),
        slot=draw(st.none() | st.integers(0, MAX_SLOT)),
        watch_position_s=draw(seconds),
        watch_duration_s=draw(seconds),
        rating=draw(ratings if kind == EventType.RATE else st.none() | ratings),
        device=draw(st.sampled_from(Device)),
        page=draw(st.sampled_from(Page)),
        region=draw(st.sampled_from(["", "DE", "US-CA", "\u65e5\u672c"])),
    )


interactions = _interactions()  # every field valid, as a producer may send it
