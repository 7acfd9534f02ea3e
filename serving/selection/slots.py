"""Filling the slots of a slate, in one call of compiled code: which arm gets each, and which title.

    slots that a rule pins               propensity 1, no arm
    a slot owed to serendipity           with probability q, see `_owed`
    any other                            by `online_models.propensity`, with probability 1 - q

so P(arm) = q [arm is serendipity] + (1 - q) P(arm by the policy), given the slots before.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from features.vocabulary import ARM_NAMES, N_ARMS, PINNED_NAME, Arm
from online_models.base import Draws
from online_models.item_arms import posteriors
from online_models.propensity import draw_arm, propensity_of, share_out
from online_models.win_chances import win_chances
from serving.selection.arms import mark_arms
from serving.selection.standing import in_order, stand
from serving.selection.variety import (
    NO_PLACE,
    POOL,
    Company,
    Vectors,
    genre_entropy,
    intra_list_diversity,
    join,
    likeness,
    no_company,
)

RANKER: Final = int(Arm.RANKER)
SERENDIPITY: Final = int(Arm.SERENDIPITY)
PINNED: Final = N_ARMS  # of a slot that no arm had: learners know no such arm
SLOT_NAMES: Final = (*ARM_NAMES, PINNED_NAME)
DRAWN_ITEMS: Final = 1 << Arm.LONG_TAIL | 1 << Arm.NEW  # arms whose titles are drawn as well
N_SHORTLIST: Final = 16  # of an arm's candidates, among which a title is drawn
N_SETS: Final = 1 << N_ARMS  # of arms that have a candidate

# Columns of a filled slate.
PLACE, ARM, PROPENSITY, ITEM_PROPENSITY = range(4)
N_FILLED: Final = 4
# Columns of `chances`, even in 0..1, for each slot.
EXPLORED, DRAWN, OWED, DRAWN_ITEM = range(4)
N_CHANCES: Final = 4
DIVERSITY, ENTROPY = range(2)  # what is told of a slate

Bits = NDArray[np.uint16]  # (n,) bit `arm` where a candidate belongs to it
Sources = NDArray[np.uint32]  # (n,) bit `source` where it found a candidate
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Features = NDArray[np.float32]
Slate = NDArray[np.float64]  # (k, N_FILLED), NO_PLACE where nothing stands yet


class Belief(NamedTuple):
    """What is believed of arms and of titles."""

    draws: Draws
    shares: Floats  # (N_SETS, N_ARMS) won by each arm, by the set of those left; zero: not yet
    means: Floats  # (N_ARMS,)
    ids: NDArray[np.uint64]  # by catalogue slot
    known_items: NDArray[np.uint64]  # these three: the tables of an `ItemPolicy`
    known_answers: Floats
    item_strength: float


class Pool(NamedTuple):
    """Candidates that wait for a slot."""

    order: Ints  # (n,) places, best first
    standings: Features  # (n,)
    bits: Bits
    taken: NDArray[np.bool_]  # (n,)
    starts: Ints  # (N_ARMS,) in the order: before it nothing of the arm is left
    left: Ints  # (N_ARMS,) candidates of each arm


@compiled
def fill_slate(
    scores: Floats,
    features: Features,
    sources: Sources,
    slots: NDArray[np.int32],
    boosts: Features,
    genres: NDArray[np.uint32],
    ids: NDArray[np.uint64],
    vectors: Vectors,
    pins: Ints,
    draws: Draws,
    shares: Floats,
    means: Floats,
    known_items: NDArray[np.uint64],
    known_answers: Floats,
    item_strength: float,
    chances: Floats,
    exploration: float,
    base: int,
    serendipity: float,
    diversity: float,
    genre_cap: float,
    wanted_genres: int,
    damping: float,
    coverage: float,
    told: Floats,
) -> Slate:
    """A slate of `len(chances)` slots, fewer where there are fewer candidates.

    The first `len(scores)` of `features`, `sources` and `slots` are the candidates; `genres`, `ids`
    and `vectors` are by catalogue slot. `pins`, `(p, 2)`: slots and places. `shares`, `(N_SETS,
    N_ARMS)`: what arms win of `draws` by the set of those that are left, filled in as sets occur;
    `means`, `(N_ARMS,)`, what is believed of each. `told`, `(2,)`: DIVERSITY and ENTROPY.
    """
    n, n_slots = len(scores), min(len(chances), len(scores))
    slate = np.full((n_slots, N_FILLED), 1.0)
    slate[:, PLACE] = NO_PLACE
    belief = Belief(draws, shares, means, ids, known_items, known_answers, item_strength)
    pool = _pool_of(scores, features, sources, boosts, damping, coverage)
    most = max(int(genre_cap * n_slots + 0.5), 1) if genre_cap < 1.0 else n_slots + 1
    company = no_company(slots, genres, vectors, n, n_slots, most, wanted_genres)
    n_open = n_slots - _pin(pins, slate, pool, company)
    owed = min(int(np.ceil(serendipity * n_slots - 1e-9)), n_open)
    for k in range(n_slots):
        if slate[k, PLACE] < 0.0:
            certain = max(min(owed, pool.left[SERENDIPITY]), 0) / n_open
            arm = _fill_slot(
                slate[k], chances[k], certain, exploration, base, diversity, pool, company, belief
            )
            owed -= arm == SERENDIPITY
            n_open -= 1
    told[DIVERSITY], told[ENTROPY] = intra_list_diversity(company), genre_entropy(company)
    return slate


@compiled
def _fill_slot(
    slot: Floats,
    chances: Floats,
    certain: float,
    exploration: float,
    base: int,
    diversity: float,
    pool: Pool,
    company: Company,
    belief: Belief,
) -> int:
    """Fills one slot, `(N_FILLED,)`, and says which arm got it.

    It is serendipity's with probability `certain`, whatever the policy holds.
    """
    among = _share_out(belief.draws, pool.left, belief.shares)
    wanted = base if pool.left[base] > 0 else RANKER
    arm = SERENDIPITY
    if chances[OWED] >= certain:
        arm = draw_arm(among, wanted, exploration, chances[EXPLORED], chances[DRAWN])
    by_policy = propensity_of(arm, among[arm], wanted, exploration)
    slot[ARM] = arm
    slot[PROPENSITY] = (1.0 - certain) * by_policy + (certain if arm == SERENDIPITY else 0.0)
    if arm != wanted and (DRAWN_ITEMS >> arm) & 1:
        place, slot[ITEM_PROPENSITY] = _draw_title(pool, arm, company, belief, chances[DRAWN_ITEM])
    else:
        place = _best(pool, arm, company, diversity)
    _put(slot, place, pool, company)
    return arm


@compiled
def _draw_title(
    pool: Pool, arm: int, company: Company, belief: Belief, chance: float
) -> tuple[int, float]:
    """One of the arm's best, drawn by how likely each is the best of them; and its chance."""
    some = _shortlist(pool, arm, company)
    odds, betas = np.empty(len(some), np.float64), np.empty((len(some), 2), np.float64)
    wanted, mean = belief.ids[company.slots[some]], belief.means[arm]
    posteriors(wanted, belief.known_items, belief.known_answers, belief.item_strength, mean, betas)
    win_chances(betas, odds)
    drawn = _drawn(odds, chance)
    return some[drawn], odds[drawn]


