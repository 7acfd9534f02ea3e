"""Reads npz files as `model_snapshot.pack` writes them: whole, stored, of plain arrays.

numpy's own reader goes through zipfile and evaluates a header for each array, some 150 us of Python
an array; in a server that is time taken from answers. This one walks the entries where they lie. It
takes what it knows beyond doubt and leaves everything else to numpy's reader.
"""

import ast
import struct
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

LOCAL_HEADER: Final = struct.Struct("<4s5H3I2H")
END: Final = struct.Struct("<4s4H2IH")
ENTRY, DIRECTORY, END_OF_DIRECTORY = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
NPY: Final = b"\x93NUMPY\x01\x00"
PREAMBLE: Final = len(NPY) + 2


def read_npz(payload: bytes) -> dict[str, NDArray[np.generic]] | None:
    """The arrays, each a copy of its own; None where the file is of another form."""
    found: dict[str, NDArray[np.generic]] = {}
    at = 0
    try:
        while payload[at : at + 4] == ENTRY:
            _, _, flags, method, _, _, _, packed, size, n_name, n_extra = LOCAL_HEADER.unpack_from(
                payload, at
            )
            start = at + LOCAL_HEADER.size + n_name + n_extra
            name = payload[at + LOCAL_HEADER.size : start - n_extra].decode("ascii")
            if flags or method or packed != size or not name.endswith(".npy"):
                return None
            array = _array_in(payload, start, size)
            if array is None:
                return None
            found[name.removesuffix(".npy")] = array
            at = start + size
    except (struct.error, ValueError, SyntaxError, TypeError, KeyError):
        return None
    return found if _ends_well(payload, at, len(found)) else None


def _ends_well(payload: bytes, directory: int, n_entries: int) -> bool:
    """Whether the directory and its end follow the entries, and tell the same number of them."""
    if payload[directory : directory + 4] != DIRECTORY or len(payload) < END.size:
        return False
    signature, _, _, _, told, size, start, _ = END.unpack_from(payload, len(payload) - END.size)
    is_whole = start == directory and start + size + END.size == len(payload)
    return bool(signature == END_OF_DIRECTORY and told == n_entries and is_whole)


def _array_in(payload: bytes, start: int, size: int) -> NDArray[np.generic] | None:
    if payload[start : start + len(NPY)] != NPY or start + size > len(payload):
        return None
    (n_header,) = struct.unpack_from("<H", payload, start + len(NPY))
    begin = start + PREAMBLE + n_header
    shape, dtype = _described(payload[start + PREAMBLE : begin])
    n = int(np.prod(shape, dtype=np.int64))
    if n * dtype.itemsize != start + size - begin:
        return None
    return np.frombuffer(payload, dtype, n, begin).reshape(shape).copy()


@lru_cache(maxsize=1_024)
def _described(header: bytes) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and type that a header tells. Raises ValueError for objects and other orders."""
    told = ast.literal_eval(header.decode("latin1").strip())
    dtype = np.dtype(told["descr"])
    if told["fortran_order"] or dtype.hasobject or dtype.itemsize == 0:
        raise ValueError("not a plain array in C order")
    shape = tuple(int(length) for length in told["shape"])
    if any(length < 0 for length in shape):
        raise ValueError("a length below zero")
    return shape, dtype
