"""Search over vectors: how many of a viewer's best 100 titles are found, and how fast.

    python -m benchmarks.retrieval [--quick]

Titles are made up, 64 factors each, in the likeness of implicit ALS on MovieTweetings: 1,000
clusters of very different size, a spectrum that falls 20-fold, and norms that are log-normal with a
deviation of 1.0 (there the 50th, 90th and 99th percentiles are .29, .91 and 3.1). Viewers are
folded in as the server does it, from three titles of each of one to three clusters. The figures
`recall_at_100`, `p50_ms`, ... are those of the index that a bundle would have, through
`FaissIndex.search`; beside them what else was tried: FAISS's own lists (a vector goes to the list
of the largest product), the same by 4-bit codes refined with the vectors, a graph. One thread, one
viewer at a time. `mild_` figures are of titles whose norms differ little (0.3), `filtered_` ones of
searches among a random tenth, and a random hundredth, of the titles.
"""

import gc
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks import common
from offline.faiss_index import BEST, FLAT_UP_TO, build_index, exact_index, listed_index, recall
from serving.retrieval.faiss_index import FaissIndex, FoldIn

SIZES: Final = (20_000, 50_000, 200_000, 1_000_000)
QUICK_SIZES: Final = (200_000,)
N_FACTORS, N_CLUSTERS, N_VIEWERS = 64, 1_000, 500
SPREAD: Final = 0.6  # of titles around their cluster's middle
MANY: Final = 200_000  # titles, above which the alternatives have more lists
PROBES: Final = (64, 256)  # lists asked of the alternatives
FASTSCAN: Final = "IVF{n_lists},PQ32x4fs,RFlat"

