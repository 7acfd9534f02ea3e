"""Keeps fresh, beside requests, what they only look at."""

import threading
import time

from features.clock import Clock
from serving import metrics
from serving.recommender import Recommender


class Keeper:
    """Makes the charts anew every `every_s` seconds, on a thread of its own."""

    def __init__(self, recommender: Recommender, clock: Clock, every_s: float) -> None:
        self._recommender = recommender
        self._clock = clock
        self._every_s = every_s
        self._stopping = threading.Event()
        self._refreshed_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Makes them in this thread for the first time, then goes on in another."""
        self._refresh()
        metrics.CHARTS_AGE.set_function(lambda: time.monotonic() - self._refreshed_s)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            self._refresh()

    def _refresh(self) -> None:
        self._recommender.refresh_charts(self._clock.now_ms())
        self._refreshed_s = time.monotonic()
