"""A broker and a Redis whose data outlives them: `headrace up --kafka apache`.

    ApacheKafka      one node of Apache Kafka in KRaft mode, broker and controller in one
    DurableRedis     Redis with an append-only file

Both are supervised children on loopback, like the embedded servers, and both may be killed at any
moment. **Kafka has on disk what it has acknowledged** (`flush_every` 1). Redis may lose the last
`REDIS_MAY_LOSE_S` of what it has acknowledged; the flow commits no offset before its rows are older
than that (`lasting`), so whatever rows are lost, the log is read again from before them. The file
keeps the order of writes, titles before viewers, so a shorter one is a moment that once was.

Kafka's jars come from `headrace kafka install` or from `HEADRACE_KAFKA_HOME`.
"""

import base64
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from infra.embedded import (
    LOOPBACK,
    EmbeddedRedis,
    LoopbackServer,
    StartError,
    are_free,
    broker_cluster_id,
    free_port,
)
from infra.kafka_jars import KAFKA_VERSION
from infra.settings import Settings

MIN_JAVA: Final = 17
JAVA_TIMEOUT_S: Final = 30.0
START_TIMEOUT_S: Final = 300.0  # after a crash the log's newest segments are read again
STOP_GRACE_S: Final = 30.0
# `everysec` lets a write wait for the sync before it, for at most 2 s (aof.c, AOF_WRITE_POSTPONED):
# until then it is in the memory of Redis alone. A failure of power may cost a second and two syncs:
# an epoch of 3 s allows for a disk that takes up to a second for each.
REDIS_MAY_LOSE_S: Final = 2.0
EPOCH_S: Final = 3.0
OFFSETS_KEPT_MIN: Final = 28 * 24 * 60  # twice as long as the log keeps events

HOW_TO_GET_JAVA: Final = (
    f"install a Java runtime, version {MIN_JAVA} or newer (Debian, Ubuntu: apt install "
    "openjdk-17-jre-headless; Fedora: dnf install java-21-openjdk-headless; macOS: brew install "
    "openjdk@21), or set JAVA_HOME"
)
HOW_TO_GET_KAFKA: Final = (
    "`headrace kafka install` fetches Apache Kafka, or HEADRACE_KAFKA_HOME names the folder of one"
)

_VERSION = re.compile(r'version "(\d+)(?:\.(\d+))?')
_CLUSTER_ID = re.compile(r"^cluster\.id=(.+)$", re.MULTILINE)


def find_java() -> str | None:
    """The `java` of JAVA_HOME, else of the path; None where there is none."""
    home = os.environ.get("JAVA_HOME")
    if home and (found := shutil.which("java", path=Path(home) / "bin")):
        return found
    return shutil.which("java")


def java_version(java: str) -> int | None:
    """The major version that a `java` says it has; None where it says none.

    >>> java_version("no-such-java")
    """
    try:
        said = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=JAVA_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return version_in(said.stderr + said.stdout)


def version_in(text: str) -> int | None:
    """The major version in what `java -version` prints.

    >>> version_in('openjdk version "17.0.15" 2025-04-15'), version_in('java version "1.8.0_202"')
    (17, 8)
    >>> version_in("command not found")
    """
    found = _VERSION.search(text)
    if found is None:
        return None
    major, minor = int(found[1]), int(found[2] or 0)
    return minor if major == 1 else major


def checked_java() -> str:
    """A `java` that can run Apache Kafka. Raises StartError, which says what to install."""
    java = find_java()
    if java is None:
        raise StartError(f"Apache Kafka needs Java, and there is none here: {HOW_TO_GET_JAVA}")
    version = java_version(java)
    if version is None or version < MIN_JAVA:
        seen = "says no version" if version is None else f"is Java {version}"
        raise StartError(
            f"Apache Kafka needs Java {MIN_JAVA} or newer; {java} {seen}: {HOW_TO_GET_JAVA}"
        )
    return java


def installed_at(home: Path) -> Path:
    """Where `headrace kafka install` puts Apache Kafka under the home folder."""
    return home / "kafka" / f"kafka-{KAFKA_VERSION}"


def jars_in(folder: Path) -> Path | None:
    """The folder of the jars in an Apache Kafka, `libs` or `lib`; None where there is none."""
    folders = (folder / name for name in ("libs", "lib"))
    return next((found for found in folders if any(found.glob("kafka_*.jar"))), None)


def find_jars(settings: Settings) -> Path:
    """The folder of Kafka's jars. Raises StartError, which says how to get them."""
    if settings.kafka_home is not None:
        found = jars_in(settings.kafka_home)
        if found is None:
            raise StartError(
                "HEADRACE_KAFKA_HOME must name a folder with Kafka's jars in libs or lib; "
                f"got {settings.kafka_home}"
            )
        return found
    found = jars_in(installed_at(settings.home))
    if found is None:
        raise StartError(f"there is no Apache Kafka in {settings.home}: {HOW_TO_GET_KAFKA}")
    return found


def lasting(settings: Settings) -> Settings:
    """The settings of a stack whose Redis may lose its last writes: the log has them again."""
    stream, redis = settings.stream, settings.redis
    if redis.url:  # somebody else's, with settings for it
        return settings
    epoch_s = max(stream.epoch_s, EPOCH_S)
    may_lose_s = max(redis.may_lose_s, REDIS_MAY_LOSE_S)
    return settings.model_copy(
        update={
            "stream": stream.model_copy(update={"epoch_s": max(epoch_s, may_lose_s + 1.0)}),
            "redis": redis.model_copy(update={"may_lose_s": may_lose_s}),
        }
    )


