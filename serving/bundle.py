"""A bundle in memory: everything that was learned, loaded whole or refused."""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
    read_manifest,
    read_pointer,
    read_verified,
)
from features.content import N_CONTENT
from features.ranking import RANKING_COLUMNS
from features.registry import feature_version
from serving.ranking.calibration import Calibration
from serving.ranking.cheap import CheapStage
from serving.ranking.fusion import RANKER_ALONE, Fusion
from serving.ranking.ranker import Ranker
from serving.retrieval.faiss_index import FaissIndex

__all__ = ["Bundle", "BundleError", "load_bundle", "load_current"]


@dataclass(frozen=True, slots=True)
class Bundle:
    """Models of titles, their index, and a ranker; never changed, swapped by reference.

    One without a ranker brings candidates but puts them in the order of the trend: that is what
    a ranker's training examples come from.
    """

    version: str
    models: ItemModels
    index: FaissIndex
    ranker: Ranker | None = None
    manifest: Manifest | None = None
    content_map: NDArray[np.float32] | None = None  # None: titles without factors stay without
    cheap: CheapStage | None = None  # None: all candidates go to the ranker
    fusion: Fusion = RANKER_ALONE
    calibration: Calibration | None = None  # None: the click model's own probabilities

    @classmethod
    def without_ranker(cls, models: ItemModels) -> "Bundle":
        """A bundle of models that were just fitted."""
        return cls("unranked", models.checked(), FaissIndex.of(models.factors))

    def with_models(self, models: ItemModels) -> "Bundle":
        """The same ranker over models that were just fitted; without a map from content."""
        index = FaissIndex.of(models.factors)
        return replace(self, models=models.checked(), index=index, content_map=None)


def load_current(bundles: Path) -> Bundle:
    """The bundle that the folder's pointer names. Raises BundleError."""
    return load_bundle(bundles / read_pointer(bundles))


def load_bundle(folder: Path) -> Bundle:
    """The bundle in a folder, every file checked. Raises BundleError, naming file and reason."""
    manifest = read_manifest(folder)
    _check_manifest(manifest)
    files = read_verified(folder, manifest)
    arrays: dict[str, Any] = {
        name: _array(files[f"{name}.npy"], folder / f"{name}.npy") for name in ARRAYS
    }
    models = ItemModels(
        **arrays,
        confidence=manifest.confidence,
        regularisation=manifest.regularisation,
        latest_year=manifest.latest_year,
    ).checked()
    if models.factors.shape != (manifest.n_items, manifest.n_factors):
        raise BundleError(
            f"{folder / 'factors.npy'} must be {manifest.n_items} x {manifest.n_factors}; "
            f"got {models.factors.shape}"
        )
    index = FaissIndex.parse(files[INDEX], str(folder / INDEX), models.factors)
    ranker = Ranker.parse(files[RANKER].decode(errors="replace"), str(folder / RANKER))
    return Bundle(
        manifest.version,
        models,
        index,
        ranker,
        manifest,
        _content_map(files, folder, models),
        _cheap(files, folder),
        Fusion.of(manifest.fusion),
        Calibration.of(manifest.calibration),
    )


def _cheap(files: dict[str, bytes], folder: Path) -> CheapStage | None:
    if CHEAP not in files:
        return None
    return CheapStage.parse(files[CHEAP].decode(errors="replace"), str(folder / CHEAP))


def _content_map(
    files: dict[str, bytes], folder: Path, models: ItemModels
) -> NDArray[np.float32] | None:
    if CONTENT_MAP not in files:
        return None
    found = _array(files[CONTENT_MAP], folder / CONTENT_MAP)
    expected = (N_CONTENT + 1, models.factors.shape[1])
    if found.dtype != np.float32 or found.shape != expected or not np.isfinite(found).all():
        raise BundleError(
            f"{folder / CONTENT_MAP} must be {expected} finite float32; "
            f"got {found.dtype} {found.shape}"
        )
    return found


def _check_manifest(manifest: Manifest) -> None:
    if manifest.columns != RANKING_COLUMNS:
        odd = sorted(set(manifest.columns) ^ set(RANKING_COLUMNS)) or ["their order"]
        raise BundleError(
            f"{MANIFEST} of {manifest.version} must name the ranking columns of this version; "
            f"see {', '.join(odd)}: train anew"
        )
    if manifest.feature_version != feature_version():
        raise BundleError(
            f"{MANIFEST} of {manifest.version} must have the feature version {feature_version()}; "
            f"got {manifest.feature_version}: train anew"
        )


def _array(data: bytes, path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise BundleError(f"{path} must be a NumPy array; {error}") from error
    array.setflags(write=False)
    return array
