"""The context of a decision: each part moves with what it says, and parents are prefixes."""

import numpy as np

from features.decision_context import (
    CONTEXT_CODES,
    CONTEXT_NAMES,
    DEPTH,
    N_CONTEXTS,
    context_of,
    n_at,
    parent,
)
from features.store import USERS
from features.windows import DAY_MS, HOUR_MS

MONDAY_MS = 19_000 * DAY_MS - (19_000 + 3) % 7 * DAY_MS


def name(row: np.ndarray, now_ms: int) -> str:
    return CONTEXT_NAMES[context_of(row[0], now_ms)]


def test_a_viewer_of_whom_nothing_is_known_is_new_and_at_the_start():
    assert name(USERS.empty, MONDAY_MS + HOUR_MS) == "new/start/open/night/weekday"


def test_time_and_week_are_those_of_the_moment():
    saturday_evening = MONDAY_MS + 5 * DAY_MS + 20 * HOUR_MS
    assert name(USERS.empty, saturday_evening) == "new/start/open/evening/weekend"
    assert name(USERS.empty, MONDAY_MS + 9 * HOUR_MS).endswith("morning/weekday")


def test_a_session_moves_on_and_saturates_and_is_forgotten_when_over():
    row = USERS.empty.copy()
    session = row["sessions"][0]
    session["session"], session["number"] = 1, 1
    session["started_ms"] = session["last_ms"] = MONDAY_MS
    session["actions"] = 5
    assert name(row, MONDAY_MS) == "new/early/open/night/weekday"
    session["actions"], session["same_genre"] = 6, 2
    assert name(row, MONDAY_MS) == "new/deep/saturated/night/weekday"
    assert name(row, MONDAY_MS + HOUR_MS) == "new/start/open/night/weekday"


def test_parents_are_prefixes_down_to_one_root():
    code = CONTEXT_CODES["regular/deep/saturated/morning/weekend"]
    assert [parent(code, depth) for depth in range(DEPTH + 1)] == [0, 1, 5, 11, 45, code]
    for depth in range(DEPTH + 1):
        assert {parent(code, depth) for code in range(N_CONTEXTS)} == set(range(n_at(depth)))
