"""`headrace restart NAME`: ends a process of the stack that runs here; `up` starts it anew.

For a process that lives and does nothing, which no supervisor sees: frozen, hung, out of step. The
next one goes on where the log and Redis say.
"""

import contextlib
import time
from pathlib import Path
from typing import Any, Final

import psutil

from infra.running import NotRunningError, read_status

BROKER: Final = "broker"
IN_MEMORY: Final = "memory://"  # of the embedded broker's command line
POLL_S: Final = 0.1


class RestartError(RuntimeError):
    """A process could not be ended, or did not come back."""


def restart(
    home: Path, name: str, *, grace_s: float = 10.0, timeout_s: float = 300.0
) -> dict[str, Any]:
    """Ends `name` and waits until its successor is healthy; its entry of `headrace status`.

    SIGTERM first, SIGKILL after the grace; at once where the process is stopped and hears nothing.
    Raises RestartError, and NotRunningError where no stack runs or it has no such process.
    """
    before = _entry(home, name)
    if name == BROKER and _forgets(before["pid"]):
        raise RestartError(
            "the embedded broker forgets its log when it ends: `headrace down`, then `headrace up`"
        )
    if before["pid"] is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            _end(psutil.Process(before["pid"]), grace_s)
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        now = _entry(home, name)
        if now["healthy"] and now["pid"] != before["pid"]:
            return now
        time.sleep(POLL_S)
    raise RestartError(f"{name} was ended and is not healthy after {timeout_s:g} s: see its log")


def _entry(home: Path, name: str) -> dict[str, Any]:
    processes: dict[str, dict[str, Any]] = {p["name"]: p for p in read_status(home)["processes"]}
    if name not in processes:
        raise NotRunningError(f"NAME must be one of {', '.join(sorted(processes))}; got {name}")
    return processes[name]


def _forgets(broker: int | None) -> bool:
    """Whether the broker of this process id keeps its log in memory alone."""
    try:
        return broker is not None and IN_MEMORY in " ".join(psutil.Process(broker).cmdline())
    except psutil.NoSuchProcess:
        return False


def _end(process: psutil.Process, grace_s: float) -> None:
    hears = process.status() != psutil.STATUS_STOPPED
    if hears:
        process.terminate()
    try:
        process.wait(grace_s if hears else 0)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(grace_s)
