"""How often viewers click, complete and like at all, by genre: the priors of titles' own rates.

A row holds what one partition of the log says; readers add the rows of all partitions.
"""

import math

import numpy as np
from numpy.typing import NDArray

from features import covisitation
from features.compiled import Row, Rows, compiled
from features.covisitation import pair_weight
from features.heavy_hitters import MOST_HALF_LIVES
from features.ids import finish
from features.item_activity import (
    CLICKS,
    COMPLETIONS,
    IMPRESSIONS,
    N_KINDS,
    NEGATIVES,
    PLAYS,
    POSITIVES,
    kinds_of,
)
from features.vocabulary import N_GENRES
from features.windows import decay

LAYOUT = 1
ALL = N_GENRES  # the slot of all titles, behind those of the genres
PAIR_HALF_LIFE_MS = covisitation.HALF_LIFE_MS

GLOBAL_ROW = np.dtype(
    [
        ("layout", "u2"),
        ("partition", "i2"),
        ("id", "u8"),  # row_id(partition)
        ("offset", "i8"),  # of the last event included
        ("landmark_ms", "i8"),  # pair_weight stands as of this moment
        ("pair_weight", "f8"),  # of all pairs of titles visited together, decayed
        ("counts", "u8", (N_GENRES + 1, N_KINDS)),  # a title of three genres counts in each
    ],
    align=True,
)

CLICK_RATE, COMPLETION_RATE, LIKE_RATE = range(3)
COLUMNS = (
    ("click_rate", "0..1", "clicks per impression", 0.1),
    ("completion_rate", "0..1", "completions per play", 0.3),
    ("like_rate", "0..1", "positive among positive and negative", 0.7),
)
N_RATES = len(COLUMNS)
BASE_RATES = np.array([default for *_, default in COLUMNS])  # before anything is known
PRIOR_TRIALS = 100.0  # what the base weighs against the whole, and the whole against a genre
DEFAULT_PRIORS = np.tile(BASE_RATES.astype(np.float32), (N_GENRES + 1, 1))


def new_row() -> NDArray[np.void]:
    """`(1,) GLOBAL_ROW` of a partition without events."""
    row = np.zeros(1, GLOBAL_ROW)
    row["layout"], row["partition"], row["offset"] = LAYOUT, -1, -1
    return row


@compiled
def row_id(partition: int) -> np.uint64:
    """Id of the row of a partition."""
    return finish(np.uint64(partition + 1))


@compiled
def partitions_of(events: Rows, out: NDArray[np.int64]) -> int:
    """The partitions that occur in events into `out`, each once; how many."""
    n = 0
    for i in range(len(events)):
        partition = events[i]["partition"]
        known = False
        for k in range(n):
            known |= out[k] == partition
        if not known:
            out[n] = partition
            n += 1
    return n


@compiled
def apply(row: Row, event: Row, n_partners: int) -> bool:
    """Takes one event in, exactly once; False when the row includes it already.

    `n_partners`: titles of the session that the event makes pairs with.
    """
    if event["offset"] <= row["offset"]:
        return False
    row["offset"] = event["offset"]
    row["partition"] = event["partition"]
    kinds = kinds_of(event["type"], event["rating"])
    if kinds != 0:
        _count(row["counts"][ALL], kinds)
        genres, slot = np.uint32(event["genres"]), 0
        while genres != 0:
            if genres & np.uint32(1):
                _count(row["counts"][slot], kinds)
            genres >>= np.uint32(1)
            slot += 1
    if n_partners > 0:
        _add_pairs(row, event["at_ms"], pair_weight(n_partners))
    return True


@compiled
def _count(counts: NDArray[np.uint64], kinds: int) -> None:
    for kind in range(N_KINDS):
        if (kinds >> kind) & 1:
            counts[kind] += np.uint64(1)


