"""What a process tells of itself: a line of log an event, metrics, and whether it is ready."""

import errno
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import structlog
from prometheus_client import Counter, Gauge, start_http_server
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

READY = Gauge("headrace_ready", "1 when the process does its work, 0 while it starts or ends")
BUILD = Gauge("headrace_build_info", "1 for the version of Headrace that runs", ["version"])

LINES_DROPPED = Counter(
    "headrace_log_lines_dropped", "Lines of log that were too many, by what they tell", ["event"]
)

LINES_AT_ONCE: Final = 20  # of an event
LINES_A_SECOND: Final = 2.0  # of an event, after that
MAX_EVENTS: Final = 256  # that are told apart; further ones share one allowance
PORT_WAIT_S = 10.0  # a process that was killed may hold its port for a moment


@dataclass(slots=True)
class _Allowance:
    """Lines that an event may still have, as a token bucket, and how many were dropped."""

    tokens: float
    at_s: float
    dropped: int = 0


class BoundedLines:
    """A structlog processor: however often an event is logged, few lines of it are written.

    The next line that is written says in `dropped_before` how many were not. Thread-safe.
    """

    def __init__(
        self,
        burst: int = LINES_AT_ONCE,
        per_s: float = LINES_A_SECOND,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst = burst
        self._per_s = per_s
        self._monotonic_s = monotonic_s
        self._allowances: dict[str, _Allowance] = {}
        self._lock = threading.Lock()

    def __call__(
        self,
        _: structlog.types.WrappedLogger,
        __: str,
        fields: structlog.types.EventDict,
    ) -> structlog.types.EventDict:
        """The line as it came, or DropEvent."""
        event = str(fields.get("event"))
        with self._lock:
            if event not in self._allowances and len(self._allowances) >= MAX_EVENTS:
                event = "(other)"
            dropped = self._dropped_before(event)
        if dropped is None:
            LINES_DROPPED.labels(event).inc()
            raise structlog.DropEvent
        if dropped:
            fields["dropped_before"] = dropped
        return fields

    def _dropped_before(self, event: str) -> int | None:
        """How many lines were dropped since the last one; None where this one is, too."""
        now_s = self._monotonic_s()
        allowance = self._allowances.setdefault(event, _Allowance(self._burst, now_s))
        refilled = allowance.tokens + self._per_s * (now_s - allowance.at_s)
        allowance.tokens, allowance.at_s = min(refilled, self._burst), now_s
        if allowance.tokens < 1:
            allowance.dropped += 1
            return None
        allowance.tokens -= 1
        dropped, allowance.dropped = allowance.dropped, 0
        return dropped


def configure_logging(process: str) -> None:
    """Structured lines on standard error: for people on a terminal, as JSON elsewhere."""
    for_people = sys.stderr.isatty()
    render: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer() if for_people else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            BoundedLines(),  # first: a line that is dropped costs little
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
