"""What an answer says of each title: names, cause, reason, chances, and what it was scored by."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.ranking import RANKING_COLUMNS
from features.vocabulary import ARM_NAMES, GENRES, Arm
from serving.catalogue import CatalogueTable
from serving.retrieval.base import NO_CAUSE, WORDS, Candidates, Source, SourceWords
from serving.retrieval.viewing import Begun
from serving.selection.explorer import Plan
from serving.selection.slots import PINNED, SLOT_NAMES
from serving.slate import SlateItem

RANKER_NAME = ARM_NAMES[Arm.RANKER]
_SEEN_FRACTION = RANKING_COLUMNS.index("seen_fraction")
_WORDS_OF = {int(source): words for source, words in WORDS.items()}


class Offer(NamedTuple):
    """A candidate as its sources offer it."""

    item_id: str
    title: str
    sources: tuple[str, ...]  # by name, the one that counts first
    cause_item_id: str
    reason: str
    reason_kind: str


class Presentation:
    """Makes the items of answers, from places among candidates or from slots of the catalogue."""

    def __init__(self, table: CatalogueTable) -> None:
        self._table = table

    def items(
        self,
        plan: Plan,
        found: Candidates,
        scores: NDArray[np.float64],
        clicks: list[float],
        rule_of: Mapping[int, str] = MappingProxyType({}),
    ) -> tuple[SlateItem, ...]:
        """The items of a plan; `clicks` are probabilities by slot, `rule_of` by catalogue slot."""
        places = np.array(plan.places, np.int64)
        slots, features = found.slots[places].tolist(), found.features[places]
        columns = zip(
            slots,
            found.primary[places].tolist(),
            found.causes[places].tolist(),
            scores[places].tolist(),
            features,
            features[:, _SEEN_FRACTION].tolist(),
            clicks,
            strict=True,
        )  # lists: one look into an array takes as long as twenty into a list
        items = tuple(
            self._chosen(plan, k, found.genres, *column) for k, column in enumerate(columns)
        )
        if not rule_of:
            return items
        moved_by = [rule_of.get(slot, "") for slot in slots]
        return tuple(
            replace(item, rule_id=rule_id) if rule_id else item
            for item, rule_id in zip(items, moved_by, strict=True)
        )

    def listed(self, slot: int, score: float, source: Source) -> SlateItem:
        """A title of a list."""
        words = WORDS[source]
        table = self._table
        return SlateItem(
            table.item_ids[slot], table.titles[slot], score, words.name, RANKER_NAME, 1.0,
            reason=words.reason, reason_kind=words.kind,
        )  # fmt: skip

    def alike(self, slot: int, score: float, source: Source) -> SlateItem:
        """A title that goes with another."""
        return replace(self.listed(slot, score, source), arm="similar", reason="", reason_kind="")

    def begun(self, title: Begun) -> SlateItem:
        """A title to go on with."""
        table, source = self._table, Source.CONTINUE if title.cause < 0 else Source.NEXT_EPISODE
        item = self.listed(title.slot, 0.0, source)
        if title.cause < 0:
            return replace(item, progress=title.fraction)
        cause = table.titles[title.cause]
        reason = WORDS[source].reason.format(cause=cause)
        cause_id = table.item_ids[title.cause]
        return replace(item, cause_item_id=cause_id, cause_title=cause, reason=reason)

    def offer(self, found: Candidates, place: int) -> Offer:
        """What its sources say of a candidate."""
        slot, bits = int(found.slots[place]), int(found.sources[place])
        source, cause = int(found.primary[place]), int(found.causes[place])
        words, cause_id, _, reason = self._words(slot, source, cause, found.genres)
        others = (WORDS[source].name for source in Source if bits >> source & 1)
        names = (words.name, *(name for name in others if name != words.name))
        table = self._table
        return Offer(table.item_ids[slot], table.titles[slot], names, cause_id, reason, words.kind)

    def _words(
        self, slot: int, source: int, cause: int, genres: int
    ) -> tuple[SourceWords, str, str, str]:  # words, cause's id, cause's title, reason
        """What the source of a candidate says of it; `genres` are those of the candidates."""
        table, words = self._table, _WORDS_OF[source]
        if words.has_cause and cause != NO_CAUSE:
            title = table.titles[cause]
            return words, table.item_ids[cause], title, words.reason.format(cause=title)
        if words.has_genre:
            genre = genre_among(int(table.genres[slot]) & genres)
            return words, "", "", words.reason.format(genre=genre)
        return words, "", "", words.reason

    def _chosen(
        self,
        plan: Plan,
        k: int,
        genres: int,
        slot: int,
        source: int,
        cause: int,
        score: float,
        features: NDArray[np.float32],
        seen_fraction: float,
        click_probability: float,
    ) -> SlateItem:
        """The title in slot `k` of a plan."""
        table, arm = self._table, plan.arms[k]
        words, cause_id, cause_title, reason = self._words(slot, source, cause, genres)
        mean, weight = (0.0, 0.0)
        if plan.belief is not None and arm != PINNED:
            mean, weight = float(plan.belief.means[arm]), float(plan.belief.weights[arm])
        return SlateItem(
            table.item_ids[slot],
            table.titles[slot],
            score,
            words.name,
            SLOT_NAMES[arm],
            plan.propensities[k],
            cause_id,
            cause_title,
            reason,
            features,
            plan.item_propensities[k],
            mean,
            weight,
            click_probability,
            words.kind,
            seen_fraction,
        )


def genre_among(mask: int) -> str:
    """The name of a genre of a mask; of those without a name of their own, words that fit.

    >>> genre_among(0b100001), genre_among(1 << 31)
    ('Action', 'a genre you like')
    """
    slot = (mask & -mask).bit_length() - 1
    return GENRES[slot] if 0 <= slot < len(GENRES) else "a genre you like"
