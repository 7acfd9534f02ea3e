"""Keeps fresh, beside requests, what they only look at."""

import threading
import time

from features.clock import Clock
from serving import metrics
from serving.recommender import Recommender


class Keeper:
    """Makes the charts anew every `every_s` seconds, on a thread of its own.

    In between it works out what requests asked for and went without, as soon as they do.
    """

    def __init__(self, recommender: Recommender, clock: Clock, every_s: float) -> None:
        self._recommender = recommender
        self._clock = clock
        self._every_s = every_s
        self._is_stopping = False
        self._wake = threading.Event()
        self._made_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Makes the charts in this thread for the first time, then goes on in another."""
        self._make()
        self._recommender.wake_by(self._wake.set)
        metrics.CHARTS_AGE.set_function(lambda: time.monotonic() - self._made_s)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._is_stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._is_stopping:
            self._wake.wait(max(self._made_s + self._every_s - time.monotonic(), 0.0))
            self._wake.clear()
            self._recommender.keep_wanted(self._clock.now_ms())
            if time.monotonic() - self._made_s >= self._every_s:
                self._make()

    def _make(self) -> None:
        self._recommender.keep(self._clock.now_ms())
        self._made_s = time.monotonic()