@compiled
def _put(slot: Floats, place: int, pool: Pool, company: Company) -> None:
    """Puts a candidate into a slot, and takes it out of every arm."""
    slot[PLACE] = place
    pool.taken[place] = True
    for arm in range(N_ARMS):
        if (pool.bits[place] >> arm) & 1:
            pool.left[arm] -= 1
    join(company, place)


@compiled
def _pool_of(
    scores: Floats,
    features: Features,
    sources: Sources,
    boosts: Features,
    damping: float,
    coverage: float,
) -> Pool:
    n = len(scores)
    standings, bits = np.empty(n, np.float32), np.empty(n, np.uint16)
    stand(scores, features, boosts, damping, coverage, standings)
    mark_arms(features[:n], sources[:n], bits)
    left = np.zeros(N_ARMS, np.int64)
    for arm in range(N_ARMS):
        for i in range(n):
            left[arm] += (bits[i] >> arm) & 1
    starts = np.zeros(N_ARMS, np.int64)
    return Pool(in_order(standings), standings, bits, np.zeros(n, np.bool_), starts, left)


@compiled
def _pin(pins: Ints, slate: Slate, pool: Pool, company: Company) -> int:
    """Puts titles where rules want them, each once; how many."""
    n_pinned = 0
    for k in range(len(pins)):
        slot, place = pins[k]
        is_free = 0 <= slot < len(slate) and slate[slot, PLACE] < 0.0
        if is_free and 0 <= place < len(pool.order) and not pool.taken[place]:
            slate[slot, ARM] = PINNED
            _put(slate[slot], place, pool, company)
            n_pinned += 1
    return n_pinned


