"""Events going in while a test breaks something."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from features.events import Interaction
from tests.flows import FeaturesSite, random_interactions

AT_ONCE = 30


def recent_interactions(rng: np.random.Generator, n: int) -> list[Interaction]:
    """Events of the last day, with everything in them that `random_interactions` knows."""
    return random_interactions(rng, n, time.time_ns() // 1_000_000 - 10**8)


@contextmanager
def load(site: FeaturesSite, rng: np.random.Generator) -> Iterator[None]:
    """Some 500 acknowledged events a second until the block ends; its first are in by then.

    An event that the log does not acknowledge fails the test.
    """
    has_begun, is_over = threading.Event(), threading.Event()
    failures: list[Exception] = []

    def send() -> None:
        round_ = 0
        try:
            while not is_over.is_set():
                start_ms = time.time_ns() // 1_000_000 - 10**8
                site.send(random_interactions(rng, AT_ONCE, start_ms, tag=f"load-{round_}-"))
                has_begun.set()
                round_ += 1
                is_over.wait(0.05)
        except Exception as error:  # handed to the test's own thread
            failures.append(error)
            has_begun.set()

    sender = threading.Thread(target=send)
    sender.start()
    try:
        has_begun.wait(60)
        yield
    finally:
        is_over.set()
        sender.join()
    assert failures == []
