"""Writes bundles: whole or not at all."""

import io
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from features.bundle_format import (
    ARRAYS,
    CURRENT,
    INDEX,
    MANIFEST,
    RANKER,
    BundleError,
    ItemModels,
    Manifest,
    read_bytes,
    read_manifest,
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


def write_bundle(
    bundles: Path, models: ItemModels, index: bytes, ranker: str, provenance: Provenance
) -> Manifest:
    """Writes a bundle and then makes it the current one. Raises BundleError for broken models.

    A reader sees all of it or nothing: files go into a folder of another name, which is renamed
    when they are on disk; the pointer to it is replaced last.
    """
    files = _contents(models.checked(), index, ranker)
    manifest = _manifest(models, {name: sha256(data) for name, data in files.items()}, provenance)
    files[MANIFEST] = manifest.to_json().encode()
    folder = bundles / manifest.version
    unfinished = bundles / f".{manifest.version}.{os.getpid()}"
    try:
        unfinished.mkdir(parents=True)
        for name, data in files.items():
            _write(unfinished / name, data)
        if folder.exists():  # the same content within the same second: it is there already
            manifest = read_manifest(folder)
        else:
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    make_current(bundles, manifest.version)
    return manifest


def read_ranker(bundles: Path) -> tuple[Manifest, str]:
    """Manifest and ranker of the current bundle. Raises BundleError."""
    folder = bundles / read_bytes(bundles / CURRENT).decode(errors="replace").strip()
    manifest = read_manifest(folder)
    if manifest.columns != RANKING_COLUMNS:
        raise BundleError(
            f"{folder / RANKER} must be trained on the ranking columns of this version; "
            "train a bundle anew"
        )
    return manifest, read_bytes(folder / RANKER).decode()


def make_current(bundles: Path, version: str) -> None:
    """Points servers that start from now on to a version."""
    temporary = bundles / f".{CURRENT}.{os.getpid()}"
    _write(temporary, f"{version}\n".encode())
    temporary.replace(bundles / CURRENT)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _contents(models: ItemModels, index: bytes, ranker: str) -> dict[str, bytes]:
    files = {INDEX: index, RANKER: ranker.encode()}
    for name in ARRAYS:
        buffer = io.BytesIO()
        np.save(buffer, getattr(models, name), allow_pickle=False)
        files[f"{name}.npy"] = buffer.getvalue()
    return files


def _manifest(models: ItemModels, files: dict[str, str], provenance: Provenance) -> Manifest:
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
    )
