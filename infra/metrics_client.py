"""Reads a process's Prometheus endpoint: counts, lag, and quantiles between two readings."""

import time
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

POLL_S = 0.1
IDLE_S = 0.5

BUCKET = "headrace_stream_freshness_seconds_bucket"


class Metrics:
    """The features flow as its metrics tell it."""

    def __init__(self, url: str) -> None:
        self._url = url

    def read(self) -> dict[str, float]:
        """`events`, `lag` and the cumulative freshness buckets, named `le=SECONDS`."""
        with urllib.request.urlopen(self._url, timeout=5) as answer:  # noqa: S310 (loopback)
            text = answer.read().decode()
        found = {"events": 0.0, "lag": 0.0}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "headrace_stream_events_total":
                    found["events"] += sample.value
                elif sample.name == "headrace_stream_lag":
                    found["lag"] += sample.value
                elif sample.name == BUCKET:
                    name = f"le={sample.labels['le']}"
                    found[name] = found.get(name, 0.0) + sample.value  # of several workers
        return found

    def wait_until_applied(self, events: float, timeout_s: float = 120.0) -> None:
        """Returns when the flow has dealt with `events` in all. Raises TimeoutError."""
        deadline_s = time.monotonic() + timeout_s
        while self.read()["events"] < events:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"the flow did not apply {events:,.0f} events in time")
            time.sleep(POLL_S)

    def wait_until_idle(self, timeout_s: float = 120.0) -> None:
        """Returns when the flow has no lag and had nothing to do for half a second.

        Raises TimeoutError.
        """
        deadline_s = time.monotonic() + timeout_s
        seen, since_s = -1.0, time.monotonic()
        while time.monotonic() < deadline_s:
            now = self.read()
            events = now["events"]
            if events != seen or events == 0 or now["lag"] > 0:
                seen, since_s = events, time.monotonic()
            elif time.monotonic() - since_s > IDLE_S:
                return
            time.sleep(POLL_S)
        raise TimeoutError("the flow did not catch up in time")

    @staticmethod
    def freshness_ms(quantile: float, before: dict[str, float], after: dict[str, float]) -> float:
        """Quantile of freshness between two readings, interpolated within its bucket, in ms."""
        edges = sorted((float(k[3:]), k) for k in after if k.startswith("le="))
        counts = [after[k] - before.get(k, 0.0) for _, k in edges]
        if not counts or counts[-1] == 0:
            return 0.0
        wanted = quantile * counts[-1]
        below_s, below = 0.0, 0.0
        for (edge_s, _), count in zip(edges, counts, strict=True):
            if count >= wanted:
                if edge_s == float("inf"):
                    break
                share = (wanted - below) / max(count - below, 1.0)
                return round(1_000 * (below_s + share * (edge_s - below_s)), 2)
            below_s, below = edge_s, count
        return round(1_000 * below_s, 2)
