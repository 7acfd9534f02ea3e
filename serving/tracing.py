"""Spans of calls: begun with the client's trace context, and told apart from those of others."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from features.position import Position
from features.tracing import Span, Tracer, traceparent_in

MAX_REMEMBERED: Final = 1_024  # events of sampled calls, for the links of slates that wait for them


class CallTraces:
    """Makes the spans of calls, and remembers of which trace an acknowledged event was."""

    def __init__(self, tracer: Tracer, max_remembered: int = MAX_REMEMBERED) -> None:
        self._tracer = tracer
        self._max_remembered = max_remembered
        self._events: OrderedDict[tuple[int, int], str] = OrderedDict()

    @contextmanager
    def call(self, method: str, context: Any, after: Any = None) -> Iterator[Span | None]:
        """The span of a call, until the end of a `with`; None where it is not sampled.

        `after`: a position that the call waits for; its event's trace is linked where it is known.
        """
        link = "" if after is None else self._events.get((after.partition, after.offset), "")
        parent = traceparent_in(context.invocation_metadata())
        span = self._tracer.start(
            method, kind="server", parent=parent, links=(link,) if link else ()
        )
        if span is None:
            yield None
            return
        try:
            yield span
        except BaseException as error:
            span.fail(type(error).__name__)
            raise
        finally:
            span.end()

    def remember(self, position: Position, span: Span) -> None:
        """The event at this position was taken in by this call."""
        self._events[position.partition, position.offset] = span.traceparent
        if len(self._events) > self._max_remembered:
            self._events.popitem(last=False)