Floats = NDArray[np.float32]
Search = Callable[[Floats], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class World:
    """Titles, viewers, and the best titles of each viewer."""

    factors: Floats
    viewers: Floats
    best: NDArray[np.int64]

    @classmethod
    def of(cls, n_items: int, deviation: float, seed: int = 7) -> "World":
        """See the module."""
        rng = np.random.default_rng(seed)
        spectrum = np.arange(1, N_FACTORS + 1) ** -0.35
        centres = rng.normal(size=(N_CLUSTERS, N_FACTORS)) * spectrum
        cluster = rng.choice(N_CLUSTERS, n_items, p=rng.dirichlet(np.full(N_CLUSTERS, 0.5)))
        factors = np.empty((n_items, N_FACTORS), np.float32)
        for start in range(0, n_items, 100_000):
            part = slice(start, start + 100_000)
            around = rng.normal(size=(len(cluster[part]), N_FACTORS)) * spectrum
            rows = centres[cluster[part]] + SPREAD * around
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            factors[part] = rows * np.exp(deviation * rng.normal(size=(len(rows), 1)))
        viewers = _viewers(factors, cluster, rng)
        _, best = exact_index(factors).search(viewers, BEST)
        return cls(factors, viewers, best)


def _viewers(factors: Floats, cluster: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Folded in from titles that are watched: the longer the likelier."""
    norms = np.linalg.norm(factors, axis=1).astype(np.float64)
    watched = rng.choice(len(factors), min(len(factors), 100_000), p=norms / norms.sum())
    of_cluster = [watched[cluster[watched] == k] for k in range(N_CLUSTERS)]
    of_cluster = [titles for titles in of_cluster if len(titles)]
    fold_in = FoldIn(factors, 10.0, 5.0)
    found = np.empty((N_VIEWERS, N_FACTORS), np.float32)
    for k in range(N_VIEWERS):
        tastes = rng.integers(len(of_cluster), size=rng.integers(1, 4))
        titles = np.concatenate([rng.choice(of_cluster[taste], 3) for taste in tastes])
        found[k] = fold_in.viewer(factors[titles])
    return found


@dataclass(frozen=True, slots=True)
class Measured:
    """What an index does."""

    recall_at_100: float
    p50_ms: float
    p99_ms: float
    build_s: float
    index_mb: float


def measure(world: World, search: Search, build_s: float, index_mb: float) -> Measured:
    """One viewer after the other, after some that are not counted."""
    for viewer in world.viewers[:20]:
        search(viewer)
    found, took_ms = np.full((len(world.viewers), BEST), -1), []
    for k, viewer in enumerate(world.viewers):
        start_s = time.perf_counter()
        rows = search(viewer)
        took_ms.append(1_000 * (time.perf_counter() - start_s))
        found[k, : len(rows)] = rows
    p50, p99 = np.percentile(took_ms, [50, 99])
    return Measured(
        round(recall(found, world.best), 4),
        round(float(p50), 3),
        round(float(p99), 3),
        round(build_s, 1),
        round(index_mb, 1),
    )


def of_bundle(world: World) -> tuple[Measured, FaissIndex]:
    """The index that training writes, as the server reads it."""
    start_s = time.perf_counter()
    data = build_index(world.factors)
    build_s = time.perf_counter() - start_s
    index = FaissIndex.parse(data, "factors.faiss", world.factors)
    return measure(world, lambda v: index.search(v, BEST), build_s, len(data) / 1e6), index


def alternatives(world: World, with_graph: bool) -> dict[str, dict[str, float]]:
    """The same of what else could be."""
    n_lists = 4_096 if len(world.factors) > MANY else 1_024
    metric = faiss.METRIC_INNER_PRODUCT
    makers: dict[str, Callable[[], Any]] = {
        "exact": lambda: exact_index(world.factors),
        "lists": lambda: faiss.index_factory(N_FACTORS, f"IVF{n_lists},Flat", metric),
        "lists_4_bits": lambda: faiss.index_factory(
            N_FACTORS, FASTSCAN.format(n_lists=n_lists), metric
        ),
    }
    if len(world.factors) <= FLAT_UP_TO:
        makers["lists_by_distance"] = lambda: listed_index(world.factors, 7)
    if with_graph:
        makers["graph"] = lambda: faiss.IndexHNSWFlat(N_FACTORS, 16, metric)
    found: dict[str, dict[str, float]] = {}
    for name, make in makers.items():
        for suffix, measured in _try(world, make).items():
            found[name + suffix] = asdict(measured)
        gc.collect()
    return found


def _try(world: World, make: Callable[[], Any]) -> dict[str, Measured]:
    start_s = time.perf_counter()
    index = make()
    if index.ntotal == 0:
        index.train(world.factors)
        index.add(world.factors)
    build_s = time.perf_counter() - start_s
    size_mb = len(faiss.serialize_index(index)) / 1e6

    def search(viewer: Floats) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = index.search(viewer[np.newaxis], BEST)[1][0]
        return rows

    if hasattr(index, "hnsw"):
        index.hnsw.efSearch = 400
        return {"_of_breadth_400": measure(world, search, build_s, size_mb)}
    if isinstance(index, faiss.IndexFlat):
        return {"": measure(world, search, build_s, size_mb)}
    lists = faiss.extract_index_ivf(index)
    if hasattr(index, "k_factor"):
        index.k_factor = 4
    found = {}
    for n_asked in [lists.nprobe] if lists.nprobe > 1 else PROBES:
        lists.nprobe = n_asked
        found[f"_{n_asked}_asked"] = measure(world, search, build_s, size_mb)
    return found


def filtered(world: World, index: FaissIndex, share: float) -> dict[str, float]:
    """Searches among some of the titles: recall, time, and how many were short."""
    allowed = np.random.default_rng(3).random(len(world.factors)) < share
    rows = np.flatnonzero(allowed)
    _, places = exact_index(world.factors[rows]).search(world.viewers, BEST)
    within = World(world.factors, world.viewers, rows[places])
    n_short = [0]

    def search(viewer: Floats) -> NDArray[np.int64]:
        found = index.search(viewer, BEST, allowed)
        n_short[0] += len(found) < BEST
        return found

    measured = measure(within, search, 0, 0)
    prefix = f"filtered_{share:g}_"
    return {
        f"{prefix}recall_at_100": measured.recall_at_100,
        f"{prefix}p50_ms": measured.p50_ms,
        f"{prefix}p99_ms": measured.p99_ms,
        f"{prefix}short": n_short[0],
    }


def main() -> None:
    """Prints a table; writes `benchmarks/out/retrieval.json`."""
    arguments = common.arguments(__doc__)
    faiss.omp_set_num_threads(1)
    sizes = QUICK_SIZES if arguments.quick else SIZES
    figures: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for size in sizes:
        world = World.of(size, 1.0)
        chosen, index = of_bundle(world)
        others[str(size)] = {"chosen": asdict(chosen), **alternatives(world, not arguments.quick)}
        common.console.print(f"{size:,} titles", others[str(size)])
    figures |= asdict(chosen)
    for share in (0.1, 0.01):
        figures |= filtered(world, index, share)
    mild, _ = of_bundle(World.of(sizes[-1], 0.3))
    figures |= {f"mild_{name}": value for name, value in asdict(mild).items()}
    load = {"titles": sizes[-1], "factors": N_FACTORS, "viewers": N_VIEWERS, "threads": 1}
    common.report("retrieval", load, figures | {"alternatives": others})


if __name__ == "__main__":
    main()
