"""Is the process of this machine ready? For probes and health checks: it starts in no time.

    python -m infra.ready [PORT...]

Asks the metrics endpoints on loopback, by default those that HEADRACE_METRICS__..._PORT name, as
every container of ours has one, and ends with 0 when all say `headrace_ready 1`, else with 1 and
the reason. It imports the standard library alone.
"""

import os
import sys
import urllib.request
from collections.abc import Mapping, Sequence

TIMEOUT_S = 2.0
PREFIX, SUFFIX = "HEADRACE_METRICS__", "_PORT"


def ports_of(arguments: Sequence[str], environment: Mapping[str, str]) -> list[int]:
    """The ports to ask.

    >>> ports_of([], {"HEADRACE_METRICS__SERVE_PORT": "9402", "HEADRACE_METRICS__HOST": "0.0.0.0"})
    [9402]
    """
    named = [v for k, v in environment.items() if k.startswith(PREFIX) and k.endswith(SUFFIX)]
    return [int(port) for port in arguments or named]


def problem_at(port: int) -> str | None:
    """Why a process is not ready; None when it is."""
    try:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            is_ready = b"headrace_ready 1.0" in answer.read()
    except OSError as error:
        return f"port {port} of this machine does not answer: {error}"
    return None if is_ready else f"the process with metrics on port {port} is not ready"


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """0 when all are ready; else 1, and the reasons on standard error."""
    ports = ports_of(arguments, environment)
    problems = [problem for port in ports if (problem := problem_at(port))]
    if not ports:
        problems = [f"name a port, or set {PREFIX}...{SUFFIX}"]
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
