"""What a process tells of itself: a line of log an event, metrics, and whether it is ready."""

import errno
import logging
import sys
from importlib.metadata import PackageNotFoundError, version

import structlog
from prometheus_client import Gauge, start_http_server
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

READY = Gauge("headrace_ready", "1 when the process does its work, 0 while it starts or ends")
BUILD = Gauge("headrace_build_info", "1 for the version of Headrace that runs", ["version"])

PORT_WAIT_S = 10.0  # a process that was killed may hold its port for a moment


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


def serve_metrics(host: str, port: int, *, wait_s: float = PORT_WAIT_S) -> int:
    """Starts the Prometheus endpoint of this process; returns its port.

    Waits up to `wait_s` for a predecessor that is dying to let the port go. Raises OSError, which
    names host and port, where it cannot listen.
    """
    READY.set(0)
    BUILD.labels(_version()).set(1)
    attempts = Retrying(
        retry=retry_if_exception(_is_taken),
        stop=stop_after_delay(wait_s),
        wait=wait_fixed(0.1),
        reraise=True,
    )
    try:
        server, _ = attempts(start_http_server, port, addr=host)
    except OSError as error:
        raise OSError(
            f"cannot serve metrics on {host}:{port}: {error.strerror or error}; end what listens "
            f"there, or name another port, HEADRACE_METRICS__..._PORT (0: a free one)"
        ) from error
    return int(server.server_port)


def switch_off_metrics() -> None:
    """Has every metric of this process but readiness and version count nothing.

    Call it before anything else is made.
    """
    from features import metrics as of_all  # noqa: PLC0415 (in this rare case alone)
    from serving import metrics as of_serving  # noqa: PLC0415
    from streams import metrics as of_streams  # noqa: PLC0415

    of_all.switch_off(of_all, of_serving, of_streams)


def _version() -> str:
    try:
        return version("headrace")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"


def _is_taken(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EADDRINUSE
