"""Search over vectors: lists, filters that never leave one short, titles newer than a bundle."""

import os
import threading
import time

import faiss
import numpy as np
import pytest

from features.bundle_format import BundleError
from offline.faiss_index import (
    BEST,
    FLAT_UP_TO,
    TARGET_RECALL,
    build_index,
    listed_index,
    made_up_viewers,
    recall,
)
from serving.retrieval import faiss_index
from serving.retrieval.delta import DeltaIndex
from serving.retrieval.faiss_index import FaissIndex

N_ITEMS, N_FACTORS = 12_000, 16
SOAK_S = float(os.environ.get("HEADRACE_SOAK_S", "2"))


@pytest.fixture(scope="module")
def factors() -> np.ndarray:
    """Clustered, and as different in length as those of titles that are watched more or less."""
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(60, N_FACTORS))
    found = centres[rng.integers(60, size=N_ITEMS)] + 0.6 * rng.normal(size=(N_ITEMS, N_FACTORS))
    return np.ascontiguousarray(found * np.exp(rng.normal(size=(N_ITEMS, 1))), np.float32)


@pytest.fixture(scope="module")
def viewers(factors: np.ndarray) -> np.ndarray:
    return made_up_viewers(factors, 50, np.random.default_rng(11))


@pytest.fixture(scope="module", params=["exact", "lists", "graph"])
def index(request: pytest.FixtureRequest, factors: np.ndarray) -> FaissIndex:
    if request.param == "exact":
        return FaissIndex.of(factors)
    if request.param == "lists":
        made = listed_index(factors, 7)
    else:  # of older bundles
        made = faiss.IndexHNSWFlat(N_FACTORS, 16, faiss.METRIC_INNER_PRODUCT)
        made.hnsw.efConstruction, made.hnsw.efSearch = 40, 512
        made.add(factors)
    return FaissIndex.parse(faiss.serialize_index(made).tobytes(), "factors.faiss", factors)


def least_recall(index: FaissIndex) -> float:
    """A graph misses more: of long vectors many are no neighbours of each other."""
    return 0.84 if isinstance(index._index, faiss.IndexHNSW) else TARGET_RECALL - 0.035


def exact(factors: np.ndarray, viewer: np.ndarray, n: int, rows: np.ndarray) -> np.ndarray:
    return rows[np.argsort(-(factors[rows] @ viewer), kind="stable")[:n]]


