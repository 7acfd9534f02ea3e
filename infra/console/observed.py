"""Everything that the console saw up to one moment: what page, exporter and alerts are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from infra.bundles import BundleRow
from infra.console.lags import Lag
from infra.console.letters import Letter
from infra.console.log_source import LogSeen
from infra.console.processes import Told
from infra.console.store_source import StoreSeen
from infra.console.watch import Reading


@dataclass(frozen=True, slots=True)
class ProcessSeen:
    """A process: where it answers, what it told last, and how often it began again meanwhile."""

    name: str
    url: str
    reading: Reading[Told]
    restarts: int  # that this console has seen
    pid: int | None = None

    @property
    def is_up(self) -> bool:
        """Whether it answers and says that it is ready."""
        told = self.reading.value
        return self.reading.is_well and told is not None and told.is_ready


@dataclass(frozen=True, slots=True)
class Probed:
    """A probe event: how long it took from before it was sent to its row read in the store."""

    seconds: float
    p50_s: float  # of the newest probes
    p99_s: float
    n: int


@dataclass(frozen=True, slots=True)
class BundlesSeen:
    """The bundles of this machine, the newest first."""

    rows: tuple[BundleRow, ...]
    current: str  # the version that the pointer names; empty: none
    current_since_s: float  # when the pointer was written


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen, each with its age. Times in seconds since 1970."""

    now_s: float
    processes: tuple[ProcessSeen, ...] = ()
    log: Reading[LogSeen] = field(default_factory=Reading)
    store: Reading[StoreSeen] = field(default_factory=Reading)
    letters: Reading[tuple[Letter, ...]] = field(default_factory=Reading)
    bundles: Reading[BundlesSeen] = field(default_factory=Reading)
    agents: Reading[Mapping[str, object]] = field(default_factory=Reading)
    probe: Reading[Probed] | None = None  # None: not asked for
    lags: tuple[Lag, ...] = ()
    n_dead_letters: int = 0
