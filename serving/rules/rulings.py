"""Rules brought to the slots of a catalogue: what holds for a request, and all others like it."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from features.ids import id_hashes
from features.rules import Rule, RuleKind
from features.vocabulary import genre_mask
from serving.catalogue import CatalogueTable
from serving.rules.book import NEVER_MS, Place, RuleBook
from serving.slate import Query

MOST_PLACES: Final = 1_024  # regions are text of clients: there may be any number
NO_RULE: Final = -1

Floats = NDArray[np.float32]
Slots = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Pin:
    """One slot of a slate, and the titles of which the first that may be shown stands in it."""

    slot: int
    titles: tuple[int, ...]  # catalogue slots
    rule_id: str


@dataclass(frozen=True, slots=True)
class Effects:
    """Rules that move or block titles: some named one by one, some by their genres."""

    rule_ids: tuple[str, ...]
    slots: Slots  # (m,) catalogue slots, ascending
    amounts: Floats  # (m,)
    rules: Slots  # (m,) places in `rule_ids`
    genres: NDArray[np.uint32]  # (g,) masks
    genre_amounts: Floats  # (g,)
    genre_rules: Slots  # (g,)

    @classmethod
    def of(cls, rules: Sequence[Rule], table: CatalogueTable) -> "Effects":
        """Of these rules; titles that the catalogue does not have are left out."""
        named = [(k, _slots_of(rule, table)) for k, rule in enumerate(rules)]
        slots = np.concatenate([np.zeros(0, np.int64), *(found for _, found in named)])
        places = np.repeat([k for k, _ in named], [len(found) for _, found in named])
        order = np.argsort(slots, kind="stable")
        boosts = np.array([rule.boost for rule in rules], np.float32)
        by_genre = [k for k, rule in enumerate(rules) if rule.genres]
        return cls(
            tuple(rule.rule_id for rule in rules),
            slots[order].astype(np.int32),
            boosts[places[order].astype(np.int64)],
            places[order].astype(np.int32),
            np.array([genre_mask(rules[k].genres) for k in by_genre], np.uint32),
            boosts[by_genre] if by_genre else np.zeros(0, np.float32),
            np.array(by_genre, np.int32),
        )

    def __bool__(self) -> bool:
        return bool(self.rule_ids)

    def on(self, slots: Slots, genres: NDArray[np.uint32]) -> tuple[Floats, Slots]:
        """`(n,)` sums of amounts within -1..1 and the rule that moves most, or NO_RULE.

        `genres` are by catalogue slot. O(n (log named + genres)).
        """
        amounts = np.zeros(len(slots), np.float32)
        rules = np.full(len(slots), NO_RULE, np.int32)
        affect(
            slots, genres, self.slots, self.amounts, self.rules,
            self.genres, self.genre_amounts, self.genre_rules, amounts, rules,
        )  # fmt: skip
        return amounts, rules


@dataclass(frozen=True, slots=True)
class InForce:
    """The rules that hold for a request, from `from_ms` to before `until_ms`."""

    pins: tuple[Pin, ...]  # one for a slot at most, by slot
    boosts: Effects
    blocks: Effects
    max_age: int | None  # the lowest ceiling
    ceiling_id: str
    from_ms: int
    until_ms: int

    def holds_at(self, at_ms: int) -> bool:
        """Whether no rule begins or ends between the moment it was found for and this one."""
        return self.from_ms <= at_ms < self.until_ms


NO_EFFECTS: Final = Effects.of([], CatalogueTable.empty(0))
NOTHING_IN_FORCE: Final = InForce((), NO_EFFECTS, NO_EFFECTS, None, "", 0, 0)


class Rulings:
    """What holds for requests, by a book and a catalogue; the last MOST_PLACES answers are kept."""

    def __init__(self, book: RuleBook, table: CatalogueTable) -> None:
        self.book = book
        self.table = table
        self._n_used = table.n_used
        self._found: OrderedDict[Place, InForce] = OrderedDict()

    def is_of(self, book: RuleBook, table: CatalogueTable) -> bool:
        """Whether this still speaks of these: another book, or titles that came, make it old."""
        return self.book is book and self.table is table and self._n_used == table.n_used

    def of(self, query: Query, now_ms: int) -> InForce:
        """What holds for a request. O(1) where another one of its kind was asked for before."""
        place = self.book.place_of(
            query.page, query.device, query.region, query.user_id, query.profile_id
        )
        found = self._found.get(place)
        if found is None or not found.holds_at(now_ms):
            found = self._found[place] = self._find(place, now_ms)
            if len(self._found) > MOST_PLACES:
                self._found.popitem(last=False)
        return found

    def _find(self, place: Place, now_ms: int) -> InForce:
        rules = self.book.in_force(place, now_ms)
        ceilings = [rule for rule in rules if rule.kind == RuleKind.CEILING]
        lowest = min(ceilings, key=lambda rule: rule.max_age, default=None)
        return InForce(
            self._pins(rule for rule in rules if rule.kind == RuleKind.PIN),
            Effects.of([rule for rule in rules if rule.kind == RuleKind.BOOST], self.table),
            Effects.of([rule for rule in rules if rule.kind == RuleKind.BLOCK], self.table),
            None if lowest is None else lowest.max_age,
            "" if lowest is None else lowest.rule_id,
            now_ms,
            min(self.book.next_edge_ms(now_ms), NEVER_MS),
        )

    def _pins(self, rules: Iterable[Rule]) -> tuple[Pin, ...]:
        """One for each slot: of several rules the one changed last."""
        pins: dict[int, Pin] = {}
        for rule in rules:
            titles = tuple(_slots_of(rule, self.table).tolist())
            pins.setdefault(rule.slot, Pin(rule.slot, titles, rule.rule_id))
        return tuple(pins[slot] for slot in sorted(pins))


def _slots_of(rule: Rule, table: CatalogueTable) -> NDArray[np.int64]:
    """Catalogue slots of the titles that a rule names, in its order."""
    slots = table.slots_of(np.array(id_hashes(rule.item_ids), np.uint64))
    known: NDArray[np.int64] = slots[slots >= 0]
    return known


@compiled
def affect(
    slots: Slots,
    genres: NDArray[np.uint32],
    named: Slots,
    amounts: Floats,
    rules: Slots,
    masks: NDArray[np.uint32],
    genre_amounts: Floats,
    genre_rules: Slots,
    out: Floats,
    rules_out: Slots,
) -> None:
    """Adds up what named titles and genres are moved by; see `Effects.on`."""
    for i in range(len(slots)):
        slot, largest = slots[i], np.float32(-1.0)
        place = np.searchsorted(named, slot)
        while place < len(named) and named[place] == slot:
            out[i] += amounts[place]
            if abs(amounts[place]) > largest:
                largest, rules_out[i] = abs(amounts[place]), rules[place]
            place += 1
        for k in range(len(masks)):
            if genres[slot] & masks[k]:
                out[i] += genre_amounts[k]
                if abs(genre_amounts[k]) > largest:
                    largest, rules_out[i] = abs(genre_amounts[k]), genre_rules[k]
        out[i] = min(max(out[i], np.float32(-1.0)), np.float32(1.0))
