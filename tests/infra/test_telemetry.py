"""The metrics endpoint of a process that follows another on the same port."""

import socket
import threading
import urllib.request

import pytest
import structlog

from infra.telemetry import LINES_DROPPED, BoundedLines, serve_metrics


def taken_port() -> tuple[socket.socket, int]:
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    holder.listen()
    return holder, int(holder.getsockname()[1])


def test_a_port_that_a_dying_predecessor_holds_is_waited_for() -> None:
    holder, port = taken_port()
    release = threading.Timer(0.3, holder.close)
    release.start()
    assert serve_metrics("127.0.0.1", port) == port
    release.join()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b"headrace_ready" in answer.read()


def test_a_port_that_stays_taken_is_an_error_that_says_which_and_what_to_do() -> None:
    holder, port = taken_port()
    expected = rf"cannot serve metrics on 127.0.0.1:{port}: .*name another port"
    with holder, pytest.raises(OSError, match=expected):
        serve_metrics("127.0.0.1", port, wait_s=0.2)


def test_a_flood_of_one_line_leaves_few_lines_and_other_events_are_still_told() -> None:
    now_s = [0.0]
    lines = BoundedLines(burst=3, per_s=1.0, monotonic_s=lambda: now_s[0])

    def told(event: str) -> dict[str, object] | None:
        try:
            return lines(None, "", {"event": event})
        except structlog.DropEvent:
            return None

    assert [told("call_refused") is not None for _ in range(100)] == [True] * 3 + [False] * 97
    assert told("rows_lost") == {"event": "rows_lost"}
    now_s[0] = 1.0
    assert told("call_refused") == {"event": "call_refused", "dropped_before": 97}
    assert told("call_refused") is None
    dropped = LINES_DROPPED.labels("call_refused")._value.get()
    assert dropped >= 98
    assert sum(told(f"event-{k}") is not None for k in range(10_000)) < 600  # names are bounded
