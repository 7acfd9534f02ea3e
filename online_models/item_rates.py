"""The plainest answers to "will it be clicked": the rate of all titles, and that of the title.

They are what every model must beat, and what is served while it does not. Bounded memory: a table
of 2,048 places. A title whose place is taken wears its tenant down by one showing, and moves in
once nothing is left of it, so titles shown often stay.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import Rows, compiled
from features.model_snapshot import Arrays
from online_models.state import checked

N_PLACES: Final = 2_048
PRIOR_SHOWN: Final = 50.0  # showings that the rate of all titles counts for
MOST_SHOWN: Final = 2_000.0  # then both counts are halved: what is old fades
GLOBAL_SHOWN: Final = 20_000.0  # outcomes that the rate of all titles reaches back

PLACE = np.dtype([("item", "u8"), ("shown", "f4"), ("clicks", "f4")], align=True)

Floats = NDArray[np.float64]


class ItemRates:
    """Rates of clicks, overall and by title."""

    def __init__(self) -> None:
        self._places = np.zeros(N_PLACES, PLACE)
        self._totals = np.zeros(2)  # showings and clicks, fading

    @property
    def global_rate(self) -> float:
        """Clicks among showings of late; 0.5 before the first."""
        shown, clicks = self._totals.tolist()
        return float((clicks + 0.5) / (shown + 1.0))

    def learn(
        self, items: NDArray[np.uint64], labels: NDArray[np.bool_], is_new: NDArray[np.bool_]
    ) -> tuple[Floats, Floats]:
        """Rate of all and rate of the title, `(n,)` each, before each outcome was taken in.

        One that is not new corrects an earlier one: the click is added or taken away.
        """
        everything, by_item = np.zeros(len(items)), np.zeros(len(items))
        items, labels = np.ascontiguousarray(items), np.ascontiguousarray(labels)
        _learn(self._places, self._totals, items, labels, is_new, everything, by_item)
        return everything, by_item

    def rates_of(self, items: NDArray[np.uint64]) -> Floats:
        """`(n,)` rates of titles, each drawn towards the rate of all."""
        places = self._places[(items % np.uint64(N_PLACES)).astype(np.int64)]
        known = places["item"] == items
        shown, clicks = known * places["shown"], known * places["clicks"]
        rate = self.global_rate
        return np.asarray((clicks + PRIOR_SHOWN * rate) / (shown + PRIOR_SHOWN), np.float64)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """`totals`, and the table by column."""
        columns = {name: self._places[name].copy() for name in PLACE.names or ()}
        return {"totals": self._totals.copy(), **columns}

    def restore(self, arrays: Arrays) -> None:
        """The state of `arrays()`, bit for bit. Raises SnapshotError."""
        totals = np.asarray(checked(arrays, "totals", (2,)), np.float64)
        places = np.zeros(N_PLACES, PLACE)
        for name in PLACE.names or ():
            places[name] = checked(arrays, name, (N_PLACES,), PLACE[name])
        self._totals, self._places = totals, places


@compiled
def _learn(
    places: Rows,
    totals: Floats,
    items: NDArray[np.uint64],
    labels: NDArray[np.bool_],
    is_new: NDArray[np.bool_],
    everything: Floats,
    by_item: Floats,
) -> None:
    for i in range(len(items)):
        place = places[np.int64(items[i] % np.uint64(len(places)))]
        rate = (totals[1] + 0.5) / (totals[0] + 1.0)  # as `global_rate`
        everything[i] = rate
        known = place["item"] == items[i]
        shown, clicks = (place["shown"], place["clicks"]) if known else (0.0, 0.0)
        by_item[i] = (clicks + PRIOR_SHOWN * rate) / (shown + PRIOR_SHOWN)
        if is_new[i]:
            _count(place, items[i], labels[i])
            totals[0] += 1.0 - totals[0] / GLOBAL_SHOWN
            totals[1] += (1.0 if labels[i] else 0.0) - totals[1] / GLOBAL_SHOWN
        else:
            change = 1.0 if labels[i] else -1.0
            totals[1] = min(max(totals[1] + change, 0.0), totals[0])
            if known:
                place["clicks"] = min(max(place["clicks"] + change, 0.0), place["shown"])


@compiled
def _count(place: Rows, item: np.uint64, label: bool) -> None:
    """A showing of a title at its place, or at the expense of the one that is there."""
    if place["item"] != item:
        if place["shown"] >= 1.0:
            kept = (place["shown"] - 1.0) / place["shown"]
            place["shown"] -= 1.0
            place["clicks"] *= kept
            return
        place["item"], place["shown"], place["clicks"] = item, 0.0, 0.0
    if place["shown"] >= MOST_SHOWN:
        place["shown"] /= 2.0
        place["clicks"] /= 2.0
    place["shown"] += 1.0
    place["clicks"] += 1.0 if label else 0.0
