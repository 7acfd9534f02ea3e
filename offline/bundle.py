"""Writes bundles: whole or not at all."""

import io
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.bundle_format import (
    ARRAYS,
    CHEAP,
    CONTENT_MAP,
    INDEX,
    MANIFEST,
    RANKER,
    BundleError,
    ItemModels,
    Manifest,
    make_current,
    read_manifest,
    read_pointer,
    read_verified,
    sha256,
    version_of,
)
from features.ranking import RANKING_COLUMNS
from features.registry import feature_version


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a bundle comes from."""

    created_at_ms: int
    data_from_ms: int
    data_until_ms: int
    n_events: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Extras:
    """What a bundle may have besides, see `features.bundle_format`."""

    content_map: NDArray[np.float32] | None = None
    cheap: str = ""  # trees of the cheap stage; empty: none
    fusion: Mapping[str, float] = field(default_factory=dict)
    calibration: Mapping[str, list[float]] = field(default_factory=dict)

    def files(self) -> dict[str, bytes]:
        """Content by name."""
        found: dict[str, bytes] = {}
        if self.content_map is not None:
            found[CONTENT_MAP] = npy_bytes(self.content_map)
        if self.cheap:
            found[CHEAP] = self.cheap.encode()
        return found


NO_EXTRAS: Final = Extras()


def write_bundle(
    bundles: Path,
    models: ItemModels,
    index: bytes,
    ranker: str,
    provenance: Provenance,
    extras: Extras = NO_EXTRAS,
) -> Manifest:
    """Writes a bundle and then makes it the current one. Raises BundleError for broken models.

    A reader sees all of it or nothing: files go into a folder of another name, which is renamed
    when they are on disk; the pointer to it is replaced last.
    """
    files = _contents(models.checked(), index, ranker) | extras.files()
    checksums = {name: sha256(data) for name, data in files.items()}
    manifest = _manifest(models, checksums, provenance, extras)
    return _install(bundles, manifest, files)


def write_fits(
    bundles: Path,
    fusion: Mapping[str, float],
    calibration: Mapping[str, list[float]],
    metrics: Mapping[str, float],
    created_at_ms: int,
) -> Manifest:
    """The current bundle with other weights and another table, as a new one, which becomes current.

    Raises BundleError where there is no current bundle, or a file of it is broken.
    """
    folder = bundles / read_pointer(bundles)
    before = read_manifest(folder)
    manifest = replace(
        before,
        version=version_of(created_at_ms, before.files),
        created_at_ms=created_at_ms,
        metrics={**before.metrics, **metrics},
        fusion=dict(fusion),
        calibration=dict(calibration),
    )
    return _install(bundles, manifest, read_verified(folder, before))


def _install(bundles: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Puts a bundle in place whole, and makes it current."""
    folder = bundles / manifest.version
    unfinished = bundles / f".{manifest.version}.{os.getpid()}"
    try:
        unfinished.mkdir(parents=True)
        for name, data in {**files, MANIFEST: manifest.to_json().encode()}.items():
            _write(unfinished / name, data)
        if folder.exists():  # the same content within the same second: it is there already
            manifest = read_manifest(folder)
        else:
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    make_current(bundles, manifest.version)
    return manifest


def read_ranking(bundles: Path) -> tuple[Manifest, str, Extras]:
    """Manifest, ranker and what else ranks in the current bundle. Raises BundleError."""
    folder = bundles / read_pointer(bundles)
    manifest = read_manifest(folder)
    if manifest.columns != RANKING_COLUMNS:
        raise BundleError(
            f"{folder / RANKER} must be trained on the ranking columns of this version; "
            "train a bundle anew"
        )
    files = read_verified(folder, manifest)
    cheap = files.get(CHEAP, b"").decode()
    extras = Extras(cheap=cheap, fusion=manifest.fusion, calibration=manifest.calibration)
    return manifest, files[RANKER].decode(), extras


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _contents(models: ItemModels, index: bytes, ranker: str) -> dict[str, bytes]:
    files = {INDEX: index, RANKER: ranker.encode()}
    for name in ARRAYS:
        files[f"{name}.npy"] = npy_bytes(getattr(models, name))
    return files


def npy_bytes(array: NDArray[Any]) -> bytes:
    """An array as NumPy's own file has it."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _manifest(
    models: ItemModels, files: dict[str, str], provenance: Provenance, extras: Extras
) -> Manifest:
    return Manifest(
        version=version_of(provenance.created_at_ms, files),
        created_at_ms=provenance.created_at_ms,
        data_from_ms=provenance.data_from_ms,
        data_until_ms=provenance.data_until_ms,
        n_events=provenance.n_events,
        n_items=len(models),
        n_factors=models.factors.shape[1],
        latest_year=models.latest_year,
        confidence=models.confidence,
        regularisation=models.regularisation,
        feature_version=feature_version(),
        columns=RANKING_COLUMNS,
        files=files,
        metrics=dict(provenance.metrics),
        parameters=dict(provenance.parameters),
        fusion=dict(extras.fusion),
        calibration=dict(extras.calibration),
    )
