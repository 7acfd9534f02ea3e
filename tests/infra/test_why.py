"""Why a slot: the decision and what followed, from the log alone."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from features.ids import key_hash
from features.learning_codec import encode_outcome
from features.log import LogConfig, LogWriter
from features.outcomes import Outcome
from infra.why import DecisionNotFoundError, explain, show
from serving.slate import Decision, Query, Slate, SlateItem
from serving.wire import encode_decision
from tests.outcomes import LearningSite

FIRST = SlateItem(
    "tt1", "One", 1.5, "new", "new", 0.25, item_propensity=0.5, posterior_mean=0.2,
    posterior_weight=40.0,
)  # fmt: skip
SECOND = replace(FIRST, item_id="tt2", arm="ranker", propensity=0.75, item_propensity=1.0)
SLATE = Slate(
    (FIRST, SECOND), "b1", "f1", 300,
    decision_context="new/start/open/night/weekday", policy="thompson", model_sequence=17,
)  # fmt: skip


@pytest.fixture
def site(broker, redis_url, topic_prefix, tmp_path):
    found = LearningSite(LogConfig(broker), redis_url, topic_prefix, tmp_path)
    writer = LogWriter(found.log)
    for request in ("r0", "r1"):
        decision = Decision(Query("ann", request_id=request), SLATE, 1_000)
        writer.append(
            found.topic("impressions"), b"ann", encode_decision(decision),
            partition=key_hash("ann") % 4,
        )  # fmt: skip
    clicked = Outcome("r1", 0, "ann", "tt1", label=True, reward=0.1, delay_ms=1_500)
    liked = replace(clicked, reward=0.8, revision=1, previous_reward=0.1, previous_label=True)
    passed_over = Outcome("r1", 1, "ann", "tt2", label=False, reward=0.0)
    elsewhere = Outcome("r0", 1, "ann", "tt2", label=True, reward=1.0, delay_ms=10)
    for outcome in (clicked, passed_over, elsewhere, liked):
        writer.append(found.topic("outcomes"), b"ann", encode_outcome(outcome))
    writer.append(found.topic("outcomes"), b"ann", b"nonsense")
    writer.flush()
    return found


def test_a_decision_is_told_with_the_newest_outcome_of_each_slot(site):
    found = explain(site.settings(), "r1", "ann")
    assert found.impression.request_id == "r1"
    assert (found.impression.policy, found.impression.model_sequence) == ("thompson", 17)
    assert [slot.propensity for slot in found.impression.slots] == [0.25, 0.75]
    assert {slot: outcome.reward for slot, outcome in found.outcomes.items()} == {0: 0.8, 1: 0.0}
    text = io.StringIO()
    show(found, Console(file=text, width=160))
    for words in (
        "new/start/open/night/weekday", "thompson", "0.200 of 40",
        "taken up after 1.5 s: reward +0.80", "no answer: reward 0",
    ):  # fmt: skip
        assert words in text.getvalue()


def test_one_slot_is_shown_alone_and_what_is_not_known_yet_says_so(site):
    found = explain(site.settings(), "r0", "ann")
    text = io.StringIO()
    show(found, Console(file=text, width=160), slot=0)
    assert "not known yet" in text.getvalue()
    assert "tt2" not in text.getvalue()


def test_a_decision_that_the_log_does_not_hold_is_named(site):
    with pytest.raises(DecisionNotFoundError, match="'r9'"):
        explain(site.settings(), "r9", "ann")
