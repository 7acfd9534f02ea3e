"""What a process tells of itself: a line of log an event, metrics, and whether it is ready."""

import logging
import sys

import structlog
from prometheus_client import Gauge, start_http_server

READY = Gauge("headrace_ready", "1 when the process does its work, 0 while it starts or ends")


def configure_logging(process: str) -> None:
    """Structured lines on standard error: for people on a terminal, as JSON elsewhere."""
    for_people = sys.stderr.isatty()
    render: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer() if for_people else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    structlog.contextvars.bind_contextvars(process=process)


def serve_metrics(host: str, port: int) -> int:
    """Starts the Prometheus endpoint of this process; returns its port."""
    READY.set(0)
    server, _ = start_http_server(port, addr=host)
    return int(server.server_port)
