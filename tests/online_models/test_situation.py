"""What linear policies see of a decision is the same when learning and when serving."""

import numpy as np
import pytest

from features.decision_context import CONTEXT_NAMES, N_CONTEXTS
from features.outcomes import NO_CONTEXT
from features.ranking import N_COLUMNS, RANKING_COLUMNS
from online_models.linear_arms import LinearArms
from online_models.situation import N_SITUATION, SITUATION_COLUMNS, situation_of
from tests.online_models.examples import BEST, outcomes


def features(**values: float) -> np.ndarray:
    made = np.zeros(N_COLUMNS, np.float32)
    for name, value in values.items():
        made[RANKING_COLUMNS.index(name)] = value
    return made


def named(situation: np.ndarray) -> dict[str, float]:
    return dict(zip(SITUATION_COLUMNS, situation.tolist(), strict=True))


@pytest.mark.parametrize("context", range(0, N_CONTEXTS, 7))
def test_the_parts_of_a_context_are_its_digits(context: int):
    found = named(situation_of(context))
    assert {name for name, value in found.items() if value} == {
        "one", *CONTEXT_NAMES[context].split("/"),
    }  # fmt: skip


def test_no_known_context_is_no_digit():
    assert {name for name, value in named(situation_of(NO_CONTEXT)).items() if value} == {"one"}


def test_what_is_said_of_the_viewer_is_held_between_zero_and_one():
    found = named(
        situation_of(
            0,
            features(
                viewer_new_share=0.25, user_diversity=3.0, viewer_events=np.exp(5.0) - 1.0,
                viewer_long_tail_share=-1.0, user_completion_habit=np.nan,
            ),
        )
    )  # fmt: skip
    assert found["viewer_new_share"] == 0.25
    assert found["user_diversity"] == 1.0
    assert found["viewer_events_log"] == pytest.approx(0.5)
    assert found["viewer_long_tail_share"] == found["user_completion_habit"] == 0.0
    assert named(situation_of(0, features(viewer_events=1e30)))["viewer_events_log"] == 1.0


def test_learning_sees_what_serving_sees():
    given = features(viewer_new_share=0.25, user_diversity=0.5, viewer_events=40.0)
    arms = LinearArms()
    arms.learn(outcomes(context=99, reward=1.0, has_features=True, features=given))
    assert (arms.arrays()["linear_moment"][BEST] == situation_of(99, given)).all()
    arms = LinearArms()
    arms.learn(outcomes(context=99, reward=1.0, has_features=False, features=given))
    assert (arms.arrays()["linear_moment"][BEST] == situation_of(99)).all()


def test_the_situation_is_small():
    assert N_SITUATION == len(set(SITUATION_COLUMNS)) == 20
