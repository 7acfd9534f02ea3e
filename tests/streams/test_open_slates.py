"""What becomes of a served slot, as a function of the two logs."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.events import Interaction
from features.learning_codec import decode_learning_batch, encode_outcome
from features.outcomes import NO_ANSWER_MS, UNKNOWN_ARM, UNKNOWN_SHARE
from features.vocabulary import PINNED_NAME, EventType
from online_models.bandits import BanditState
from online_models.reward import answers_of
from online_models.reward_table import RewardTable
from streams import open_slates
from streams.open_slates import SLACK_MS, Attribution, AttributionRules, answers_in
from tests.slates import (
    END_OF_TIME_MS,
    HORIZON_MS,
    final,
    outcomes_of,
    random_logs,
    records,
    slate,
)

RULES = AttributionRules(horizon_ms=HORIZON_MS)
EVENTS = itertools.count()


def answer(kind=EventType.CLICK, item="i0", *, request="r1", event="", user="ann", **more):
    event = event or f"e{next(EVENTS)}"
    return Interaction(event, user, item, kind, 1_000, request_id=request, **more)


def watched(position_s, **more):
    return answer(EventType.PROGRESS, watch_position_s=position_s, watch_duration_s=100.0, **more)


def told(impressions, interactions, rules=RULES):
    """(slot, revision, label, reward) of each outcome, in their order."""
    found = outcomes_of(records(impressions), records(interactions), rules)
    return [(o.slot, o.revision, o.label, o.reward) for o in found]


def counts_of(impressions, interactions, rules=RULES):
    attribution = Attribution(rules)
    list(attribution.take(records(impressions), records(interactions), END_OF_TIME_MS))
    return attribution.take_counts()


def test_an_answer_gives_an_outcome_and_the_other_slots_are_unanswered_at_the_horizon():
    first, *rest = outcomes_of(
        records([(100, slate("r1"))]), records([(350, answer(item="i1"))]), RULES
    )
    assert (first.slot, first.label, first.reward, first.revision) == (1, True, 0.1, 0)
    assert (first.delay_ms, first.decided_at_ms) == (250, 350)
    assert [(o.slot, o.label, o.reward, o.delay_ms) for o in rest] == [
        (0, False, 0.0, NO_ANSWER_MS), (2, False, 0.0, NO_ANSWER_MS),
    ]  # fmt: skip
    assert {o.decided_at_ms for o in rest} == {100 + HORIZON_MS}


def test_an_outcome_says_all_that_was_logged_of_the_decision():
    found = outcomes_of(records([(100, slate("r1", profile="kids", n_features=3))]), [], RULES)[1]
    assert (found.request_id, found.user_id, found.profile_id) == ("r1", "ann", "kids")
    assert (found.item_id, found.source, found.arm) == ("i1", "week", "trending")
    assert (found.propensity, found.item_propensity) == (0.5, 0.25)
    assert (found.decision_context, found.model_sequence) == ("new/start", 3)
    assert (found.feature_version, found.bundle_version, found.served_at_ms) == ("f1", "b1", 7)
    assert found.features == (0.5, 0.5, 0.5)
    assert found.watch_share == UNKNOWN_SHARE


def test_a_slot_that_a_rule_pinned_is_told_of_and_teaches_no_arm():
    (outcome, *_) = outcomes_of(records([(100, slate("r1", arm=PINNED_NAME))]), [], RULES)
    assert outcome.arm == PINNED_NAME
    record = decode_learning_batch([encode_outcome(outcome)], [0]).records
    assert record["arm"] == UNKNOWN_ARM
    state = BanditState()
    state.learn(record)
    assert state.counts == {"learnt": 0, "skipped": 1}
    assert not any(state.arrays()[name].any() for name in ("beta_evidence", "item_evidence"))


def test_nothing_is_decided_before_its_time():
    attribution = Attribution(RULES)
    due_ms = 100 + HORIZON_MS
    assert list(attribution.take(records([(100, slate("r1"))]), [], due_ms + SLACK_MS)) == []
    assert len(list(attribution.take([], [], due_ms + SLACK_MS + 1))) == 3


def test_a_slot_that_is_named_counts_before_the_title_and_the_title_where_it_is_not_there():
    slates = [(100, slate("r1"))]
    assert told(slates, [(200, answer(item="episode", slot=2))])[0][0] == 2
    assert told(slates, [(200, answer(item="i1", slot=77))])[0][0] == 1
    assert counts_of(slates, [(200, answer(item="other"))]).unmatched == 1


def test_without_a_request_the_newest_slate_of_the_viewer_that_shows_the_title_is_answered():
    slates = [
        (100, slate("r1")), (200, slate("r2", items=["i1", "i0"])),
        (300, slate("r3", items=["i9"])), (310, slate("r4", profile="kids")), (400, slate("r5")),
    ]  # fmt: skip
    found = outcomes_of(records(slates), records([(350, answer(request=""))]), RULES)
    assert (found[0].request_id, found[0].slot, found[0].delay_ms) == ("r2", 1, 150)
    late = [(200 + HORIZON_MS + 1, answer(request="", item="i1"))]
    assert counts_of(slates[:3], late).unmatched == 1


def test_the_answer_of_another_account_is_none():
    counts = counts_of([(100, slate("r1"))], [(200, answer(user="eve"))])
    assert counts.unmatched == 1


def test_impressions_and_erasures_are_no_answers():
    interactions = [
        (200, answer(EventType.IMPRESSION)),
        (201, Interaction("x", "ann", "", EventType.ERASE, request_id="r1")),
    ]
    assert {t[2] for t in told([(100, slate("r1"))], interactions)} == {False}


def test_an_answer_that_the_log_has_before_its_slate_waits_for_it():
    first = outcomes_of(records([(500, slate("r1"))]), records([(100, answer())]), RULES)[0]
    assert (first.label, first.delay_ms, first.decided_at_ms) == (True, 0, 500)
    beyond_ms = 100 + RULES.wait_ms + SLACK_MS + 1
    attribution = Attribution(RULES)
    list(attribution.take([], records([(100, answer())]), beyond_ms))
    assert attribution.take_counts().unmatched == 1


def test_answers_that_wait_are_bounded(monkeypatch):
    monkeypatch.setattr(open_slates, "MAX_WAITING", 10)
    waiting = [(100 + k, answer(request=f"r{k}")) for k in range(30)]
    attribution = Attribution(RULES)
    list(attribution.take([], records(waiting), 0))
    assert attribution.take_counts().unmatched == 20
    (found, *_) = attribution.take(records([(200, slate("r29"))]), [], 0)
    assert found.label


def test_verdicts_and_completions_correct_at_once_and_the_rest_at_the_horizon():
    interactions = [
        (200, answer(EventType.CLICK)),
        (300, watched(20.0)),
        (400, watched(60.0)),
        (500, answer(EventType.LIKE)),
        (600, watched(70.0)),
    ]
    found = outcomes_of(records([(100, slate("r1", items=["i0"]))]), records(interactions), RULES)
    assert [(o.revision, o.reward, o.decided_at_ms) for o in found] == [
        (0, 0.1, 200), (1, 0.8, 500), (2, 0.8, 100 + HORIZON_MS),
    ]  # fmt: skip
    assert [o.watch_share for o in found] == pytest.approx([UNKNOWN_SHARE, 0.6, 0.7])
    assert [(o.previous_label, o.previous_reward) for o in found] == [
        (False, 0.0), (True, 0.1), (True, 0.8),
    ]  # fmt: skip


def test_a_watch_that_grows_is_told_once():
    interactions = [(200 + k, watched(10.0 + k)) for k in range(50)]
    found = told([(100, slate("r1", items=["i0"]))], interactions)
    assert [(t[1], t[3]) for t in found] == [(0, pytest.approx(0.1)), (1, pytest.approx(0.59))]


def test_a_late_answer_corrects_an_unanswered_slot_once():
    late_ms = 100 + HORIZON_MS + 1
    interactions = [
        (late_ms, answer(EventType.CLICK)),
        (late_ms + 1, answer(EventType.COMPLETE)),
        (100 + 2 * HORIZON_MS + 1, answer(item="i1")),
    ]
    slates = [(100, slate("r1", items=["i0", "i1"]))]
    assert told(slates, interactions) == [
        (0, 0, False, 0.0), (1, 0, False, 0.0), (0, 1, True, 0.1),
    ]  # fmt: skip
    assert counts_of(slates, interactions).too_late == 2


def test_a_late_verdict_corrects_an_answered_slot_once_and_late_progress_does_not():
    late_ms = 100 + HORIZON_MS + 1
    interactions = [
        (200, answer(EventType.CLICK)),
        (late_ms, watched(50.0)),
        (late_ms + 1, answer(EventType.COMPLETE)),
        (late_ms + 2, answer(EventType.DISLIKE)),
    ]
    slates = [(100, slate("r1", items=["i0"]))]
    assert [t[1:] for t in told(slates, interactions)] == [(0, True, 0.1), (1, True, 1.0)]
    assert counts_of(slates, interactions).too_late == 2


def test_an_answer_at_the_last_moment_is_in_time_however_late_it_is_read():
    due_ms = 100 + HORIZON_MS
    found = outcomes_of(
        records([(100, slate("r1", items=["i0"])), (due_ms + 5, slate("r2", items=["i0"]))]),
        records([(due_ms, answer())]),
        RULES,
    )
    assert (found[0].delay_ms, found[0].revision, found[0].label) == (HORIZON_MS, 0, True)


def test_an_event_that_comes_twice_takes_effect_once():
    slates = [(100, slate("r1", items=["i0"])), (300, slate("r2", items=["i0"]))]
    click = answer(request="", event="once")
    found = outcomes_of(records(slates), records([(200, click), (400, click)]), RULES)
    assert [(o.request_id, o.label) for o in found] == [("r1", True), ("r2", False)]
    assert counts_of(slates, [(200, click), (400, click)]).repeated == 1


def test_a_slate_that_is_logged_twice_is_one():
    assert len(told([(100, slate("r1")), (150, slate("r1"))], [])) == 3


def test_what_cannot_be_read_is_counted_and_skipped():
    slates = [(90, b"\xff\xff"), (95, b""), (100, slate("r1"))]
    interactions = [(200, b"nonsense"), (201, answer())]
    counts = counts_of(slates, interactions)
    assert (counts.bad_impressions, counts.bad_interactions) == (2, 1)
    assert told(slates, interactions)[0][2]


def test_slates_in_memory_are_bounded_and_the_oldest_is_decided_early():
    rules = AttributionRules(horizon_ms=HORIZON_MS, max_slates=2)
    slates = [(100 * k, slate(f"r{k}", items=["i0"])) for k in range(1, 5)]
    attribution = Attribution(rules)
    found = list(attribution.take(records(slates), [], 0))
    assert [(o.request_id, o.decided_at_ms) for o in found] == [("r1", 300), ("r2", 400)]
    assert len(attribution) == 2
    assert attribution.take_counts().settled_early == 2


def test_everything_is_forgotten_after_two_horizons(rng):
    attribution = Attribution(RULES)
    slates, interactions = random_logs(rng, 200)
    list(attribution.take(records(slates), records(interactions), END_OF_TIME_MS))
    assert len(attribution) == 0
    assert attribution._by_viewer == {}
    assert len(attribution._waiting) == attribution._n_waiting == 0


def test_a_viewer_who_cannot_decide_ends_with_the_last_word():
    flips = [
        (200 + k, answer(EventType.LIKE if k % 2 else EventType.DISLIKE, event=f"f{k:03}"))
        for k in range(600)
    ]
    found = outcomes_of(records([(100, slate("r1", items=["i0"]))]), records(flips), RULES)
    assert max(o.revision for o in found) <= 255
    deeds = [a.deed for a in answers_in(open_slates.decode_records(records(flips)).events)]
    assert final(found)["r1", 0].reward == answers_of(deeds).reward(RewardTable())


def in_batches(slates, interactions, cuts):
    """Both logs cut at the same moments: the batches of a merge."""
    begins = [0, *sorted(cuts)]
    for begin, end in zip(begins, [*begins[1:], END_OF_TIME_MS], strict=True):
        yield (
            [r for r in slates if begin <= r.at_ms < end],
            [r for r in interactions if begin <= r.at_ms < end],
            end,
        )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 8 * HORIZON_MS), max_size=30, unique=True))
def test_batches_of_any_size_give_the_same_outcomes(seed, cuts):
    slates, interactions = map(records, random_logs(np.random.default_rng(seed), 30))
    expected = outcomes_of(slates, interactions, RULES)
    attribution = Attribution(RULES)
    found = [
        outcome
        for batch in in_batches(slates, interactions, cuts)
        for outcome in attribution.take(*batch)
    ]
    assert sorted(map(repr, found)) == sorted(map(repr, expected))
    final(found)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_topics_that_interleave_otherwise_give_the_same_outcomes(seed, interleaving):
    """Where answers name their request: one topic runs ahead of the other, by less than a wait."""
    slates, interactions = random_logs(np.random.default_rng(seed), 30, with_requests=1.0)
    slates, interactions = records(slates), records(interactions)
    expected = outcomes_of(slates, interactions, RULES)
    rng = np.random.default_rng(interleaving)
    attribution, found = Attribution(RULES), []
    while slates or interactions:
        side = slates if (rng.random() < 0.5 and slates) or not interactions else interactions
        other = interactions if side is slates else slates
        if other and side[0].at_ms > other[0].at_ms + RULES.wait_ms // 2:
            side, other = other, side
        record = side.pop(0)
        until_ms = min(r[0].at_ms for r in (slates, interactions, [record]) if r)
        pair = ([record], []) if side is slates else ([], [record])
        found += attribution.take(*pair, until_ms)
    found += attribution.take([], [], END_OF_TIME_MS)
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_the_last_outcome_in_time_is_the_reward_of_the_set_of_answers(seed):
    slates, interactions = random_logs(np.random.default_rng(seed), 30, with_requests=1.0)
    due = {f"r{k}": at_ms + HORIZON_MS for k, (at_ms, _) in enumerate(slates)}
    in_time = [(at, said) for at, said in interactions if at <= due[said.request_id]]
    deeds = {}
    for found in answers_in(open_slates.decode_records(records(in_time)).events):
        deeds.setdefault((found.request, found.item), []).append(found.deed)
    finals = final(outcomes_of(records(slates), records(in_time), RULES))
    assert len(finals) == 3 * len(slates)
    for outcome in finals.values():
        key = open_slates.id_hash(outcome.request_id), open_slates.id_hash(outcome.item_id)
        answers = answers_of(deeds.get(key, []))
        assert (outcome.label, outcome.reward) == (answers.label(), answers.reward(RewardTable()))
        assert (outcome.delay_ms == NO_ANSWER_MS) == (key not in deeds)


def test_rules_without_sense_are_refused():
    with pytest.raises(ValueError, match=r"attribution\.horizon_ms must be at least 1; got 0"):
        AttributionRules(horizon_ms=0)
