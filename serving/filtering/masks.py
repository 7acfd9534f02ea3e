"""What a filter refuses to every viewer, as one number by catalogue slot, kept between requests.

A mask is made in one pass over the catalogue and then looked up. It is made anew at the moment at
which the next title comes or goes; a title that changes is looked at alone.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features import item_row
from features.titles import short_hash
from serving.catalogue import FOR_GOOD, CatalogueTable
from serving.filtering import reasons
from serving.filtering.allow import Bits, Titles, Wanted, mark_ratings, mark_static
from serving.retrieval.base import Floats
from serving.rules.rulings import Effects

MOST_BYTES: Final = 64 << 20
MOST_MASKS, LEAST_MASKS = 64, 4
RATINGS_EVERY_MS: Final = 60_000  # a mask by ratings is made anew: they move
SELECTIVE_SHARE: Final = 0.5  # of the titles; where fewer pass, sources had better know
NO_CEILING: Final = -1

_MEAN = item_row.NAMES.index("item_rating_mean")
_VOTES = item_row.NAMES.index("item_rating_count")


class MaskKey(NamedTuple):
    """Everything that a mask depends on but catalogue, time and ratings."""

    genres: int  # mask; 0: any
    languages: tuple[str, ...]
    categories: tuple[str, ...]
    min_rating: float
    max_age: int  # or NO_CEILING
    region: str
    blocks: tuple[str, ...]  # rules


@dataclass(slots=True)
class Mask:
    """Bits of REASONS by catalogue slot; zero where a title may be shown."""

    bits: Bits
    from_ms: int
    until_ms: int
    n_changes: int  # of the catalogue
    passing: NDArray[np.bool_] | None = None  # by slot; None where at least half of the titles pass
    slots: NDArray[np.int32] | None = None  # those that pass, likewise

    def holds_at(self, at_ms: int) -> bool:
        """Whether time alone has not changed it."""
        return self.from_ms <= at_ms < self.until_ms


class Masks:
    """Masks of a catalogue by their keys; those asked for last are kept, in 64 MiB."""

    def __init__(
        self, table: CatalogueTable, *, shows_unknown_ages: bool = False, min_votes: int = 1
    ) -> None:
        self._table = table
        self._shows_unknown_ages = shows_unknown_ages
        self._min_votes = min_votes
        self._masks: OrderedDict[MaskKey, Mask] = OrderedDict()
        fitting = MOST_BYTES // (3 * max(len(table), 1))
        self._most = max(min(fitting, MOST_MASKS), LEAST_MASKS)
        self._all = np.arange(len(table), dtype=np.int32)

    def forget_rules(self) -> None:
        """Gives back the masks with blocks of rules: the same ids may mean other titles now."""
        for key in [key for key in self._masks if key.blocks]:
            del self._masks[key]

    def of(self, key: MaskKey, blocks: Effects, values: Floats, now_ms: int) -> Mask:
        """The mask for a key whose rules are `blocks`; `values` is the mirror's matrix.

        O(1) where it is kept, O(changed titles) where some have changed, else O(titles).
        """
        mask = self._masks.get(key)
        if mask is None or not mask.holds_at(now_ms):
            mask = self._masks[key] = self._make(key, blocks, values, now_ms)
            if len(self._masks) > self._most:
                self._masks.popitem(last=False)
        elif mask.n_changes != self._table.n_changes:
            self._bring_up(mask, key, blocks, values, now_ms)
        self._masks.move_to_end(key)
        return mask

    def _make(self, key: MaskKey, blocks: Effects, values: Floats, now_ms: int) -> Mask:
        until_ms = now_ms + RATINGS_EVERY_MS if key.min_rating > 0 else FOR_GOOD
        mask = Mask(np.zeros(len(self._table), np.uint16), now_ms, until_ms, self._table.n_changes)
        self._mark(mask, self._all, key, blocks, values, now_ms)
        return mask

    def _bring_up(
        self, mask: Mask, key: MaskKey, blocks: Effects, values: Floats, now_ms: int
    ) -> None:
        """Looks at the titles that have changed since the mask was made."""
        changed = self._table.changed_since(mask.n_changes)
        slots = self._all if changed is None else np.array(changed, np.int32)
        mask.n_changes = self._table.n_changes
        self._mark(mask, slots, key, blocks, values, now_ms)

    def _mark(
        self,
        mask: Mask,
        slots: NDArray[np.int32],
        key: MaskKey,
        blocks: Effects,
        values: Floats,
        now_ms: int,
    ) -> None:
        table = self._table
        titles = Titles(*(getattr(table, name) for name in Titles._fields))
        edge_ms = mark_static(slots, titles, self._wanted(key, blocks), now_ms, FOR_GOOD, mask.bits)
        mask.until_ms = min(mask.until_ms, edge_ms)
        mask.bits[blocks.slots] |= np.uint16(reasons.BLOCKED)
        if key.min_rating > 0:
            mark_ratings(values, _MEAN, _VOTES, key.min_rating, self._min_votes, mask.bits)
        passing = mask.bits == 0
        is_selective = np.count_nonzero(passing) < SELECTIVE_SHARE * table.n_titles
        mask.passing = passing if is_selective else None
        mask.slots = np.flatnonzero(passing).astype(np.int32) if is_selective else None

    def _wanted(self, key: MaskKey, blocks: Effects) -> Wanted:
        return Wanted(
            np.array([not found or key.region in found for found in self._table.regions_of_set]),
            key.max_age,
            self._shows_unknown_ages,
            _hashes(key.categories),
            _hashes(key.languages),
            key.genres,
            int(np.bitwise_or.reduce(blocks.genres, initial=0)),
        )


def _hashes(names: tuple[str, ...]) -> NDArray[np.uint32]:
    return np.array([short_hash(name) for name in names], np.uint32)
