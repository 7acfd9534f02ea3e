"""What a viewer is doing right now: the current session, its length, titles, watching, and mode.

A session ends after half an idle hour, or when the producer names another one; a session that has
no name yet takes the first it hears. A late event from before the session's start belongs to an
earlier one and is not counted, unless it has the session's name and lies within half an hour of its
start: then the session began earlier. Nor is a late event counted that names another session.

Watch time (dwell) is what positions say: from one report of a title to the next, the step forward
in the title, but never more than the time that has passed since the session's last report. So a
leap forward is no watching, a step back costs nothing, and the sum is never longer than the
session. A title that is reported for the first time without a play counts from its beginning.

The mode of a session is the first of these that is true:

    binge      two consecutive episodes of a series were played one after the other, or three titles
               that share a genre were played
    focused    something was played, of at most three titles, and at least half of all events but
               impressions were plays, progress and completions
    browsing   anything else

A title is played when a play, progress or completion of it arrives; the episode after the last of a
season is the first of the next. Titles are told apart by 32-bit fingerprints, the last 16 of them:
one that comes back after 16 others counts again.
"""

import numpy as np
from numpy.typing import NDArray

from features.compiled import Row, compiled
from features.vocabulary import N_GENRES, EventType
from features.windows import MINUTE_MS, count_up

SESSION_GAP_MS = 30 * MINUTE_MS
N_KEPT = 16
MOST = 65_535
MOST_TOTAL = 2**32 - 1
MOST_OF_GENRE = 255

BINGE_EPISODES = 2
BINGE_TITLES = 3
FOCUSED_TITLES = 3
NO_SESSION, BROWSING, FOCUSED, BINGE = range(4)

FIELDS = np.dtype(
    [
        ("session", "u8"),  # the producer's name for it; 0: none
        ("started_ms", "i8"),
        ("last_ms", "i8"),
        ("accounted_ms", "i8"),  # up to here time has been told apart: watched or not
        ("number", "u4"),  # of this session among all of the viewer's, from 1
        ("events", "u4"),
        ("actions", "u4"),  # events but impressions
        ("watch_actions", "u4"),  # plays, progress, completions
        ("watch_s", "f4"),
        ("position_s", "f4"),  # last reported of the title `watching`
        ("watching", "u4"),  # fingerprint
        ("series", "u4"),  # of the title played last
        ("episode", "u4"),
        ("titles", "u4", (N_KEPT,)),  # a ring of fingerprints: the latest before n_titles % N_KEPT
        ("played", "u4"),  # bit k: the title at place k of the ring was played
        ("n_titles", "u2"),  # touched by more than an impression
        ("n_played", "u2"),
        ("run", "u2"),  # of consecutive episodes, up to the title played last
        ("longest_run", "u2"),
        ("same_genre", "u2"),  # titles played of the genre played most
        ("of_genre", "u1", (N_GENRES,)),  # titles played
    ],
    align=True,
)

COLUMNS = (
    ("user_session_events", "events", "in the current session; 0: no session now", 0.0),
    ("user_session_minutes", "minutes", "from the first to the last event of the session", 0.0),
    ("user_session_titles", "titles", "of the current session, impressions aside", 0.0),
    ("user_session_number", "sessions", "of the viewer ever, this one or the last included", 0.0),
    ("user_session_watch_minutes", "minutes", "watched in the current session", 0.0),
    ("user_session_browsing", "0/1", "current session: neither focused nor binge", 0.0),
    ("user_session_focused", "0/1", "current session: few titles, mostly playing", 0.0),
    ("user_session_binge", "0/1", "current session: episode after episode, or one genre", 0.0),
)


@compiled
def update(row: Row, event: Row) -> None:
    """Takes one event in. O(N_KEPT)."""
    session, at_ms = event["session"], event["at_ms"]
    if _begins(row, session, at_ms):
        _begin(row, session, at_ms)
    elif not _belongs(row, session, at_ms):
        return
    elif row["session"] == 0:
        row["session"] = session
    row["started_ms"] = min(row["started_ms"], at_ms)
    row["last_ms"] = max(row["last_ms"], at_ms)
    row["events"] = count_up(row["events"], MOST_TOTAL)
    if event["type"] == EventType.IMPRESSION:
        return
    row["actions"] = count_up(row["actions"], MOST_TOTAL)
    place = _touch(row, np.uint32(event["item"]))
    if event["type"] in (EventType.PLAY, EventType.PROGRESS, EventType.COMPLETE):
        row["watch_actions"] = count_up(row["watch_actions"], MOST_TOTAL)
        _watch(row, event)
        if not (row["played"] >> place) & 1:
            row["played"] |= 1 << place
            _play(row, event)


