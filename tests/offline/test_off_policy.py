"""Off-policy estimates: equal to the published package, right on a bandit whose truth is known."""

import json

import numpy as np
import pytest

from benchmarks.off_policy import GOLDEN, Case, cases, our_values, q_hat_of, sample_folder
from offline import off_policy
from offline.logged_feedback import LoggedFeedback, OffPolicyError
from offline.off_policy import ALL, ESTIMATORS, effective_sample_size, evaluate, inputs_of
from offline.open_bandit import load
from offline.reward_model import cross_fitted, fit, folds_of
from offline.target_policies import (
    TargetPolicy,
    by_position,
    fixed,
    greedy,
    logged_policy,
    shares_by_position,
    static,
    uniform,
)

AGREEMENT = 1e-6
BEHAVIOUR = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])  # by context
TARGET = np.array([[0.1, 0.3, 0.6], [0.5, 0.4, 0.1]])
TRUTH = np.array([[0.2, 0.4, 0.7], [0.6, 0.5, 0.1]])  # expected rewards
VALUE = float((TARGET * TRUTH).sum(axis=1).mean())


def bandit(rng, n, slate_rows=1):
    """A log of BEHAVIOUR, and TARGET on its rows; both contexts are as frequent as each other."""
    contexts = rng.integers(2, size=n)
    drawn = rng.random(n)[:, None] > np.cumsum(BEHAVIOUR, axis=1)[contexts]
    actions = np.minimum(drawn.sum(axis=1), 2)
    logged = LoggedFeedback(
        rewards=(rng.random(n) < TRUTH[contexts, actions]).astype(np.float64),
        actions=actions,
        positions=np.zeros(n, np.int64),
        propensities=BEHAVIOUR[contexts, actions],
        contexts=contexts,
        slates=np.arange(n) // slate_rows,
        action_names=("a", "b", "c"),
        context_names=("x", "y"),
    )
    return logged, TargetPolicy.of("target", TARGET[contexts], logged)


def small_log(**columns):
    """Four rows, columns of which can be replaced."""
    fields = {
        "rewards": np.array([1.0, 0.0, 0.0, 1.0]),
        "actions": np.array([0, 1, 1, 0]),
        "positions": np.array([0, 1, 0, 1]),
        "propensities": np.array([0.5, 0.5, 0.25, 0.5]),
        "contexts": np.zeros(4, np.int64),
        "slates": np.array([0, 0, 1, 1]),
        "action_names": ("a", "b"),
    }
    return LoggedFeedback(**{**fields, **columns})


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


def test_the_values_of_obp_hold_on_a_made_log(golden):
    ours = our_values(cases(None)["synthetic"], None, None)
    assert ours == pytest.approx(golden["values"]["synthetic"], abs=AGREEMENT)
    assert set(ours) == set(golden["classes"]) == set(ALL)


@pytest.mark.skipif(sample_folder() is None, reason="the Open Bandit sample is not here")
@pytest.mark.parametrize("name", ["random_to_bts", "bts_to_uniform", "random_to_obp_bts"])
def test_the_values_of_obp_hold_on_the_open_bandit_sample(golden, name):
    folder = sample_folder()
    behaviour = name.split("_")[0]
    logged = load(folder, behaviour)
    target = {
        "random_to_bts": lambda: by_position(
            "bts", shares_by_position(load(folder, "bts")), logged
        ),
        "bts_to_uniform": lambda: uniform(logged),
        "random_to_obp_bts": lambda: by_position("obp", np.array(golden["obp_bts"]).T, logged),
    }[name]()
    ours = our_values(Case(logged, behaviour, target, q_hat_of(logged)), None, None)
    assert ours == pytest.approx(golden["values"][name], abs=AGREEMENT)


