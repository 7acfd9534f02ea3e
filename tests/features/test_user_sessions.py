"""Sessions begin, end and are named by stated rules; watch time is never more than time."""

import numpy as np
import pytest
from hypothesis import given

from features import user_sessions
from features.user_sessions import BINGE, BROWSING, FOCUSED, NO_SESSION, SESSION_GAP_MS
from features.vocabulary import EventType, genre_mask
from features.windows import DAY_MS, MINUTE_MS
from tests.clock import START_MS
from tests.features.examples import Events, event, logs, user_after, user_values

DRAMA, WAR, CRIME = (genre_mask([name]) for name in ("Drama", "War", "Crime"))


def at(minutes: float, session: int = 0, **fields: object) -> Events:
    """An event some minutes after START_MS; a click unless told."""
    return event(at_ms=START_MS + int(minutes * MINUTE_MS), session=session, **fields)


def session_of(*events: Events) -> tuple[int, float, int]:
    """Events, start in minutes, and name of the session after some events."""
    sessions = user_after(*events)["sessions"][0]
    started = (int(sessions["started_ms"]) - START_MS) / MINUTE_MS
    return int(sessions["events"]), started, int(sessions["session"])


def values_after(*events: Events, minutes: float = 0) -> dict[str, float]:
    """Columns of the session some minutes after START_MS."""
    row = user_after(*events)
    return {
        name.removeprefix("user_session_"): value
        for name, value in user_values(row, START_MS + int(minutes * MINUTE_MS)).items()
        if name.startswith("user_session_")
    }


# --- which session an event belongs to -----------------------------------------------------------


def test_events_within_half_an_hour_of_each_other_are_one_session() -> None:
    assert session_of(at(0), at(30), at(60)) == (3, 0, 0)


def test_a_session_ends_after_half_an_idle_hour() -> None:
    later = event(at_ms=START_MS + SESSION_GAP_MS + 1)
    assert session_of(at(0), at(0), later) == (1, pytest.approx(30, abs=1e-3), 0)


def test_a_session_ends_when_the_producer_names_another() -> None:
    assert session_of(at(0, 5), at(1, 5), at(2, 6)) == (1, 2, 6)


def test_a_session_ends_after_half_an_idle_hour_even_if_its_name_stays() -> None:
    assert session_of(at(0, 5), at(31, 5)) == (1, 31, 5)


def test_events_without_a_session_belong_to_the_current_one() -> None:
    assert session_of(at(0, 5), at(1), at(2, 5)) == (3, 0, 5)


def test_a_session_without_a_name_takes_the_first_it_hears() -> None:
    assert session_of(at(0), at(1, 5), at(2)) == (3, 0, 5)
    assert session_of(at(0), at(1, 5), at(2, 6)) == (1, 2, 6)


def test_a_late_event_of_an_earlier_session_is_not_counted() -> None:
    assert session_of(at(0, 5), at(10, 6), at(9, 5)) == (1, 10, 6)
    assert session_of(at(0, 5), at(10, 6), at(20, 6), at(15, 5)) == (2, 10, 6)
    assert session_of(at(0, 5), at(10, 6), at(9)) == (1, 10, 6)


def test_a_late_event_of_the_same_session_moves_its_beginning() -> None:
    assert session_of(at(10, 6), at(12, 6), at(9, 6)) == (3, 9, 6)
    assert session_of(at(10), at(9)) == (2, 9, 0)
    assert session_of(at(60, 6), at(9, 6)) == (1, 60, 6)  # too far away to be one session


def test_sessions_are_numbered() -> None:
    events = [at(0), at(1), at(40), at(80, 3), at(81, 4)]
    assert values_after(*events, minutes=81)["number"] == 4


def test_a_session_is_over_half_an_hour_after_its_last_event() -> None:
    events = at(0, item=1), at(10, item=2)
    during, after = values_after(*events, minutes=40), values_after(*events, minutes=40.1)
    assert (during["events"], during["minutes"], during["titles"]) == (2, 10, 2)
    assert after == {**dict.fromkeys(during, 0.0), "number": 1.0}


