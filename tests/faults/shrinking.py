"""Makes a failing script shorter: leaves out what it fails without (delta debugging, bounded)."""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def shrunk(script: Sequence[T], fails: Callable[[Sequence[T]], bool], max_attempts: int) -> list[T]:
    """A part of `script`, in its order, that still fails; after at most `max_attempts` trials.

    Leaves out halves first, then quarters, down to single actions. `fails` is never asked about the
    script itself, which is known to fail.

    >>> shrunk(range(100), lambda part: {7, 61} <= set(part), 60)
    [7, 61]
    """
    left = list(script)
    chunk = max(len(left) // 2, 1)
    attempts = 0
    while attempts < max_attempts:
        length, start = len(left), 0
        while start < len(left) and len(left) > 1 and attempts < max_attempts:
            without = left[:start] + left[start + chunk :]
            attempts += 1
            if without and fails(without):
                left = without
            else:
                start += chunk
        if chunk == 1 and len(left) == length:
            break
        chunk = max(chunk // 2, 1)
    return left


def as_python(script: Sequence[object]) -> str:
    """The script as the body of a test, to be pasted."""
    lines = [f"        {action!r}," for action in script]
    return "\n".join(["    run_script(make_world, [", *lines, "    ])"])
