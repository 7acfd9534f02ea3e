"""Settings, composition, entry points and embedded servers.

Two cores are shared by broker, store, flow, server and callers: every process of ours takes one
thread for its numbers. That must be said before NumPy is loaded, so it is said here.
"""

import os

SINGLE_THREADED = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}

for _name, _value in SINGLE_THREADED.items():
    os.environ.setdefault(_name, _value)