@pytest.mark.skipif(sample_folder() is None, reason="the Open Bandit sample is not here")
@pytest.mark.parametrize(("behaviour", "clicks"), [("random", 46), ("bts", 69)])
def test_the_sample_is_read_as_published(behaviour, clicks):
    logged = load(sample_folder(), behaviour)
    assert (len(logged), logged.rewards.sum(), logged.n_actions, logged.n_positions) == (
        10_000, clicks, 34, 3,
    )  # fmt: skip
    if behaviour == "random":
        assert logged.propensities == pytest.approx(np.full(10_000, 1 / 34), rel=1e-6)


@pytest.mark.parametrize("name", ["ips", "snips", "dr"])
def test_over_many_logs_an_unbiased_estimate_is_the_truth_on_average(rng, name):
    """300 logs of 500 rows: the mean within four standard errors of the truth."""
    values = []
    for _ in range(300):
        logged, target = bandit(rng, 500)
        of = inputs_of(logged, target, cross_fitted(logged, rng))
        values.append(ESTIMATORS[name](of).value)
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - VALUE) < 4 * error
    assert error < 0.005


def test_doubly_robust_forgives_a_wrong_model_that_the_direct_method_believes(rng):
    values = {"dm": [], "dr": []}
    for _ in range(200):
        logged, target = bandit(rng, 500)
        of = inputs_of(logged, target, np.full((500, 3), 0.9))
        for name, found in values.items():
            found.append(ESTIMATORS[name](of).value)
    assert values["dm"] == pytest.approx([0.9] * 200)
    assert abs(np.mean(values["dr"]) - VALUE) < 4 * np.std(values["dr"]) / np.sqrt(200)


def test_a_good_model_makes_doubly_robust_vary_less_than_ips(rng):
    values = {"ips": [], "dr": []}
    for _ in range(100):
        logged, target = bandit(rng, 500)
        of = inputs_of(logged, target, TRUTH[logged.contexts])
        for name, found in values.items():
            found.append(ESTIMATORS[name](of).value)
    assert np.std(values["dr"]) < 0.8 * np.std(values["ips"])


def test_estimates_are_what_one_computes_by_hand():
    logged = small_log()
    target = static(logged, {"a": 3, "b": 1})  # weights 1.5, 0.5, 1, 1.5
    q_hat = np.array([[0.5, 0.1], [0.5, 0.1], [0.4, 0.2], [0.4, 0.2]])
    of = inputs_of(logged, target, q_hat, largest_weight=1.2)
    expected = (0.4 + 0.4 + 0.35 + 0.35) / 4
    values = {name: estimator(of).value for name, estimator in ESTIMATORS.items()}
    assert values == pytest.approx(
        {
            "ips": 3 / 4,
            "clipped-ips": 2.4 / 4,
            "snips": 3 / 4.5,
            "dm": expected,
            "dr": expected + (1.5 * 0.5 - 0.5 * 0.1 - 0.2 + 1.5 * 0.6) / 4,
            "switch-dr": expected + (-0.5 * 0.1 - 0.2) / 4,
        }
    )


def test_switch_lies_between_doubly_robust_and_the_model(rng):
    logged, target = bandit(rng, 300)
    q_hat = cross_fitted(logged, rng)
    all_kept = inputs_of(logged, target, q_hat, largest_weight=1e9)
    none_kept = inputs_of(logged, target, q_hat, largest_weight=1e-9)
    switch = off_policy.switch_doubly_robust
    assert switch(all_kept).value == off_policy.doubly_robust(all_kept).value
    assert switch(none_kept).value == off_policy.direct_method(none_kept).value
    assert off_policy.clipped_ips(all_kept).value == off_policy.ips(all_kept).value


@pytest.mark.parametrize("name", ["ips", "clipped-ips", "snips", "dr", "switch-dr"])
def test_the_logged_policy_earns_what_was_observed(rng, name):
    logged, _ = bandit(rng, 400)
    of = inputs_of(logged, logged_policy(logged), cross_fitted(logged, rng))
    found = evaluate(of, logged.slates, rng, estimators=(name,), n_bootstrap=20)[name]
    assert found.value == pytest.approx(logged.rewards.mean(), abs=1e-12)
    assert (found.effective_n, found.max_weight, found.mean_weight) == pytest.approx((400, 1, 1))


