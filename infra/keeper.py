"""Keeps a child process no longer than the process that wanted it.

    owner --(pipe on stdin)--> keeper --> child

The keeper starts the child in a session of its own, writes its pid to stdout and obeys the pipe:
a byte means "kill it now", the end means "stop it". The pipe also ends when the owner dies, by
`kill -9` too, because the kernel closes it. A child stops by SIGTERM and, after the grace, by
SIGKILL; both go to its whole process group.

A parent-death signal set by the owner would not do: it comes when the *thread* that forked ends,
and setting it needs code between fork and exec of a process with threads. The keeper forks while
it has one thread, so it may use that signal for its own death. It imports the standard library
alone and starts in 25 ms.

Usage: python -I -S keeper.py GRACE_S COMMAND [ARGUMENT...]
Its exit status is the child's, 128 + the signal's number where a signal ended the child, 127
where the command could not be run.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

NOT_RUN = 127
_PR_SET_PDEATHSIG = 1  # Linux: <sys/prctl.h>


def main(grace_s: float, command: list[str]) -> int:
    """Run `command` until it ends or the pipe on stdin says so; returns the exit status."""
    try:
        child = _start(command)
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error}\n")
        return NOT_RUN
    signal.signal(signal.SIGTERM, _forward_to(child))
    os.write(1, b"%d\n" % child.pid)
    threading.Thread(target=_obey_owner, args=(child.pid, grace_s), daemon=True).start()
    status = child.wait()
    _signal_group(child.pid, signal.SIGKILL)  # what the child may have left behind
    return status if status >= 0 else 128 - status


def _start(command: list[str]) -> "subprocess.Popen[bytes]":
    """The child, its output going where the keeper's errors go: into the log."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        start_new_session=True,
        preexec_fn=_die_with_keeper if sys.platform == "linux" else None,  # noqa: PLW1509 one thread
    )


def _die_with_keeper() -> None:
    """Ask the kernel to kill the calling process when its parent dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _obey_owner(group: int, grace_s: float) -> None:
    """Wait for the owner's word, then end the process group `group`.

    The main thread ends the keeper, and with it this wait, as soon as the child is gone.
    """
    killed_at_once = os.read(0, 1)
    if not killed_at_once:
        _signal_group(group, signal.SIGTERM)
        time.sleep(grace_s)
    _signal_group(group, signal.SIGKILL)


def _signal_group(group: int, signal_number: int) -> None:
    """Send a signal to a process group that may be gone already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal_number)


def _forward_to(child: "subprocess.Popen[bytes]") -> Callable[[int, FrameType | None], None]:
    """A handler that passes a signal on to the child: the keeper ends when the child does."""

    def forward(signal_number: int, _frame: FrameType | None) -> None:
        child.send_signal(signal_number)

    return forward


if __name__ == "__main__":
    # Past the interpreter's own shutdown, which would wait for the thread that reads stdin.
    os._exit(main(float(sys.argv[1]), sys.argv[2:]))