def test_the_best_titles_are_found_in_order_with_their_products(index, factors, viewers):
    best = np.array([exact(factors, v, BEST, np.arange(N_ITEMS)) for v in viewers])
    found = [index.nearest(v, BEST) for v in viewers]
    assert recall(np.array([rows for rows, _ in found]), best) >= least_recall(index)
    for viewer, (rows, products) in zip(viewers, found, strict=True):
        assert (np.diff(products) <= 0).all()
        np.testing.assert_allclose(products, factors[rows] @ viewer, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("n_allowed", [0, 1, 60, 3_000, 11_000])
def test_a_filtered_search_is_never_short(index, factors, viewers, n_allowed, monkeypatch):
    monkeypatch.setattr(faiss_index, "EXACT_UP_TO", 100)
    rng = np.random.default_rng(n_allowed)
    rows = np.sort(rng.choice(N_ITEMS, n_allowed, replace=False))
    allowed = np.zeros(N_ITEMS, np.bool_)
    allowed[rows] = True
    hits = 0.0
    for viewer in viewers[:10]:
        found = index.search(viewer, BEST, allowed)
        assert len(found) == len(np.unique(found)) == min(BEST, n_allowed)
        assert allowed[found].all()
        hits += len(np.intersect1d(found, exact(factors, viewer, BEST, rows)))
    assert hits >= (least_recall(index) - 0.04) * 10 * min(BEST, n_allowed)


def test_titles_that_nobody_asks_for_are_found_when_only_they_are_allowed(index, factors, viewers):
    short = np.argsort(np.linalg.norm(factors, axis=1))[: N_ITEMS - 1_000]
    allowed = np.zeros(N_ITEMS, np.bool_)
    allowed[short] = True
    for viewer in viewers[:10]:
        assert len(index.search(viewer, 300, allowed)) == 300


def test_more_than_the_lists_asked_hold_is_found_all_the_same(index, viewers):
    for n in (5_000, N_ITEMS, N_ITEMS + 5):
        found = index.search(viewers[0], n)
        assert len(np.unique(found)) == min(n, N_ITEMS)
    assert len(index.search(viewers[0], 0)) == 0


def test_small_catalogues_are_searched_exactly_and_the_same_factors_make_the_same_file(factors):
    assert FLAT_UP_TO >= N_ITEMS
    data = build_index(factors)
    assert data == build_index(factors)
    assert isinstance(faiss.deserialize_index(np.frombuffer(data, np.uint8)), faiss.IndexFlat)
    lists = [faiss.serialize_index(listed_index(factors, 7)).tobytes() for _ in range(2)]
    assert lists[0] == lists[1]


def test_lists_take_titles_that_are_all_alike():
    made = listed_index(np.ones((500, 4), np.float32), 7)
    rows = FaissIndex(made, np.ones((500, 4), np.float32)).search(np.ones(4, np.float32), 10)
    assert len(np.unique(rows)) == 10


def test_an_index_of_other_factors_is_refused(factors):
    data = build_index(factors[:50])
    with pytest.raises(BundleError, match="must hold 49 vectors of 16; got 50 of 16"):
        FaissIndex.parse(data, "factors.faiss", factors[:49])


# --- titles newer than the bundle ---


def test_new_titles_stand_among_those_of_the_index_where_their_products_put_them():
    delta = DeltaIndex(4)
    vector = np.array([1, 0, 0, 0], np.float32)
    delta.add(70, np.array([5, 0, 0, 0], np.float32))
    delta.add(71, np.array([1, 9, 9, 9], np.float32))
    slots, scores = delta.merge(vector, np.array([1, 2, 71]), np.array([7.0, 3, 2], np.float32), 9)
    assert slots.tolist() == [1, 70, 2, 71]  # 71 by its newer vector
    assert scores.tolist() == [7, 5, 3, 1]
    assert delta.merge(vector, np.array([1, 2]), np.array([7.0, 3], np.float32), 2)[0].tolist() == [
        1,
        70,
    ]


def test_a_title_is_gone_once_it_is_removed_and_a_change_counts_at_once():
    delta = DeltaIndex(1, capacity=4)
    for value in (1, 2):
        delta.add(7, np.array([value], np.float32))
    assert delta.search(np.ones(1, np.float32), 9)[1].tolist() == [2]
    delta.remove(7)
    delta.remove(7)
    assert len(delta) == len(delta.search(np.ones(1, np.float32), 9)[0]) == 0
    empty = delta.merge(np.ones(1, np.float32), np.array([3]), np.ones(1, np.float32), 5)
    assert empty[0].tolist() == [3]


def test_the_oldest_gives_way_when_there_is_no_room_left():
    delta = DeltaIndex(1, capacity=3)
    for slot in range(50):
        delta.add(slot, np.array([slot], np.float32))
    assert delta.search(np.ones(1, np.float32), 9)[0].tolist() == [49, 48, 47]
    assert delta.n_displaced == 47


def test_titles_come_and_go_while_eight_threads_search(factors, viewers):
    """Each answer is one that the writer's order allows: nothing torn, nothing missed."""
    index, delta = FaissIndex.of(factors), DeltaIndex(N_FACTORS, capacity=256)
    stopping, failures, searched = threading.Event(), [], [0] * 8
    settled = [0]  # titles up to before this number are in, the last 200 of them at least

    def search(number: int) -> None:
        try:
            while not stopping.is_set():
                before = settled[0]
                viewer = viewers[number % len(viewers)]
                rows, products = index.nearest(viewer, BEST)
                slots, scores = delta.merge(viewer, rows, products, BEST + 600)
                check(slots, scores, before, viewer)
                searched[number] += 1
        except Exception as error:  # told in the test's own thread
            failures.append(error)

    def check(slots: np.ndarray, scores: np.ndarray, before: int, viewer: np.ndarray) -> None:
        new = slots[slots >= N_ITEMS] - N_ITEMS
        assert len(np.unique(slots)) == len(slots) >= BEST
        after = settled[0] + 1  # one more may be on its way
        certain = np.arange(max(after - 200, 0), before)
        assert np.isin(certain, new).all()
        assert (new < after + 1).all()
        expected = factors[new % N_ITEMS] @ viewer
        np.testing.assert_allclose(scores[slots >= N_ITEMS], expected, rtol=1e-3, atol=1e-3)

    threads = [threading.Thread(target=search, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    deadline_s = time.monotonic() + SOAK_S
    while (time.monotonic() < deadline_s or min(searched) < 3) and not failures:
        number = settled[0]
        delta.add(N_ITEMS + number, factors[number % N_ITEMS])
        settled[0] = number + 1
        if number >= 200:
            delta.remove(N_ITEMS + number - 200)
    stopping.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert settled[0] > 1_000
