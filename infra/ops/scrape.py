"""Reads Prometheus endpoints of processes of this machine."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One number that a process tells."""

    name: str
    labels: dict[str, str]
    value: float


def samples_of(url: str) -> Iterator[Sample]:
    """Every sample of an endpoint; none where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 (loopback)
            text = answer.read().decode()
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield Sample(sample.name, dict(sample.labels), float(sample.value))
