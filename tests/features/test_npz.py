"""The quick reader of npz says what numpy's reader says, or leaves it to that."""

import io

import numpy as np
import pytest

from features.model_snapshot import pack
from features.npz import read_npz

ARRAYS = {
    "a/weights": np.linspace(-1, 1, 12).reshape(3, 4),
    "counts": np.array([[1, -2]], np.int64),
    "one": np.array(7, np.int64),
    "none": np.zeros((0, 3), np.float32),
    "flags": np.array([True, False]),
    "words": np.array(["ann", "bob"]),
    "rows": np.zeros(2, [("x", "<f4"), ("y", "<u8", (2,))]),
}


def test_arrays_are_read_as_they_were_written():
    found = read_npz(pack(ARRAYS))
    assert found is not None
    assert sorted(found) == sorted(ARRAYS)
    for name, expected in ARRAYS.items():
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)
        assert found[name].flags.writeable


def test_files_of_another_form_are_left_to_numpy():
    compressed, fortran = io.BytesIO(), io.BytesIO()
    np.savez_compressed(compressed, x=np.zeros(100))
    np.savez(fortran, x=np.asfortranarray(np.ones((3, 2))))
    for other in (b"", b"PK", b"nonsense", compressed.getvalue(), fortran.getvalue()):
        assert read_npz(other) is None


@pytest.mark.parametrize("share", np.linspace(0.0, 0.99, 40))
def test_what_is_cut_off_or_turned_never_reads_beyond_the_file(share):
    payload = pack(ARRAYS)
    at = int(share * len(payload))
    assert read_npz(payload[:at]) is None
    turned = bytearray(payload)
    turned[at] ^= 0x81
    read_npz(bytes(turned))  # whatever it says, it neither raises nor reads elsewhere
