"""How learners take their state back from named arrays, or say what is wrong with them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.model_snapshot import Arrays, SnapshotError


def array_like(arrays: Arrays, name: str, like: NDArray[Any]) -> NDArray[Any]:
    """A copy of the array of that name. Raises SnapshotError: absent, or not as `like`."""
    found = arrays.get(name)
    if found is None:
        raise SnapshotError(f"arrays must have {name}; got {sorted(arrays)}")
    if found.shape != like.shape or found.dtype != like.dtype:
        raise SnapshotError(
            f"{name} must be {like.dtype} of shape {like.shape}; got {found.dtype} {found.shape}"
        )
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise SnapshotError(f"{name} must be finite; it holds NaN or infinity")
    return np.array(found)
