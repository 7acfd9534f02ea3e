"""Served slates that wait for answers: impressions and interactions in, outcomes out.

One object has the slates of one partition of both topics. It is a function of the two logs, taken
in the order of their append times: the same logs give the same outcomes, in batches of any size.
Nothing here knows Kafka's clients or Bytewax.
"""

from array import array
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from sys import intern
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.codec import WireError, decode_impression
from features.compiled import Rows
from features.decode import Record, decode_records
from features.events import Impression
from features.ids import id_hash, key_hash, viewer_hash
from features.outcomes import UNKNOWN_SHARE, Outcome
from online_models.reward import NO_ANSWERS, Answers, Deed, is_decisive
from online_models.reward_table import RewardTable

SLACK_MS: Final = 500  # records whose times are out of order by less are taken as if they were not
MAX_WAIT_MS: Final = 60_000  # an answer waits this long for its impression, the horizon at most
MAX_WAITING: Final = 16_384  # answers
MAX_REVISION: Final = 255
MAX_AT_ONCE: Final = MAX_REVISION - 2  # leaves room for the end of the horizon and a late answer


@dataclass(frozen=True, slots=True)
class AttributionRules:
    """What is to be called an answer, and for how long."""

    horizon_ms: int = 600_000
    max_slates: int = 16_384  # of a partition in memory
    rewards: RewardTable = field(default_factory=RewardTable)

    def __post_init__(self) -> None:
        for name, least in (("horizon_ms", 1), ("max_slates", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"attribution.{name} must be at least {least}; got {getattr(self, name)}"
                )

    @property
    def wait_ms(self) -> int:
        """How long an answer waits for its impression."""
        return min(self.horizon_ms, MAX_WAIT_MS)

    @property
    def memory_ms(self) -> int:
        """How far back the log can still bear on what is said next."""
        return 2 * self.horizon_ms + self.wait_ms + SLACK_MS


@dataclass(slots=True)
class Counts:
    """What became of records, since it was last asked."""

    bad_impressions: int = 0
    bad_interactions: int = 0
    repeated: int = 0  # slates and answers that had come before
    unmatched: int = 0  # answers to no slate that is known
    too_late: int = 0
    settled_early: int = 0  # slates, because too many were open


class Answer(NamedTuple):
    """An interaction, as far as slates are concerned."""

    logged_at_ms: int
    request: int
    viewer: int
    account: int
    item: int
    slot: int
    deed: Deed


class SlotState:
    """A slot that was answered, or told of: what came, and what learners know of it."""

    __slots__ = ("answers", "delay_ms", "is_settled", "label", "revision", "reward", "share")

    def __init__(self, delay_ms: int, revision: int = -1) -> None:
        self.answers = Answers()
        self.delay_ms = delay_ms
        self.revision = revision  # the last that was told; -1: none
        self.label, self.reward, self.share = False, 0.0, UNKNOWN_SHARE  # as told
        self.is_settled = False  # a late answer has corrected it

    def differs(self, rewards: RewardTable) -> bool:
        """Whether learners know it otherwise than it is."""
        answers = self.answers
        now = answers.label(), answers.reward(rewards), answers.watch_share
        return now != (self.label, self.reward, self.share)

    def tell(self, rewards: RewardTable) -> None:
        """Notes that learners know of it as it is."""
        answers = self.answers
        self.label, self.reward = answers.label(), answers.reward(rewards)
        self.share = answers.watch_share
        self.revision += 1


class Slate:
    """A served slate, about 12 KB for 20 titles: features as one array, ids as hashes and text."""

    __slots__ = (
        "account", "due_ms", "events", "features", "is_decided", "items", "logged_at_ms",
        "request", "served", "slots", "states", "viewer",
    )  # fmt: skip

    def __init__(self, impression: Impression, logged_at_ms: int, due_ms: int) -> None:
        self.served = replace(impression, slots=(), included=(), degraded=())
        self.logged_at_ms = logged_at_ms
        self.due_ms = due_ms  # the last moment at which an answer is in time
        self.request = id_hash(impression.request_id)
        self.viewer = viewer_hash(impression.user_id, impression.profile_id)
        self.account = key_hash(impression.user_id)
        self.items = array("Q", [id_hash(slot.item_id) for slot in impression.slots])
        self.slots = [
            (s.item_id, intern(s.source), intern(s.arm), s.propensity, s.item_propensity)
            for s in impression.slots
        ]
        self.features = _packed(impression)
        self.states: dict[int, SlotState] = {}
        self.events: set[int] = set()
        self.is_decided = False

    def slot_of(self, item: int) -> int:
        """The slot that shows a title, -1 where none does."""
        try:
            return self.items.index(item)
        except ValueError:
            return -1

    def outcome(self, slot: int, decided_at_ms: int, rewards: RewardTable) -> Outcome:
        """What learners are to know of a slot now; notes that they have been told.

        A slot without an answer has no state: it is told of once.
        """
        state = self.states.get(slot)
        if state is None:
            return self._outcome(slot, decided_at_ms)
        previous_label, previous_reward = state.label, state.reward
        state.tell(rewards)
        return self._outcome(
            slot,
            decided_at_ms,
            label=state.label,
            reward=state.reward,
            watch_share=state.share,
            delay_ms=state.delay_ms,
            revision=state.revision,
            previous_label=previous_label,
            previous_reward=previous_reward,
        )

    def _outcome(
        self,
        slot: int,
        decided_at_ms: int,
        *,
        label: bool = False,
        reward: float = 0.0,
        **told: Any,
    ) -> Outcome:
        served = self.served
        item_id, source, arm, propensity, item_propensity = self.slots[slot]
        return Outcome(
            request_id=served.request_id,
            slot=slot,
            user_id=served.user_id,
            profile_id=served.profile_id,
            item_id=item_id,
            label=label,
            reward=reward,
            source=source,
            arm=arm,
            propensity=propensity,
            item_propensity=item_propensity,
            decision_context=served.decision_context,
            served_at_ms=served.served_at_ms,
            decided_at_ms=decided_at_ms,
            model_sequence=served.model_sequence,
            feature_version=served.feature_version,
            bundle_version=served.bundle_version,
            features=tuple(self.features[slot].tolist()),
            **told,
        )


def _packed(impression: Impression) -> Sequence[NDArray[np.float32]]:
    """The features of each slot as float32, in one array where all have the same length."""
    lengths = {len(slot.features) for slot in impression.slots}
    if len(lengths) == 1:
        return np.array([slot.features for slot in impression.slots], np.float32)  # type: ignore[return-value]
    return [np.asarray(slot.features, np.float32) for slot in impression.slots]


class Attribution:
    """The slates of one partition, and what their viewers answered.

    Memory is bounded: at most `max_slates` slates and MAX_WAITING answers.
    """

    def __init__(self, rules: AttributionRules) -> None:
        self._counts = Counts()
        self._rules = rules
        self._open: deque[Slate] = deque()  # in the order of the log
        self._decided: deque[Slate] = deque()  # behind their horizon; older than the open ones
        self._by_request: dict[int, Slate] = {}
        self._by_viewer: dict[int, list[Slate]] = {}  # oldest first
        self._waiting: OrderedDict[int, list[Answer]] = OrderedDict()  # by request
        self._n_waiting = 0

    def __len__(self) -> int:
        return len(self._by_request)

    def take_counts(self) -> Counts:
        """What became of records since this was last asked."""
        counts, self._counts = self._counts, Counts()
        return counts

    def take(
        self, impressions: Sequence[Record], interactions: Sequence[Record], until_ms: int
    ) -> Iterator[Outcome]:
        """Outcomes of records of both topics, each in its order; read it to its end.

        `until_ms`: nothing that the log received before is still to come, so slates whose horizon
        ends before are decided. An interaction costs about 5 us, an impression of 20 titles 150 us.
        """
        answers = deque(self._answers_in(interactions))
        for record in impressions:
            at_ms = record.timestamp()[1]
            while answers and answers[0].logged_at_ms < at_ms:
                yield from self._answer(answers.popleft())
            yield from self._pass_time(min(at_ms, until_ms))
            yield from self._open_slate(record)
        for answer in answers:
            yield from self._answer(answer)
        yield from self._pass_time(until_ms)

    def _answers_in(self, records: Sequence[Record]) -> Iterator[Answer]:
        decoded = decode_records(records) if records else None
        if decoded is None:
            return
        self._counts.bad_interactions += len(decoded.bad)
        yield from answers_in(decoded.events)

    def _open_slate(self, record: Record) -> Iterator[Outcome]:
        try:
            impression = decode_impression(record.value() or b"")
        except WireError:
            self._counts.bad_impressions += 1
            return
        at_ms = record.timestamp()[1]
        if not impression.request_id or not impression.user_id:
            self._counts.bad_impressions += 1
            return
        slate = Slate(impression, at_ms, at_ms + self._rules.horizon_ms)
        if slate.request in self._by_request:
            self._counts.repeated += 1
            return
        if len(self) >= self._rules.max_slates:
            yield from self._forget_oldest(at_ms)
        self._open.append(slate)
        self._by_request[slate.request] = slate
        self._by_viewer.setdefault(slate.viewer, []).append(slate)
        for answer in self._waiting.pop(slate.request, ()):
            self._n_waiting -= 1
            yield from self._answer_request(slate, answer)

    def _forget_oldest(self, at_ms: int) -> Iterator[Outcome]:
        if self._decided:
            self._forget(self._decided.popleft())
            return
        slate = self._open.popleft()
        self._counts.settled_early += not slate.is_decided
        yield from self._decide(slate, at_ms)
        self._forget(slate)

    def _forget(self, slate: Slate) -> None:
        del self._by_request[slate.request]
        slates = self._by_viewer[slate.viewer]
        slates.remove(slate)  # the first: they are forgotten in their order
        if not slates:
            del self._by_viewer[slate.viewer]

    def _pass_time(self, now_ms: int) -> Iterator[Outcome]:
        """Decides slates whose horizon has ended, forgets what is too old to be answered."""
        now_ms -= SLACK_MS
        while self._open and self._open[0].due_ms < now_ms:
            slate = self._open.popleft()
            self._decided.append(slate)
            yield from self._decide(slate, slate.due_ms)
        while self._decided and self._decided[0].due_ms + self._rules.horizon_ms < now_ms:
            self._forget(self._decided.popleft())
        while self._waiting and _first(self._waiting) + self._rules.wait_ms < now_ms:
            self._give_up_waiting()

    def _give_up_waiting(self) -> None:
        _, answers = self._waiting.popitem(last=False)
        self._n_waiting -= len(answers)
        self._counts.unmatched += len(answers)

    def _decide(self, slate: Slate, at_ms: int) -> Iterator[Outcome]:
        """The end of a horizon: unanswered slots, and what is no longer as it was told."""
        if slate.is_decided:
            return
        slate.is_decided = True
        for slot in range(len(slate.items)):
            state = slate.states.get(slot)
            if state is None or state.differs(self._rules.rewards):
                yield slate.outcome(slot, at_ms, self._rules.rewards)

    def _answer(self, answer: Answer) -> Iterator[Outcome]:
        yield from self._pass_time(answer.logged_at_ms)
        if answer.request == 0:
            yield from self._answer_newest(answer)
        elif (slate := self._by_request.get(answer.request)) is not None:
            yield from self._answer_request(slate, answer)
        else:
            self._wait(answer)

    def _wait(self, answer: Answer) -> None:
        self._waiting.setdefault(answer.request, []).append(answer)
        self._n_waiting += 1
        if self._n_waiting > MAX_WAITING:
            self._give_up_waiting()

    def _answer_newest(self, answer: Answer) -> Iterator[Outcome]:
        """An answer that names no request: to the viewer's newest slate that shows the title."""
        slates = self._by_viewer.get(answer.viewer, ())
        if any(answer.deed.event in slate.events for slate in slates):
            self._counts.repeated += 1  # another slate may have been served since it first came
            return
        for slate in reversed(slates):
            if slate.logged_at_ms <= answer.logged_at_ms <= slate.due_ms:
                slot = slate.slot_of(answer.item)
                if slot >= 0:
                    yield from self._answer_slot(slate, slot, answer)
                    return
        self._counts.unmatched += 1

    def _answer_request(self, slate: Slate, answer: Answer) -> Iterator[Outcome]:
        """An answer that names its request: to the slot it names, else to the title's."""
        is_named = 0 <= answer.slot < len(slate.items)
        slot = answer.slot if is_named else slate.slot_of(answer.item)
        if slot < 0 or answer.account != slate.account:
            self._counts.unmatched += 1
        else:
            yield from self._answer_slot(slate, slot, answer)

    def _answer_slot(self, slate: Slate, slot: int, answer: Answer) -> Iterator[Outcome]:
        if answer.deed.event in slate.events:
            self._counts.repeated += 1
            return
        slate.events.add(answer.deed.event)
        if answer.logged_at_ms > slate.due_ms:
            yield from self._decide(slate, slate.due_ms)
        if slate.is_decided:
            yield from self._answer_late(slate, slot, answer)
            return
        at_ms = max(answer.logged_at_ms, slate.logged_at_ms)
        state = slate.states.get(slot)
        is_first = state is None
        if state is None:
            state = slate.states[slot] = SlotState(at_ms - slate.logged_at_ms)
        state.answers.add(answer.deed)
        if is_first or self._is_told_at_once(state, answer.deed):
            yield slate.outcome(slot, at_ms, self._rules.rewards)

    def _is_told_at_once(self, state: SlotState, deed: Deed) -> bool:
        """Whether a further answer in time is worth a correction before the horizon ends."""
        if not is_decisive(deed) or state.revision >= MAX_AT_ONCE:
            return False
        return state.answers.reward(self._rules.rewards) != state.reward

    def _answer_late(self, slate: Slate, slot: int, answer: Answer) -> Iterator[Outcome]:
        """An answer behind the horizon corrects a slot once."""
        state = slate.states.get(slot)
        is_too_old = answer.logged_at_ms > slate.due_ms + self._rules.horizon_ms
        is_known = state is not None and (state.is_settled or not is_decisive(answer.deed))
        if is_too_old or is_known:
            self._counts.too_late += 1
            return
        if state is None:  # it was called unanswered, as revision 0
            delay_ms = max(answer.logged_at_ms - slate.logged_at_ms, 0)
            state = slate.states[slot] = SlotState(delay_ms, revision=0)
        state.answers.add(answer.deed)
        if state.differs(self._rules.rewards):
            state.is_settled = True
            yield slate.outcome(slot, answer.logged_at_ms, self._rules.rewards)


def _first(waiting: OrderedDict[int, list[Answer]]) -> int:
    return next(iter(waiting.values()))[0].logged_at_ms


def answers_in(events: Rows) -> Iterator[Answer]:
    """The answers among `(n,) EVENT` records, in their order."""
    names = ("logged_at_ms", "request", "user", "key_hash", "item", "slot")
    deeds = ("type", "at_ms", "event", "rating", "watch_position_s", "watch_duration_s")
    said = zip(*(events[name].tolist() for name in names), strict=True)
    done = zip(*(events[name].tolist() for name in deeds), strict=True)
    for (logged_at_ms, request, viewer, account, item, slot), deed in zip(said, done, strict=True):
        if deed[0] not in NO_ANSWERS:
            yield Answer(logged_at_ms, request, viewer, account, item, slot, Deed(*deed))
