"""The bundles of this machine, and since when its pointer names the one that it names."""

from pathlib import Path

from features.bundle_format import CURRENT, BundleError, read_pointer
from infra.bundles import list_bundles
from infra.console.observed import BundlesSeen


def bundles_in(folder: Path) -> BundlesSeen:
    """What a folder of bundles holds; one that is not there holds none. Raises OSError."""
    if not folder.is_dir():
        return BundlesSeen((), "", 0.0)
    try:
        current = read_pointer(folder, CURRENT)
        since_s = (folder / CURRENT).lstat().st_mtime
    except (BundleError, OSError):
        current, since_s = "", 0.0
    return BundlesSeen(tuple(list_bundles(folder)), current, since_s)
