"""How hot functions are compiled: numba, cached on disk, without loop vectorisation.

Rows are short: measured, vectorised loops over a dozen counters ran no faster and took LLVM 37 s
instead of 6 s to compile. `NUMBA_DISABLE_JIT=1` runs the same functions as plain Python.
"""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

Row: TypeAlias = Any  # one record of a structured array, or one group nested in it
Rows: TypeAlias = Any  # a structured array

numba.config.LOOP_VECTORIZE = 0


def compiled(function: F) -> F:
    """Compiles `function` at its first call; later processes load it from the cache."""
    return cast("F", numba.njit(cache=True, error_model="numpy")(function))
