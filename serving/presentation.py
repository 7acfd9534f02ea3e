"""What an answer says of each title: names, cause, reason, chances, and what it was scored by."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from features.vocabulary import ARM_NAMES, Arm
from serving.catalogue import CatalogueTable
from serving.retrieval.base import NO_CAUSE, WORDS, Candidates, Source
from serving.selection.explorer import Plan
from serving.selection.slots import PINNED, SLOT_NAMES
from serving.slate import SlateItem

RANKER_NAME = ARM_NAMES[Arm.RANKER]


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
            reason=words.reason, reason_kind=words.name,
        )  # fmt: skip

    def alike(self, slot: int, score: float, source: Source) -> SlateItem:
        """A title that goes with another."""
        return replace(self.listed(slot, score, source), arm="similar", reason="", reason_kind="")

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
        slot, source = int(found.slots[place]), Source(int(found.primary[place]))
        cause = int(found.causes[place]) if source == Source.COVISITATION else NO_CAUSE
        cause_id, cause_title = "", ""
        if cause != NO_CAUSE:
            cause_id, cause_title = table.item_ids[cause], table.titles[cause]
        words, arm = WORDS[source], plan.arms[k]
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
            words.reason.format(cause=cause_title),
            features,
            plan.item_propensities[k],
            mean,
            weight,
            click_probability,
            words.name,
        )
