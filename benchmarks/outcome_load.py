"""Load of the learner: outcomes at a steady rate, from a process of its own."""

import argparse
import time

import numpy as np

from benchmarks.load import send
from features.decision_context import CONTEXT_NAMES
from features.learning_codec import encode_outcome
from features.outcomes import NO_ANSWER_MS, Outcome
from features.ranking import N_COLUMNS
from features.registry import feature_version
from features.vocabulary import ARM_NAMES

DISTINCT = 5_000  # outcomes that are made; the load repeats them under their own places in the log
TAKEN_SHARE = 0.2


def outcomes(n: int, seed: int, now_ms: int) -> list[Outcome]:
    """Outcomes with features, of all arms and contexts; a fifth was taken up."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, N_COLUMNS)).astype(np.float32)
    taken = rng.random(n) < TAKEN_SHARE
    return [
        Outcome(
            f"r{k // 20:012d}",
            k % 20,
            f"u{int(rng.integers(100_000)):08d}",
            f"i{int(rng.integers(50_000)):08d}",
            label=bool(taken[k]),
            reward=float(rng.uniform(0.1, 1.0)) if taken[k] else 0.0,
            watch_share=float(rng.random()) if taken[k] else -1.0,
            delay_ms=5_000 if taken[k] else NO_ANSWER_MS,
            arm=ARM_NAMES[int(rng.integers(len(ARM_NAMES)))],
            propensity=0.125,
            decision_context=CONTEXT_NAMES[int(rng.integers(len(CONTEXT_NAMES)))],
            served_at_ms=now_ms - 10_000,
            decided_at_ms=now_ms,
            feature_version=feature_version(),
            features=tuple(float(x) for x in features[k]),
        )
        for k in range(n)
    ]


def messages(n: int, seed: int = 7) -> list[dict[str, bytes]]:
    """`n` records ready for `Producer.produce_batch`."""
    made = outcomes(min(n, DISTINCT), seed, time.time_ns() // 1_000_000)
    values = [{"key": found.user_id.encode(), "value": encode_outcome(found)} for found in made]
    return [dict(values[k % len(values)]) for k in range(n)]


def main() -> None:
    """Command line of the load process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bootstrap")
    parser.add_argument("--topic", default="outcomes")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    records = messages(int(options.rate * options.seconds))
    print("ready", flush=True)
    print(send(options.bootstrap, options.topic, records, options.rate), flush=True)


if __name__ == "__main__":
    main()
