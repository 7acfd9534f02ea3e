"""`headrace --help` answers at once: a command line imports what it needs, when it needs it."""

import json
import subprocess
import sys

SLOW = ("faiss", "faust", "grpc", "lightgbm", "numba", "numpy", "pandas", "redis", "river", "scipy")


def test_the_command_line_starts_without_what_takes_long_to_import():
    code = "import infra.cli, json, sys; print(json.dumps(sorted(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert not set(SLOW) & set(json.loads(printed))
