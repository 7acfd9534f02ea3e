"""Which processes there are, and what each tells of itself."""

import http.client
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from infra.console.watch import Watch
from infra.ops.scrape import Sample
from infra.running import NotRunningError, read_addresses
from infra.settings import Settings

TIMEOUT_S: Final = 2.0
MAX_BYTES: Final = 8 << 20
CHUNK: Final = 1 << 16
MAX_TARGETS: Final = 64
READY: Final = "headrace_ready"
STARTED: Final = "process_start_time_seconds"


@dataclass(frozen=True, slots=True)
class Told:
    """What a process told on its metrics endpoint."""

    samples: tuple[Sample, ...]
    is_ready: bool
    started_at_s: float  # 0: it does not tell


class ProcessWatch(Watch[Told]):
    """Asks one process again and again."""

    def __init__(self, name: str, url: str, every_s: float, now_s: Callable[[], float]) -> None:
        super().__init__(name, lambda: ask(url), every_s, now_s)
        self.url = url


def targets_of(settings: Settings) -> dict[str, str]:
    """Endpoints by process: those of the settings, else those of the stack that runs here.

    Empty where there is neither. Reads a small file, asks nobody.
    """
    named = named_targets(settings.ops.targets)
    if named:
        return named
    try:
        found: dict[str, str] = read_addresses(settings.home)["metrics"]
    except NotRunningError:
        return {}
    return found


def kind_of(process: str) -> str:
    """Which process it is, without its number.

    >>> kind_of("serve-12"), kind_of("features")
    ('serve', 'features')
    """
    return process.rstrip("0123456789-")


def attached(settings: Settings) -> Settings:
    """The settings with broker and Redis of the stack that runs here, where they name none.

    As they are where nothing runs. Asks no process, unlike `infra.running.connected`.
    """
    try:
        addresses = read_addresses(settings.home)
    except NotRunningError:
        return settings
    agents = settings.ops.agents or addresses.get("agents") or ""
    settings = settings.model_copy(
        update={"ops": settings.ops.model_copy(update={"agents": agents})}
    )
    if settings.kafka.bootstrap:
        return settings
    kafka = settings.kafka.model_copy(update={"bootstrap": addresses["broker"]})
    redis = settings.redis.model_copy(update={"url": settings.redis.url or addresses["redis"]})
    return settings.model_copy(update={"kafka": kafka, "redis": redis})


def named_targets(text: str) -> dict[str, str]:
    """`name=url,...` as endpoints by name. Raises ValueError.

    >>> named_targets("features=http://127.0.0.1:9101/metrics")
    {'features': 'http://127.0.0.1:9101/metrics'}
    """
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, is_pair, url = part.partition("=")
        if not is_pair or urlsplit(url).scheme != "http" or not urlsplit(url).hostname:
            raise ValueError(f"ops.targets must be name=http://host:port/metrics,...; got {part!r}")
        found[name.strip()] = url.strip()
    if len(found) > MAX_TARGETS:
        raise ValueError(f"ops.targets must be at most {MAX_TARGETS}; got {len(found)}")
    return found


def ask(url: str) -> Told:
    """Everything that an endpoint tells, within TIMEOUT_S and MAX_BYTES. Raises OSError."""
    return told_in(fetched(url))


def told_in(text: str) -> Told:
    """The samples of an exposition. Raises ValueError where it is none."""
    samples = tuple(
        Sample(sample.name, dict(sample.labels), float(sample.value))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    )
    values: Mapping[str, float] = {s.name: s.value for s in samples if not s.labels}
    return Told(samples, values.get(READY, 1.0) == 1.0, values.get(STARTED, 0.0))


def fetched(url: str) -> str:
    """The body of an answer; one that trickles is given up like one that never comes."""
    parts = urlsplit(url)
    deadline_s = time.monotonic() + TIMEOUT_S
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", parts.path or "/metrics")
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise OSError(f"{url} answers {answer.status}")
        body = bytearray()
        while chunk := answer.read1(CHUNK):
            body += chunk
            if len(body) > MAX_BYTES or time.monotonic() > deadline_s:
                raise OSError(f"{url} takes more than {TIMEOUT_S:g} s or {MAX_BYTES} bytes")
    except http.client.HTTPException as error:
        raise OSError(f"{url} does not speak HTTP: {error!r}") from error
    finally:
        connection.close()
    return body.decode(errors="replace")
