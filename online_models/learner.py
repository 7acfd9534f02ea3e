"""The learner: every part learns each record of the log of learning, in order.

Learned state is a function of the first `sequence` records, orders to roll back among them, and of
nothing else: no clock, no size of a batch. So a replay arrives at the same state bit for bit, and
so does a learner that goes on from any version.

Which versions are kept, to be gone back to, is a function of the log as well. A version is kept
behind each outcome that was decided in a later minute than all before it, and behind each rollback
that was carried out. At most MAX_KEPT stay: the newest RECENT always; of the others, where there
are too many, the one goes whose neighbours lie closest together in relation to its distance from
the newest. So they lie the closer the newer they are; the very first one stays.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from features.compiled import Row, Rows
from features.learning_codec import LearningBatch
from features.model_snapshot import Arrays, SnapshotError, require_finite
from features.outcomes import NO_ROLLBACK
from online_models.base import Learns

MAX_KEPT: Final = 50
RECENT: Final = 20
KEEP_EVERY_MS: Final = 60_000
OWN: Final = "learner"  # the name space of the learner's own arrays
PERIOD: Final = f"{OWN}/period"  # the latest in which an outcome was decided
OUTCOMES: Final = f"{OWN}/outcomes"  # how many this state has learnt

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Version:
    """State as of a place in the log. `kept` are the versions that could be gone back to then."""

    sequence: int
    arrays: Arrays  # not to be written to
    restored_from: int = 0
    kept: tuple[int, ...] = ()


@dataclass(slots=True)
class LearnerCounts:
    """What a learner has met since it was made."""

    outcomes: int = 0
    bad: int = 0
    rollbacks: int = 0
    refused_rollbacks: int = 0  # to versions that are not kept


class Learner:
    """Learns with all parts. `sequence`: how many records its state is a function of.

    Names of parts are name spaces: the array `slots` of the part `rates` is `rates/slots`.
    """

    def __init__(self, parts: Mapping[str, Learns], keep_every_ms: int = KEEP_EVERY_MS) -> None:
        wrong = [name for name in parts if not name or "/" in name or name == OWN]
        if wrong:
            raise ValueError(f"names of parts must have no / and not be {OWN!r}; got {wrong}")
        self._parts = dict(parts)
        self._keep_every_ms = keep_every_ms
        self._period = -1
        self._outcomes = 0
        self._restored = (0, 0)  # the sequence behind the last rollback, and where it went
        self.sequence = 0
        self.kept: dict[int, Version] = {}
        self.counts = LearnerCounts()

    @property
    def parts(self) -> Mapping[str, Learns]:
        """The parts by name, to be looked at; only the learner has them learn."""
        return MappingProxyType(self._parts)

    def learn(self, batch: LearningBatch) -> None:
        """Takes in a batch; records that the state already includes change nothing.

        A bad record moves the sequence and no more.
        """
        records = batch.records[batch.records["offset"] >= self.sequence]
        self.counts.bad += sum(offset >= self.sequence for offset, _ in batch.bad)
        at = 0
        while at < len(records):
            if records[at]["rollback_to"] != NO_ROLLBACK:
                self._roll_back(records[at])
                at += 1
                continue
            end, is_kept = self._end_of_run(records, at)
            self._learn_run(records[at:end])
            if is_kept:
                self._keep(self.version())
            at = end
        last_bad = max((offset for offset, _ in batch.bad), default=-1)
        self.sequence = max(self.sequence, last_bad + 1)

    def version(self) -> Version:
        """The state as it is; arrays are its own."""
        sequence, origin = self._restored
        restored_from = origin if sequence == self.sequence else 0
        return Version(self.sequence, self._arrays(), restored_from, tuple(self.kept))

    def resume(self, version: Version, kept: Iterable[Version]) -> None:
        """Goes on from a version, with those that could be gone back to as of it.

        Raises SnapshotError where it does not fit the parts; the state then is as it was.
        """
        self._restore(version.arrays)
        self.sequence = version.sequence
        self._restored = (version.sequence, version.restored_from)
        self.kept = {each.sequence: each for each in kept}

    def _end_of_run(self, records: Rows, start: int) -> tuple[int, bool]:
        """Where the outcomes from `start` on end, and whether a version is kept there."""
        orders = np.flatnonzero(records["rollback_to"][start:] != NO_ROLLBACK)
        end = start + int(orders[0]) if len(orders) else len(records)
        periods = records["decided_at_ms"][start:end] // self._keep_every_ms
        later = np.flatnonzero(periods > self._period)
        return (start + int(later[0]) + 1, True) if len(later) else (end, False)

    def _learn_run(self, outcomes: Rows) -> None:
        for part in self._parts.values():
            part.learn(outcomes)
        self._period = max(
            self._period, int(outcomes["decided_at_ms"].max()) // self._keep_every_ms
        )
        self._outcomes += len(outcomes)
        self.counts.outcomes += len(outcomes)
        self.sequence = int(outcomes["offset"][-1]) + 1

    def _roll_back(self, order: Row) -> None:
        """Goes back to a kept version; an order that cannot be followed is left behind."""
        origin = int(order["rollback_to"])
        self.sequence = int(order["offset"]) + 1
        try:
            self._restore(self.kept[origin].arrays)
        except (KeyError, SnapshotError) as error:
            self.counts.refused_rollbacks += 1
            reason = "it is not kept" if isinstance(error, KeyError) else str(error)
            log.error(
                "rollback_refused", to_sequence=origin, offset=self.sequence - 1, reason=reason,
                kept=list(self.kept),
            )  # fmt: skip
            return
        self.counts.rollbacks += 1
        self._restored = (self.sequence, origin)
        log.warning("rolled_back", to_sequence=origin, sequence=self.sequence)
        self._keep(self.version())

    def _keep(self, version: Version) -> None:
        """Keeps a version, unless it is not sound, and lets go of what is too much."""
        try:
            require_finite(version.arrays)
        except SnapshotError as error:
            log.error("version_not_kept", sequence=version.sequence, reason=str(error))
            return
        stay = thinned([*self.kept, version.sequence])
        everything = {**self.kept, version.sequence: version}
        self.kept = {sequence: everything[sequence] for sequence in stay}
        self.kept[version.sequence] = Version(
            version.sequence, version.arrays, version.restored_from, tuple(stay)
        )

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        arrays: dict[str, NDArray[np.generic]] = {
            f"{name}/{array}": values
            for name, part in self._parts.items()
            for array, values in part.arrays().items()
        }
        arrays[PERIOD] = np.array(self._period, np.int64)
        arrays[OUTCOMES] = np.array(self._outcomes, np.int64)
        return arrays

    def _restore(self, arrays: Arrays) -> None:
        """All parts, or none. Raises SnapshotError."""
        before = self._arrays()
        try:
            self._restore_all(arrays)
        except SnapshotError:
            self._restore_all(before)
            raise

    def _restore_all(self, arrays: Arrays) -> None:
        missing = {PERIOD, OUTCOMES} - arrays.keys()
        if missing:
            raise SnapshotError(f"a version must hold {sorted(missing)}; it does not")
        for name, part in self._parts.items():
            own = arrays_of(name, arrays)
            part.restore({array: values.copy() for array, values in own.items()})
        self._period = int(arrays[PERIOD])
        self._outcomes = int(arrays[OUTCOMES])


def arrays_of(part: str, arrays: Arrays) -> dict[str, NDArray[np.generic]]:
    """The arrays of one part of a version, without its name.

    >>> arrays_of("rates", {"rates/slots": np.zeros(1), "learner/period": np.zeros(1)})
    {'slots': array([0.])}
    """
    prefix = f"{part}/"
    return {
        name.removeprefix(prefix): values
        for name, values in arrays.items()
        if name.startswith(prefix)
    }


def thinned(sequences: Sequence[int]) -> list[int]:
    """Those of the kept versions that stay, by the rule at the top. `sequences` rise.

    >>> len(thinned(range(1, 52))), thinned(range(1, 52))[:5]
    (50, [1, 3, 4, 5, 6])
    """
    stay = list(sequences)
    while len(stay) > MAX_KEPT:
        newest = stay[-1]
        crowding = {
            k: (stay[k + 1] - stay[k - 1]) / (newest - stay[k])
            for k in range(1, len(stay) - RECENT)
        }
        del stay[min(crowding, key=lambda k: (crowding[k], k))]
    return stay
