"""A version of learned state on its way from the learner to the servers, and how it is checked.

Arrays travel in NumPy's npz format without pickled objects: reading one runs no code of whoever
wrote it.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from features.npz import read_npz
from features.registry import feature_version

MAX_PAYLOAD_BYTES = 7 << 20  # a record of the topic `models` holds 8 MiB

Arrays = Mapping[str, NDArray[np.generic]]


class SnapshotError(Exception):
    """A version that must not be used; the text says why."""


class ChecksumError(SnapshotError):
    """The payload is not what was written."""


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """Learned state as of a place in the log of learning. `arrays` is not to be written to."""

    name: str
    sequence: int  # offset in the log of learning + 1: how many records it is a function of
    arrays: Arrays
    created_at_ms: int = 0
    restored_from: int = 0
    feature_version: str = field(default_factory=feature_version)


def pack(arrays: Arrays) -> bytes:
    """The arrays as npz; equal arrays give equal bytes. Raises SnapshotError for objects."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            part = io.BytesIO()
            try:
                np.lib.format.write_array(part, np.asarray(arrays[name]), allow_pickle=False)
            except ValueError as error:
                raise SnapshotError(f"{name} must be an array of plain numbers: {error}") from error
            archive.writestr(entry, part.getvalue())
    payload = buffer.getvalue()
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise SnapshotError(
            f"a version takes at most {MAX_PAYLOAD_BYTES} bytes; got {len(payload)}"
        )
    return payload


def _require_room(payload: bytes) -> None:
    size, most = len(payload), MAX_PAYLOAD_BYTES
    if size > most:
        raise SnapshotError(f"payload must be at most {most} bytes; got {size}")


def unpack(payload: bytes, sha256: bytes) -> dict[str, NDArray[np.generic]]:
    """The arrays of a payload. Raises SnapshotError: too large, another sum, not npz, objects."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise SnapshotError(
            f"payload must be at most {MAX_PAYLOAD_BYTES} bytes; got {len(payload)}"
        )
    if hashlib.sha256(payload).digest() != sha256:
        raise ChecksumError("sha256 must be that of the payload; it is not")
    arrays = read_npz(payload)
    if arrays is not None:
        return arrays
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise SnapshotError(f"payload is not an npz of plain arrays: {error}") from error


def require_finite(arrays: Arrays) -> None:
    """Raises SnapshotError, naming the array, where a number is NaN or infinite."""
    for name, values in arrays.items():
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise SnapshotError(f"{name} must be finite; it holds NaN or infinity")
