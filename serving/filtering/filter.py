"""The filter stage: of the candidates what may be shown, and others where few are left."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features import item_row
from features.ids import id_hashes
from features.windows import DAY_MS
from serving.filtering import reasons
from serving.filtering.allow import Bits, best_allowed, mark_viewer, sift
from serving.filtering.masks import NO_CEILING, Mask, MaskKey, Masks
from serving.knowledge import Knowledge
from serving.request import Request
from serving.retrieval.base import Candidates, Floats, Slots, Source
from serving.rules.book import NEVER_MS
from serving.rules.rulings import NO_EFFECTS, NO_RULE, NOTHING_IN_FORCE, InForce, Rulings

NEVER_AGAIN_MS: Final = 2**62

NARROW: Final = 400  # candidates under a filter that lets less than half of the titles pass

_CHARTS: Final = (  # that are taken of what passes, each half of what is still missing
    (item_row.NAMES.index("item_trend_1d"), Source.TRENDING),
    (item_row.NAMES.index("item_engaged_7d"), Source.WEEK),
)
_TREND_3D = item_row.NAMES.index("item_trend_3d")
_TOTAL = item_row.NAMES.index("item_engaged_total")


@dataclass(frozen=True, slots=True)
class FilterConfig:
    """What holds where a request says nothing else."""

    rewatch_after_days: float | None = None  # None: what was watched is not shown again
    shows_unknown_ages: bool = False  # under a ceiling
    min_votes: int = 1  # that a title must have where a least rating is asked for


class Filter:
    """Of one request at a time: `begin`, then any of the others, then `end`."""

    def __init__(self, knowledge: Knowledge, config: FilterConfig | None = None) -> None:
        self._knowledge = knowledge
        self._config = config or FilterConfig()
        self._rulings = Rulings(knowledge.rules, knowledge.table)
        self._masks = Masks(
            knowledge.table,
            shows_unknown_ages=self._config.shows_unknown_ages,
            min_votes=self._config.min_votes,
        )
        self._own: Bits = np.zeros(len(knowledge.table), np.uint16)
        self._touched: list[NDArray[np.int64]] = []
        NO_EFFECTS.on(np.zeros(0, np.int32), knowledge.table.genres)  # compiled before any rule is
        self._static: Bits = self._own
        self._in_force = NOTHING_IN_FORCE
        self._mask_until_ms = NEVER_MS
        self._all = np.arange(len(knowledge.table), dtype=np.int32)
        self._among: Slots = self._all

    def begin(self, request: Request) -> None:
        """Finds the rules in force and the mask, and marks what this viewer is not to be shown."""
        in_force = self._in_force = self._rules_for(request)
        mask = self._mask_for(request, in_force)
        self._static, request.allowed = mask.bits, mask.passing
        self._mask_until_ms = mask.until_ms
        self._among = self._all if mask.slots is None else mask.slots
        if request.query.candidate_item_ids:
            self._ask_for_some(request, mask)
        self._mark_own(request)

    def end(self) -> None:
        """Leaves nothing of the request behind."""
        for slots in self._touched:
            self._own[slots] = 0
        self._touched = []

    def admit_pins(self, request: Request, found: Candidates) -> None:
        """Makes candidates of the pinned titles that may be shown: before any source is asked.

        A slot is one of the whole endless slate: on a later page it counts from that page's start.
        """
        first = request.query.page_number * request.query.count
        pins: dict[int, int] = {}
        for pin in self._in_force.pins:
            slot = pin.slot - first
            if not 0 <= slot < request.query.count:
                continue
            title = self._first_allowed(request, pin.titles, pins)
            if title is not None:
                pins[slot] = title
                request.rule_of[title] = pin.rule_id
        if pins:
            request.pins = tuple(pins.items())
            request.rules = tuple(request.rule_of.values())
            found.offer(np.array(list(pins.values()), np.int32), len(pins), Source.EDITORIAL)

    def apply(self, request: Request, found: Candidates) -> None:
        """Leaves what may be shown, and counts what may not by its first reason. O(candidates)."""
        n, counts = found.n, np.zeros(len(reasons.REASONS), np.int64)
        bits, allowed = self._sift(request, found.slots[:n], counts)
        counted = dict(zip(reasons.REASONS, counts.tolist(), strict=True))
        removed = {name: count for name, count in counted.items() if count}
        if removed:
            request.removed = removed
            self._note_rules(request, found.slots[:n], bits)
            found.keep(allowed)

    def refill(self, request: Request, found: Candidates, wanted: int) -> None:
        """Fills up to `wanted` candidates from the whole catalogue, by popularity.

        Of a search page all that were asked for. Under a filter that lets little pass, the charts
        are taken of what passes, up to NARROW titles, since those of all titles have few of them.
        """
        asked = request.query.candidate_item_ids
        if asked:
            slots = self._slots_of(asked).astype(np.int32)
            _, allowed = self._sift(request, slots)
            found.offer(slots[allowed], len(slots), Source.SEARCH)
            return
        if request.allowed is not None:
            wanted = max(wanted, min(NARROW, found.capacity))
            for column, source in _CHARTS:
                order_by = partial(self._values, column)
                self._fill(request, found, order_by, (found.n + wanted) // 2, source)
        self._fill(request, found, self._popularity, wanted, Source.POPULAR)

    def boost(self, request: Request, found: Candidates) -> None:
        """Fills `boosts` of the candidates as they stand now, and names the rules behind them."""
        effects = self._in_force.boosts
        if not effects:
            return
        slots = found.slots[: found.n]
        request.boosts, rules = effects.on(slots, self._knowledge.table.genres)
        moved = np.flatnonzero(rules != NO_RULE)
        names = [effects.rule_ids[k] for k in rules[moved].tolist()]
        request.rule_of = dict(zip(slots[moved].tolist(), names, strict=True)) | request.rule_of
        request.rules = (*request.rules, *dict.fromkeys(names))

    def best(
        self, request: Request, order_by: Floats, wanted: int, places: Slots
    ) -> NDArray[np.int32]:
        """Slots of the `wanted` best titles by `order_by` that may be shown and have no place.

        One pass over what passes the filter.
        """
        return self._best(request, self._passing(order_by), wanted, places)

    def edge_after_ms(self, at_ms: int) -> int:
        """The next moment at which a rule begins or ends, or a title comes or goes.

        Of titles as the last request knew it; a moment that is not after `at_ms` has passed.
        """
        edge_ms = self._knowledge.rules.next_edge_ms(at_ms)
        return min(edge_ms, self._mask_until_ms) if self._mask_until_ms > at_ms else edge_ms

    def removed_by(self, request: Request, slot: int) -> tuple[str, ...]:
        """Every reason for which a title is not shown, between `begin` and `end`."""
        bits, _ = self._sift(request, np.array([slot], np.int32))
        return reasons.names_of(int(bits[0]))

    def _fill(
        self,
        request: Request,
        found: Candidates,
        order_by: Callable[[], Floats],
        upto: int,
        source: Source,
    ) -> None:
        """Adds the best by `order_by`, of the titles that pass, until there are `upto`.

        The order is asked for only where something is missing: it takes a look at every title.
        """
        if found.n < upto:
            missing = self._best(request, order_by(), upto - found.n, found.places)
            found.offer(missing, len(missing), source)

    def _best(
        self, request: Request, order_by: Floats, wanted: int, places: Slots
    ) -> NDArray[np.int32]:
        best: NDArray[np.int32] = best_allowed(
            self._among,
            order_by,
            wanted,
            places,
            self._static,
            self._own,
            self._knowledge.table.ids,
            request.row["viewing"],
            self._remembers(request),
        )
        return best

    def _rules_for(self, request: Request) -> InForce:
        book, table = self._knowledge.rules, self._knowledge.table
        if not self._rulings.is_of(book, table):
            self._rulings = Rulings(book, table)
            self._masks.forget_rules()
        return self._rulings.of(request.query, request.now_ms)

    def _mask_for(self, request: Request, in_force: InForce) -> Mask:
        filters = request.query.filters
        ceilings = [age for age in (filters.max_age, in_force.max_age) if age is not None]
        key = MaskKey(
            request.wanted_genres,
            filters.languages,
            filters.categories,
            filters.min_rating,
            min(ceilings, default=NO_CEILING),
            request.query.region.upper(),
            in_force.blocks.rule_ids,
        )
        values = self._knowledge.mirror.values
        return self._masks.of(key, in_force.blocks, values, request.now_ms)

    def _ask_for_some(self, request: Request, mask: Mask) -> None:
        """Narrows the request to the candidates of a search page. O(titles)."""
        asked = self._slots_of(request.query.candidate_item_ids)
        self._static = mask.bits | np.uint16(reasons.NOT_ASKED)
        self._static[asked] = mask.bits[asked]
        request.allowed = self._static == 0

    def _mark_own(self, request: Request) -> None:
        """Marks by slot what this viewer has done with titles and what the request excludes."""
        query, history = request.query, request.history
        mark_viewer(
            request.row["viewing"],
            history,
            request.now_ms,
            self._rewatch_after_ms(request),
            query.filters.exclude_in_progress,
            self._own,
        )
        self._touched.append(history[history >= 0])
        if query.exclude_item_ids or query.item_id:
            excluded = (*query.exclude_item_ids, query.item_id)
            self._mark(self._slots_of(excluded), reasons.EXCLUDED)
        if query.shown:
            shown = self._knowledge.table.slots_of(np.fromiter(query.shown, np.uint64))
            self._mark(shown[shown >= 0], reasons.SHOWN)

    def _mark(self, slots: NDArray[np.int64], reason: int) -> None:
        self._own[slots] |= np.uint16(reason)
        self._touched.append(slots)

    def _slots_of(self, item_ids: tuple[str, ...]) -> NDArray[np.int64]:
        """Slots of the titles that the catalogue has, or ever had, of these."""
        ids = np.array(id_hashes(filter(None, item_ids)), np.uint64)
        slots = self._knowledge.table.slots_of(ids)
        known: NDArray[np.int64] = slots[slots >= 0]
        return known

    def _rewatch_after_ms(self, request: Request) -> int:
        if request.query.filters.include_watched:
            return 0
        days = self._config.rewatch_after_days
        return NEVER_AGAIN_MS if days is None else int(days * DAY_MS)

    def _remembers(self, request: Request) -> bool:
        """Whether what the row remembers without a date stays out."""
        return not request.query.filters.include_watched

    def _sift(
        self, request: Request, slots: Slots, counts: NDArray[np.int64] | None = None
    ) -> tuple[Bits, NDArray[np.bool_]]:
        """Reasons and whether each of some titles may be shown."""
        bits, allowed = np.empty(len(slots), np.uint16), np.empty(len(slots), np.bool_)
        sift(
            slots,
            self._static,
            self._own,
            self._knowledge.table.ids,
            request.row["viewing"],
            self._remembers(request),
            bits,
            allowed,
            np.zeros(len(reasons.REASONS), np.int64) if counts is None else counts,
        )
        return bits, allowed

    def _first_allowed(
        self, request: Request, titles: tuple[int, ...], pins: dict[int, int]
    ) -> int | None:
        """The first of titles that may be shown and is not pinned already."""
        _, allowed = self._sift(request, np.array(titles, np.int32))
        for title, may_be_shown in zip(titles, allowed.tolist(), strict=True):
            if may_be_shown and title not in pins.values():
                return title
        return None

    def _note_rules(self, request: Request, slots: Slots, bits: Bits) -> None:
        """Names the blocks and the ceiling that took candidates out."""
        in_force = self._in_force
        names: list[str] = []
        if "blocked" in request.removed:
            blocked = slots[(bits & np.uint16(reasons.BLOCKED)) != 0]
            _, rules = in_force.blocks.on(blocked, self._knowledge.table.genres)
            names += [in_force.blocks.rule_ids[k] for k in np.unique(rules).tolist()]
        asked = request.query.filters.max_age
        is_lower = asked is None or (in_force.max_age is not None and in_force.max_age < asked)
        if "age" in request.removed and in_force.ceiling_id and is_lower:
            names.append(in_force.ceiling_id)
        if names:
            request.rules = tuple(dict.fromkeys((*request.rules, *names)))

    def _popularity(self) -> Floats:
        """An order of the titles that pass the filter: trend, then total, then newness."""
        order = self._values(_TREND_3D) + np.float32(1e-3) * self._values(_TOTAL)
        order += np.float32(1e-8) * self._passing(self._knowledge.table.years)
        return order

    def _values(self, column: int) -> Floats:
        """A column of the mirror, of the titles that pass the filter."""
        return np.ascontiguousarray(self._passing(self._knowledge.mirror.values[:, column]))

    def _passing(self, by_slot: NDArray[Any]) -> NDArray[Any]:
        """Of an array by slot what belongs to the titles that pass the filter."""
        return by_slot if self._among is self._all else by_slot[self._among]
