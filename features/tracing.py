"""Traces across processes: what whoever makes spans asks of a tracer, and W3C trace context.

A trace context goes from process to process as a `traceparent`, in a call's metadata and in a
record's headers (https://www.w3.org/TR/trace-context/). Where tracing is off there is no tracer:
who would make spans holds None and looks at nothing else.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

TRACEPARENT: Final = "traceparent"
_FORM: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_SAMPLED: Final = 1

Value = str | int | float | bool


class Span(Protocol):
    """Work of one process, from its start to `end`."""

    @property
    def traceparent(self) -> str:
        """What others name as their parent, or link to."""

    def child(self, name: str, kind: str = "internal", **attributes: Value) -> "Span":
        """A part of this work, which starts now."""

    def note(self, **attributes: Value) -> None:
        """Says more of the work."""

    def fail(self, reason: str) -> None:
        """Says that it came to nothing; not for the texts of others, which may name somebody."""

    def end(self) -> None:
        """The work is done. Once is enough, and twice does no harm."""


class Tracer(Protocol):
    """Makes spans of those traces that are sampled."""

    def start(
        self,
        name: str,
        *,
        kind: str = "internal",
        parent: str = "",
        links: Sequence[str] = (),
        start_ns: int | None = None,
        **attributes: Value,
    ) -> Span | None:
        """A span that starts now; None where the trace is not sampled.

        `parent` and `links` are traceparents. A trace goes on as sampled as its parent is; without
        one it is sampled where a link is, or by chance.
        """


def is_traceparent(text: str) -> bool:
    """Whether this is a trace context, of the version that there is.

    >>> is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    True
    >>> is_traceparent("00-" + 32 * "0" + "-00f067aa0ba902b7-01")
    False
    """
    return _FORM.fullmatch(text) is not None


def is_sampled(traceparent: str) -> bool:
    """Whether the trace of a context is sampled."""
    return bool(int(traceparent[-2:], 16) & _SAMPLED)


def traceparent_in(metadata: Iterable[tuple[str, Any]] | None) -> str:
    """The trace context among a call's metadata or a record's headers; empty where there is none.

    >>> traceparent_in([("traceparent", b"what is this")])
    ''
    """
    for name, value in metadata or ():
        if name == TRACEPARENT and value is not None and len(value) == 55:
            text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
            return text if is_traceparent(text) else ""
    return ""
