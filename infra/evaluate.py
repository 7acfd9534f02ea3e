"""How good the engine is: the end of a dataset, replayed test-then-train through the engine itself.

Events go one by one through the rows, the mirror and the recommender of the server, in this
process. Before each event that says what a known viewer watched next, the viewer gets a slate as
the server would make it at that moment; then the event is taken in. Training saw nothing of it.
Full ranking over all titles, no sampling. Only what a viewer watched next and had never touched
counts; the viewer must have been seen before.

The engine's slates are its best by score. Factors and neighbours of titles are fitted anew each
day, as a scheduled `headrace refresh` would; the ranker is that of the split. Beside it stand, on
the same events: the engine with the variety that a server adds, the engine with the bundle of the
split throughout, the engine with its rows and its mirror, too, as they were at the split (what
freshness is worth), three charts (`offline.charts`), and three recommenders that are refitted daily
(`offline.baselines`). What slates are like beside being right says `offline.slates`.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from rich.table import Table

from features.ids import id_hashes
from infra.train import REFRESH_MS, FreshModels, LocalFeatures, next_titles, train_bundle
from offline.baselines import BASELINES, Fit, places_by_day
from offline.charts import CHARTS, chart_places
from offline.datasets import Dataset, EventColumns, Selection
from offline.next_title import AT, MISSED, Quality, by_day, gains_of
from offline.slates import NOBODY, SlateMetrics
from offline.train import POSITIVE_TYPES, TrainConfig
from serving.bundle import Bundle, load_current
from serving.recommender import Recommender
from serving.retrieval.base import Quotas
from serving.selection.config import PLAIN, SelectionConfig
from serving.slate import Query, SlateItem

RECALL_AT = 1_000  # candidates
TELL_EVERY = 100  # slates
ENGINE = "Headrace"
SERVED = "Headrace, with variety as served"
ONE_BUNDLE = "Headrace, bundle of the split"
FROZEN = "Headrace, all frozen at the split"
VARIANTS = (ENGINE, SERVED, ONE_BUNDLE, FROZEN)
KEYS = {  # of figures that a machine reads
    ENGINE: "", SERVED: "served", ONE_BUNDLE: "one_bundle", FROZEN: "frozen",
    **dict(zip(CHARTS, ("popular", "popular_7d", "trend_1d"), strict=True)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a replay found, and how long it took."""

    dataset: str
    n_slates: int
    qualities: dict[str, Quality]  # of VARIANTS, the charts and the baselines
    recall_at_1000: float  # share of next titles among the engine's first 1,000 candidates
    slates: SlateMetrics  # of the engine
    by_source: dict[str, int]  # hits of the engine by the source of the title
    train_s: float
    replay_s: float
    recommend_ms_p50: float
    recommend_ms_p99: float
    n_candidates_mean: float
    training: dict[str, float] = field(default_factory=dict)  # metrics of the bundle
    daily_ndcg: dict[str, dict[int, float]] = field(default_factory=dict)  # by name, by day of 1970

    @property
    def engine(self) -> Quality:
        """Of the engine as it is served."""
        return self.qualities[ENGINE]

    @property
    def charts(self) -> dict[str, Quality]:
        """Of the three charts."""
        return {name: self.qualities[name] for name in CHARTS}

    @property
    def is_ahead(self) -> bool:
        """Whether the engine beats every chart and every baseline in both metrics."""
        others = [found for name, found in self.qualities.items() if name not in VARIANTS]
        return all(self.engine.is_ahead_of(other) for other in others)

    def figures(self) -> dict[str, float]:
        """Flat: `hr_at_20`, `ndcg_at_20`, the same of others by name, recall, `slates`."""
        found = {"recall_at_1000": self.recall_at_1000}
        for name, quality in self.qualities.items():
            for metric, value in (("hr_at_20", quality.hr_20), ("ndcg_at_20", quality.ndcg_20)):
                found[key_of(metric, name)] = value
        return {**found, **asdict(self.slates)}

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**self.figures(), **asdict(self), "is_ahead": self.is_ahead}


def key_of(metric: str, name: str) -> str:
    """Name of a figure.

    >>> key_of("hr_at_20", ENGINE), key_of("hr_at_20", FROZEN), key_of("hr_at_20", "ease")
    ('hr_at_20', 'hr_at_20_frozen', 'ease_hr_at_20')
    """
    key = KEYS.get(name, name)
    if name in VARIANTS and key:
        return f"{metric}_{key}"
    return f"{key}_{metric}" if key else metric


@dataclass(slots=True)
class _Seen:
    """What came out, slate by slate."""

    places: list[int] = field(default_factory=list)
    took_ms: list[float] = field(default_factory=list)
    n_candidates: list[int] = field(default_factory=list)
    slates: list[NDArray[np.int64]] = field(default_factory=list)  # slots
    histories: list[NDArray[np.int64]] = field(default_factory=list)  # of the viewers, slots
    by_source: dict[str, int] = field(default_factory=dict)
    n_retrieved: int = 0  # next titles among the first RECALL_AT candidates

    def take(self, slate: tuple[SlateItem, ...], wanted: str) -> None:
        """Where the next title stands in a slate."""
        place = next((k for k, i in enumerate(slate) if i.item_id == wanted), MISSED)
        self.places.append(place)
        if place != MISSED:
            source = slate[place].source
            self.by_source[source] = self.by_source.get(source, 0) + 1


