import numpy as np

from online_models.challengers import (
    TREE_KEPT,
    TREE_ROWS,
    FactorizationChallenger,
    TreeChallenger,
    is_sampled,
)
from online_models.click_features import columns_of
from tests.online_models.click_outcomes import outcomes_of


def bits(part):
    return {name: array.tobytes() for name, array in part.arrays().items()}


def test_the_factorization_machine_learns_who_likes_what(rng):
    """Two kinds of viewers, two kinds of titles: the click lies in the pair alone."""
    outcomes = outcomes_of(rng, 4_000)
    outcomes["user"], outcomes["item"] = rng.integers(0, 2, 4_000), rng.integers(0, 2, 4_000)
    outcomes["label"] = outcomes["user"] == outcomes["item"]
    machine, row = FactorizationChallenger(), np.zeros(1)
    for outcome in outcomes:
        machine.learn_one(outcome, row)
    found = np.array([machine.probability(outcome, row) for outcome in outcomes[:200]])
    labels = outcomes["label"][:200]
    assert found[labels].mean() > found[~labels].mean() + 0.3


def test_asking_the_factorization_machine_adds_nothing_to_it(rng):
    machine = FactorizationChallenger()
    before = bits(machine)
    for outcome in outcomes_of(rng, 50):
        machine.probability(outcome, np.zeros(1))
    assert bits(machine) == before
    assert len(machine._machine.latents) == len(machine.arrays()["factors"])


def test_the_factorization_machine_goes_on_as_if_never_stopped(rng):
    outcomes, row = outcomes_of(rng, 400), np.zeros(1)
    straight, first, second = (FactorizationChallenger() for _ in range(3))
    for k, outcome in enumerate(outcomes):
        straight.learn_one(outcome, row)
        if k == 200:
            second.restore(first.arrays())
        (first if k < 200 else second).learn_one(outcome, row)
    assert bits(second) == bits(straight)


def test_a_tree_grows_anew_from_its_last_rows_and_is_restored_at_any_moment(rng):
    n = TREE_ROWS + 200
    outcomes = outcomes_of(rng, n)
    rows = columns_of(outcomes["features"], outcomes["slot"])[:, :4]
    outcomes["label"] = (rows[:, 1] > 0.0) & (rng.random(n) < 0.7)
    straight, restored = TreeChallenger(4), TreeChallenger(4)
    found = []
    for k in range(n):
        if k in (700, TREE_ROWS, TREE_ROWS + 100):
            other = TreeChallenger(4)
            other.restore(restored.arrays())
            restored = other
        p = [each.probability(outcomes[k], rows[k]) for each in (straight, restored)]
        assert p[0] == p[1]
        found.append(p[0])
        for each in (straight, restored):
            each.learn_one(outcomes[k], rows[k])
    assert len(straight.arrays()["rows"]) == TREE_KEPT + 200
    assert bits(straight) == bits(restored)
    labels = outcomes["label"][500:]
    later = np.array(found[500:])
    assert later[labels].mean() > later[~labels].mean() + 0.3


def test_the_sample_is_one_in_256_of_every_slot_and_takes_corrections_along(rng):
    outcomes = outcomes_of(rng, 200_000)
    sampled = is_sampled(outcomes)
    for slot in range(10):
        assert 0.7 < sampled[outcomes["slot"] == slot].mean() * 256 < 1.4
    corrected = outcomes.copy()
    corrected["revision"], corrected["label"] = 1, ~corrected["label"]
    assert (is_sampled(corrected) == sampled).all()
