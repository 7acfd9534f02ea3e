"""Apache Kafka itself, one node in KRaft mode on loopback, supervised like the embedded servers.

Its jars lie in `$HEADRACE_KAFKA_HOME` or in `../shared/kafka` beside the repository, in a folder
`libs` or `lib`. It needs Java 17, 300 MB of memory, and 3 to 4 s for its first start.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from infra.embedded import LOOPBACK, LoopbackServer, broker_cluster_id

REPOSITORY = Path(__file__).resolve().parents[1]
CLUSTER_ID = "headraceheadraceheadr0"
JVM_OPTIONS = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def find_jars() -> Path | None:
    """The folder of Kafka's jars, None where there is none."""
    homes = [REPOSITORY.parent / "shared" / "kafka"]
    if configured := os.environ.get("HEADRACE_KAFKA_HOME"):
        homes.insert(0, Path(configured))
    folders = (home / name for home in homes for name in ("libs", "lib"))
    return next((folder for folder in folders if any(folder.glob("kafka_*.jar"))), None)


def why_not_here() -> str | None:
    """What is missing to run Apache Kafka on this machine, None where nothing is."""
    if find_jars() is None:
        return "no Apache Kafka: neither HEADRACE_KAFKA_HOME nor ../shared/kafka has its jars"
    if shutil.which("java") is None:
        return "no Java to run Apache Kafka with"
    return None


class ApacheKafka(LoopbackServer):
    """A broker that keeps its log on disk: after `restart()` the records are still there.

    `settings` override or extend the server properties below. The controller takes port + 1.
    A killed broker may register again when its old session has run out: 3 s here instead of 9.
    """

    port_count = 2

    def __init__(
        self,
        directory: Path | None = None,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        *,
        choose_port: Callable[[], int] | None = None,
        jvm_options: Sequence[str] = JVM_OPTIONS,
    ) -> None:
        super().__init__("kafka", directory, port, choose_port=choose_port, start_timeout_s=60.0)
        self._settings = dict(settings or {})
        self._jvm_options = jvm_options
        self._classpath = f"{find_jars()}/*"

    @property
    def bootstrap(self) -> str:
        """The address for `bootstrap.servers`."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def data_directory(self) -> Path:
        """Where the log lies."""
        return self.directory / "data"

    def command(self) -> list[str]:
        """Write the server properties, format the data directory once, and name the server."""
        properties = self.directory / "server.properties"
        lines = (f"{name}={value}\n" for name, value in self._properties().items())
        properties.write_text("".join(lines))
        if not (self.data_directory / "meta.properties").exists():
            self._format(properties)
        return ["java", *self._jvm_options, "-cp", self._classpath, "kafka.Kafka", str(properties)]

    def answers(self) -> bool:
        """Whether a metadata request is answered."""
        return broker_cluster_id(self.bootstrap) == CLUSTER_ID

    def _format(self, properties: Path) -> None:
        tool = ["java", "-Xmx128m", "-cp", self._classpath, "kafka.tools.StorageTool", "format"]
        arguments = ["--cluster-id", CLUSTER_ID, "--config", str(properties)]
        subprocess.run([*tool, *arguments], check=True, stdout=subprocess.DEVNULL)

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
            "log.dirs": str(self.data_directory),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            "log.cleaner.dedupe.buffer.size": "16777216",
            "broker.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "3000",
            "auto.create.topics.enable": "false",
            **self._settings,
        }
