"""Three charts to be better than: exact, refreshed at each event, without what the viewer rated.

Titles by all events so far, by those of the last seven days, and by events that count half after a
day. They know nothing of a viewer but what was rated.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from features.windows import DAY_MS
from offline.next_title import AT, MISSED

CHARTS: Final = ("popular, all time", "popular, 7 days", "popular, half-life of a day")
ALL_TIME, SEVEN_DAYS, HALF_LIFE = range(3)
RESCALE_DAYS = 500.0  # weights of the half-life chart grow by 2 a day; rescaled before overflow


def chart_places(
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    at_ms: NDArray[np.int64],
    is_chosen: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """`(3, n_chosen)` place of the next title in each chart before each chosen event, or MISSED.

    Events are `(n,)` dense codes in order of time, all of them wanted titles.
    """
    n_users, n_items = int(users.max(initial=-1)) + 1, int(items.max(initial=-1)) + 1
    places = np.full((len(CHARTS), int(is_chosen.sum())), MISSED, np.int64)
    for chart in range(len(CHARTS)):
        _follow_chart(
            chart,
            users,
            items,
            at_ms,
            is_chosen,
            np.zeros((n_users, n_items // 8 + 1), np.uint8),
            np.zeros(n_items, np.float64),
            places[chart],
        )
    return places


@compiled
def _follow_chart(
    chart: int,
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    at_ms: NDArray[np.int64],
    is_chosen: NDArray[np.bool_],
    rated: NDArray[np.uint8],
    scores: NDArray[np.float64],
    places: NDArray[np.int64],
) -> None:
    """Plays events through one chart; `rated` is a bit for each viewer and title."""
    oldest, n_chosen, epoch_ms = 0, 0, at_ms[0] if len(at_ms) else 0
    for i in range(len(users)):
        user, item = users[i], items[i]
        if chart == SEVEN_DAYS:
            while at_ms[oldest] < at_ms[i] - 7 * DAY_MS:
                scores[items[oldest]] -= 1.0
                oldest += 1
        if is_chosen[i]:
            places[n_chosen] = _place_in(scores, rated[user], item)
            n_chosen += 1
        weight = 1.0
        if chart == HALF_LIFE:
            days = (at_ms[i] - epoch_ms) / DAY_MS
            if days > RESCALE_DAYS:
                scores[:] *= 2.0**-days
                epoch_ms, days = at_ms[i], 0.0
            weight = 2.0**days
        scores[item] += weight
        rated[user, item >> 3] |= np.uint8(1 << (item & 7))


@compiled
def _place_in(scores: NDArray[np.float64], rated: NDArray[np.uint8], item: int) -> int:
    """Place of a title among those not rated, MISSED from AT on; equal ones by their code."""
    own = scores[item]
    if own <= 0:
        return MISSED
    place = 0
    for other in range(len(scores)):
        ahead = scores[other] > own or (scores[other] == own and other < item)
        if ahead and not (rated[other >> 3] >> np.uint8(other & 7)) & 1:
            place += 1
            if place == AT:
                return MISSED
    return place
