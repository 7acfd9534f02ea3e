"""Apache Kafka itself, one node in KRaft mode on loopback, as `headrace up --kafka apache` has it.

Its jars lie in `$HEADRACE_KAFKA_HOME` or in `../shared/kafka` beside the repository, in a folder
`libs` or `lib`. It needs Java 17, 300 MB of memory, and 3 to 4 s for its first start.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from infra import apache

REPOSITORY = Path(__file__).resolve().parents[1]
CLUSTER_ID = "headraceheadraceheadr0"
JVM_OPTIONS = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def find_home() -> Path | None:
    """The folder of an Apache Kafka, None where there is none."""
    homes = [REPOSITORY.parent / "shared" / "kafka"]
    if configured := os.environ.get("HEADRACE_KAFKA_HOME"):
        homes.insert(0, Path(configured))
    return next((home for home in homes if apache.jars_in(home)), None)


def find_jars() -> Path | None:
    """The folder of Kafka's jars, None where there is none."""
    home = find_home()
    return None if home is None else apache.jars_in(home)


def why_not_here() -> str | None:
    """What is missing to run Apache Kafka on this machine, None where nothing is."""
    if find_jars() is None:
        return "no Apache Kafka: neither HEADRACE_KAFKA_HOME nor ../shared/kafka has its jars"
    if shutil.which("java") is None:
        return "no Java to run Apache Kafka with"
    return None


class ApacheKafka(apache.ApacheKafka):
    """One that begins with an empty log in its own folder, and starts as fast as it can."""

    def __init__(
        self,
        directory: Path | None = None,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        *,
        choose_port: Callable[[], int] | None = None,
        jvm_options: Sequence[str] = JVM_OPTIONS,
    ) -> None:
        super().__init__(
            find_jars() or Path("no-jars"),
            None,
            directory,
            port,
            settings,
            choose_port=choose_port,
            jvm_options=jvm_options,
            cluster_id=CLUSTER_ID,
        )
