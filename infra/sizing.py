"""How much of everything a site needs, from what was measured. `docs/sizing.md` says whence.

All arithmetic is here and nothing else: a `Site` is what is asked, `plan_of` what it takes. Cells
are whole installations, each with its own log, Redis and processes, for a share of the viewers:
a topic has at most 16 partitions, a flow at most 16 workers, and learning is one process.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.table import Table

DAY_S: Final = 86_400
GIB: Final = 1 << 30
MIB: Final = 1 << 20
MAX_PARTITIONS: Final = 16  # positions in a title's row
SLOTS: Final = 20  # of a slate
SHARES: Final = ("headroom", "active_share")
POSITIVE: Final = (
    "viewers", "events_per_day", "slates_per_day", "titles", "regions", "retention_days",
    "replicas", "redis_gib", *SHARES,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of one core or one record; where each is from stands in docs/sizing.md."""

    worker_events_s: float = 59_058.0  # live, 1,000,000 viewers, broker on the same two cores
    serve_cpu_ms: float = 3.2  # of a core, a slate, nothing from the cache
    learner_outcomes_s: float = 11_112.0
    rebuild_events_s: float = 69_163.0  # from a filled log, more viewers than fit in memory
    viewer_redis_bytes: float = 2_650.0  # key and all
    title_row_bytes: int = 1_648
    pair_row_bytes: int = 560  # co-visitation, by title and partition
    segment_row_bytes: int = 1_064  # by region, hour of the day and partition
    redis_key_bytes: int = 114  # of a key beside its row
    worker_base_mib: int = 430  # code, 200; pairs and segments in memory as set, 230
    viewer_memory_bytes: float = 2_499.0  # resident, with ids and slots: 2,383 MiB a million
    title_memory_bytes: float = 1_783.0
    serve_title_bytes: float = 9_000.0  # 450 MB with 50,000 titles, models and Python too
    event_bytes: int = 200
    impression_bytes: int = 7_600
    outcome_bytes: int = 530
    redis_bytes_an_event: int = 11_500  # at most: one that shares no row with others of its batch


MEASURED: Final = Measured()


@dataclass(frozen=True, slots=True)
class Site:
    """What is asked of a site."""

    viewers: int  # with a row
    events_per_day: float
    slates_per_day: float
    titles: int = 50_000
    regions: int = 50
    peak: float = 3.0  # the busiest minute over the mean of the day
    headroom: float = 0.5  # the share of what was measured that a process is given
    retention_days: float = 14.0
    replicas: int = 3  # of each record of the log
    active_share: float = 0.2  # of viewers within the hours in which their rows stay in memory
    redis_gib: float = 64.0  # rows in one Redis at most
    measured: Measured = MEASURED

    def __post_init__(self) -> None:
        for name in POSITIVE:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0; got {getattr(self, name)}")
        for name in SHARES:
            if getattr(self, name) > 1:
                raise ValueError(f"{name} must be 1 at most, a share; got {getattr(self, name)}")
        if self.peak < 1:
            raise ValueError(f"peak must be 1 or more, times the mean; got {self.peak}")


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of a plan, and how it was computed."""

    what: str
    value: float
    unit: str
    how: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a site takes; the first lines are of the whole, the others of each cell."""

    cells: int
    bound_by: str
    lines: tuple[Line, ...]

    def value(self, what: str) -> float:
        """The figure of that name. Raises KeyError."""
        return {line.what: line.value for line in self.lines}[what]

    def as_dict(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)


def peak_rate(per_day: float, peak: float) -> float:
    """A second's worth in the busiest minute.

    >>> peak_rate(86_400, 3)
    3.0
    """
    return per_day / DAY_S * peak


def redis_bytes(site: Site, viewers: float, partitions: int) -> float:
    """Rows of one Redis; titles' neighbours and charts have a row for each partition."""
    m = site.measured
    titles = site.titles * (m.title_row_bytes + m.redis_key_bytes)
    pairs = site.titles * partitions * (m.pair_row_bytes + m.redis_key_bytes)
    segments = site.regions * 24 * partitions * (m.segment_row_bytes + m.redis_key_bytes)
    return viewers * m.viewer_redis_bytes + titles + pairs + segments


def cells_of(site: Site) -> dict[str, int]:
    """How many cells each limit asks for."""
    m = site.measured
    workers = peak_rate(site.events_per_day, site.peak) / (m.worker_events_s * site.headroom)
    fixed = redis_bytes(site, 0, MAX_PARTITIONS)
    room = max(site.redis_gib * GIB - fixed, GIB)
    # At the mean: what is behind at the peak is learnt afterwards.
    outcomes_s = site.slates_per_day * SLOTS / DAY_S / site.headroom
    return {
        "workers": math.ceil(workers / MAX_PARTITIONS),
        "redis": math.ceil(site.viewers * m.viewer_redis_bytes / room),
        "learning": math.ceil(outcomes_s / m.learner_outcomes_s),
    }


