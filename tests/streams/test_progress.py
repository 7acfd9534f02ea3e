"""How far the flow has come, and what it tells of arms."""

import numpy as np
from prometheus_client import REGISTRY

from features.decision_context import CONTEXT_NAMES
from features.outcomes import NO_ROLLBACK, OUTCOME, UNKNOWN_ARM
from features.vocabulary import ARM_NAMES, Arm
from online_models.bandits import BanditState
from online_models.base import BANDITS, RATES
from online_models.rates import ArmRates
from streams.arm_news import MOST_CONTEXTS, TELL_EVERY_S, ArmNews, count_slots
from streams.progress import Progress


def test_what_is_read_is_applied_once_its_rows_are_stored():
    progress = Progress()
    progress.begin({0: 5, 1: 9})
    progress.read({0: 7, 1: 9})
    progress.read({0: 7, 1: 12})
    progress.decoded(has_events=True)
    progress.decoded(has_events=True)
    assert progress.applied == {0: 5, 1: 9}
    first = progress.worked_off(1)
    second = progress.worked_off(1)
    progress.stored(first)
    assert progress.applied == {0: 7, 1: 9}
    progress.stored(second)
    assert progress.applied == {0: 7, 1: 12}


def test_a_batch_without_events_is_applied_with_the_one_before_it():
    progress = Progress()
    progress.begin({0: 0})
    progress.read({0: 1})
    progress.read({0: 2})
    progress.decoded(has_events=True)
    progress.decoded(has_events=False)
    assert progress.applied == {0: 0}
    progress.stored(progress.worked_off(1))
    assert progress.applied == {0: 2}
    progress.read({0: 3})
    progress.decoded(has_events=False)
    assert progress.applied == {0: 3}


def test_steps_without_a_reader_tell_nothing():
    progress = Progress()
    progress.decoded(has_events=True)
    progress.stored(progress.worked_off(3))
    assert progress.applied == {}


def outcomes(rng, n):
    found = np.zeros(n, OUTCOME)
    found["rollback_to"] = NO_ROLLBACK
    found["arm"] = rng.integers(len(ARM_NAMES), size=n)
    found["context"] = rng.integers(3 * MOST_CONTEXTS, size=n)
    found["label"] = rng.random(n) < 0.3
    found["decided_at_ms"] = 1
    found["propensity"] = 1.0
    return found


def slots_told(arm, outcome):
    labels = {"arm": arm, "outcome": outcome}
    return REGISTRY.get_sample_value("headrace_learning_slots_total", labels) or 0.0


def test_slots_are_counted_by_arm_and_by_what_became_of_them(rng):
    found = outcomes(rng, 60)
    found["arm"][0], found["label"][0] = UNKNOWN_ARM, True
    found["arm"][1], found["revision"][1] = Arm.RANKER, 1
    name = ARM_NAMES[Arm.RANKER]
    fates = [("unknown", "clicked"), (name, "corrected"), (name, "clicked"), (name, "ignored")]
    before = [slots_told(*fate) for fate in fates]
    count_slots(found)
    own = found[(found["arm"] == Arm.RANKER) & (found["revision"] == 0)]
    rose = [slots_told(*fate) - n for fate, n in zip(fates, before, strict=True)]
    assert rose == [1, 1, own["label"].sum(), (~own["label"]).sum()]


def test_beliefs_are_told_of_the_contexts_with_the_most_slots_alone(rng, monkeypatch):
    # Feast sets it for the whole process; a learner has no Feast, and labels that go, go.
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    monkeypatch.delenv("prometheus_multiproc_dir", raising=False)
    now_s = 0.0
    parts = {BANDITS: BanditState(is_net=True), RATES: ArmRates()}
    news = ArmNews(lambda: now_s)
    for start in (0, 3 * MOST_CONTEXTS):  # later contexts take the place of the first
        found = outcomes(rng, 2_000)
        found["context"] += start
        for part in parts.values():
            part.learn(found if not start else np.concatenate([found, found]))
        news(parts)
        now_s += TELL_EVERY_S
        told = {
            (sample.labels["arm"], sample.labels["context"]): sample.value
            for family in REGISTRY.collect()
            for sample in family.samples
            if sample.name == "headrace_learning_arm_mean"
        }
        contexts = {context for _, context in told}
        busiest = np.argsort(-parts[RATES].slots[:-1].sum(axis=1), kind="stable")[:MOST_CONTEXTS]
        assert contexts == {"all", *(CONTEXT_NAMES[code] for code in busiest)}
        assert len(told) == (MOST_CONTEXTS + 1) * len(ARM_NAMES)
        assert all(0 <= mean <= 1 for mean in told.values())
