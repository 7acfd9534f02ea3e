"""What is new in the stack: processes that began, other versions of code, bundles, learned state.

Learned state has a new version several times a second; such a version is no deployment. One that
was gone back to is.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from infra.console.journal import DEPLOYMENT, Event, Labels
from infra.console.observed import BundlesSeen, Observed, ProcessSeen
from infra.ops.scrape import Sample

BUILD: Final = "headrace_build_info"
BUNDLE: Final = "headrace_serving_bundle_info"
ROLLBACKS: Final = "headrace_learning_rollbacks_total"

What = tuple[str, Labels]


class Releases:
    """Compares what is in use with what was; for one thread alone."""

    def __init__(self) -> None:
        self._in_use: dict[What, str] = {}
        self._restarts: dict[str, int] = {}

    def restarts(self, process: str) -> int:
        """How often a process has begun again since we look."""
        return self._restarts.get(process, 0)

    def step(self, found: Observed) -> Iterator[Event]:
        """What is new since the step before. The first step tells when things began, if known."""
        for one in found.processes:
            told = one.reading.value
            if not one.reading.is_well or told is None:
                continue
            yield from self._begun(one, told.started_at_s)
            labels = (("process", one.name),)
            for what, value in _versions(told.samples):
                yield from self._changed(what, labels, value, found.now_s)
            yield from self._rolled_back(labels, told.samples, found.now_s)
        if found.bundles.is_well and found.bundles.value is not None:
            yield from self._pointed(found.bundles.value)

    def _begun(self, one: ProcessSeen, started_at_s: float) -> Iterator[Event]:
        if not started_at_s:
            return
        labels = (("process", one.name),)
        before = self._in_use.get(("process", labels))
        now = f"{started_at_s:.3f}"
        self._in_use["process", labels] = now
        if before == now:
            return
        if before is not None:
            self._restarts[one.name] = self._restarts.get(one.name, 0) + 1
        state = "started" if before is None else "started again"
        yield Event(DEPLOYMENT, "process", state, labels, 0.0, round(started_at_s, 3))

    def _changed(self, what: str, labels: Labels, value: str, at_s: float) -> Iterator[Event]:
        before = self._in_use.get((what, labels))
        self._in_use[what, labels] = value
        if before is not None and before != value:
            yield Event(DEPLOYMENT, what, value, labels, 0.0, round(at_s, 3))

    def _rolled_back(
        self, labels: Labels, samples: tuple[Sample, ...], at_s: float
    ) -> Iterator[Event]:
        total = sum(s.value for s in samples if s.name == ROLLBACKS)
        before = self._in_use.get((ROLLBACKS, labels))
        self._in_use[ROLLBACKS, labels] = f"{total:g}"
        if before is not None and total > float(before):
            yield Event(DEPLOYMENT, "model", "rolled back", labels, total, round(at_s, 3))

    def _pointed(self, bundles: BundlesSeen) -> Iterator[Event]:
        """The bundle that this machine's pointer names, since when it does."""
        if not bundles.current:
            return
        before = self._in_use.get(("bundle", ()))
        self._in_use["bundle", ()] = bundles.current
        if before != bundles.current:
            at_s = round(bundles.current_since_s, 3)
            yield Event(DEPLOYMENT, "bundle", bundles.current, (), 0.0, at_s)


def _versions(samples: tuple[Sample, ...]) -> Iterator[tuple[str, str]]:
    """What a process says of its versions: of code, and of the bundle that it serves."""
    names: Mapping[str, str] = {BUILD: "code", BUNDLE: "served bundle"}
    for sample in samples:
        if sample.name in names and sample.value and "version" in sample.labels:
            yield names[sample.name], sample.labels["version"]