@compiled
def _share_out(draws: Draws, left: Ints, shares: Floats) -> Floats:
    """The row of `shares` for the arms that have a candidate left, worked out when first met."""
    arms = 0
    for arm in range(N_ARMS):
        if left[arm] > 0:
            arms |= 1 << arm
    among: Floats = shares[arms]
    if among.sum() == 0.0:
        share_out(draws, left > 0, among)
    return among


@compiled
def _start(pool: Pool, arm: int) -> int:
    """The first place in the order with a candidate of an arm that is left."""
    at = int(pool.starts[arm])
    while at < len(pool.order):
        place = pool.order[at]
        if not pool.taken[place] and (pool.bits[place] >> arm) & 1:
            break
        at += 1
    pool.starts[arm] = at
    return at


@compiled
def _best(pool: Pool, arm: int, company: Company, diversity: float) -> int:
    """The candidate of an arm that adds most to the slate; full genres only for want of others."""
    start = _start(pool, arm)
    found = _best_without(pool, arm, start, company, diversity, company.full[0])
    if found == NO_PLACE:
        found = _best_without(pool, arm, start, company, diversity, 0)
    return found


@compiled
def _best_without(
    pool: Pool, arm: int, start: int, company: Company, diversity: float, full: int
) -> int:
    best, best_worth, seen = NO_PLACE, -np.inf, 0
    for at in range(start, len(pool.order)):
        place = pool.order[at]
        if pool.taken[place] or not (pool.bits[place] >> arm) & 1 or company.genres[place] & full:
            continue
        most = (1.0 - diversity) * pool.standings[place]
        seen += 1
        if best != NO_PLACE and (most <= best_worth or seen > POOL):
            break
        worth = most - diversity * likeness(company, place) if diversity > 0.0 else most
        if worth > best_worth:
            best, best_worth = place, worth
    return best


@compiled
def _shortlist(pool: Pool, arm: int, company: Company) -> Ints:
    """Places of the best candidates of an arm, of full genres only for want of others."""
    found = np.empty(N_SHORTLIST, np.int64)
    start, count = _start(pool, arm), 0
    for full in (company.full[0], np.int64(0)):
        for at in range(start, len(pool.order)):
            place = pool.order[at]
            is_left = not pool.taken[place] and (pool.bits[place] >> arm) & 1
            if is_left and not company.genres[place] & full:
                found[count] = place
                count += 1
                if count == N_SHORTLIST:
                    break
        if count > 0:
            break
    return found[:count]


@compiled
def _drawn(odds: Floats, chance: float) -> int:
    """The place at which the sum of the odds passes `chance`."""
    total, last = 0.0, 0
    for k in range(len(odds)):
        if odds[k] > 0.0:
            last = k
            total += odds[k]
            if chance < total:
                break
    return last
