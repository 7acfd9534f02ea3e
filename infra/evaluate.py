"""How good the engine is: the end of a dataset, replayed test-then-train through the engine itself.

Events go one by one through the rows, the mirror and the recommender of the server, in this
process. Before each event that says what a known viewer watched next, the viewer gets a slate as
the server would make it at that moment; then the event is taken in. Training saw nothing of it.

Beside it stand three charts, exact and refreshed at each event, with all that the viewer has rated
removed: titles by all events so far, by those of the last seven days, and by events that count half
after a day. Full ranking over all titles, no sampling. Only what a viewer watched next and had
never touched counts; the viewer must have been seen before.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from rich.table import Table

from features.compiled import compiled
from features.windows import DAY_MS
from infra.train import REFRESH_MS, LocalFeatures, next_titles, train_bundle
from offline.datasets import Dataset, EventColumns, Selection
from offline.train import POSITIVE_TYPES, TrainConfig
from serving.bundle import load_current
from serving.recommender import Recommender
from serving.retrieval.base import Quotas
from serving.slate import Query

AT = 20
TELL_EVERY = 100  # slates
MISSED = -1
CHARTS = ("popular, all time", "popular, 7 days", "popular, half-life of a day")
ALL_TIME, SEVEN_DAYS, HALF_LIFE = range(3)
RESCALE_DAYS = 500.0  # weights of the half-life chart grow by 2 a day; rescaled before overflow


@dataclass(frozen=True, slots=True)
class Quality:
    """Of slates of 20: share with the title watched next, and its discounted gain."""

    hr_20: float
    ndcg_20: float

    @classmethod
    def of(cls, places: NDArray[np.int64]) -> "Quality":
        """From the place of the next title in each slate, from 0, MISSED where it is not there."""
        if not len(places):
            return cls(0.0, 0.0)
        hit = places != MISSED
        gains = np.where(hit, 1 / np.log2(np.where(hit, places, 0) + 2), 0.0)
        return cls(float(hit.mean()), float(gains.mean()))

    def is_ahead_of(self, other: "Quality") -> bool:
        """Whether it is better in both metrics."""
        return self.hr_20 > other.hr_20 and self.ndcg_20 > other.ndcg_20


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a replay found, and how long it took."""

    dataset: str
    n_slates: int
    engine: Quality
    charts: dict[str, Quality]
    by_source: dict[str, int]  # hits of the engine by the source of the title
    train_s: float
    replay_s: float
    recommend_ms_p50: float
    recommend_ms_p99: float
    n_candidates_mean: float
    training: dict[str, float] = field(default_factory=dict)  # metrics of the bundle

    @property
    def is_ahead(self) -> bool:
        """Whether the engine beats every chart in both metrics."""
        return all(self.engine.is_ahead_of(chart) for chart in self.charts.values())

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "is_ahead": self.is_ahead}


@dataclass(slots=True)
class _Seen:
    """What came out, slate by slate."""

    places: list[int] = field(default_factory=list)
    took_ms: list[float] = field(default_factory=list)
    n_candidates: list[int] = field(default_factory=list)
    by_source: dict[str, int] = field(default_factory=dict)


