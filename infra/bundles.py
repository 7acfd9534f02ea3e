"""Bundles on this machine: listed, made current, gone back from. Servers notice within a second."""

from dataclasses import dataclass
from pathlib import Path

from features.bundle_format import (
    CURRENT,
    MANIFEST,
    PREVIOUS,
    BundleError,
    make_current,
    read_manifest,
    read_pointer,
)


@dataclass(frozen=True, slots=True)
class BundleRow:
    """One bundle as `headrace bundles list` shows it."""

    version: str
    created_at_ms: int
    n_items: int
    bytes: int
    is_current: bool
    is_previous: bool
    problem: str


def list_bundles(bundles: Path) -> list[BundleRow]:
    """All bundles of a folder, the newest first; of broken ones, what is wrong with their manifest.

    Files are not read: `promote` checks all of them.
    """
    current, previous = _pointed(bundles, CURRENT), _pointed(bundles, PREVIOUS)
    folders = [path for path in bundles.glob("*/") if not path.name.startswith(".")]
    rows = [_row(folder, current, previous) for folder in folders]
    return sorted(rows, key=lambda row: (row.created_at_ms, row.version), reverse=True)


def promote(bundles: Path, version: str) -> None:
    """Makes a bundle current, after every file of it was checked. Raises BundleError."""
    from serving.bundle import load_bundle  # noqa: PLC0415 (what it needs takes a second to import)

    if "/" in version or version.startswith(".") or not (bundles / version / MANIFEST).is_file():
        raise BundleError(f"{bundles} has no bundle {version!r}; `headrace bundles list` shows all")
    load_bundle(bundles / version)
    make_current(bundles, version)


def roll_back(bundles: Path) -> str:
    """Makes the bundle current that was so before; returns its version. Raises BundleError.

    Twice in a row leads back to where it began.
    """
    version = _pointed(bundles, PREVIOUS)
    if not version:
        raise BundleError(f"{bundles} has had one bundle alone: there is none to go back to")
    promote(bundles, version)
    return version


def _pointed(bundles: Path, name: str) -> str:
    try:
        return read_pointer(bundles, name)
    except BundleError:
        return ""


def _row(folder: Path, current: str, previous: str) -> BundleRow:
    problem, created_at_ms, n_items = "", 0, 0
    try:
        manifest = read_manifest(folder)
        created_at_ms, n_items = manifest.created_at_ms, manifest.n_items
    except BundleError as error:
        problem = str(error)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    is_current, is_previous = folder.name == current, folder.name == previous
    return BundleRow(folder.name, created_at_ms, n_items, size, is_current, is_previous, problem)
