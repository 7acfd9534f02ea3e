"""`headrace doctor`: looks at every dependency and setting, and says what to do about each fault.

A check never changes anything. It ends well, with a warning, or badly; a bad one has a remedy.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from rich.markup import escape
from rich.table import Table

from features.bundle_format import CURRENT, BundleError, read_manifest, read_verified
from features.log import LogError
from features.registry import feature_version
from infra import topics
from infra.apache import (
    HOW_TO_GET_JAVA,
    HOW_TO_GET_KAFKA,
    checked_java,
    find_jars,
    installed_at,
    java_version,
)
from infra.embedded import StartError
from infra.ops.lag import flows_of, lag_of
from infra.settings import Settings

TIMEOUT_S: Final = 5.0
MIN_FREE_BYTES: Final = 2 << 30
MOST_SKEW_MS: Final = 1_000
LAG_WARN, LAG_BAD = 1_000, 10_000
EXTRAS: Final = {
    "serving": ("grpc", "faiss", "lightgbm"),
    "streams": ("bytewax", "pyarrow"),
    "models": ("river",),
    "offline": ("implicit", "scipy", "pandas"),
}


class Grade(StrEnum):
    """How a check ended."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, what was seen, and what to do if it is not good."""

    what: str
    grade: Grade
    seen: str
    remedy: str = ""


Check = Callable[[Settings], Iterator[Finding]]


def examine(settings: Settings) -> list[Finding]:
    """Every check in order; one that fails by itself is a finding too."""
    found: list[Finding] = []
    for check in CHECKS:
        try:
            found += check(settings)
        except Exception as error:
            found.append(
                Finding(check.__name__.strip("_"), Grade.BAD, repr(error), "report this line")
            )
    return found


def _packages(settings: Settings) -> Iterator[Finding]:  # noqa: ARG001
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        if missing:
            yield Finding(
                f"packages: {extra}", Grade.WARNING, f"missing: {', '.join(missing)}",
                f"pip install 'headrace[{extra}]' on machines that need it",
            )  # fmt: skip
        else:
            yield Finding(f"packages: {extra}", Grade.GOOD, "installed")


def _threads(settings: Settings) -> Iterator[Finding]:  # noqa: ARG001
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    loose = [name for name in names if os.environ.get(name) not in (None, "1")]
    if loose:
        yield Finding(
            "thread pools", Grade.WARNING, f"{', '.join(loose)} above 1",
            "set them to 1: processes share the cores",
        )  # fmt: skip


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = settings.home if settings.home.exists() else Path()
    free = shutil.disk_usage(folder).free
    is_enough = free >= MIN_FREE_BYTES
    yield Finding(
        "disk", Grade.GOOD if is_enough else Grade.BAD, f"{free / 2**30:.1f} GiB free at {folder}",
        "" if is_enough else "make room: logs, the lake and bundles are written there",
    )  # fmt: skip
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Finding("home", Grade.BAD, str(error), f"make {folder} writable (HEADRACE_HOME)")


def _broker(settings: Settings) -> Iterator[Finding]:
    config = settings.kafka.log_config()
    try:
        found = AdminClient(dict(config.common())).list_topics(timeout=TIMEOUT_S)
    except KafkaException as error:
        yield Finding(
            "broker", Grade.BAD, f"{config.bootstrap}: {error.args[0].str()}",
            "`headrace status` says whether a stack runs; else HEADRACE_KAFKA__BOOTSTRAP names it",
        )  # fmt: skip
        return
    yield Finding("broker", Grade.GOOD, f"{config.bootstrap}, cluster {found.cluster_id}")
    wanted = topics.topics(settings.kafka.prefix, settings.kafka.partitions)
    missing = [topic.name for topic in wanted if topic.name not in found.topics]
    if missing:
        yield Finding(
            "topics", Grade.BAD, f"missing: {', '.join(missing)}", "`headrace topics create`"
        )
    there = {name: len(topic.partitions) for name, topic in found.topics.items()}
    wrong = [t for t in wanted if t.name in there and there[t.name] != t.partitions]
    for topic in wrong:
        yield Finding(
            f"topic {topic.name}", Grade.BAD,
            f"{there[topic.name]} partitions instead of {topic.partitions}",
            "set HEADRACE_KAFKA__PARTITIONS to what the log has, or begin a log of another prefix",
        )  # fmt: skip
    if not missing and not wrong:
        yield Finding("topics", Grade.GOOD, f"{len(wanted)} as they should be")


def _lag(settings: Settings) -> Iterator[Finding]:
    try:
        found = lag_of(settings.kafka.log_config(), flows_of(settings))
    except (LogError, KafkaException):
        return  # said by the broker's check
    for flow in flows_of(settings):
        lags = [lag for lag in found if lag.flow == flow.name]
        known = [lag for lag in lags if not lag.is_unknown]
        if not known:
            yield Finding(
                f"flow {flow.name}", Grade.WARNING, "has never committed an offset",
                f"`headrace stream {flow.name}` runs it",
            )  # fmt: skip
            continue
        behind, seconds = sum(lag.lag for lag in known), max(lag.seconds for lag in known)
        grade = Grade.BAD if behind >= LAG_BAD else Grade.WARNING if behind >= LAG_WARN else None
        yield Finding(
            f"flow {flow.name}", grade or Grade.GOOD,
            f"{behind:,} records not committed, the oldest {seconds:.1f} s old",
            "" if grade is None else "`headrace lag` shows where; `headrace status` what runs",
        )  # fmt: skip