def test_what_was_in_a_session_is_not_in_the_next() -> None:
    binge = [watch(k, k + 1, genres=DRAMA) for k in range(4)]
    values = values_after(*binge, at(90), minutes=90)
    assert values == {
        "events": 1, "minutes": 0, "titles": 1, "number": 2, "watch_minutes": 0,
        "browsing": 1, "focused": 0, "binge": 0,
    }  # fmt: skip


def test_titles_are_those_acted_on_each_once() -> None:
    shown = [at(0, item=k, type=EventType.IMPRESSION) for k in range(20, 30)]
    touched = [at(0, item=item) for item in (1, 2, 1, 3, 2)]
    values = values_after(*shown, *touched)
    assert (values["titles"], values["events"]) == (3, 15)


def test_a_title_that_comes_back_after_many_others_counts_again() -> None:
    others = range(2, 2 + user_sessions.N_KEPT)
    fewer = [at(0, item=item) for item in (1, *others[:-1], 1)]
    more = [at(0, item=item) for item in (1, *others, 1)]
    assert values_after(*fewer)["titles"] == user_sessions.N_KEPT
    assert values_after(*more)["titles"] == user_sessions.N_KEPT + 2


# --- watch time ----------------------------------------------------------------------------------


def watch(
    minutes: float, item: int = 1, position: float = 0, kind: str = "PROGRESS", **fields: object
) -> Events:
    """A report of a position, in minutes, some minutes after START_MS."""
    return at(
        minutes,
        item=item,
        type=EventType[kind],
        watch_position_s=position * 60,
        watch_duration_s=6_000,
        **fields,
    )


def watched(*events: Events) -> float:
    return values_after(*events, minutes=25)["watch_minutes"]


def test_watch_time_is_the_way_from_position_to_position() -> None:
    play = watch(0, position=10, kind="PLAY")
    assert watched(play) == 0
    assert watched(play, watch(5, position=15), watch(9, position=19)) == pytest.approx(9)


def test_a_pause_is_no_watching() -> None:
    assert watched(watch(0, kind="PLAY"), watch(5, position=5), watch(20, position=5)) == 5


def test_a_leap_forward_counts_as_the_time_that_passed_and_a_step_back_as_none() -> None:
    assert watched(watch(0, kind="PLAY"), watch(2, position=60)) == pytest.approx(2)
    assert watched(watch(0, kind="PLAY"), watch(5, position=5), watch(6, position=1)) == 5


def test_a_title_without_a_play_counts_from_its_beginning() -> None:
    assert watched(at(0, item=1), watch(5, position=3)) == pytest.approx(3)


def test_playing_another_title_half_way_through_is_no_watching() -> None:
    play_other = watch(10, item=2, position=40, kind="PLAY")
    assert watched(watch(0, kind="PLAY"), watch(4, position=4), play_other) == 4
    assert watched(play_other, watch(13, item=2, position=43)) == pytest.approx(3)


def test_a_completion_is_at_the_end_of_its_title() -> None:
    end = at(9, item=1, type=EventType.COMPLETE, watch_duration_s=6_000)
    assert watched(watch(0, position=95, kind="PLAY"), end) == pytest.approx(5)


def test_a_late_report_changes_no_watch_time() -> None:
    events = watch(0, kind="PLAY"), watch(10, position=10), watch(5, position=5)
    assert watched(*events) == 10
    assert watched(*events, watch(12, position=12)) == 12


@given(logs(max_size=30))
def test_watch_time_is_never_negative_and_never_longer_than_the_session(events: Events) -> None:
    for k in range(len(events)):
        sessions = user_after(events[: k + 1])["sessions"][0]
        length_s = (int(sessions["last_ms"]) - int(sessions["started_ms"])) / 1_000
        assert 0 <= sessions["watch_s"] <= length_s * (1 + 1e-5)
        assert length_s >= 0