@compiled
def _begins(row: Row, session: np.uint64, at_ms: int) -> bool:
    if row["number"] == 0 or at_ms - row["last_ms"] > SESSION_GAP_MS:
        return True
    renamed = session != 0 and row["session"] != 0 and session != row["session"]
    return bool(renamed and at_ms >= row["last_ms"])


@compiled
def _belongs(row: Row, session: np.uint64, at_ms: int) -> bool:
    """Whether an event that begins no session is one of the current."""
    if at_ms < row["started_ms"]:
        is_near = row["started_ms"] - at_ms <= SESSION_GAP_MS
        return bool(session == row["session"] and is_near)
    return bool(session == 0 or row["session"] == 0 or session == row["session"])


@compiled
def _begin(row: Row, session: np.uint64, at_ms: int) -> None:
    row["number"] = count_up(row["number"], MOST_TOTAL)
    row["session"] = session
    row["started_ms"] = row["last_ms"] = row["accounted_ms"] = at_ms
    row["events"] = row["actions"] = row["watch_actions"] = 0
    row["watch_s"] = row["position_s"] = 0.0
    row["watching"] = row["series"] = row["episode"] = row["played"] = 0
    row["n_titles"] = row["n_played"] = 0
    row["run"] = row["longest_run"] = row["same_genre"] = 0
    row["titles"][:] = 0
    row["of_genre"][:] = 0


@compiled
def _touch(row: Row, title: np.uint32) -> int:
    """The place of a title in the ring, where it is put if it is not there."""
    n = row["n_titles"]
    for place in range(min(n, N_KEPT)):
        if row["titles"][place] == title:
            return place
    place = int(n % N_KEPT)
    row["titles"][place] = title
    row["played"] &= np.uint32(0xFFFFFFFF ^ (1 << place))
    row["n_titles"] = count_up(n, MOST)
    return place


@compiled
def _watch(row: Row, event: Row) -> None:
    at_ms, kind = event["at_ms"], event["type"]
    if at_ms < row["accounted_ms"]:
        return
    title, position = np.uint32(event["item"]), event["watch_position_s"]
    if kind == EventType.COMPLETE:
        position = max(position, event["watch_duration_s"])
    if row["watching"] != title:
        row["watching"] = title
        row["position_s"] = position if kind == EventType.PLAY else 0.0
    passed_s = (at_ms - row["accounted_ms"]) / 1_000
    row["watch_s"] += max(min(position - row["position_s"], passed_s), 0.0)
    row["position_s"] = position
    row["accounted_ms"] = at_ms


@compiled
def _play(row: Row, event: Row) -> None:
    """Takes in that a title is played which was not before in this session."""
    row["n_played"] = count_up(row["n_played"], MOST)
    follows = event["series"] != 0 and event["series"] == row["series"]
    follows = follows and is_next_episode(row["episode"], event["episode"])
    row["run"] = count_up(row["run"], MOST) if follows else 1
    row["longest_run"] = max(row["longest_run"], row["run"])
    row["series"], row["episode"] = event["series"], event["episode"]
    mask, slot = event["genres"], 0
    while mask != 0:
        if mask & 1:
            count = count_up(row["of_genre"][slot], MOST_OF_GENRE)
            row["of_genre"][slot] = count
            row["same_genre"] = max(row["same_genre"], count)
        mask >>= 1
        slot += 1


@compiled
def is_next_episode(last: int, episode: int) -> bool:
    """Whether an episode (season * 1000 + number) comes right after another."""
    return episode in (last + 1, (last // 1_000 + 1) * 1_000 + 1)


@compiled
def is_over(row: Row, now_ms: int) -> bool:
    """Whether the viewer has no session now."""
    return bool(row["number"] == 0 or now_ms - row["last_ms"] > SESSION_GAP_MS)


@compiled
def mode(row: Row, now_ms: int) -> int:
    """NO_SESSION, BROWSING, FOCUSED or BINGE, by the rule of this module."""
    if is_over(row, now_ms):
        return NO_SESSION
    if row["longest_run"] >= BINGE_EPISODES or row["same_genre"] >= BINGE_TITLES:
        return BINGE
    is_narrow = row["n_played"] > 0 and row["n_titles"] <= FOCUSED_TITLES
    if is_narrow and 2 * row["watch_actions"] >= row["actions"]:
        return FOCUSED
    return BROWSING


@compiled
def values(row: Row, now_ms: int, out: NDArray[np.float32]) -> None:
    """Writes the columns of COLUMNS into `out`, `(len(COLUMNS),) float32`. Pure."""
    out[:] = 0.0
    out[3] = row["number"]
    now = mode(row, now_ms)
    if now == NO_SESSION:
        return
    out[0] = row["events"]
    out[1] = (row["last_ms"] - row["started_ms"]) / MINUTE_MS
    out[2] = row["n_titles"]
    out[4] = row["watch_s"] / 60.0
    out[4 + now] = 1.0
