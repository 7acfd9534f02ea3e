"""How hot functions are compiled: numba, cached on disk, without loop vectorisation.

Rows are short: measured, vectorised loops over a dozen counters ran no faster and took LLVM 37 s
instead of 6 s to compile. `NUMBA_DISABLE_JIT=1` runs the same functions as plain Python.

numba looks for changes in a function's own file alone and would keep running an old copy of what
it calls from another file. So the cache lies in a folder named by a hash of all compiled sources.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

Row: TypeAlias = Any  # one record of a structured array, or one group nested in it
Rows: TypeAlias = Any  # a structured array

PACKAGES = ("features", "online_models", "serving", "offline")  # that hold compiled functions


def source_hash(root: Path) -> str:
    """Changes whenever any source file of PACKAGES below `root` does."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _cache_folder() -> Path:
    """Beside the sources, or in the user's temporary files where those cannot be written to."""
    root = Path(__file__).resolve().parent.parent
    named = os.environ.get("NUMBA_CACHE_DIR")
    folder = Path(named) if named else Path(__file__).resolve().parent / "__pycache__"
    if not named and not os.access(folder.parent, os.W_OK):
        folder = Path(tempfile.gettempdir()) / f"headrace-{os.getuid()}"
    return folder / f"compiled-{source_hash(root)}"


_ALL: list[Any] = []  # functions of this process, by numba

numba.config.LOOP_VECTORIZE = 0
numba.config.CACHE_DIR = str(_cache_folder())


def compiled(function: F) -> F:
    """Compiles `function` at its first call; later processes load it from the cache."""
    return _kept(numba.njit(cache=True, error_model="numpy")(function), function)


def unlocked(function: F) -> F:
    """As `compiled`, and other threads of the process run meanwhile.

    For what takes milliseconds over arrays that no other thread touches.
    """
    return _kept(numba.njit(cache=True, error_model="numpy", nogil=True)(function), function)


def vectorised(signature: str) -> Callable[[F], F]:
    """Compiles a function at once, for one signature, with loop vectorisation.

    For the few loops that run over hundreds of plain numbers: there it is worth ten times, where a
    row's short loops gain nothing.
    """

    def decorate(function: F) -> F:
        numba.config.LOOP_VECTORIZE = 1
        try:
            by_numba = numba.njit(signature, cache=True, error_model="numpy")(function)
        finally:
            numba.config.LOOP_VECTORIZE = 0
        return _kept(by_numba, function)

    return decorate


def n_compiled() -> int:
    """How many functions have been compiled, or loaded from the cache, one for each signature.

    It grows at a first use alone, and whoever used it then has waited. O(functions).
    """
    return sum(len(getattr(function, "signatures", ())) for function in _ALL)


def _kept(by_numba: Any, function: F) -> F:  # noqa: ARG001 (for its type)
    _ALL.append(by_numba)
    return cast("F", by_numba)