# --- mode ----------------------------------------------------------------------------------------

EPISODES = [watch(k, item=k + 1, series=5, episode=1_007 + k) for k in range(3)]


@pytest.mark.parametrize(
    ("events", "mode"),
    [
        ([], NO_SESSION),
        ([at(0)], BROWSING),
        ([at(0, type=EventType.IMPRESSION)], BROWSING),
        ([watch(0)], FOCUSED),
        ([at(0), watch(1)], FOCUSED),
        ([at(0), at(1), watch(2)], BROWSING),  # mostly other things than plays
        ([at(0), *[at(1, item=9, type=EventType.IMPRESSION)] * 9, watch(1)], FOCUSED),
        ([watch(k, item=k + 1) for k in range(3)], FOCUSED),
        ([watch(k, item=k + 1) for k in range(4)], BROWSING),  # many titles
        ([watch(k, item=k + 1, genres=DRAMA) for k in range(2)], FOCUSED),
        ([watch(k, item=k + 1, genres=DRAMA) for k in range(3)], BINGE),
        ([watch(k, item=1, genres=DRAMA) for k in range(3)], FOCUSED),  # one title
        ([at(k, item=k + 1, genres=DRAMA) for k in range(3)], BROWSING),  # none played
        ([watch(k, k + 1, genres=mask) for k, mask in enumerate((DRAMA, WAR, CRIME))], FOCUSED),
        (
            [watch(k, k + 1, genres=WAR | mask) for k, mask in enumerate((DRAMA, WAR, CRIME))],
            BINGE,
        ),
        (EPISODES[:1], FOCUSED),
        (EPISODES[:2], BINGE),
        ([EPISODES[0], EPISODES[2]], FOCUSED),  # one left out
        ([EPISODES[1], EPISODES[0]], FOCUSED),  # backwards
        ([EPISODES[0], watch(0, item=9), EPISODES[1]], FOCUSED),  # a film in between
        ([EPISODES[0], EPISODES[0], EPISODES[1]], BINGE),  # reported twice
        ([*EPISODES[:2], at(5, item=9), at(5, item=8), at(5, item=7), at(5, item=6)], BINGE),
        ([watch(0, 1, series=5, episode=1_010), watch(1, 2, series=5, episode=2_001)], BINGE),
        ([watch(0, 1, series=5, episode=1_001), watch(1, 2, series=6, episode=1_002)], FOCUSED),
    ],
)
def test_the_mode_of_a_session_follows_its_rule(events: list[Events], mode: int) -> None:
    row = user_after(*events)
    now_ms = START_MS + 10 * MINUTE_MS
    assert user_sessions.mode(row["sessions"][0], now_ms) == mode
    values = user_values(row, now_ms)
    names = ("user_session_browsing", "user_session_focused", "user_session_binge")
    expected = [float(mode == k) for k in (BROWSING, FOCUSED, BINGE)]
    assert [values[name] for name in names] == expected


@given(logs(max_size=40))
def test_a_viewer_in_a_session_has_one_mode_and_others_none(events: Events) -> None:
    row = user_after(events)
    for now_ms in (START_MS, START_MS + DAY_MS):
        values = user_values(row, now_ms)
        modes = [values[f"user_session_{name}"] for name in ("browsing", "focused", "binge")]
        assert sum(modes) == (not user_sessions.is_over(row["sessions"][0], now_ms))
        assert set(modes) <= {0.0, 1.0}


def test_a_session_of_very_many_titles_of_a_genre_stops_counting() -> None:
    row = user_after(*(watch(0, item=item, genres=DRAMA) for item in range(1, 400)))
    assert row["sessions"]["of_genre"].max() == np.iinfo(np.uint8).max
    assert row["sessions"]["n_played"][0] == 399
