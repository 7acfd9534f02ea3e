"""Bundles that change under load, and bundles that are broken: slates are whole, and go on."""

import asyncio
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY

from features.bundle_format import (
    CURRENT,
    FILES,
    INDEX,
    MANIFEST,
    PREVIOUS,
    RANKER,
    BundleError,
    make_current,
    read_pointer,
    sha256,
)
from infra.bundles import list_bundles, promote, roll_back
from offline.bundle import Provenance, write_bundle
from serving.bundle import load_bundle
from serving.catalogue import CatalogueTable
from serving.recommender import Recommender
from serving.reload import BundleWatcher, CanaryError, check_slate, try_out
from serving.slate import Query, Slate, SlateItem, Viewer
from tests.clock import START_MS
from tests.serving import engine


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Two bundles, of which the second takes each title for another one."""
    folder = tmp_path_factory.mktemp("written")
    first = engine.train_small(folder)
    files = folder / first.version
    bundle = load_bundle(files)
    models = replace(
        bundle.models,
        factors=np.ascontiguousarray(bundle.models.factors[::-1]),
        neighbours=np.ascontiguousarray(bundle.models.neighbours[::-1]),
    )
    provenance = Provenance(START_MS + 1_000, 0, START_MS, 6_000)
    ranker = (files / RANKER).read_text()
    write_bundle(folder, models, (files / INDEX).read_bytes(), ranker, provenance)
    make_current(folder, first.version)
    return folder


@pytest.fixture
def bundles(written, tmp_path) -> Path:
    return shutil.copytree(written, tmp_path / "bundles")


@pytest.fixture(scope="module")
def table() -> CatalogueTable:
    return CatalogueTable.of(engine.catalogue())


VIEWER = Viewer(engine.viewer_row("t0", "t2", "t4"))


def versions(bundles: Path) -> tuple[str, str]:
    """That of the current bundle, and the other."""
    current = read_pointer(bundles)
    (other,) = {path.name for path in bundles.glob("2*/")} - {current}
    return current, other


def slate_of(recommender: Recommender) -> Slate:
    return recommender.recommend(Query("eve", count=10), VIEWER, START_MS)


def items_of(slate: Slate) -> list[tuple[str, float]]:
    return [(item.item_id, item.score) for item in slate.items]


class Serving:
    """A recommender and what watches its bundles."""

    def __init__(self, bundles: Path, table: CatalogueTable, sleep=asyncio.sleep) -> None:
        current = read_pointer(bundles)
        mirror = engine.FixedMirror.of(table)
        self.recommender = Recommender(table, mirror, load_bundle(bundles / current))
        self.loads = 0
        self.watcher = BundleWatcher(
            bundles,
            self.prepare,
            self.recommender.adopt,
            version=current,
            rng=np.random.default_rng(7),
            every_s=0.01,
            sleep=sleep,
        )

    def prepare(self, bundle):
        self.loads += 1
        trial = self.recommender.trial(bundle)
        try_out(trial.recommend, bundle, START_MS)
        return trial


def reloads(outcome: str) -> float:
    name = "headrace_serving_bundle_reloads_total"
    return REGISTRY.get_sample_value(name, {"outcome": outcome}) or 0.0


def test_every_slate_is_of_one_bundle_while_bundles_change_under_load(bundles, table):
    first, second = versions(bundles)
    expected = {}
    for version in (first, second):
        mirror = engine.FixedMirror.of(table)
        alone = Recommender(table, mirror, load_bundle(bundles / version))
        expected[version] = items_of(slate_of(alone))
    assert expected[first] != expected[second]
    serving = Serving(bundles, table)

    async def under_load() -> list[str]:
        watching = asyncio.create_task(serving.watcher.run())
        seen: list[str] = []
        for wanted in (second, first, second):
            make_current(bundles, wanted)
            async with asyncio.timeout(200):
                while not seen or seen[-1] != wanted:
                    slate = slate_of(serving.recommender)
                    assert items_of(slate) == expected[slate.bundle_version]
                    seen.append(slate.bundle_version)
                    await asyncio.sleep(0)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        return seen

    seen = asyncio.run(under_load())
    changes = [b for a, b in zip([first, *seen], seen, strict=False) if a != b]
    assert changes == [second, first, second]


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def put(folder: Path, name: str, data: bytes) -> None:
    """Replaces a file and its checksum: what is wrong is inside."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = sha256(data)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def with_nan(folder: Path) -> None:
    factors = np.load(folder / "factors.npy")
    factors[3, 1] = np.nan
    buffer = io.BytesIO()
    np.save(buffer, factors)
    put(folder, "factors.npy", buffer.getvalue())