def plan_of(site: Site) -> Plan:
    """Everything that a site takes."""
    wanted = cells_of(site)
    bound_by = max(wanted, key=lambda name: wanted[name])
    cells = wanted[bound_by]
    whole = [
        Line("events at the peak", peak_rate(site.events_per_day, site.peak), "/s",
             "events a day / 86,400 * peak"),
        Line("slates at the peak", peak_rate(site.slates_per_day, site.peak), "/s",
             "slates a day / 86,400 * peak"),
        *(Line(f"cells for {name}", n, "", HOW_CELLS[name]) for name, n in wanted.items()),
        Line("cells", cells, "", f"the most of these: {bound_by}"),
    ]  # fmt: skip
    parts: tuple[Callable[[Site, int], list[Line]], ...] = (_flow, _serving, _redis, _log)
    return Plan(cells, bound_by, (*whole, *(line for part in parts for line in part(site, cells))))


HOW_CELLS: Final = {
    "workers": "peak / (worker * headroom) / 16",
    "redis": "viewers * bytes in Redis / room in one",
    "learning": "slates * 20 slots at the mean / (learner * headroom)",
}


def workers_of(site: Site, cells: int) -> int:
    """Workers of one cell's flow."""
    rate = peak_rate(site.events_per_day, site.peak) / cells
    return max(math.ceil(rate / (site.measured.worker_events_s * site.headroom)), 1)


def partitions_of(site: Site, cells: int) -> int:
    """Twice the workers, to grow without a new log; a power of two, 4 to 16."""
    return min(max(1 << math.ceil(math.log2(2 * workers_of(site, cells))), 4), MAX_PARTITIONS)


def _flow(site: Site, cells: int) -> list[Line]:
    m, workers = site.measured, workers_of(site, cells)
    viewers = site.viewers * site.active_share / cells / workers
    titles = site.titles / workers
    memory = viewers * m.viewer_memory_bytes + titles * m.title_memory_bytes
    rebuilt = site.events_per_day / cells * site.retention_days
    return [
        Line("partitions a cell", partitions_of(site, cells), "",
             "twice the workers, a power of two, 4 to 16"),
        Line("workers a cell", workers, "cores", "peak / cells / (worker * headroom)"),
        Line("user_rows a worker", math.ceil(viewers), "rows", "viewers * active share / workers"),
        Line("memory of a worker", memory / GIB + m.worker_base_mib / 1_024, "GiB",
             "user_rows * 2,499 + titles / workers * 1,783 bytes + code, pairs, segments"),
        Line("a rebuild from the whole log", rebuilt / workers / m.rebuild_events_s / 3_600, "h",
             "events a day * retention / workers / 69,163 a second"),
    ]  # fmt: skip


def _serving(site: Site, cells: int) -> list[Line]:
    m = site.measured
    rate = peak_rate(site.slates_per_day, site.peak) / cells
    servers = max(math.ceil(rate * m.serve_cpu_ms / 1_000 / site.headroom), 2)
    return [
        Line("servers a cell", servers, "cores", "peak / cells * 3.2 ms / headroom, 2 at least"),
        Line("memory of a server", site.titles * m.serve_title_bytes / GIB, "GiB",
             "titles * 9,000 bytes"),
    ]  # fmt: skip


def _redis(site: Site, cells: int) -> list[Line]:
    rows = redis_bytes(site, site.viewers / cells, partitions_of(site, cells))
    into = peak_rate(site.events_per_day, site.peak) / cells * site.measured.redis_bytes_an_event
    return [
        Line("rows in Redis", rows / GIB, "GiB", "viewers, titles, pairs, segments"),
        Line("memory of Redis", 2 * rows / GIB, "GiB", "twice: a rewrite of the file copies pages"),
        Line(
            "to Redis and its file at the peak",
            into / MIB,
            "MiB/s",
            "events * 11,500 bytes at most",
        ),
        Line("disk of Redis", 3 * rows / GIB, "GiB", "the file doubles, then is written anew"),
    ]  # fmt: skip


def _log(site: Site, cells: int) -> list[Line]:
    m = site.measured
    slates = site.slates_per_day / cells
    events = site.events_per_day / cells * m.event_bytes
    decisions = slates * (m.impression_bytes + SLOTS * m.outcome_bytes)
    kept = (events + decisions) * site.retention_days * site.replicas
    into = (events + decisions) / DAY_S * site.peak
    return [
        Line("into the log at the peak", into / MIB, "MiB/s", "events, impressions, outcomes"),
        Line("disk of the log", kept / GIB, "GiB", "a day's records * retention * replicas"),
        Line("the lake, a day", (events + decisions) / GIB, "GiB", "the same once, uncompressed"),
    ]


def table_of(plan: Plan) -> Table:
    """For people."""
    table = Table("what", "figure", "how", title=f"{plan.cells} cells, bound by {plan.bound_by}")
    for line in plan.lines:
        table.add_row(line.what, figure_of(line), line.how)
    return table


def figure_of(line: Line) -> str:
    """A figure with its unit, as long as it deserves.

    >>> figure_of(Line("memory", 2.83, "GiB", "")), figure_of(Line("workers", 3.0, "cores", ""))
    ('2.8 GiB', '3 cores')
    """
    is_whole = line.unit in ("", "rows", "cores")
    value = f"{line.value:,.0f}" if is_whole or line.value >= 100 else f"{line.value:,.1f}"
    return f"{value} {line.unit}".strip()