def evaluate_replay(
    dataset: Dataset,
    *,
    share: float = 0.2,
    limit: int | None = None,
    progress: Progress | None = None,
    config: TrainConfig | None = None,
    quotas: Quotas | None = None,
    with_others: bool = True,
) -> Evaluation:
    """Trains on all but the last `share` of a dataset and replays that; `limit` slates at most.

    Without others, the baselines and the frozen engine are left out. Raises what training raises.
    The bundle is written to a temporary folder and read from there, as a server would.
    """
    columns = dataset.columns()
    before = Selection(first_share=round(1 - share, 9))
    start = len(dataset.columns(before))
    began_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        manifest = train_bundle(
            dataset, Path(folder), selection=before, progress=progress, config=config
        )
        bundle = load_current(Path(folder))
    trained_s = time.perf_counter()

    local = LocalFeatures(columns, dataset.catalogue())
    chosen = _chosen(columns, local, start, limit)
    contenders = {ENGINE: Contender.of(local, bundle, quotas, is_refreshed=True)}
    if with_others:
        served = Contender.of(local, bundle, quotas, SelectionConfig(), is_refreshed=True)
        contenders |= {SERVED: served, ONE_BUNDLE: Contender.of(local, bundle, quotas)}
    refresh = _refresher(columns, bundle, config or TrainConfig())
    tell = _teller(progress, "slates, then events", len(chosen))
    all_seen = replay(local, contenders, chosen, tell, refresh=refresh)
    if with_others:
        still = LocalFeatures(columns, dataset.catalogue())
        tell = _teller(progress, "slates, state frozen", len(chosen))
        frozen = {FROZEN: Contender.of(still, bundle, quotas)}
        all_seen |= replay(still, frozen, chosen, tell, until=start)
    replayed_s = time.perf_counter()
    seen = all_seen[ENGINE]
    places = {name: np.array(found.places, np.int64) for name, found in all_seen.items()}
    places |= _places_of_others(columns, chosen, progress, BASELINES if with_others else {})
    at_ms = columns.at_ms[chosen]
    return Evaluation(
        dataset.name,
        len(chosen),
        {name: Quality.of(found) for name, found in places.items()},
        seen.n_retrieved / max(len(chosen), 1),
        _slate_metrics(local, seen, start),
        dict(sorted(seen.by_source.items(), key=lambda pair: -pair[1])),
        train_s=trained_s - began_s,
        replay_s=replayed_s - trained_s,
        recommend_ms_p50=float(np.percentile(seen.took_ms or [0.0], 50)),
        recommend_ms_p99=float(np.percentile(seen.took_ms or [0.0], 99)),
        n_candidates_mean=float(np.mean(seen.n_candidates or [0])),
        training=manifest.metrics,
        daily_ndcg={name: by_day(gains_of(found), at_ms) for name, found in places.items()},
    )


