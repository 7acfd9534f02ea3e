"""How far each flow is behind, told once for page, exporter and alerts.

A flow says itself what it has applied, exactly and without delay. Its word counts while it is
fresh and while what it commits at the broker moves; a flow that hangs, is gone or says nothing is
measured by what its group has committed, which the broker tells.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from infra.console.log_source import LogSeen
from infra.ops.lag import GONE, LAG, Key, key_of
from infra.ops.scrape import Sample

FRESH_S: Final = 5.0  # of a flow's own word
STILL_S: Final = 10.0  # commits that stand for so long, with records behind them, contradict it
LAG_SECONDS: Final = "headrace_stream_lag_seconds"
SOURCE_AGE: Final = "headrace_source_age_seconds"


@dataclass(frozen=True, slots=True)
class Own:
    """What a flow says of one partition."""

    records: int
    seconds: float | None  # None: it does not tell


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a flow is behind in one partition."""

    flow: str
    topic: str
    partition: int
    records: int  # GONE: nobody knows
    seconds: float  # age of the oldest record that waits; 0: none does; GONE: nobody knows
    end: int
    committed: int  # GONE: never
    source: str  # applied: the flow's own word; committed: the broker's

    @property
    def key(self) -> Key:
        """Flow, topic and partition."""
        return self.flow, self.topic, self.partition


def own_words(process: str, samples: tuple[Sample, ...], age_s: float) -> dict[Key, Own]:
    """What a process says of its lag, where that is fresh. O(samples)."""
    if age_s > FRESH_S or _log_age_s(samples) > FRESH_S:
        return {}
    seconds = {
        key_of(process, s): s.value
        for s in samples
        if s.name == LAG_SECONDS and s.labels.get("by") == "ingestion"
    }
    return {
        (key := key_of(process, s)): Own(int(s.value), seconds.get(key))
        for s in samples
        if s.name == LAG and s.value >= 0
    }


def _log_age_s(samples: tuple[Sample, ...]) -> float:
    """Seconds since the process last heard where the log ends; 0 where it does not tell."""
    return max(
        (s.value for s in samples if s.name == SOURCE_AGE and s.labels.get("source") == "log_end"),
        default=0.0,
    )


class Lags:
    """Remembers since when each group's commits have stood still."""

    def __init__(self, still_s: Mapping[str, float] | None = None) -> None:
        self._still_s = dict(still_s or {})  # by flow, where it commits seldom
        self._moved: dict[Key, tuple[int, float]] = {}  # committed, and since when

    def step(self, seen: LogSeen, seen_at_s: float, own: Mapping[Key, Own]) -> list[Lag]:
        """Every partition of every flow that the broker told of."""
        found = []
        for key, committed in sorted(seen.committed.items()):
            _, topic, partition = key
            end = max(seen.ends.get((topic, partition), 0), committed)  # asked one after the other
            behind = max(end - committed, 0) if committed != GONE else GONE
            word = own.get(key)
            if word is not None and not self._is_contradicted(key, committed, behind, seen_at_s):
                seconds = word.seconds
                if seconds is None:
                    seconds = seen.waiting_s.get(key, GONE) if word.records else 0.0
                lag = Lag(*key, word.records, seconds, end, committed, "applied")
            elif committed == GONE and end == seen.starts.get((topic, partition), 0):
                lag = Lag(*key, 0, 0.0, end, committed, "committed")  # there is nothing to read
            else:
                seconds = seen.waiting_s.get(key, GONE) if behind else 0.0
                lag = Lag(*key, behind, seconds, end, committed, "committed")
            found.append(lag)
        return found

    def _is_contradicted(self, key: Key, committed: int, behind: int, now_s: float) -> bool:
        before, since_s = self._moved.get(key, (committed, now_s))
        if committed != before or behind <= 0:
            since_s = now_s
        self._moved[key] = (committed, since_s)
        return now_s - since_s > self._still_s.get(key[0], STILL_S)