def test_an_effective_sample_size_counts_rows_of_equal_weight():
    assert effective_sample_size(np.full(7, 0.3)) == pytest.approx(7)
    assert effective_sample_size(np.array([5.0, 0.0, 0.0])) == 1
    assert effective_sample_size(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    assert effective_sample_size(np.zeros(3)) == 0


@pytest.mark.parametrize("name", ["ips", "snips", "dr"])
def test_intervals_cover_the_truth_as_often_as_they_say(rng, name):
    """200 intervals of 95 % over logs of 400 rows: at 95 % the share has an error of 1.5 %."""
    covered = 0
    for _ in range(200):
        logged, target = bandit(rng, 400)
        of = inputs_of(logged, target, cross_fitted(logged, rng))
        found = evaluate(of, logged.slates, rng, estimators=(name,), n_bootstrap=200)[name]
        covered += found.low <= VALUE <= found.high
    assert 0.88 <= covered / 200 <= 0.995


def test_rows_of_one_slate_are_drawn_together(rng):
    """Each row four times over says no more than once: intervals by slate know it."""
    once, _ = bandit(rng, 500)
    rows = np.repeat(np.arange(500), 4)
    copies = once.take(rows)

    def width(logged, slates):
        of = inputs_of(logged, uniform(logged), np.zeros((len(logged), 3)))
        found = evaluate(of, slates, np.random.default_rng(3), estimators=("ips",))["ips"]
        return found.high - found.low

    assert width(copies, rows) == pytest.approx(width(once, once.slates), rel=1e-6)
    assert width(copies, np.arange(2_000)) < 0.6 * width(copies, rows)


def test_the_same_seed_gives_the_same_interval(rng):
    logged, target = bandit(rng, 200)
    of = inputs_of(logged, target, np.zeros((200, 3)))
    first, again, other = (
        evaluate(of, logged.slates, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first["ips"].low != other["ips"].low
    assert first["ips"].value == other["ips"].value


def test_weights_do_not_average_one_where_the_log_lacks_support(rng):
    seen = small_log(action_names=("a", "b", "never shown"), propensities=np.full(4, 0.5))
    found = evaluate(inputs_of(seen, uniform(seen), np.zeros((4, 3))), seen.slates, rng)
    assert found["ips"].mean_weight == pytest.approx(2 / 3)


def test_a_row_s_prediction_owes_nothing_to_its_slate(rng):
    logged, _ = bandit(rng, 60, slate_rows=3)
    turned = logged.rewards.copy()
    turned[logged.slates == 7] = 5.0
    changed = LoggedFeedback(
        turned, logged.actions, logged.positions, logged.propensities, logged.contexts,
        logged.slates, logged.action_names, logged.context_names,
    )  # fmt: skip
    before, after = (cross_fitted(log, np.random.default_rng(1)) for log in (logged, changed))
    mine = logged.slates == 7
    assert (before[mine] == after[mine]).all()
    assert (before[~mine] != after[~mine]).any()


def test_folds_keep_slates_whole_and_are_of_equal_size(rng):
    slates = np.repeat(np.arange(10), 3)
    folds = folds_of(slates, 5, rng)
    assert [len(set(folds[slates == slate])) for slate in range(10)] == [1] * 10
    assert np.bincount(folds).tolist() == [6] * 5


def test_a_cell_without_rows_expects_what_its_parent_does():
    table = fit(small_log(), n_positions=2, strength=2.0)
    first, second = 0.5 * 2 / 4 + 2 / 4, 0.5 * 2 / 4  # two rows each, and two of the mean
    assert table.by_context() == pytest.approx(np.array([[first, second]]))
    assert table.table[0, 0] == pytest.approx([(1 + 2 * first) / 3] * 2)
    empty = fit(small_log(actions=np.zeros(4, np.int64)), n_positions=2)
    assert empty.table[1] == pytest.approx(0.5)


def test_a_greedy_target_takes_the_best_action_of_each_context(rng):
    first, rest = bandit(rng, 4_000)[0].halves()
    target = greedy(fit(first, 1), rest)
    assert (target.probabilities.argmax(axis=1) == TRUTH.argmax(axis=1)[rest.contexts]).all()
    of = inputs_of(rest, target, cross_fitted(rest, rng))
    best = TRUTH.max(axis=1).mean()
    found = evaluate(of, rest.slates, rng)["snips"]
    assert found.low < best < found.high


def test_halves_split_between_slates_in_the_order_of_time():
    first, rest = small_log(slates=np.array([5, 5, 2, 2])).halves()
    assert first.slates.tolist() == [5, 5]
    assert rest.slates.tolist() == [2, 2]


def test_shares_by_position_are_those_of_the_log():
    assert shares_by_position(small_log()).tolist() == [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"propensities": np.array([0.5, 0.0, 1, 1])},
            "logged.propensities must be within 0..1, above 0; got 0.0 in row 1",
        ),
        ({"propensities": np.array([0.5, 1, 1, 1.5])}, "got 1.5 in row 3"),
        ({"propensities": np.array([0.5, np.nan, 1, 1])}, "got nan in row 1"),
        (
            {"rewards": np.array([0.0, 1, np.inf, 0])},
            "logged.rewards must be finite; got inf in ro",
        ),
        ({"actions": np.array([0, 1, 2, 0])}, "logged.actions must be within 0..1; got 2 in row 2"),
        ({"contexts": np.array([0, 0, 0, -1])}, "logged.contexts must be within 0..0; got -1"),
        ({"positions": np.array([0, -1, 0, 0])}, "logged.positions must be at least 0; got -1"),
        ({"slates": np.zeros(3, np.int64)}, r"logged.slates must have the shape \(4,\); got \(3,"),
        ({"rewards": np.zeros((4, 1))}, r"logged.rewards must have the shape \(4,\); got \(4, 1"),
    ],
)
def test_a_log_that_cannot_be_evaluated_says_where(columns, message):
    with pytest.raises(OffPolicyError, match=message):
        small_log(**columns)


