"""All watches over one broker and one Redis, begun and ended together."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from infra import topics
from infra.console.agents import views_of
from infra.console.bundles import bundles_in
from infra.console.journal import Event, event_in
from infra.console.letters import KEPT as KEPT_LETTERS
from infra.console.letters import Letter, letter_for_eyes
from infra.console.log_source import LogSeen, LogSource
from infra.console.observed import BundlesSeen, Probed
from infra.console.probe import Probe
from infra.console.store_source import StoreSeen, StoreSource
from infra.console.topic_tail import TopicTail
from infra.console.watch import Watch
from infra.ops.dead_letters import letter_of
from infra.ops.lag import flows_of
from infra.settings import Settings

KEPT_EVENTS: Final = 500
SELDOM_S: Final = 5.0


class Sources:
    """What is watched beside the processes; each watch is a thread of its own."""

    def __init__(
        self, settings: Settings, now_s: Callable[[], float], *, probes: bool = False
    ) -> None:
        self.settings = settings
        self._now_s = now_s
        self._all: list[Watch[Any]] = []
        config, prefix = settings.kafka.log_config(), settings.kafka.prefix
        watched = [prefix + name for name in (topics.INTERACTIONS, topics.DEAD_LETTERS)]
        log = LogSource(config, flows_of(settings), watched)
        self.log: Watch[LogSeen] = self._add("log", log.look, log.close)
        store = StoreSource(settings.redis)
        self.store: Watch[StoreSeen] = self._add("store", store.look, store.close)
        letters = TopicTail(
            config, prefix + topics.DEAD_LETTERS, KEPT_LETTERS,
            lambda record: letter_for_eyes(letter_of(record)),
        )  # fmt: skip
        self.letters: Watch[tuple[Letter, ...]] = self._add(
            "dead letters", letters.look, letters.close
        )
        events = TopicTail(config, prefix + topics.OPS_EVENTS, KEPT_EVENTS, event_in)
        self.events: Watch[tuple[Event, ...]] = self._add("events", events.look, events.close)
        folder = settings.bundles()
        self.bundles: Watch[BundlesSeen] = self._add(
            "bundles", lambda: bundles_in(folder), None, SELDOM_S
        )
        self.probe: Watch[Probed] | None = None
        if probes:
            probe = Probe(settings)
            self.probe = self._add("probe", probe.look, probe.close, settings.ops.probe_every_s)
        self.agents: Watch[Mapping[str, object]] | None = None
        if settings.ops.agents:
            url = settings.ops.agents
            self.agents = self._add("agents", lambda: views_of(url), None, SELDOM_S)

    def _add(
        self,
        name: str,
        look: Callable[[], Any],
        close: Callable[[], None] | None,
        every_s: float | None = None,
    ) -> Watch[Any]:
        every_s = every_s or self.settings.ops.every_s
        watch: Watch[Any] = Watch(name, look, every_s, self._now_s, close)
        self._all.append(watch)
        return watch

    def start(self) -> None:
        """Begins to look."""
        for watch in self._all:
            watch.start()

    def ask_to_end(self) -> None:
        """No further look begins; connections are closed by their own threads."""
        for watch in self._all:
            watch.ask_to_end()

    def close(self) -> None:
        """Ends all watches; those that hang end by themselves."""
        self.ask_to_end()
        for watch in self._all:
            watch.join()
