"""`headrace kafka install`: the published jars of Apache Kafka, checked, in place as a whole."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
from rich.progress import Progress
from tenacity.wait import wait_base

from infra.apache import installed_at
from infra.kafka_jars import JARS, KAFKA_VERSION, Jar
from offline.download import BACKOFF, TIMEOUT, DownloadError, RemoteFile, get

MAVEN_CENTRAL: Final = "https://repo1.maven.org/maven2"


def install(
    home: Path,
    progress: Progress,
    *,
    to: Path | None = None,
    source: str = MAVEN_CENTRAL,
    jars: Sequence[Jar] = JARS,
    backoff: wait_base = BACKOFF,
) -> Path:
    """Puts Apache Kafka into `to`, by default the place where `headrace up` looks; returns it.

    `source` is the address of a Maven repository, or a folder with the jars, flat or laid out like
    one. What was received before an interruption is kept beside the target; the folder appears
    when every jar is there with the checksum that stands in `infra/kafka_jars.py`. An installation
    that is there is checked again. Raises DownloadError, ChecksumError.
    """
    target = (to or installed_at(home)).resolve()
    folder = target if (target / "lib").is_dir() else target.with_name(f"{target.name}.part")
    (folder / "lib").mkdir(parents=True, exist_ok=True)
    task = progress.add_task(f"Apache Kafka {KAFKA_VERSION}", total=sum(jar.size for jar in jars))
    is_remote = urlsplit(source).scheme in ("http", "https")
    with httpx.Client(timeout=TIMEOUT, follow_redirects=True) as client:
        for jar in jars:
            if not is_remote:
                _copy(jar, Path(source.removeprefix("file://")), folder / "lib")
            wanted = RemoteFile(
                f"{source.rstrip('/')}/{jar.folder}/", jar.name, jar.size, jar.sha256
            )
            sources = {jar.name: (wanted,)}
            get(jar.name, folder / "lib", sources=sources, client=client, backoff=backoff)
            progress.advance(task, jar.size)
    if folder != target:
        folder.rename(target)
    return target


def _copy(jar: Jar, source: Path, folder: Path) -> None:
    """Copies one jar, to be checked with the others. Raises DownloadError."""
    places = (source / jar.name, source / "libs" / jar.name, source / jar.folder / jar.name)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise DownloadError(f"{source} must hold {jar.name}; it does not")
    if not (folder / jar.name).exists():
        shutil.copyfile(found, folder / jar.name)
