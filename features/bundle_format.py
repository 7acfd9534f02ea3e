"""What a bundle is on disk: a folder of arrays and models, named and sealed by a JSON manifest.

    <bundles>/current                the version that is served, a line of text
    <bundles>/previous               the one that was so before
    <bundles>/<version>/manifest.json
                        ids.npy      (n_items,) uint64, the titles; row k of every other array
                        factors.npy  (n_items, n_factors) float32, of titles (implicit ALS)
                        neighbours.npy, weights.npy   (n_items, n_neighbours) int32 rows, float32
                        support.npy  (n_items,) float32, events behind a title
                        factors.faiss   the index over the factors
                        ranker.txt   trees, LightGBM's own text
    and, where they could be fitted:
                        content_map.npy   (N_CONTENT + 1, n_factors) float32: what a title is
                                     (`features.content`) to factors, the last row to every title's
                        cheap.txt    trees of the cheap stage, LightGBM's own text

Nothing in it is executable or pickled. The manifest has the SHA-256 of every other file.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
CURRENT: Final = "current"
PREVIOUS: Final = "previous"
MAX_VERSION_BYTES: Final = 128
ARRAYS: Final = ("ids", "factors", "neighbours", "weights", "support")
INDEX: Final = "factors.faiss"
RANKER: Final = "ranker.txt"
CONTENT_MAP: Final = "content_map.npy"
CHEAP: Final = "cheap.txt"
FILES: Final = (*(f"{name}.npy" for name in ARRAYS), INDEX, RANKER)
OPTIONAL_FILES: Final = (CONTENT_MAP, CHEAP)
OPTIONAL_FIELDS: Final = ("fusion", "calibration")  # of the manifest; older ones lack them
DTYPES: Final[Mapping[str, str]] = {
    "ids": "uint64", "factors": "float32", "neighbours": "int32", "weights": "float32",
    "support": "float32",
}  # fmt: skip
NO_NEIGHBOUR: Final = -1


class BundleError(Exception):
    """A bundle is missing or broken; the message names the file and what was expected."""


@dataclass(frozen=True, slots=True)
class ItemModels:
    """What was learned of titles, row by row; see the module for shapes."""

    ids: NDArray[np.uint64]
    factors: NDArray[np.float32]
    neighbours: NDArray[np.int32]  # rows of this table, NO_NEIGHBOUR behind the last
    weights: NDArray[np.float32]  # of the neighbours: decayed co-visits
    support: NDArray[np.float32]
    confidence: float  # of an event in ALS, beyond the 1 that every pair has
    regularisation: float
    latest_year: int  # ages of titles are counted from here

    def __len__(self) -> int:
        return len(self.ids)

    def checked(self) -> "ItemModels":
        """Itself. Raises BundleError naming the array that is not as it must be."""
        n_items = len(self.ids)
        for name in ARRAYS:
            self._check_array(name, n_items)
        if self.neighbours.shape != self.weights.shape:
            raise BundleError(
                f"weights.npy must have the shape of neighbours.npy, {self.neighbours.shape}; "
                f"got {self.weights.shape}"
            )
        if len(np.unique(self.ids)) != n_items or (self.ids == 0).any():
            raise BundleError("ids.npy must hold distinct ids, none of them zero")
        lowest, highest = _bounds(self.neighbours)
        if lowest < NO_NEIGHBOUR or highest >= n_items:
            raise BundleError(
                f"neighbours.npy must hold rows within -1..{n_items - 1}; got {lowest}..{highest}"
            )
        return self

    def _check_array(self, name: str, n_items: int) -> None:
        array: NDArray[Any] = getattr(self, name)
        n_dims = 1 if name in ("ids", "support") else 2
        if array.dtype != DTYPES[name] or array.ndim != n_dims or len(array) != n_items:
            raise BundleError(
                f"{name}.npy must be {n_dims}-dimensional {DTYPES[name]} of {n_items} rows; "
                f"got {array.dtype} {array.shape}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BundleError(f"{name}.npy must hold finite numbers; got NaN or infinity")


def _bounds(array: NDArray[np.int32]) -> tuple[int, int]:
    return (int(array.min()), int(array.max())) if array.size else (0, -1)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself."""

    version: str  # when it was made, and a hash of what is in it
    created_at_ms: int
    data_from_ms: int
    data_until_ms: int  # time of the last event that was learned from
    n_events: int
    n_items: int
    n_factors: int
    latest_year: int
    confidence: float
    regularisation: float
    feature_version: str
    columns: tuple[str, ...]  # of the ranker, in order
    files: dict[str, str]  # SHA-256 by name
    metrics: dict[str, float] = field(default_factory=dict)
    parameters: dict[str, float | int | str] = field(default_factory=dict)
    format: int = FORMAT
    fusion: dict[str, float] = field(default_factory=dict)  # see serving/ranking/fusion.py
    calibration: dict[str, list[float]] = field(default_factory=dict)  # serving/ranking/calibration

    def to_json(self) -> str:
        """The manifest as text."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """The manifest in a text. Raises BundleError."""
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise BundleError(f"{MANIFEST} must be JSON; {error}") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            got = found.get("format") if isinstance(found, dict) else type(found).__name__
            raise BundleError(f"{MANIFEST} must be of format {FORMAT}; got {got}")
        names = {f.name for f in fields(cls)}
        odd_names = (set(found) ^ names) - (set(OPTIONAL_FIELDS) - set(found))
        if odd_names:
            odd = ", ".join(sorted(odd_names))
            raise BundleError(f"{MANIFEST} must have exactly the fields of format 1; see {odd}")
        return cls(**{**found, "columns": tuple(found["columns"])})


def sha256(data: bytes) -> str:
    """Checksum of a file's content.

    >>> sha256(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(data).hexdigest()


def version_of(created_at_ms: int, files: Mapping[str, str]) -> str:
    """Name of a bundle: when it was made (UTC), and a hash of its files.

    >>> version_of(0, {"a": "1"})
    '19700101T000000-2b2c40a670'
    """
    at = datetime.fromtimestamp(created_at_ms / 1_000, UTC)
    content = ",".join(f"{name}:{files[name]}" for name in sorted(files))
    return f"{at:%Y%m%dT%H%M%S}-{sha256(content.encode())[:10]}"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle. Raises BundleError."""
    return Manifest.from_json(read_bytes(folder / MANIFEST).decode(errors="replace"))


def read_verified(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """Content of every listed file, each as its checksum says. Raises BundleError."""
    odd_names = set(manifest.files).symmetric_difference(FILES)
    odd_names -= set(OPTIONAL_FILES)
    if odd_names:
        odd = ", ".join(sorted(odd_names))
        raise BundleError(f"{MANIFEST} must list the files of a bundle; see {odd}")
    return {name: _read_verified(folder / name, digest) for name, digest in manifest.files.items()}


def _read_verified(path: Path, expected: str) -> bytes:
    data = read_bytes(path)
    found = sha256(data)
    if found != expected:
        raise BundleError(f"{path} must have the SHA-256 {expected}; got {found}")
    return data


def read_bytes(path: Path) -> bytes:
    """Content of a file. Raises BundleError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error


def read_pointer(bundles: Path, name: str = CURRENT) -> str:
    """The version that a pointer names. Raises BundleError."""
    pointer = bundles / name
    version = read_bytes(pointer)[:MAX_VERSION_BYTES].decode(errors="replace").strip()
    if not version or "/" in version or version.startswith("."):
        raise BundleError(f"{pointer} must hold the version of a bundle; got {version!r}")
    return version


def make_current(bundles: Path, version: str) -> None:
    """Points servers to a version, and `previous` to the one before. Raises OSError."""
    try:
        before = read_pointer(bundles)
    except BundleError:
        before = version
    if before != version:
        _point(bundles, PREVIOUS, before)
    _point(bundles, CURRENT, version)


def _point(bundles: Path, name: str, version: str) -> None:
    temporary = bundles / f".{name}.{os.getpid()}"
    with temporary.open("w") as file:
        file.write(f"{version}\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(bundles / name)
