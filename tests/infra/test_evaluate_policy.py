"""`headrace evaluate-policy` as a person uses it."""

import json

import pytest
from typer.testing import CliRunner

from benchmarks.off_policy import GOLDEN, sample_folder
from features.log import LogConfig, LogWriter
from infra import topics
from infra.cli import app, is_known
from infra.evaluate_policy import weights_of
from offline.logged_feedback import OffPolicyError
from offline.off_policy import ALL
from tests.clock import START_MS
from tests.offline.test_decision_log import impression, outcome, write_lake


@pytest.fixture
def evaluate():
    def run(*words):
        return CliRunner().invoke(app, ["evaluate-policy", *map(str, words)])

    return run


@pytest.fixture
def lake_folder(tmp_path):
    """Forty slates of two arms, each shown half of the time; trending is taken up."""
    slates = [
        impression(f"r{k}", ["ranker", "trending"], [0.5, 0.5], at_ms=START_MS + k)
        for k in range(40)
    ]
    answers = [outcome(f"r{k}", slot, float(slot)) for k in range(40) for slot in range(2)]
    return write_lake(tmp_path / "lake", slates, answers)


needs_sample = pytest.mark.skipif(
    sample_folder() is None, reason="the Open Bandit sample is not here"
)


def test_a_log_of_the_engine_is_evaluated_by_every_estimator(evaluate, lake_folder):
    answer = evaluate("--archive", lake_folder, "--bootstrap", 50, "--json")
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert (found["rows"], found["slates"], found["observed"]) == (80, 40, 0.5)
    assert set(found["estimates"]) == {"logged", "uniform", "greedy"}
    assert all(set(estimates) == set(ALL) for estimates in found["estimates"].values())
    assert found["estimates"]["logged"]["snips"]["value"] == 0.5
    assert found["estimates"]["greedy"]["snips"]["value"] == 1.0
    assert any("too few to say which policy is better" in text for text in found["warnings"])


def test_the_table_warns_where_little_can_be_said(evaluate, lake_folder):
    targets = ["--target", "static", "--target", "fixed:ranker", "--weight", "trending=1"]
    answer = evaluate("--archive", lake_folder, *targets, "--estimator", "snips")
    assert answer.exit_code == 0, answer.output
    assert "fixed:ranker" in answer.output
    assert answer.output.count("careful") == 3  # few rewards; few rows of weight for either target


def test_without_words_the_log_of_the_engine_is_read(evaluate, broker, topic_prefix, monkeypatch):
    monkeypatch.setenv("HEADRACE_KAFKA__BOOTSTRAP", broker)
    monkeypatch.setenv("HEADRACE_KAFKA__PREFIX", topic_prefix)
    topics.ensure_topics({"bootstrap.servers": broker}, topics.topics(topic_prefix))
    writer = LogWriter(LogConfig(broker))
    for k in range(4):
        slate, answer = impression(f"r{k}", ["als"], [0.5]), outcome(f"r{k}", 0, k % 2)
        writer.append(f"{topic_prefix}impressions", b"ann", slate)
        writer.append(f"{topic_prefix}outcomes", b"ann", answer)
    writer.flush()
    answer = evaluate("--target", "logged", "--estimator", "ips", "--bootstrap", 20, "--json")
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["estimates"]["logged"]["ips"]["value"] == 0.5


@needs_sample
def test_the_sample_gives_the_values_of_the_published_package(evaluate):
    answer = evaluate(
        "--dataset", "open-bandit-men", "--behaviour", "bts", "--target", "uniform", "--json",
        "--bootstrap", 20,
    )  # fmt: skip
    found = json.loads(answer.stdout)["estimates"]["uniform"]
    published = json.loads(GOLDEN.read_text())["values"]["bts_to_uniform"]
    assert {name: found[name]["value"] for name in ALL} == pytest.approx(published, abs=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "best"], "target of this log must be one of logged, uniform, static"),
        (["--target", "fixed:als"], "action must be one of ranker, trending; got 'als'"),
        (["--target", "static", "--weight", "trending"], "weight must be like trending=2"),
        (["--estimator", "magic"], "estimator must be one of ips"),
        (["--largest-weight", "0"], "largest_weight must be above 0; got 0.0"),
    ],
)
def test_wrong_words_end_with_one_clear_line(evaluate, lake_folder, words, message):
    answer = evaluate("--archive", lake_folder, *words)
    assert answer.exit_code == 1
    assert isinstance(answer.exception, OffPolicyError)
    assert message in str(answer.exception)
    assert is_known(answer.exception)


def test_a_dataset_that_nobody_knows_is_refused(evaluate, lake_folder):
    assert evaluate("--dataset", "movielens").exit_code == 2
    assert evaluate("--dataset", "open-bandit-men", "--archive", lake_folder).exit_code == 2


def test_weights_are_read_by_arm():
    assert weights_of(["ranker=3", "trending=0.5"]) == {"ranker": 3.0, "trending": 0.5}