def _redis(settings: Settings) -> Iterator[Finding]:
    config = settings.redis
    url = settings.printable()["redis"]["url"]
    try:
        with redis.Redis.from_url(
            config.url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, **config.options
        ) as client:
            yield from _of_redis(client, url)
    except (redis.RedisError, OSError, ValueError) as error:
        yield Finding(
            "redis", Grade.BAD, f"{url}: {error}",
            "`headrace status` says whether a stack runs; else HEADRACE_REDIS__URL names it",
        )  # fmt: skip


def _of_redis(client: Any, url: str) -> Iterator[Finding]:
    began_s = time.perf_counter()
    client.ping()
    took_ms = 1_000 * (time.perf_counter() - began_s)
    seconds, micros = client.time()
    skew_ms = abs(1_000 * time.time() - (1_000 * seconds + micros / 1_000))
    yield Finding("redis", Grade.GOOD, f"{url} answers in {took_ms:.1f} ms")
    if skew_ms > MOST_SKEW_MS + took_ms:
        yield Finding(
            "clocks", Grade.BAD, f"redis and this machine are {skew_ms / 1_000:.1f} s apart",
            "synchronise them (chrony, ntpd): ages and windows are computed from both",
        )  # fmt: skip
    info = client.info("memory")
    limit, used = int(info["maxmemory"]), int(info["used_memory"])
    policy = str(info["maxmemory_policy"])
    if limit and policy != "noeviction":
        yield Finding(
            "redis memory", Grade.BAD, f"policy {policy}: rows may vanish one by one",
            "CONFIG SET maxmemory-policy noeviction; rows that vanish must be seen, not guessed",
        )  # fmt: skip
    elif limit and used > 0.9 * limit:
        yield Finding(
            "redis memory", Grade.BAD, f"{used / limit:.0%} of {limit / 2**20:,.0f} MiB",
            "raise maxmemory, or move to a larger machine: writes will be refused",
        )  # fmt: skip
    else:
        yield Finding("redis memory", Grade.GOOD, f"{used / 2**20:,.0f} MiB used")


def check_apache(settings: Settings) -> Iterator[Finding]:
    """Java and jars, where `headrace up --kafka apache` is meant to be used."""
    is_wanted = settings.apache.enabled or settings.kafka_home is not None
    if not is_wanted and not installed_at(settings.home).exists():
        seen = "not installed; `headrace up --kafka apache` alone needs it"
        yield Finding("apache kafka", Grade.GOOD, seen)
        return
    try:
        java = checked_java()
        yield Finding("java", Grade.GOOD, f"{java}, version {java_version(java)}")
    except StartError as error:
        yield Finding("java", Grade.BAD, str(error), HOW_TO_GET_JAVA)
    try:
        yield Finding("apache kafka", Grade.GOOD, f"jars in {find_jars(settings)}")
    except StartError as error:
        yield Finding("apache kafka", Grade.BAD, str(error), HOW_TO_GET_KAFKA)


def _bundle(settings: Settings) -> Iterator[Finding]:
    folder = settings.home / "bundles"
    train = "`headrace train DATASET` makes one"
    if not (folder / CURRENT).exists():
        yield Finding(
            "bundle", Grade.WARNING, f"none in {folder}: slates are charts, marked degraded", train
        )
        return
    version = (folder / CURRENT).read_text().strip()
    try:
        manifest = read_manifest(folder / version)
        read_verified(folder / version, manifest)
    except BundleError as error:
        yield Finding(
            "bundle", Grade.BAD, str(error), f"make another one current in {folder}, or {train}"
        )
        return
    if manifest.feature_version != feature_version():
        yield Finding(
            "bundle", Grade.BAD,
            f"{version} is for features {manifest.feature_version}, not {feature_version()}", train,
        )  # fmt: skip
        return
    days = (time.time() - manifest.created_at_ms / 1_000) / 86_400
    yield Finding("bundle", Grade.GOOD, f"{version}, {manifest.n_items:,} titles, {days:.1f} days")


def _exposure(settings: Settings) -> Iterator[Finding]:
    serving = settings.serving
    for name in ("tls_cert", "tls_key", "tls_client_ca"):
        path = getattr(serving, name)
        if path is not None and not path.is_file():
            yield Finding(f"serving.{name}", Grade.BAD, f"{path} is no file", "name a PEM file")
    if serving.tls_key is not None and serving.tls_key.is_file():
        mode = serving.tls_key.stat().st_mode & 0o777
        if mode & 0o077:
            yield Finding(
                "serving.tls_key", Grade.BAD, f"readable by others ({mode:o})",
                f"chmod 600 {serving.tls_key}",
            )  # fmt: skip
    if settings.metrics.host not in ("127.0.0.1", "localhost", "::1"):
        yield Finding(
            "metrics.host", Grade.WARNING, f"{settings.metrics.host}: metrics for whoever asks",
            "bind to a private interface",
        )  # fmt: skip


CHECKS: Final[tuple[Check, ...]] = (
    _packages, _threads, _disk, check_apache, _exposure, _broker, _redis, _lag, _bundle,
)  # fmt: skip


def is_well(found: list[Finding]) -> bool:
    """Whether nothing is bad; warnings are no illness."""
    return all(finding.grade != Grade.BAD for finding in found)


def as_dicts(found: list[Finding]) -> list[dict[str, str]]:
    """For scripts."""
    return [asdict(finding) for finding in found]


def table_of(found: list[Finding]) -> Table:
    """For people: what is bad first."""
    table = Table("", "what", "seen", "what to do")
    marks = {Grade.GOOD: "[green]good[/]", Grade.WARNING: "[yellow]warning[/]"}
    order = (Grade.BAD, Grade.WARNING, Grade.GOOD)
    for finding in sorted(found, key=lambda f: order.index(f.grade)):
        mark = marks.get(finding.grade, "[bold red]BAD[/]")
        table.add_row(mark, finding.what, escape(finding.seen), escape(finding.remedy))
    return table
