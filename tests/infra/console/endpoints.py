"""Endpoints of metrics in the place of processes that a test does not need."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Gauge, start_http_server


@contextmanager
def answering() -> Iterator[str]:
    """A metrics endpoint of a process that does its work."""
    registry = CollectorRegistry()
    Gauge("headrace_ready", "it is", registry=registry).set(1)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
