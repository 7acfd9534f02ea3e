"""A bundle is loaded whole or refused, with the file and the reason named."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.bundle_format import (
    CONTENT_MAP,
    CURRENT,
    FILES,
    INDEX,
    MANIFEST,
    OPTIONAL_FIELDS,
    RANKER,
    ItemModels,
    Manifest,
    make_current,
    sha256,
)
from features.content import N_CONTENT
from offline.bundle import Provenance, write_bundle, write_fits
from offline.faiss_index import build_index
from serving.bundle import Bundle, BundleError, load_bundle, load_current
from tests.clock import START_MS
from tests.serving import engine


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    engine.train_small(folder)
    return folder


@pytest.fixture
def bundles(written: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(written, tmp_path / "bundles")


def folder_of(bundles: Path) -> Path:
    return bundles / (bundles / CURRENT).read_text().strip()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def put(bundles: Path, name: str, data: bytes) -> None:
    """Replaces a file and its checksum: what is wrong is inside."""
    folder = folder_of(bundles)
    (folder / name).write_bytes(data)
    edit(bundles, lambda m: m["files"].update({name: sha256(data)}))


def edit(bundles: Path, change: Callable[[dict], object]) -> None:
    path = folder_of(bundles) / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def array_of(bundles: Path, name: str) -> np.ndarray:
    return np.load(folder_of(bundles) / f"{name}.npy")


def test_what_was_written_is_what_is_read(bundles):
    bundle = load_current(bundles)
    assert bundle.manifest.n_items == len(bundle.models) == len(bundle.index)
    assert bundle.version == bundle.manifest.version
    assert bundle.manifest.data_until_ms < START_MS
    assert bundle.manifest.parameters["als.n_factors"] == 8
    assert bundle.models.latest_year == 2013
    assert not bundle.models.factors.flags.writeable
    assert bundle.ranker is not None


def test_the_manifest_survives_its_text(bundles):
    manifest = load_current(bundles).manifest
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize("name", FILES)
def test_a_single_wrong_byte_is_refused(bundles, name):
    path = folder_of(bundles) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} must have the SHA-256"):
        load_current(bundles)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file_is_named(bundles, name):
    (folder_of(bundles) / name).unlink()
    with pytest.raises(BundleError, match=f"{name} cannot be read"):
        load_current(bundles)


def test_no_pointer_means_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="current cannot be read"):
        load_current(tmp_path)


@pytest.mark.parametrize("version", ["", "../elsewhere", ".hidden"])
def test_a_pointer_leads_nowhere_else(bundles, version):
    (bundles / CURRENT).write_text(version)
    with pytest.raises(BundleError, match="must hold the version"):
        load_current(bundles)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_manifest_that_is_none_is_refused(bundles, text):
    (folder_of(bundles) / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match="manifest"):
        load_current(bundles)


def test_a_file_too_many_is_refused(bundles):
    edit(bundles, lambda m: m["files"].update({"extra.pkl": "0"}))
    with pytest.raises(BundleError, match=r"extra\.pkl"):
        load_current(bundles)


@pytest.mark.parametrize("name", ["factors", "weights", "support"])
def test_nan_is_refused(bundles, name):
    array = array_of(bundles, name)
    array.flat[3] = np.nan
    put(bundles, f"{name}.npy", npy(array))
    with pytest.raises(BundleError, match=rf"{name}\.npy must hold finite numbers"):
        load_current(bundles)


def test_wrong_dimensions_are_refused(bundles):
    put(bundles, "factors.npy", npy(array_of(bundles, "factors")[:, :-1].copy()))
    with pytest.raises(BundleError, match=r"factors\.npy must be \d+ x 8; got \(\d+, 7\)"):
        load_current(bundles)


@pytest.mark.parametrize("name", ["factors", "neighbours", "weights", "support"])
def test_a_row_too_few_is_refused(bundles, name):
    put(bundles, f"{name}.npy", npy(array_of(bundles, name)[:-1]))
    with pytest.raises(BundleError, match=rf"{name}\.npy must be"):
        load_current(bundles)


def test_another_type_of_number_is_refused(bundles):
    put(bundles, "weights.npy", npy(array_of(bundles, "weights").astype(np.float64)))
    with pytest.raises(BundleError, match=r"weights\.npy must be 2-dimensional float32"):
        load_current(bundles)


def test_a_neighbour_that_is_no_title_is_refused(bundles):
    neighbours = array_of(bundles, "neighbours")
    neighbours[0, 0] = len(neighbours)
    put(bundles, "neighbours.npy", npy(neighbours))
    with pytest.raises(BundleError, match=r"neighbours\.npy must hold rows within"):
        load_current(bundles)


def test_an_id_that_comes_twice_is_refused(bundles):
    ids = array_of(bundles, "ids")
    ids[1] = ids[0]
    put(bundles, "ids.npy", npy(ids))
    with pytest.raises(BundleError, match=r"ids\.npy must hold distinct ids"):
        load_current(bundles)


def test_a_pickle_is_not_opened(bundles):
    put(bundles, "ids.npy", npy(np.array([{"a": 1}], object)))
    with pytest.raises(BundleError, match=r"ids\.npy must be a NumPy array"):
        load_current(bundles)


def test_an_index_of_other_factors_is_refused(bundles):
    put(bundles, INDEX, build_index(np.ones((4, 8), np.float32)))
    with pytest.raises(BundleError, match=r"factors\.faiss must hold \d+ vectors of 8; got 4 of 8"):
        load_current(bundles)


@pytest.mark.parametrize(("name", "reason"), [(INDEX, "FAISS index"), (RANKER, "LightGBM model")])
def test_a_model_that_is_none_is_refused(bundles, name, reason):
    put(bundles, name, b"nonsense")
    with pytest.raises(BundleError, match=f"{name} must be a {reason}"):
        load_current(bundles)


def test_a_ranker_of_other_columns_is_refused(bundles):
    text = (folder_of(bundles) / RANKER).read_text()
    put(bundles, RANKER, text.replace("title_age", "other_age").encode())
    with pytest.raises(BundleError, match="other_age"):
        load_current(bundles)


def test_a_manifest_of_other_columns_or_features_is_refused(bundles):
    edit(bundles, lambda m: m["columns"].reverse())
    with pytest.raises(BundleError, match="their order"):
        load_current(bundles)


def test_another_feature_version_is_refused(bundles):
    edit(bundles, lambda m: m.update(feature_version="0" * 16))
    with pytest.raises(BundleError, match="feature version"):
        load_current(bundles)


def write_again(bundles: Path, models: ItemModels, at_ms: int = START_MS + 1_000) -> Manifest:
    ranker = (folder_of(bundles) / RANKER).read_text()
    provenance = Provenance(at_ms, 0, 1, 2)
    return write_bundle(bundles, models, build_index(models.factors), ranker, provenance)


def test_broken_models_are_not_written(bundles):
    before = (bundles / CURRENT).read_text()
    models = load_current(bundles).models
    broken = replace(models, support=np.full_like(models.support, np.inf))
    with pytest.raises(BundleError, match=r"support\.npy"):
        write_again(bundles, broken)
    assert (bundles / CURRENT).read_text() == before
    assert [path.name for path in bundles.iterdir() if path.name.startswith(".")] == []


def test_a_new_bundle_becomes_current_and_the_old_one_can_be_chosen_again(bundles):
    old = load_current(bundles)
    manifest = write_again(bundles, old.models)
    assert load_current(bundles).version == manifest.version != old.version
    make_current(bundles, old.version)
    assert load_current(bundles).version == old.version


def test_writing_the_same_again_is_harmless(bundles):
    models = load_current(bundles).models
    first = write_again(bundles, models)
    assert write_again(bundles, models) == write_again(bundles, models, START_MS + 1_001) == first
    assert load_current(bundles).manifest == first


def test_a_bundle_without_ranker_comes_from_models_alone():
    bundle = Bundle.without_ranker(engine.models())
    assert bundle.ranker is None
    assert len(bundle.index) == len(bundle.models)


def test_a_version_can_be_loaded_by_its_folder(bundles):
    assert load_bundle(folder_of(bundles)).version == folder_of(bundles).name


# --- what a bundle may have besides ---


def test_what_is_optional_is_read_where_it_is(bundles):
    assert load_current(bundles).content_map.shape == (N_CONTENT + 1, 8)
    assert CONTENT_MAP in load_current(bundles).manifest.files


def test_an_older_bundle_without_it_is_read_as_before(bundles):
    (folder_of(bundles) / CONTENT_MAP).unlink()
    edit(bundles, lambda m: m["files"].pop(CONTENT_MAP))
    for name in OPTIONAL_FIELDS:
        edit(bundles, lambda m, name=name: m.pop(name))
    bundle = load_current(bundles)
    assert bundle.content_map is None
    assert bundle.manifest.fusion == {}


@pytest.mark.parametrize(
    "wrong", [np.zeros((3, 8), np.float32), np.full((N_CONTENT + 1, 8), np.nan, np.float32)]
)
def test_a_wrong_content_map_is_refused(bundles, wrong):
    put(bundles, CONTENT_MAP, npy(wrong))
    with pytest.raises(BundleError, match=r"content_map\.npy must be \(65, 8\) finite float32"):
        load_current(bundles)


def test_a_changed_or_missing_optional_file_is_refused(bundles):
    (folder_of(bundles) / CONTENT_MAP).write_bytes(b"x")
    with pytest.raises(BundleError, match=f"{CONTENT_MAP} must have the SHA-256"):
        load_current(bundles)
    (folder_of(bundles) / CONTENT_MAP).unlink()
    with pytest.raises(BundleError, match=f"{CONTENT_MAP} cannot be read"):
        load_current(bundles)


def test_fits_on_the_log_make_a_new_bundle_of_the_same_models(bundles):
    before = load_current(bundles)
    fusion = {"ranker": 0.5, "click": 1.0, "watch": 0.0}
    table = {"scores": [0.0, 1.0], "probabilities": [0.1, 0.2]}
    manifest = write_fits(bundles, fusion, table, {"logged_slots": 9.0}, START_MS + 5_000)
    after = load_current(bundles)
    assert after.version == manifest.version != before.version
    assert after.manifest.files == before.manifest.files
    assert (after.fusion.click, after.fusion.ranker) == (1.0, 0.5)
    assert after.calibration.probabilities(np.array([0.5])) == pytest.approx(0.15)
    assert after.manifest.metrics["logged_slots"] == 9.0
    assert load_bundle(bundles / before.version).calibration is None
    assert after.cheap is not None