def evaluate_replay(
    dataset: Dataset,
    *,
    share: float = 0.2,
    limit: int | None = None,
    progress: Progress | None = None,
    config: TrainConfig | None = None,
    quotas: Quotas | None = None,
) -> Evaluation:
    """Trains on all but the last `share` of a dataset and replays that; `limit` slates at most.

    Raises what training raises. The bundle is written to a temporary folder and read from there, as
    a server would.
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
    tell = _teller(progress, "slates, then events", len(chosen))
    recommender = Recommender(
        local.table, local.mirror, bundle, quotas=quotas, refresh_ms=REFRESH_MS
    )
    seen = replay(local, recommender, chosen, tell)
    charts = chart_places(columns, chosen)
    return Evaluation(
        dataset.name,
        len(chosen),
        Quality.of(np.array(seen.places, np.int64)),
        {name: Quality.of(charts[k]) for k, name in enumerate(CHARTS)},
        dict(sorted(seen.by_source.items(), key=lambda pair: -pair[1])),
        train_s=trained_s - began_s,
        replay_s=time.perf_counter() - trained_s,
        recommend_ms_p50=float(np.percentile(seen.took_ms or [0.0], 50)),
        recommend_ms_p99=float(np.percentile(seen.took_ms or [0.0], 99)),
        n_candidates_mean=float(np.mean(seen.n_candidates or [0])),
        training=manifest.metrics,
    )


def replay(
    local: LocalFeatures,
    recommender: Recommender,
    chosen: NDArray[np.int64],
    tell: Callable[[int], None],
) -> _Seen:
    """A slate before each chosen event; every event is taken in afterwards, in order."""
    seen = _Seen()
    for number, event in enumerate(chosen.tolist()):
        local.advance(event)
        query = Query(local.columns.user_ids[local.columns.user[event]], count=AT)
        viewer, now_ms = local.viewer(event), local.now_ms(event)
        began_s = time.perf_counter()
        slate = recommender.recommend(query, viewer, now_ms)
        seen.took_ms.append(1_000 * (time.perf_counter() - began_s))
        wanted = local.columns.item_ids[local.columns.item[event]]
        place = next((k for k, i in enumerate(slate.items) if i.item_id == wanted), MISSED)
        seen.places.append(place)
        seen.n_candidates.append(slate.n_candidates)
        if place != MISSED:
            source = slate.items[place].source
            seen.by_source[source] = seen.by_source.get(source, 0) + 1
        if number % TELL_EVERY == 0:
            tell(number)
    tell(len(chosen))
    return seen


def _chosen(
    columns: EventColumns, local: LocalFeatures, start: int, limit: int | None
) -> NDArray[np.int64]:
    """Numbers of the events from `start` on that a slate is asked before."""
    known = np.array([local.slot(event) >= 0 for event in range(len(columns))])
    chosen = np.flatnonzero(next_titles(columns) & known)
    return chosen[chosen >= start][:limit]


def _teller(progress: Progress | None, name: str, total: int) -> Callable[[int], None]:
    if progress is None:
        return lambda _: None
    bar = progress.add_task(name, total=total)
    return lambda done: progress.update(bar, completed=done)


def chart_places(columns: EventColumns, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """`(3, n_chosen)` place of the next title in each chart before each chosen event, or MISSED."""
    wanted = np.flatnonzero(np.isin(columns.type, POSITIVE_TYPES))
    n_users, n_items = len(columns.user_ids), len(columns.item_ids)
    is_chosen = np.zeros(len(columns), np.bool_)
    is_chosen[chosen] = True
    places = np.full((len(CHARTS), len(chosen)), MISSED, np.int64)
    for chart in range(len(CHARTS)):
        _follow_chart(
            chart,
            columns.user[wanted],
            columns.item[wanted],
            columns.at_ms[wanted],
            is_chosen[wanted],
            np.zeros((n_users, n_items // 8 + 1), np.uint8),
            np.zeros(n_items, np.float64),
            places[chart],
        )
    return places


@compiled
def _follow_chart(
    chart: int,
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    at_ms: NDArray[np.int64],
    is_chosen: NDArray[np.bool_],
    rated: NDArray[np.uint8],
    scores: NDArray[np.float64],
    places: NDArray[np.int64],
) -> None:
    """Plays events through one chart; `rated` is a bit for each viewer and title."""
    oldest, n_chosen, epoch_ms = 0, 0, at_ms[0] if len(at_ms) else 0
    for i in range(len(users)):
        user, item = users[i], items[i]
        if chart == SEVEN_DAYS:
            while at_ms[oldest] < at_ms[i] - 7 * DAY_MS:
                scores[items[oldest]] -= 1.0
                oldest += 1
        if is_chosen[i]:
            places[n_chosen] = _place_in(scores, rated[user], item)
            n_chosen += 1
        weight = 1.0
        if chart == HALF_LIFE:
            days = (at_ms[i] - epoch_ms) / DAY_MS
            if days > RESCALE_DAYS:
                scores[:] *= 2.0**-days
                epoch_ms, days = at_ms[i], 0.0
            weight = 2.0**days
        scores[item] += weight
        rated[user, item >> 3] |= np.uint8(1 << (item & 7))


@compiled
def _place_in(scores: NDArray[np.float64], rated: NDArray[np.uint8], item: int) -> int:
    """Place of a title among those not rated, MISSED from AT on; equal ones by their code."""
    own = scores[item]
    if own <= 0:
        return MISSED
    place = 0
    for other in range(len(scores)):
        ahead = scores[other] > own or (scores[other] == own and other < item)
        if ahead and not (rated[other >> 3] >> np.uint8(other & 7)) & 1:
            place += 1
            if place == AT:
                return MISSED
    return place


def table_of(found: Evaluation) -> Table:
    """An evaluation as people read it."""
    table = Table(
        "", "HR@20", "NDCG@20",
        title=f"{found.dataset}: next title, {found.n_slates:,} slates, full ranking",
        caption=(
            f"training {found.train_s:.0f} s, replay {found.replay_s:.0f} s; "
            f"{found.n_candidates_mean:.0f} candidates, recommend p50 "
            f"{found.recommend_ms_p50:.2f} ms, p99 {found.recommend_ms_p99:.2f} ms"
        ),
    )  # fmt: skip
    for name, chart in found.charts.items():
        table.add_row(name, f"{chart.hr_20:.4f}", f"{chart.ndcg_20:.4f}")
    table.add_row("[bold]Headrace", f"{found.engine.hr_20:.4f}", f"{found.engine.ndcg_20:.4f}")
    return table
