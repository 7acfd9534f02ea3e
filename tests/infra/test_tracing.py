"""Tracing is off until asked for, samples what it is told to, and disturbs nobody."""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from features.decode import Decoded
from features.events import EVENT
from features.store import USERS
from features.tracing import traceparent_in
from features.user_row import new_row
from infra.otel import SPANS, OtelTracer
from infra.settings import TracingSettings
from streams.tracing import MAX_A_BATCH, PATIENCE_S, FlowTraces

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = f"00-{TRACE}-00f067aa0ba902b7-01"
UNSAMPLED = f"00-{TRACE}-00f067aa0ba902b7-00"


class Logged:
    """A record of the log as its client gives it."""

    def __init__(self, offset: int, traceparent: str | None) -> None:
        self._offset = offset
        self._headers = [] if traceparent is None else [("traceparent", traceparent.encode())]

    def headers(self) -> list[tuple[str, bytes]]:
        return self._headers

    def topic(self) -> str:
        return "interactions"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset


@dataclass
class Sent:
    """Rows on their way to Redis."""

    rows: Any
    table: Any = USERS


@pytest.fixture
def tracer(tmp_path):
    return OtelTracer(TracingSettings(endpoint=f"file:{tmp_path / 'spans'}", sample_ratio=0), "x")


def written(tracer, tmp_path):
    """All spans, once the tracer is closed."""
    tracer.close()
    return [json.loads(line) for line in (tmp_path / "spans").read_text().splitlines()]


def sent_and_dropped():
    return tuple(SPANS.labels(outcome)._value.get() for outcome in ("sent", "dropped"))


def test_nothing_of_the_library_is_imported_while_tracing_is_off():
    program = """
import sys
import infra.tracing
from infra.settings import Settings
assert infra.tracing.tracer_of(Settings().tracing, "x") is None
spans = ("infra.otel", "opentelemetry.sdk.trace.export", "opentelemetry.exporter")
assert not [name for name in spans if name in sys.modules]
"""  # redis-py imports the metrics of the same library by itself, where it finds them
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_traces_go_on_as_sampled_as_they_came_and_links_to_sampled_ones_count(tracer, tmp_path):
    assert tracer.start("by chance") is None  # the ratio is 0
    assert tracer.start("below", parent=UNSAMPLED) is None
    assert tracer.start("beside", links=(UNSAMPLED,)) is None
    assert tracer.start("broken parent", parent="00-nonsense") is None
    below = tracer.start("below", parent=SAMPLED, kind="server")
    beside = tracer.start("beside", links=(SAMPLED,))
    child = below.child("part")
    child.fail("too late")
    for span in (child, below, beside, below):
        span.end()
    assert traceparent_in([("traceparent", below.traceparent.encode())]) == below.traceparent
    spans = {span["name"]: span for span in written(tracer, tmp_path)}
    assert set(spans) == {"part", "below", "beside"}
    assert spans["below"]["context"]["trace_id"] == f"0x{TRACE}"
    assert spans["part"]["parent_id"] == spans["below"]["context"]["span_id"]
    assert spans["part"]["status"]["status_code"] == "ERROR"
    assert spans["beside"]["context"]["trace_id"] != f"0x{TRACE}"


def test_an_endpoint_that_is_away_costs_spans_which_are_counted_and_nothing_else():
    settings = TracingSettings(endpoint="http://127.0.0.1:9", sample_ratio=1, max_queue=16)
    before = sent_and_dropped()
    tracer = OtelTracer(settings, "x")
    for _ in range(500):
        tracer.start("lost").end()
    tracer.close()
    sent, dropped = np.subtract(sent_and_dropped(), before)
    assert sent == 0
    assert 484 <= dropped <= 500  # what waits at the very end may be left where it is


def events_at(*offsets):
    events = np.zeros(len(offsets), EVENT)
    events["offset"], events["user"] = offsets, np.arange(7, 7 + len(offsets))
    return events


def row_of(user, offset):
    row = new_row()
    row["id"], row["partition"], row["offset"] = user, 0, offset
    return Sent(row)


def test_an_event_is_applied_when_a_row_that_includes_it_is_sent_and_written_when_it_can_be_read(
    tracer, tmp_path
):
    flow = FlowTraces(tracer)
    records = [Logged(3, SAMPLED), Logged(4, None), Logged(5, UNSAMPLED), Logged(6, "nonsense")]
    flow.read(records, Decoded(events_at(3, 4, 5, 6)), start_ns=1)
    flow.writing([row_of(7, 2), row_of(8, 9)])  # an older row of the viewer, another viewer's
    flow.written()
    flow.writing([row_of(7, 3)])
    flow.written()
    spans = {span["name"]: span for span in written(tracer, tmp_path)}
    assert set(spans) == {"features batch", "features apply", "redis write"}
    apply = spans["features apply"]
    assert (apply["attributes"]["offset"], apply["attributes"]["partition"]) == (3, 0)
    assert apply["links"][0]["context"]["span_id"] == spans["features batch"]["context"]["span_id"]
    assert spans["features batch"]["attributes"]["records"] == 4
    assert spans["redis write"]["parent_id"] == apply["context"]["span_id"]


def test_events_that_change_no_row_and_floods_of_traced_ones_leave_nothing_behind(tracer, tmp_path):
    now_s = [0.0]
    flow = FlowTraces(tracer, lambda: now_s[0])
    dead = Logged(99, SAMPLED)
    flood = [dead, *(Logged(k, SAMPLED) for k in range(500))]
    for _ in range(10):
        flow.read(flood, Decoded(events_at(*range(500))), start_ns=1)
    now_s[0] = PATIENCE_S + 1
    flow.read([], Decoded(events_at()), start_ns=1)
    spans = written(tracer, tmp_path)
    applied = [span for span in spans if span["name"] == "features apply"]
    assert len(applied) == 10 * MAX_A_BATCH
    reasons = {span["attributes"].get("error.type", "none") for span in applied}
    assert reasons == {"too many are traced", "none"}
    batches = [span for span in spans if span["name"] == "features batch"]
    assert [span["attributes"]["traced"] for span in batches] == [501] * 10