def test_what_cannot_be_estimated_says_why(rng):
    logged = small_log()
    nothing = TargetPolicy("nothing", np.tile([0.0, 1.0], (4, 1)), np.zeros(4))
    for wrong, message in (
        (lambda: inputs_of(logged, nothing, np.zeros((4, 2))), "all 4 weights are 0"),
        (lambda: inputs_of(logged, uniform(logged), np.zeros((4, 3))), "q_hat must have the shape"),
        (lambda: inputs_of(logged, uniform(logged), np.zeros((4, 2)), 0.0), "must be above 0"),
        (lambda: TargetPolicy.of("t", np.full((4, 2), 0.4), logged), "row 0 add up to 0.8"),
        (lambda: static(logged, {}), "weights must be at least 0 and one of them above"),
        (lambda: fixed(logged, "z"), "action must be one of a, b; got 'z'"),
        (lambda: by_position("t", np.ones((1, 2)) / 2, logged), "2 positions; got 1"),
        (lambda: folds_of(logged.slates, 1, rng), "at least two; got 1 folds of 2 slates"),
        (lambda: fit(logged, 2, strength=0.0), "strength must be above 0; got 0.0"),
        (lambda: logged.take(logged.slates == 0).halves(), "at least two to be halved; got one"),
        (lambda: logged.take(logged.slates == 9), "at least one row; got none"),
    ):
        with pytest.raises(OffPolicyError, match=message):
            wrong()
    of = inputs_of(logged, uniform(logged), np.zeros((4, 2)))
    with pytest.raises(OffPolicyError, match=r"estimator must be one of ips, .*; got magic"):
        evaluate(of, logged.slates, rng, estimators=("magic",))
    with pytest.raises(OffPolicyError, match="n_bootstrap must be above 0"):
        evaluate(of, logged.slates, rng, n_bootstrap=0)
