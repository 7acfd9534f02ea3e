"""Why a title is, or is not, on a slate: the stages asked about one title, once a slate is made."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.ranking import RANKING_COLUMNS
from features.vocabulary import Arm
from serving.filtering.filter import Filter
from serving.knowledge import Knowledge
from serving.presentation import Presentation
from serving.ranking.scoring import Scores, Scoring
from serving.request import Request
from serving.retrieval.base import WORDS, Candidates, Source
from serving.retrieval.retrieval import Retrieval, lead
from serving.selection.explorer import Plan
from serving.slate import Explanation, Slate, SlateItem

NOT_A_CANDIDATE: Final = 0  # as a rank

REASON_WORDS: Final[Mapping[str, str]] = {
    "blocked": "a rule blocks it",
    "removed": "the catalogue has it no more",
    "not_yet": "it is not available yet",
    "expired": "it is available no more",
    "region": "it may not be shown in this region",
    "age": "it is above the parental ceiling, or its age is unknown",
    "category": "it is of another category",
    "language": "it is in another language",
    "genre": "it has none of the genres",
    "rating": "it is rated lower",
    "not_asked": "it is not among the candidates of the request",
    "watched": "the viewer has watched it",
    "rejected": "the viewer has rejected it",
    "in_progress": "the viewer has begun it",
    "excluded": "the request excludes it",
    "shown": "an earlier page showed it",
}


class Explainer:
    """Looks at one title in the stages as a slate has left them; it leaves them in disorder."""

    def __init__(
        self,
        knowledge: Knowledge,
        found: Candidates,
        retrieval: Retrieval,
        filter_: Filter,
        scoring: Scoring,
        presentation: Presentation,
    ) -> None:
        self._knowledge = knowledge
        self._found = found
        self._retrieval = retrieval
        self._filter = filter_
        self._scoring = scoring
        self._presentation = presentation

    def explain(self, request: Request, slate: Slate, slot: int, *, is_known: bool) -> Explanation:
        """Why the title in a catalogue slot is, or is not, on a slate that was just made.

        `is_known`: the slate was ranked, rather than taken from the charts.
        """
        item_id = self._knowledge.table.item_ids[slot]
        place = int(self._found.places[slot])
        n_ranked, rank = self._found.n, NOT_A_CANDIDATE
        if place >= 0:
            rank = self._rank(place) if is_known else place + 1
        shown = [item.item_id for item in slate.items]
        removed_by = self._filter.removed_by(request, slot)
        sources = self._sources(request, slot, is_known=is_known)
        on_slate = item_id in shown
        item = slate.items[shown.index(item_id)] if on_slate else self._described(request, slot)
        explanation = Explanation(
            item,
            shown=on_slate,
            slot=shown.index(item_id) if on_slate else 0,
            removed_by=() if on_slate else removed_by,
            sources=sources,
            cheap_rank=self._scoring.first_rank(slot) or place + 1,
            rank=rank,
            feature_names=RANKING_COLUMNS,
        )
        return replace(explanation, summary=summary_of(explanation, len(shown), n_ranked))

    def _rank(self, place: int) -> int:
        scores = self._scoring.score(self._found)
        lead(self._found, scores)
        return _place_of(scores, place)

    def _sources(self, request: Request, slot: int, *, is_known: bool) -> tuple[str, ...]:
        """All sources that bring a title, whether it may be shown or not: they are asked again."""
        found = self._found
        found.clear()
        self._retrieval.end()
        gather = self._retrieval.gather if is_known else self._retrieval.gather_charts
        gather(request, found)
        place = int(found.places[slot])
        if place < 0:
            return ()
        bits = int(found.sources[place])
        return tuple(words.name for source, words in WORDS.items() if bits >> source & 1)

    def _described(self, request: Request, slot: int) -> SlateItem:
        """A title that is not shown, as it would be: with its features and its score."""
        found = self._found
        if found.places[slot] < 0:
            found.keep(np.arange(found.n) < found.capacity - 1)  # one gives way for want of room
            found.offer(np.array([slot], np.int32), 1, Source.POPULAR)
        place = int(found.places[slot])
        self._retrieval.describe(request, found, 0, found.n)
        self._scoring.hydrate(request, found)
        scores = self._scoring.score(found)
        plan = Plan([place], [Arm.RANKER], [0.0], [0.0])
        clicks = self._scoring.click_probabilities(found.features[[place]], scores[[place]])
        (item,) = self._presentation.items(plan, found, scores, clicks)
        (item,) = with_contributions(self._knowledge, (item,))
        return replace(item, arm="", item_propensity=0.0)


def with_contributions(knowledge: Knowledge, items: tuple[SlateItem, ...]) -> tuple[SlateItem, ...]:
    """The items, each with what its features contribute to the ranker's score, if there is one."""
    learned = knowledge.learned
    ranker = None if learned is None else learned.bundle.ranker
    rows = [item.features for item in items if item.features is not None]
    if ranker is None or len(rows) != len(items) or not rows:
        return items
    contributions = ranker.contributions(np.stack(rows))
    return tuple(
        replace(item, contributions=row) for item, row in zip(items, contributions, strict=True)
    )


def summary_of(found: Explanation, n_shown: int, n_ranked: int) -> str:
    """A sentence for people.

    >>> item = SlateItem("tt1", "Heat", 0.5, "new", "", 0.0)
    >>> summary_of(Explanation(item, removed_by=("watched",)), 20, 400)
    'Heat is not shown: the viewer has watched it.'
    >>> summary_of(Explanation(item, sources=("new",), rank=57), 20, 400)
    'Heat is not shown: by score it is 57th of 400, and 20 are shown.'
    """
    title = found.item.title or found.item.item_id
    if found.shown:
        why = f", {found.item.reason}" if found.item.reason else ""
        arm = f", given to {found.item.arm}" if found.item.arm else ""
        return f"{title} is in slot {found.slot} of {n_shown}{arm}{why}; by score it is " + (
            f"{_ordinal(found.rank)} of {n_ranked}."
        )
    if found.removed_by:
        reasons = [REASON_WORDS.get(name, name) for name in found.removed_by]
        return f"{title} is not shown: {', and '.join(reasons)}."
    if not found.rank:
        brought = "it was left out after the first stage" if found.sources else "no source has it"
        return f"{title} is not shown: {brought}."
    return (
        f"{title} is not shown: by score it is {_ordinal(found.rank)} of {n_ranked}, "
        f"and {n_shown} are shown."
    )


def _place_of(scores: Scores | NDArray[np.float64], place: int) -> int:
    """From 1; equal scores stand in their order."""
    better = int((scores > scores[place]).sum())
    return 1 + better + int((scores[:place] == scores[place]).sum())


def _ordinal(n: int) -> str:
    """A number as a place.

    >>> [_ordinal(n) for n in (1, 2, 3, 4, 11, 12, 21, 113)]
    ['1st', '2nd', '3rd', '4th', '11th', '12th', '21st', '113th']
    """
    ending = {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{'th' if 10 <= n % 100 <= 20 else ending}"