def narrow(folder: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.load(folder / "factors.npy")[:, :4])
    put(folder, "factors.npy", buffer.getvalue())


def infinite_leaves(folder: Path) -> None:
    """Leaves of which ten make infinity, in as many characters: the file holds its own sizes."""
    lines = (folder / RANKER).read_text().splitlines()
    for k, line in enumerate(lines):
        if line.startswith("leaf_value="):
            values = line.removeprefix("leaf_value=").split(" ")
            huge = ["8e307".rjust(len(v), "0") if len(v) >= 5 else v for v in values]
            lines[k] = "leaf_value=" + " ".join(huge)
    put(folder, RANKER, ("\n".join(lines) + "\n").encode())


def empty(folder: Path) -> None:
    for name in (*FILES, MANIFEST):
        (folder / name).unlink()


DAMAGE = {
    "a flipped bit": (lambda folder: spoil(folder / "factors.npy"), "broken"),
    "half a file": (lambda folder: (folder / INDEX).write_bytes(b"half"), "broken"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "broken"),
    "an empty folder": (
        lambda folder: [(folder / n).unlink() for n in (*FILES, MANIFEST)],
        "broken",
    ),
    "weights that are NaN": (with_nan, "broken"),
    "other dimensions": (narrow, "broken"),
    "scores without end": (infinite_leaves, "canary"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_broken_bundle_is_refused_and_the_old_one_stays(bundles, table, name):
    damage, outcome = DAMAGE[name]
    first, second = versions(bundles)
    damage(bundles / second)
    serving = Serving(bundles, table)
    slate, before = items_of(slate_of(serving.recommender)), reloads(outcome)
    make_current(bundles, second)
    assert not asyncio.run(serving.watcher.look())
    assert reloads(outcome) == before + 1
    assert serving.watcher.version == first
    assert items_of(slate_of(serving.recommender)) == slate
    assert not asyncio.run(serving.watcher.look())
    assert reloads(outcome) == before + 1, "it is not tried again before something changes"


@pytest.mark.parametrize("text", ["nothing-like-that\n", "", "../../etc\n", "\xff" * 9_999])
def test_a_pointer_to_nowhere_is_refused(bundles, table, text):
    serving = Serving(bundles, table)
    before = reloads("broken")
    (bundles / CURRENT).write_text(text)
    assert not asyncio.run(serving.watcher.look())
    assert reloads("broken") == before + 1


def test_a_bundle_is_loaded_once_however_many_ask_for_it(bundles, table):
    serving = Serving(bundles, table)
    make_current(bundles, versions(bundles)[1])

    async def herd() -> list[bool]:
        return await asyncio.gather(*(serving.watcher.look() for _ in range(20)))

    assert sum(asyncio.run(herd())) == 1
    assert serving.loads == 1


def test_looks_do_not_come_at_the_same_moment_everywhere(bundles, table):
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 50:
            raise asyncio.CancelledError
        await asyncio.sleep(0)

    serving = Serving(bundles, table, sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(serving.watcher.run())
    assert len(set(pauses)) == 50
    assert all(0.0075 <= pause <= 0.0125 for pause in pauses)


def slate(*items: tuple[str, float], version: str = "b1") -> Slate:
    made = [SlateItem(id_, "", score, "trending", "popular", 1.0) for id_, score in items]
    return Slate(tuple(made), version, "f1", 10)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (slate(), "must not be empty"),
        (slate(("a", 1.0), version="b0"), "must come from b1; got b0"),
        (slate(("a", 1.0), ("a", 2.0)), "each title once"),
        (slate(("a", float("nan"))), "must be finite"),
    ],
)
def test_a_slate_that_may_not_be_shown_fails_the_canary(found, message):
    with pytest.raises(CanaryError, match=message):
        check_slate(found, "b1")


def test_one_command_goes_back_and_another_one_forth(bundles):
    first, second = versions(bundles)
    with pytest.raises(BundleError, match="there is none to go back to"):
        roll_back(shutil.copytree(bundles, bundles.parent / "alone", ignore=lambda *_: [PREVIOUS]))
    promote(bundles, second)
    rows = {row.version: row for row in list_bundles(bundles)}
    assert list(rows) == sorted([first, second], reverse=True)
    assert rows[second].is_current
    assert rows[first].is_previous
    assert roll_back(bundles) == first
    assert read_pointer(bundles) == first
    assert roll_back(bundles) == second


def test_a_broken_bundle_is_not_promoted(bundles):
    first, second = versions(bundles)
    spoil(bundles / second / RANKER)
    with pytest.raises(BundleError, match="SHA-256"):
        promote(bundles, second)
    with pytest.raises(BundleError, match="has no bundle 'x'"):
        promote(bundles, "x")
    assert read_pointer(bundles) == first
