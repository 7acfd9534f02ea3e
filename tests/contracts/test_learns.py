"""What every part of learned state must do: the same tests over each that is learnt."""

import numpy as np
import pytest

from features.decision_context import CONTEXT_NAMES
from features.learning_codec import decode_snapshot, encode_snapshot
from features.model_snapshot import ModelSnapshot, SnapshotError
from features.outcomes import Outcome, Rollback
from features.ranking import N_COLUMNS
from features.registry import feature_version
from features.vocabulary import ARM_NAMES
from infra.learned_parts import learners
from infra.overlays import readers
from online_models.learner import Learner, Version
from tests.clock import START_MS
from tests.outcomes import assert_same, batch_of

NAMES = sorted(learners())


def outcomes(rng, n):
    """With features, of all arms; some are corrections that turn the label."""
    features = rng.normal(size=(n, N_COLUMNS)).astype(np.float32)
    return [
        Outcome(
            f"r{k}", int(rng.integers(0, 20)), f"u{k % 30}", f"i{int(rng.integers(40))}",
            label=bool(features[k, 0] > 0.4), reward=float(rng.uniform(-1, 1)),
            watch_share=float(rng.random()) if rng.random() < 0.5 else -1.0,
            revision=int(k % 9 == 8), previous_label=bool(k % 2),
            previous_reward=float(rng.uniform(-1, 1)) if k % 9 == 8 else 0.0,
            arm=str(rng.choice(ARM_NAMES)), decision_context=str(rng.choice(CONTEXT_NAMES)),
            propensity=float(rng.uniform(0.1, 1)), decided_at_ms=START_MS + 400 * k,
            served_at_ms=START_MS + 400 * k - 9_000, feature_version=feature_version(),
            features=tuple(float(x) for x in features[k]),
        )
        for k in range(n)
    ]  # fmt: skip


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def new(name):
    """Makes learners of this part alone."""
    return lambda: Learner({name: learners()[name]})


@pytest.fixture
def records(rng):
    found = outcomes(rng, 400)
    return [*found[:300], Rollback(101), *found[300:]]


def learnt(learner, records, size, first=0):
    for at in range(0, len(records), size):
        learner.learn(batch_of(records[at : at + size], first + at))
    return learner


def test_batches_of_any_size_are_alike(new, records):
    expected = learnt(new(), records, len(records))
    for size in (1, 37):
        found = learnt(new(), records, size)
        assert_same(found.version().arrays, expected.version().arrays)
    assert expected.counts.rollbacks == 1


def test_what_goes_on_from_a_published_version_arrives_at_the_same_bytes(new, records):
    expected = learnt(new(), records, 50)
    first = learnt(new(), records[:240], 50)

    def sent(version):
        snapshot = ModelSnapshot("learned", version.sequence, version.arrays)
        arrays = decode_snapshot(encode_snapshot(snapshot)).arrays
        return Version(version.sequence, arrays, version.restored_from, version.kept)

    second = new()
    second.resume(sent(first.version()), [sent(version) for version in first.kept.values()])
    learnt(second, records[240:], 50, 240)
    assert_same(second.version().arrays, expected.version().arrays)


def test_versions_that_are_kept_do_not_move_with_the_state(new, records):
    learner = learnt(new(), records[:200], 50)
    kept = {sequence: dict(version.arrays) for sequence, version in learner.kept.items()}
    before = {s: {n: values.copy() for n, values in arrays.items()} for s, arrays in kept.items()}
    learnt(learner, [Rollback(101), *records[:100]], 50, 200)
    for sequence, arrays in kept.items():
        assert_same(arrays, before[sequence])


def test_a_server_reads_what_is_learnt_and_refuses_what_is_not(name, new, records):
    learner = learnt(new(), records, 50)
    own = {
        array.removeprefix(f"{name}/"): values
        for array, values in learner.version().arrays.items()
        if array.startswith(name)
    }
    for values in own.values():
        values.flags.writeable = False
    assert readers("thompson")[name](own) is not None
    with pytest.raises(SnapshotError):
        readers("thompson")[name]({})
