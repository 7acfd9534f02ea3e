"""Turns tracing on where it is asked for; OpenTelemetry's spans are not imported before."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from features.tracing import Tracer
from infra.settings import TracingSettings


class ClosingTracer(Tracer, Protocol):
    """A tracer of a process."""

    def close(self) -> None:
        """Sends what waits, within seconds."""


def tracer_of(settings: TracingSettings, process: str) -> ClosingTracer | None:
    """The tracer of a process; None where tracing is off.

    Raises OSError where the packages of the extra `tracing`, or the file, are not there.
    """
    if not settings.endpoint:
        return None
    try:
        from infra.otel import OtelTracer  # noqa: PLC0415 (only where tracing is on)
    except ImportError as error:
        raise OSError(
            f"tracing.endpoint needs the extra tracing of the package headrace: {error}"
        ) from error
    return OtelTracer(settings, process)


@contextmanager
def tracing(settings: TracingSettings, process: str) -> Iterator[ClosingTracer | None]:
    """The same until the end of a `with`."""
    tracer = tracer_of(settings, process)
    try:
        yield tracer
    finally:
        if tracer is not None:
            tracer.close()
