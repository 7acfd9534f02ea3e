"""The context of a decision: what a bandit tells situations apart by, as one small number.

Five parts, each a function of the viewer's row and the moment, the most telling first:

    stage         of life: new, regular, power (see user_habits)
    session       how far it has come: start (nothing done yet), early (up to 5 deeds), deep
    saturation    saturated once two titles of one genre were played in the session, else open
    time          night, morning, afternoon, evening: quarters of the day, UTC
    week          weekday, weekend, UTC

A code is these parts as digits, so the parents of a context (what a rare one borrows from) are the
prefixes of its code: see `parent`.
"""

from typing import Final

import numpy as np

from features.compiled import Row, Rows, compiled
from features.user_habits import EPOCH_WEEKDAY, stage
from features.user_sessions import is_over
from features.windows import DAY_MS, HOUR_MS

STAGES: Final = ("new", "regular", "power")
SESSIONS: Final = ("start", "early", "deep")
SATURATIONS: Final = ("open", "saturated")
TIMES: Final = ("night", "morning", "afternoon", "evening")
WEEKS: Final = ("weekday", "weekend")
PARTS: Final = (STAGES, SESSIONS, SATURATIONS, TIMES, WEEKS)
RADICES: Final = tuple(len(part) for part in PARTS)
N_CONTEXTS: Final = int(np.prod(RADICES))
DEPTH: Final = len(PARTS)

EARLY_ACTIONS: Final = 5
SATURATED_TITLES: Final = 2
FIRST_WEEKEND_DAY: Final = 5  # Monday is 0


@compiled
def context_of(row: Row, now_ms: int) -> int:
    """The code, in 0..N_CONTEXTS-1, of a USER_ROW record at a moment. Pure."""
    session = row["sessions"]
    actions, saturated = 0, 0
    if not is_over(session, now_ms):
        actions = session["actions"]
        saturated = 1 if session["same_genre"] >= SATURATED_TITLES else 0
    position = 0 if actions == 0 else (1 if actions <= EARLY_ACTIONS else 2)
    time = (now_ms % DAY_MS) // (6 * HOUR_MS)
    weekend = 1 if (now_ms // DAY_MS + EPOCH_WEEKDAY) % 7 >= FIRST_WEEKEND_DAY else 0
    code = stage(row["habits"], now_ms)
    code = code * len(SESSIONS) + position
    code = code * len(SATURATIONS) + saturated
    code = code * len(TIMES) + time
    return code * len(WEEKS) + weekend


@compiled
def context_at(rows: Rows, now_ms: int) -> int:
    """As `context_of`, of the first of an array of rows.

    Handing a record to compiled code takes 20 us, an array of them under 1.
    """
    return context_of(rows[0], now_ms)


def name_of(code: int) -> str:
    """How logs and answers name a context.

    >>> name_of(0), name_of(N_CONTEXTS - 1)
    ('new/start/open/night/weekday', 'power/deep/saturated/evening/weekend')
    """
    names = []
    for part in reversed(PARTS):
        code, digit = divmod(code, len(part))
        names.append(part[digit])
    return "/".join(reversed(names))


CONTEXT_NAMES: Final = tuple(name_of(code) for code in range(N_CONTEXTS))
CONTEXT_CODES: Final = {name: code for code, name in enumerate(CONTEXT_NAMES)}


def n_at(depth: int) -> int:
    """How many prefixes of `depth` parts there are; one of none.

    >>> [n_at(depth) for depth in range(DEPTH + 1)]
    [1, 3, 9, 18, 72, 144]
    """
    return int(np.prod(RADICES[:depth], dtype=np.int64))


def parent(code: int, depth: int) -> int:
    """The prefix of a context's code with `depth` of its parts.

    >>> parent(CONTEXT_CODES["power/deep/saturated/evening/weekend"], 1)
    2
    """
    return code // (N_CONTEXTS // n_at(depth))