def _refresher(
    columns: EventColumns, bundle: Bundle, config: TrainConfig
) -> Callable[[int], Bundle | None]:
    """What has a newer bundle at an event where one is due: other titles, the same ranker."""
    fresh = FreshModels(columns, bundle.models.latest_year, config)

    def refresh(event: int) -> Bundle | None:
        models = fresh.due(event)
        return None if models is None else bundle.with_models(models)

    return refresh


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to answer."""

    recommender: Recommender
    is_refreshed: bool  # takes newer bundles

    @classmethod
    def of(
        cls,
        local: LocalFeatures,
        bundle: Bundle,
        quotas: Quotas | None,
        selection: SelectionConfig = PLAIN,
        *,
        is_refreshed: bool = False,
    ) -> "Contender":
        """Over these rows and this mirror; by the score alone unless told otherwise."""
        table, mirror = local.table, local.mirror
        recommender = Recommender(
            table, mirror, bundle, quotas=quotas, refresh_ms=REFRESH_MS, selection=selection
        )
        return cls(recommender, is_refreshed)


def _no_newer(_event: int) -> Bundle | None:
    return None


def replay(
    local: LocalFeatures,
    contenders: Mapping[str, Contender],
    chosen: NDArray[np.int64],
    tell: Callable[[int], None],
    *,
    refresh: Callable[[int], Bundle | None] = _no_newer,
    until: int | None = None,
) -> dict[str, _Seen]:
    """Slates before each chosen event; events are taken in in order, from `until` on no more.

    `refresh` may have a newer bundle at an event. The first contender is looked into more closely.
    """
    found = {name: _Seen() for name in contenders}
    first = next(iter(contenders))
    for number, event in enumerate(chosen.tolist()):
        local.advance(event if until is None else min(event, until))
        newer = refresh(event)
        for name, contender in contenders.items():
            if newer is not None and contender.is_refreshed:
                contender.recommender.use(newer)
            _ask(local, contender.recommender, event, found[name])
        _look_into(local, contenders[first].recommender, event, found[first])
        if number % TELL_EVERY == 0:
            tell(number)
    tell(len(chosen))
    return found


def _ask(local: LocalFeatures, recommender: Recommender, event: int, seen: _Seen) -> None:
    """One slate."""
    query = Query(local.columns.user_ids[local.columns.user[event]], count=AT)
    viewer, now_ms = local.viewer(event), local.now_ms(event)
    began_s = time.perf_counter()
    slate = recommender.recommend(query, viewer, now_ms)
    seen.took_ms.append(1_000 * (time.perf_counter() - began_s))
    seen.take(slate.items, local.columns.item_ids[local.columns.item[event]])
    seen.n_candidates.append(slate.n_candidates)
    seen.slates.append(local.table.slots_of(id_hashes(i.item_id for i in slate.items)))


def _look_into(local: LocalFeatures, recommender: Recommender, event: int, seen: _Seen) -> None:
    """What the slate was chosen from, and for whom."""
    candidates, _ = recommender.candidates(local.viewer(event), local.now_ms(event))
    seen.n_retrieved += int(local.slot(event) in candidates[:RECALL_AT])
    seen.histories.append(local.history(event))


def _chosen(
    columns: EventColumns, local: LocalFeatures, start: int, limit: int | None
) -> NDArray[np.int64]:
    """Numbers of the events from `start` on that a slate is asked before."""
    known = np.array([local.slot(event) >= 0 for event in range(len(columns))])
    chosen = np.flatnonzero(next_titles(columns) & known)
    return chosen[chosen >= start][:limit]


def _places_of_others(
    columns: EventColumns,
    chosen: NDArray[np.int64],
    progress: Progress | None,
    baselines: Mapping[str, Fit],
) -> dict[str, NDArray[np.int64]]:
    """Places of the next titles in the charts, and in what the baselines would have shown."""
    wanted = np.flatnonzero(np.isin(columns.type, POSITIVE_TYPES))
    events = columns.user[wanted], columns.item[wanted], columns.at_ms[wanted]
    is_chosen = np.isin(wanted, chosen)
    places = dict(zip(CHARTS, chart_places(*events, is_chosen), strict=True))
    for name, fit in baselines.items():
        tell = _teller(progress, f"{name}, refitted daily", len(chosen))
        places[name] = places_by_day(*events, is_chosen, fit, tell)
    return places


def _slate_metrics(local: LocalFeatures, seen: _Seen, start: int) -> SlateMetrics:
    """Of the engine's slates; popularity is that of the events before `start`."""
    slates = np.full((len(seen.slates), AT), NOBODY, np.int64)
    for slate, slots in zip(slates, seen.slates, strict=True):
        slate[: len(slots)] = slots
    histories = np.array(seen.histories, np.int64).reshape(len(slates), -1)
    return SlateMetrics.of(slates, histories, local.table.genres, local.counts(start))


def _teller(progress: Progress | None, name: str, total: int) -> Callable[[int], None]:
    if progress is None:
        return lambda _: None
    bar = progress.add_task(name, total=total)
    return lambda done: progress.update(bar, completed=done)


def table_of(found: Evaluation) -> Table:
    """An evaluation as people read it."""
    table = Table(
        "", "HR@20", "NDCG@20",
        title=f"{found.dataset}: next title, {found.n_slates:,} slates, full ranking",
        caption=(
            f"recall@1000 {found.recall_at_1000:.4f}; training {found.train_s:.0f} s, "
            f"replay {found.replay_s:.0f} s; "
            f"{found.n_candidates_mean:.0f} candidates, recommend p50 "
            f"{found.recommend_ms_p50:.2f} ms, p99 {found.recommend_ms_p99:.2f} ms"
        ),
    )  # fmt: skip
    for name, quality in found.qualities.items():
        if name != ENGINE:
            table.add_row(name, f"{quality.hr_20:.4f}", f"{quality.ndcg_20:.4f}")
    table.add_row("[bold]Headrace", f"{found.engine.hr_20:.4f}", f"{found.engine.ndcg_20:.4f}")
    return table


def slates_table_of(found: Evaluation) -> Table:
    """What the engine's slates are like beside being right."""
    table = Table("of Headrace's slates", "")
    for name, value in asdict(found.slates).items():
        table.add_row(name.replace("_", " "), f"{value:.4f}")
    return table


def draw_over_time(found: Evaluation, path: Path) -> None:
    """A picture of NDCG@20 day by day. Raises ImportError without matplotlib."""
    import matplotlib as mpl  # noqa: PLC0415 (a second, and installed for development alone)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axis = plt.subplots(figsize=(9, 4.5))
    for name, daily in found.daily_ndcg.items():
        days = np.array(list(daily), "datetime64[D]")
        axis.plot(days, list(daily.values()), label=name, linewidth=2.5 if name == ENGINE else 1)
    axis.set_ylabel("NDCG@20, mean of the day")
    axis.set_ylim(bottom=0)
    axis.set_title(f"{found.dataset}: next title, test-then-train, {found.n_slates:,} slates")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    figure.autofmt_xdate()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
