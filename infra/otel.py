"""Spans by OpenTelemetry's SDK, behind the protocols of `features.tracing`.

Spans wait in a bounded queue for a thread that sends them. Where nobody takes them they are dropped
and counted: a dead endpoint costs whoever makes spans nothing.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode
from prometheus_client import Counter

from features.tracing import Span, Value, is_traceparent
from infra.settings import TracingSettings

SPANS: Final = Counter(
    "headrace_trace_spans", "Spans by what became of them: sent, dropped", ["outcome"]
)
SEND_EVERY_MS: Final = 250
SEND_TIMEOUT_S: Final = 2.0
MAX_BATCH: Final = 512
CLOSE_MS: Final = 2_000  # for what waits at the end
LIBRARY: Final = "headrace"

log = structlog.get_logger(__name__)


class OtelTracer:
    """A Tracer. Thread-safe. Raises OSError where the file of the endpoint cannot be written."""

    def __init__(self, settings: TracingSettings, process: str) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # we count, and say so once
        exporter = CountedExporter(exporter_of(settings.endpoint))
        self._processor = BoundedProcessor(exporter, settings.max_queue)
        provider = TracerProvider(
            sampler=ParentBased(LinkedSampler(settings.sample_ratio)),
            resource=Resource.create({"service.name": f"{LIBRARY}-{process}"}),
            shutdown_on_exit=False,
        )
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer(LIBRARY)

    def start(
        self,
        name: str,
        *,
        kind: str = "internal",
        parent: str = "",
        links: Sequence[str] = (),
        start_ns: int | None = None,
        **attributes: Value,
    ) -> "OtelSpan | None":
        """See Tracer."""
        span = self._tracer.start_span(
            name,
            _below(context_of(parent) if is_traceparent(parent) else None),
            _KINDS[kind],
            attributes,
            [Link(context_of(link)) for link in links],
            start_ns,
        )
        return OtelSpan(self._tracer, span) if span.is_recording() else None

    def close(self) -> None:
        """Sends what waits, for two seconds at most."""
        self._processor.shutdown()


class OtelSpan:
    """A Span."""

    __slots__ = ("_span", "_tracer")

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def traceparent(self) -> str:
        """See Span."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def child(self, name: str, kind: str = "internal", **attributes: Value) -> Span:
        """See Span."""
        above = _below(self._span.get_span_context())
        return OtelSpan(
            self._tracer, self._tracer.start_span(name, above, _KINDS[kind], attributes)
        )

    def note(self, **attributes: Value) -> None:
        """See Span."""
        self._span.set_attributes(attributes)

    def fail(self, reason: str) -> None:
        """See Span."""
        self._span.set_attribute("error.type", reason)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        """See Span."""
        if self._span.is_recording():
            self._span.end()


_KINDS: Final = {kind.name.lower(): kind for kind in SpanKind}


def context_of(traceparent: str) -> SpanContext:
    """What a traceparent says."""
    _, trace_id, span_id, flags = traceparent.split("-")
    sampled = TraceFlags(int(flags, 16) & TraceFlags.SAMPLED)
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=sampled)


def _below(above: SpanContext | None) -> Any:
    """The SDK's context of a span under another one, or under none."""
    if above is None:
        return Context()
    return trace.set_span_in_context(trace.NonRecordingSpan(above), Context())


class LinkedSampler(Sampler):
    """Of spans without a parent those with a link to a sampled one, and a share of the others."""

    def __init__(self, ratio: float) -> None:
        self._by_chance = TraceIdRatioBased(ratio)

    def should_sample(
        self,
        parent_context: Any,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        """Whether a span is recorded."""
        if any(link.context.trace_flags.sampled for link in links or ()):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, trace_state)
        return self._by_chance.should_sample(
            parent_context, trace_id, name, kind, attributes, links
        )

    def get_description(self) -> str:
        """For people."""
        return f"Linked,{self._by_chance.get_description()}"


class BoundedProcessor(BatchSpanProcessor):
    """A queue and the thread that empties it; counts what a full one drops, ends in time."""

    def __init__(self, exporter: SpanExporter, max_queue: int) -> None:
        super().__init__(
            exporter,
            max_queue_size=max_queue,
            schedule_delay_millis=SEND_EVERY_MS,
            max_export_batch_size=min(MAX_BATCH, max_queue),
        )
        self._max_queue = max_queue

    def on_end(self, span: ReadableSpan) -> None:
        """Queues a span; a full queue drops its oldest, of which the SDK tells nobody."""
        if len(self._batch_processor._queue) >= self._max_queue:
            SPANS.labels("dropped").inc()
        super().on_end(span)

    def shutdown(self) -> None:
        """Sends what waits, within CLOSE_MS."""
        self._batch_processor.shutdown(timeout_millis=CLOSE_MS)


class CountedExporter(SpanExporter):
    """Tells Prometheus what became of spans, and the log when that changes; never raises."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._is_away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends a batch."""
        try:
            result = self._inner.export(spans)
        except Exception as error:  # tracing must not disturb what it traces
            log.warning("spans_not_sent", error=repr(error))
            result = SpanExportResult.FAILURE
        is_sent = result is SpanExportResult.SUCCESS
        SPANS.labels("sent" if is_sent else "dropped").inc(len(spans))
        if is_sent == self._is_away:
            self._is_away = not is_sent
            log.warning("spans_sent_again" if is_sent else "spans_dropped", spans=len(spans))
        return result

    def shutdown(self) -> None:
        """Lets go of file or connection."""
        self._inner.shutdown()


def exporter_of(endpoint: str) -> SpanExporter:
    """What takes spans where the setting says. Raises OSError."""
    if endpoint == "console":
        return ConsoleSpanExporter(formatter=line_of)
    if endpoint.startswith("file:"):
        return FileExporter(endpoint.removeprefix("file:"))
    path = "" if urlsplit(endpoint).path.strip("/") else "/v1/traces"
    return OTLPSpanExporter(endpoint=endpoint.rstrip("/") + path, timeout=SEND_TIMEOUT_S)


class FileExporter(SpanExporter):
    """Lines of JSON at the end of a file, a batch at once: several processes may share one."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Writes a batch."""
        os.write(self._file, "".join(map(line_of, spans)).encode())
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Closes the file."""
        os.close(self._file)


def line_of(span: ReadableSpan) -> str:
    """A span as a line of JSON."""
    found: Mapping[str, Any] = json.loads(span.to_json())
    return json.dumps(found) + "\n"
