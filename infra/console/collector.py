"""Looks at everything each two seconds, and makes of it what the page shows.

    watches (a thread each) --readings--> Collector.step --> Series --> Evaluator --> snapshot
      processes, broker, Redis,             every 2 s                                    |
      dead letters, events, bundles                                page, exporter, ops-events

A step asks nobody anything: it takes what the watches saw last, so nothing that hangs delays it.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Protocol

import structlog

from infra import topics
from infra.console.headline import alerts_of, headline_of
from infra.console.journal import (
    ALERT,
    DEPLOYMENT,
    FIRING,
    RESOLVED,
    Event,
    Journal,
)
from infra.console.lags import FRESH_S, Lag, Lags, Own, own_words
from infra.console.log_source import LogSeen
from infra.console.observed import Observed, ProcessSeen
from infra.console.panels import PANELS, panel_of
from infra.console.processes import MAX_TARGETS, ProcessWatch, attached, targets_of
from infra.console.releases import Releases
from infra.console.sources import Sources
from infra.console.trails import Trails
from infra.console.view import Standing, Values, View, ms, plain, standing_of
from infra.console.watch import Reading
from infra.ops.alerts import Evaluator
from infra.ops.alerts import alerts_of as alerts_by
from infra.ops.exporter import samples_of
from infra.ops.lag import Key
from infra.ops.series import Series
from infra.settings import Settings

OPS: Final = "ops"  # the process that our own figures are of
FIRST_S: Final = 4.0  # for everything to be looked at once
READ_WAIT_S: Final = 10.0  # for the topic of events, before deployments are taken down
SETTLE_S: Final = 60.0  # a console that starts adopts what it finds within this

log = structlog.get_logger(__name__)


class Evaluates(Protocol):
    """Says which alerts fire; `infra.ops.alerts.Evaluator` is one."""

    def step(self, series: Series, now_s: float) -> list[Any]:
        """Alerts that fire or are about to, now."""


class Collector:
    """Watches a stack until it is closed; `snapshot` is what was made last.

    Changes nothing, unless `probes` or `writes` say so: probe events, events of operation.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        evaluator: Evaluates | None = None,
        probes: bool = False,
        writes: bool = False,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._now_s = now_s
        self._every_s = settings.ops.every_s
        self._series = Series(step_s=self._every_s)
        self._evaluator: Evaluates = (
            Evaluator(alerts_by(settings.alerts)) if evaluator is None else evaluator
        )
        self._trails = Trails()
        self._lags = Lags({"archive": 3 * settings.archive.flush_s})
        self._journal = Journal(self._topic(topics.OPS_EVENTS))
        self._releases = Releases()
        self._processes: dict[str, ProcessWatch] = {}
        self._told_at_s: dict[str, float] = {}
        self._standing: dict[tuple[str, tuple[tuple[str, str], ...]], Standing] = {}
        self._started_s = now_s()
        self._sequence = 0
        self._is_settled = False
        self._listeners: list[Callable[[int, bytes], None]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="collector", daemon=True)
        self._probes = probes
        self._writes = writes  # to ops-events
        self._sources = Sources(attached(settings), now_s, probes=probes)
        self.observed: Observed | None = None
        self.snapshot: tuple[int, bytes] = (0, b"{}")

    def _topic(self, name: str) -> str:
        return self._settings.kafka.prefix + name

    def listen(self, listener: Callable[[int, bytes], None]) -> None:
        """Calls `listener(sequence, snapshot)` on the collector's thread after each step."""
        self._listeners.append(listener)

    def start(self) -> "Collector":
        """Begins to look at everything."""
        self._follow_targets()
        self._sources.start()
        self._thread.start()
        return self

    def close(self) -> None:
        """Ends all threads; those that hang end by themselves."""
        self._stop.set()
        for watch in self._processes.values():
            watch.ask_to_end()
        self._sources.close()
        for watch in self._processes.values():
            watch.join()
        if self._thread.is_alive():
            self._thread.join(self._every_s)
        self._journal.close()

    def _run(self) -> None:
        self._await_first_looks()
        while not self._stop.is_set():
            began_s = time.monotonic()
            try:
                self.step()
            except Exception:
                log.exception("step_failed")  # the page shows the age of what it has
            self._stop.wait(max(self._every_s - (time.monotonic() - began_s), 0.1))

    def _await_first_looks(self) -> None:
        """Nothing is judged before everything was looked at once, or has had its time."""
        deadline_s = time.monotonic() + FIRST_S
        while time.monotonic() < deadline_s and not self._stop.wait(0.05):
            sources = self._sources
            processes = all(one.reading.was_tried for one in self._processes.values())
            if processes and sources.log.reading.was_tried and sources.store.reading.was_tried:
                return

    def _follow_targets(self) -> None:
        """The servers and processes that there are now: a stack that began anew has others."""
        settings, before = attached(self._settings), self._sources.settings
        is_new = (settings.kafka, settings.redis) != (before.kafka, before.redis)
        if is_new and settings.kafka.bootstrap:
            log.info("stack_began_anew", broker=settings.kafka.bootstrap)
            self._sources.ask_to_end()
            self._sources = Sources(settings, self._now_s, probes=self._probes)
            self._sources.start()
        wanted = dict(list(targets_of(self._settings).items())[:MAX_TARGETS])
        if not wanted:
            return  # the stack has ended: those that it had are shown as silent
        for name in [name for name in self._processes if name not in wanted]:
            self._processes.pop(name).ask_to_end()
        for name, url in wanted.items():
            known = self._processes.get(name)
            if known is not None and known.url == url:
                continue
            if known is not None:
                known.ask_to_end()
            self._processes[name] = ProcessWatch(name, url, self._every_s, self._now_s)
            self._processes[name].start()

    def step(self) -> None:
        """Takes what was seen last, judges it, and publishes it."""
        now_s = self._now_s()
        self._follow_targets()
        if self._sources.events.reading.value is not None:
            self._journal.learn(self._sources.events.reading.value)
        found = self._observe(now_s)
        self._feed(found)
        self._judge(found)
        self._note_releases(found)
        if (
            self._writes
            and found.log.is_well
            and self._sources.events.reading.is_well
            and self._has_topic(found)
        ):
            self._journal.write(self._sources.settings.kafka.log_config())
        self.observed = found
        self._publish(found)

    def _has_topic(self, found: Observed) -> bool:
        seen = found.log.value
        return seen is not None and self._topic(topics.OPS_EVENTS) in seen.topics

    def _observe(self, now_s: float) -> Observed:
        sources = self._sources
        seen: Reading[LogSeen] = self._sources.log.reading
        dead = (self._topic(topics.DEAD_LETTERS), 0)
        n_dead = 0
        if seen.value is not None and dead in seen.value.ends:
            n_dead = seen.value.ends[dead] - seen.value.starts[dead]
        return Observed(
            now_s=now_s,
            processes=tuple(
                ProcessSeen(name, one.url, one.reading, self._releases.restarts(name))
                for name, one in self._processes.items()
            ),
            log=seen,
            store=self._sources.store.reading,
            letters=self._sources.letters.reading,
            bundles=self._sources.bundles.reading,
            agents=Reading() if sources.agents is None else sources.agents.reading,
            probe=None if sources.probe is None else sources.probe.reading,
            lags=self._measured(seen, now_s),
            n_dead_letters=n_dead,
        )

    def _measured(self, seen: Reading[LogSeen], now_s: float) -> tuple[Lag, ...]:
        """Every lag; while the broker is away those that it told last."""
        if seen.value is None:
            return ()
        own: dict[Key, Own] = {}
        for name, one in self._processes.items():
            told = one.reading.value
            if told is not None and one.reading.is_well:
                own |= own_words(name, told.samples, one.reading.age_s(now_s))
        return tuple(self._lags.step(seen.value, seen.at_s, own))

    def _feed(self, found: Observed) -> None:
        """Gives the series what is new; a process that is silent has no values."""
        for one in found.processes:
            reading = one.reading
            is_new = reading.at_s > self._told_at_s.get(one.name, 0.0)
            if reading.is_well and is_new and reading.value is not None:
                self._told_at_s[one.name] = reading.at_s
                self._series.observe(one.name, reading.value.samples, found.now_s)
            elif not reading.is_well or reading.age_s(found.now_s) > FRESH_S:
                self._series.observe(one.name, (), found.now_s)
        self._series.observe(OPS, samples_of(found), found.now_s)
        view = self._view(found)
        behind = [lag for lag in found.lags if lag.records >= 0]
        self._trail("lag", sum(lag.records for lag in behind), found)
        for lag in behind:
            self._trail(f"lag/{lag.flow}/{lag.topic}/{lag.partition}", lag.records, found)
        stages = view.percentiles("headrace_stream_freshness_seconds", "")
        self._trail("freshness", stages.get("", {}).get("p99"), found)
        self._trail("throughput", view.rate("headrace_stream_events_total", 30.0), found)
        calls = view.series.quantile(0.95, "headrace_serving_latency_seconds", 60.0, found.now_s)
        self._trail("latency", calls.get(()), found)
        if found.store.is_well and found.store.value is not None:
            self._trail("redis_memory", found.store.value.memory_bytes, found)

    def _trail(self, name: str, value: float | None, found: Observed) -> None:
        if value is not None:
            self._trails.add(name, found.now_s, value)

    def _judge(self, found: Observed) -> None:
        """Asks the alerts, and takes down which of them begin and end to fire."""
        firings = self._evaluator.step(self._series, found.now_s)
        standing = {}
        is_young = found.now_s - self._started_s < SETTLE_S
        earlier = self._journal.open_alerts() if is_young else {}
        for firing in firings:
            one = standing_of(firing)
            key = (one.name, one.labels)
            before = earlier.get(key)
            if before is not None and before.at_s < one.since_s:
                one = replace(one, since_s=before.at_s)  # it fired already before we began
            standing[key] = one
        for key, one in standing.items():
            known = self._standing.get(key)
            began = one.is_firing and (known is None or not known.is_firing)
            if began and key not in earlier:
                self._note(one, FIRING, found.now_s)
        for key, one in self._standing.items():
            now = standing.get(key)
            if one.is_firing and (now is None or not now.is_firing):
                self._note(one, RESOLVED, found.now_s)
        if not is_young and not self._is_settled:
            self._is_settled = True
            for (name, labels), event in self._journal.open_alerts().items():
                if (name, labels) not in standing:  # it ended while no console looked
                    self._journal.note(replace(event, state=RESOLVED, at_s=found.now_s))
        self._standing = standing

    def _note(self, one: Standing, state: str, at_s: float) -> None:
        self._journal.note(Event(ALERT, one.name, state, one.labels, one.value, at_s, one.severity))

    def _note_releases(self, found: Observed) -> None:
        """Begins once the topic was read, so that nothing is taken down twice."""
        if not self._sources.events.reading.at_s and found.now_s - self._started_s < READ_WAIT_S:
            return
        known = set(self._journal.newest(DEPLOYMENT))
        for event in self._releases.step(found):
            if event not in known:
                self._journal.note(event)

    def _view(self, found: Observed) -> View:
        return View(
            found, self._series, self._trails, tuple(self._standing.values()), self._journal
        )

    def _publish(self, found: Observed) -> None:
        self._sequence += 1
        made = json.dumps(plain(self._snapshot(found)), separators=(",", ":")).encode()
        self.snapshot = (self._sequence, made)
        for listener in self._listeners:
            listener(self._sequence, made)

    def _snapshot(self, found: Observed) -> Values:
        view = self._view(found)
        return {
            "sequence": self._sequence,
            "at_ms": ms(found.now_s),
            "started_ms": ms(self._started_s),
            "every_s": self._every_s,
            "headline": headline_of(view),
            "alerts": alerts_of(view),
            "panels": {name: panel_of(name, view) for name in PANELS},
            "series": {"n": len(self._series), "dropped": self._series.dropped},
        }
