"""Learned state as named arrays: how parts are put together, and taken apart with checks."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from features.model_snapshot import Arrays, SnapshotError, require_finite


class Restorable(Protocol):
    """A part of learned state."""

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything that it goes on from, as plain arrays of their own."""

    def restore(self, arrays: Arrays) -> None:
        """The state of `arrays()`, bit for bit. Raises SnapshotError."""


def named(prefix: str, arrays: Arrays) -> dict[str, NDArray[np.generic]]:
    """The arrays of a part, under names of the whole.

    >>> list(named("click", {"weights": np.zeros(2)}))
    ['click.weights']
    """
    return {f"{prefix}.{name}": values for name, values in arrays.items()}


def part_of(arrays: Arrays, prefix: str) -> dict[str, NDArray[np.generic]]:
    """The arrays of a part, under its own names: the other way of `named`."""
    start = f"{prefix}."
    return {name[len(start) :]: a for name, a in arrays.items() if name.startswith(start)}


def checked(
    arrays: Mapping[str, NDArray[np.generic]],
    name: str,
    shape: tuple[int | None, ...],
    dtype: DTypeLike = np.float64,
) -> NDArray[np.generic]:
    """A copy of one's own of an array; None in `shape` stands for any length.

    Raises SnapshotError where it is missing, or of another shape or type.
    """
    if name not in arrays:
        raise SnapshotError(f"{name} must be among the arrays; it is not")
    found = arrays[name]
    if found.dtype != np.dtype(dtype):
        raise SnapshotError(f"{name} must be of {np.dtype(dtype)}; got {found.dtype}")
    if len(found.shape) != len(shape) or any(
        want not in (None, got) for want, got in zip(shape, found.shape, strict=True)
    ):
        raise SnapshotError(f"{name} must have the shape {shape}; got {found.shape}")
    return found.copy()


def array_like(arrays: Arrays, name: str, like: NDArray[Any]) -> NDArray[Any]:
    """A copy of the array of that name. Raises SnapshotError: absent, or not as `like`, or NaN."""
    found = arrays.get(name)
    if found is None:
        raise SnapshotError(f"arrays must have {name}; got {sorted(arrays)}")
    if found.shape != like.shape or found.dtype != like.dtype:
        raise SnapshotError(
            f"{name} must be {like.dtype} of shape {like.shape}; got {found.dtype} {found.shape}"
        )
    require_finite({name: found})
    return np.array(found)
