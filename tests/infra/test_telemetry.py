"""The metrics endpoint of a process that follows another on the same port."""

import socket
import threading
import urllib.request

import pytest

from infra.telemetry import serve_metrics


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
