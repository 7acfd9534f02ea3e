"""What an answer is worth: the table of rewards, and the reward of the answers to one slot.

The reward of a slot is a function of the set of its answers, not of the order in which they came:

- the newest explicit verdict (like, dislike, rating) by the event's own time, ties by the event's
  hash, beats everything else;
- else the highest of what was done: completed, the share watched, shared, added, clicked, ...;
- a skip counts only where nothing of that was done.

Folding is idempotent, so an answer that comes twice counts once.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from features.events import MAX_RATING
from features.outcomes import UNKNOWN_SHARE
from features.vocabulary import EventType
from online_models.reward_table import RewardTable

MIDDLE_RATING: Final = MAX_RATING / 2
COMPLETE_SHARE: Final = 0.9  # who has seen this much has seen it: the rest are the credits

VERDICTS: Final = frozenset({EventType.LIKE, EventType.DISLIKE, EventType.RATE})
NO_ANSWERS: Final = frozenset({EventType.UNSPECIFIED, EventType.IMPRESSION, EventType.ERASE})
TAKEN_UP: Final = frozenset({
    EventType.CLICK, EventType.PLAY, EventType.PROGRESS, EventType.COMPLETE, EventType.LIKE,
    EventType.ADD, EventType.SHARE, EventType.SEARCH,
})  # fmt: skip


class Deed(NamedTuple):
    """What counts of an interaction for the reward; hashes instead of ids."""

    type: int  # an EventType
    at_ms: int  # the event's own time
    event: int
    rating: float = 0.0  # 0..10, of a RATE
    watch_position_s: float = 0.0
    watch_duration_s: float = 0.0  # 0: unknown


def rating_reward(rating: float) -> float:
    """Linear in the rating, with the middle of the scale worth nothing; clipped to -1..1.

    Linear, because a learner of means should not be told more of a rating than viewers told; zero
    in the middle, so that a rating that says neither yes nor no equals no answer.

    >>> rating_reward(10.0), rating_reward(5.0), rating_reward(1.0)
    (1.0, 0.0, -0.8)
    """
    return min(max((rating - MIDDLE_RATING) / MIDDLE_RATING, -1.0), 1.0)


def share_of(deed: Deed) -> float:
    """Share of the title watched, 0..1, or UNKNOWN_SHARE; from COMPLETE_SHARE on it is all of it.

    >>> share_of(Deed(EventType.PROGRESS, 0, 1, watch_position_s=45, watch_duration_s=90))
    0.5
    """
    if deed.type == EventType.COMPLETE:
        return 1.0
    if deed.type != EventType.PROGRESS or not deed.watch_duration_s > 0:
        return UNKNOWN_SHARE
    return min(deed.watch_position_s / deed.watch_duration_s, 1.0)


def is_decisive(deed: Deed) -> bool:
    """Whether it is a verdict, a completion or a skip: what learners are told of at once."""
    if deed.type == EventType.PROGRESS:
        return share_of(deed) >= COMPLETE_SHARE
    return deed.type in VERDICTS or deed.type in (EventType.COMPLETE, EventType.SKIP)


class Answers:
    """The answers to one slot, folded: any order of the same deeds gives the same."""

    __slots__ = ("_types", "_verdict", "watch_share")

    def __init__(self) -> None:
        self._types = 0  # a bit for each type that came
        self._verdict: tuple[int, int, int, float] | None = None  # the newest: time, hash, ...
        self.watch_share = UNKNOWN_SHARE

    def add(self, deed: Deed) -> None:
        """Takes a deed in; one that is no answer changes nothing."""
        kind = deed.type
        self._types |= 1 << kind
        if kind in VERDICTS:
            verdict = (deed.at_ms, deed.event, kind, deed.rating)
            if self._verdict is None or verdict > self._verdict:
                self._verdict = verdict
            if kind == EventType.RATE and rating_reward(deed.rating) > 0:
                self._types |= 1 << EventType.LIKE  # taken up, as after a like
        self.watch_share = max(self.watch_share, share_of(deed))

    def label(self) -> bool:
        """Whether the viewer took the title up: any deed of TAKEN_UP, or a rating above 5."""
        return bool(self._types & _TAKEN_UP_BITS)

    def reward(self, table: RewardTable) -> float:
        """The reward, -1..1; 0.0 without an answer."""
        if self._verdict is not None:
            return _verdict_reward(self._verdict, table)
        done = [worth for kind, worth in _deeds(table) if self._types >> kind & 1]
        if self.watch_share >= COMPLETE_SHARE:
            done.append(table.complete)
        elif self.watch_share > 0:
            done.append(self.watch_share * table.complete)
        elif self._types >> EventType.PROGRESS & 1:
            done.append(table.play)  # it ran; how much of it is not known
        if done:
            return max(done)
        return table.skip if self._types >> EventType.SKIP & 1 else 0.0


_TAKEN_UP_BITS: Final = sum(1 << kind for kind in TAKEN_UP)


def _deeds(table: RewardTable) -> tuple[tuple[int, float], ...]:
    return (
        (EventType.COMPLETE, table.complete),
        (EventType.SHARE, table.share),
        (EventType.ADD, table.add),
        (EventType.PLAY, table.play),
        (EventType.CLICK, table.click),
        (EventType.SEARCH, table.search),
    )


def _verdict_reward(verdict: tuple[int, int, int, float], table: RewardTable) -> float:
    _, _, kind, rating = verdict
    if kind == EventType.RATE:
        return rating_reward(rating)
    return table.like if kind == EventType.LIKE else table.dislike


def answers_of(deeds: Iterable[Deed]) -> Answers:
    """The answers of some deeds, in any order."""
    answers = Answers()
    for deed in deeds:
        answers.add(deed)
    return answers
