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
        features = found.features[plan.places]
        items = (
            self._chosen(plan, k, found, float(scores[place]), features[k], clicks[k])
            for k, place in enumerate(plan.places)
        )
        if not rule_of:
            return tuple(items)
        moved_by = [rule_of.get(slot, "") for slot in found.slots[plan.places].tolist()]
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
        words, cause_id, _, reason = self._words(found, place)
        others = (WORDS[source].name for source in Source if bits >> source & 1)
        names = (words.name, *(name for name in others if name != words.name))
        table = self._table
        return Offer(table.item_ids[slot], table.titles[slot], names, cause_id, reason, words.kind)

    def _words(
        self, found: Candidates, place: int
    ) -> tuple[SourceWords, str, str, str]:  # words, cause's id, cause's title, reason
        """What the source of a candidate says of it."""
        table = self._table
        words = WORDS[Source(int(found.primary[place]))]
        if words.has_cause and (cause := int(found.causes[place])) != NO_CAUSE:
            title = table.titles[cause]
            return words, table.item_ids[cause], title, words.reason.format(cause=title)
        if words.has_genre:
            genre = genre_among(int(table.genres[found.slots[place]]) & found.genres)
            return words, "", "", words.reason.format(genre=genre)
        return words, "", "", words.reason

    def _chosen(
        self,
        plan: Plan,
        k: int,
        found: Candidates,
        score: float,
        features: NDArray[np.float32],
        click_probability: float,
    ) -> SlateItem:
        """The title in slot `k` of a plan."""
        table, place = self._table, plan.places[k]
        slot, arm = int(found.slots[place]), plan.arms[k]
        words, cause_id, cause_title, reason = self._words(found, place)
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
            float(features[_SEEN_FRACTION]),
        )


def genre_among(mask: int) -> str:
    """The name of a genre of a mask; of those without a name of their own, words that fit.

    >>> genre_among(0b100001), genre_among(1 << 31)
    ('Action', 'a genre you like')
    """
    slot = (mask & -mask).bit_length() - 1
    return GENRES[slot] if 0 <= slot < len(GENRES) else "a genre you like"