def apache_kafka(settings: Settings, logs: Path) -> "ApacheKafka":
    """The node of `headrace up`, its data in HOME/data/kafka. Raises StartError."""
    apache = settings.apache
    options = ("-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true")
    return ApacheKafka(
        find_jars(settings),
        _private(settings.home / "data" / "kafka"),
        logs,
        apache.port,
        {"log.flush.interval.messages": str(apache.flush_every)} if apache.flush_every else {},
        jvm_options=(f"-Xmx{apache.heap_mib}m", *options),
        java=checked_java(),
    )


def durable_redis(settings: Settings, logs: Path) -> "DurableRedis":
    """The Redis of `headrace up --kafka apache`, its data in HOME/data/redis."""
    data = _private(settings.home / "data" / "redis")
    return DurableRedis(data, logs, settings.apache.redis_port)


def _private(folder: Path) -> Path:
    """The folder, for this user alone; nothing in it is protected otherwise."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


class ApacheKafka(LoopbackServer):
    """One node of Apache Kafka, broker and controller; the controller takes `port` + 1.

    The log lies in `data`/log, the port is kept in `data`/port. `settings` override or extend the
    server's properties. A killed broker may register again when its old session has run out: 3 s.
    """

    port_count = 2

    def __init__(
        self,
        jars: Path,
        data: Path | None = None,
        directory: Path | None = None,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        *,
        choose_port: Callable[[], int] | None = None,
        jvm_options: Sequence[str] = ("-Xmx512m",),
        java: str = "java",
        cluster_id: str = "",
    ) -> None:
        if choose_port is None and data is not None:
            choose_port = partial(port_kept_in, data, self.port_count)
        super().__init__(
            "broker",
            directory,
            port,
            choose_port=choose_port,
            start_timeout_s=START_TIMEOUT_S,
            stop_grace_s=STOP_GRACE_S,
        )
        self._data = data
        self._settings = dict(settings or {})
        self._jvm_options = jvm_options
        self._java = java
        self._classpath = f"{jars}/*"
        self._new_cluster_id = cluster_id or new_cluster_id()

    @property
    def bootstrap(self) -> str:
        """The address for `bootstrap.servers`."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def data(self) -> Path:
        """Where log and port are kept."""
        return self._data or self.directory / "data"

    @property
    def cluster_id(self) -> str:
        """The id that the log was given when it began; empty where there is no log yet."""
        try:
            found = _CLUSTER_ID.search((self._log / "meta.properties").read_text())
        except FileNotFoundError:
            return ""
        return "" if found is None else found[1].strip()

    def command(self) -> list[str]:
        """Writes the server's properties, makes the log once, and names the server."""
        if not self.cluster_id:
            self._make_log()
        properties = self._write_properties("server.properties", self._log)
        logging = [
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss",
        ]
        command = [self._java, *self._jvm_options, *logging, "-cp", self._classpath]
        return [*command, "kafka.Kafka", str(properties)]

    def answers(self) -> bool:
        """Whether a metadata request is answered, by the broker of this log; notes the port."""
        if broker_cluster_id(self.bootstrap) != self.cluster_id:
            return False
        (self.data / "port").write_text(f"{self.port}\n")
        return True

    @property
    def _log(self) -> Path:
        return self.data / "log"

    def _make_log(self) -> None:
        """Formats a folder aside, which becomes the log as a whole. Raises StartError."""
        aside = self.data / "log.new"
        shutil.rmtree(aside, ignore_errors=True)
        self.data.mkdir(parents=True, exist_ok=True)
        properties = self._write_properties("format.properties", aside)
        tool = [self._java, "-Xmx128m", "-cp", self._classpath, "kafka.tools.StorageTool"]
        words = ["format", "--cluster-id", self._new_cluster_id, "--config", str(properties)]
        done = subprocess.run([*tool, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise StartError(f"Kafka's log cannot be made in {aside}:\n{done.stdout}{done.stderr}")
        aside.rename(self._log)

    def _write_properties(self, name: str, log: Path) -> Path:
        path = self.directory / name
        found = {**self._properties(), "log.dirs": str(log.resolve()), **self._settings}
        path.write_text("".join(f"{name}={value}\n" for name, value in found.items()))
        return path

    def _properties(self) -> dict[str, str]:
        controller = f"{LOOPBACK}:{self.port + 1}"
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "offsets.retention.minutes": str(OFFSETS_KEPT_MIN),
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            "log.cleaner.dedupe.buffer.size": "16777216",
            "broker.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "3000",
            "auto.create.topics.enable": "false",
        }


class DurableRedis(EmbeddedRedis):
    """A Redis that keeps its rows: synced to disk once a second, and never an evicted key."""

    def __init__(self, data: Path, directory: Path | None = None, port: int = 0) -> None:
        super().__init__(directory, port, choose_port=partial(port_kept_in, data, 1))
        self._start_timeout_s = START_TIMEOUT_S  # it reads the file first
        self._stop_grace_s = STOP_GRACE_S
        self.data = data

    def options(self) -> dict[str, str]:
        """The settings of the embedded one, but for what is kept, and where."""
        kept = {"appendonly": "yes", "appendfsync": "everysec", "dir": str(self.data.resolve())}
        return {**super().options(), **kept}

    def answers(self) -> bool:
        """Whether PING is answered, by the process that was started; notes the port."""
        if not super().answers():
            return False
        (self.data / "port").write_text(f"{self.port}\n")
        return True


def new_cluster_id() -> str:
    """An id as Kafka makes them: 22 letters, digits and `_`."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")


def port_kept_in(data: Path, count: int) -> int:
    """The port that a server had the last time, if it and its neighbours are free; another else."""
    try:
        port = int((data / "port").read_text())
    except (OSError, ValueError):
        return free_port(count)
    return port if 0 < port < 65_536 - count and are_free(port, count) else free_port(count)
