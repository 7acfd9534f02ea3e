"""The command line for tests of the whole system."""

import os
import subprocess
import sys

import pytest


@pytest.fixture
def headrace(tmp_path):
    environment = {**os.environ, "HEADRACE_HOME": str(tmp_path), "HEADRACE_SERVING__PORT": "0"}

    def run(*words, check=True):
        return subprocess.run(
            [sys.executable, "-m", "infra.cli", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=check,
            timeout=290,
        )

    return run