@compiled
def _add_pairs(row: Row, at_ms: int, weight: float) -> None:
    """Forward decay, as in the rows of co-visitation."""
    if row["landmark_ms"] == 0:
        row["landmark_ms"] = at_ms
    elapsed_ms = at_ms - row["landmark_ms"]
    if elapsed_ms > MOST_HALF_LIVES * PAIR_HALF_LIFE_MS:
        row["pair_weight"] *= decay(elapsed_ms, PAIR_HALF_LIFE_MS)
        row["landmark_ms"] = at_ms
        elapsed_ms = 0
    row["pair_weight"] += weight * math.pow(2.0, elapsed_ms / PAIR_HALF_LIFE_MS)


@compiled
def apply_all(
    rows: Rows,
    slots: NDArray[np.int64],
    events: Rows,
    are_new: NDArray[np.bool_],
    n_partners: NDArray[np.uint8],
    changed: NDArray[np.bool_],
) -> None:
    """Takes the events that `are_new` in order into the rows of their partitions.

    `slots`, by partition, says where in `rows`; `changed`, by partition, becomes true where an
    event was taken in.
    """
    for i in range(len(events)):
        partition = events[i]["partition"]
        if are_new[i] and apply(rows[slots[partition]], events[i], n_partners[i]):
            changed[partition] = True


@compiled
def rates(rows: Rows, out: NDArray[np.float32]) -> None:
    """Rates by genre, `out` `(N_GENRES + 1, N_RATES) float32`, over all partitions. Pure.

    The rate of a genre is smoothed by that of all titles, and that by BASE_RATES:
    `(hits + rate * PRIOR_TRIALS) / (trials + PRIOR_TRIALS)`.
    """
    counts = np.zeros((N_GENRES + 1, N_KINDS), np.float64)
    for i in range(len(rows)):
        for slot in range(N_GENRES + 1):
            for kind in range(N_KINDS):
                counts[slot, kind] += rows[i]["counts"][slot, kind]
    _smooth(counts[ALL], BASE_RATES, out[ALL])
    for slot in range(N_GENRES):
        _smooth(counts[slot], out[ALL], out[slot])


@compiled
def _smooth(
    counts: NDArray[np.float64], priors: NDArray[np.float64], out: NDArray[np.float32]
) -> None:
    """A log without impressions says nothing of clicks; a completion was a play as well."""
    plays = max(counts[PLAYS], counts[COMPLETIONS])
    opinions = counts[POSITIVES] + counts[NEGATIVES]
    clicks = min(counts[CLICKS], counts[IMPRESSIONS])
    out[CLICK_RATE] = _smoothed(clicks, counts[IMPRESSIONS], priors[CLICK_RATE])
    out[COMPLETION_RATE] = _smoothed(counts[COMPLETIONS], plays, priors[COMPLETION_RATE])
    out[LIKE_RATE] = _smoothed(counts[POSITIVES], opinions, priors[LIKE_RATE])


@compiled
def _smoothed(hits: float, trials: float, prior: float) -> float:
    return (hits + prior * PRIOR_TRIALS) / (trials + PRIOR_TRIALS)


def rates_of(rows: Rows) -> NDArray[np.float32]:
    """`(N_GENRES + 1, N_RATES) float32`: see `rates`. DEFAULT_PRIORS for no rows."""
    out = np.empty((N_GENRES + 1, N_RATES), np.float32)
    rates(rows, out)
    return out


@compiled
def prior_of(priors: NDArray[np.float32], genres: int, out: NDArray[np.float32]) -> None:
    """Mean of the rates of a title's genres into `out`, `(N_RATES,)`; of all, without any."""
    count = 0
    out[:] = 0.0
    for slot in range(N_GENRES):
        if (genres >> slot) & 1:
            count += 1
            for rate in range(N_RATES):
                out[rate] += priors[slot, rate]
    for rate in range(N_RATES):
        out[rate] = out[rate] / count if count > 0 else priors[ALL, rate]


@compiled
def pair_weight_of(rows: Rows, now_ms: int) -> float:
    """Weight of all pairs of titles at `now_ms`, over all partitions. Pure."""
    total = 0.0
    for i in range(len(rows)):
        elapsed_ms = now_ms - rows[i]["landmark_ms"]
        total += rows[i]["pair_weight"] * math.pow(2.0, -elapsed_ms / PAIR_HALF_LIFE_MS)
    return total
