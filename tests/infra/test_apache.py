"""Getting Apache Kafka and Java, and what a Redis that saves keeps; no broker is started here."""

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import ValidationError
from rich.progress import Progress
from tenacity import wait_none

from infra.apache import DurableRedis, checked_java, find_jars, installed_at, lasting
from infra.embedded import StartError
from infra.kafka_install import install
from infra.kafka_jars import JARS, KAFKA_VERSION
from infra.ops.doctor import Finding, Grade, check_apache
from infra.settings import Settings
from offline.download import ChecksumError, DownloadError
from tests.apache_kafka import find_home
from tests.apache_kafka import find_jars as jars_here

SOME = tuple(jar for jar in JARS if jar.artifact in ("jspecify", "argparse4j", "kafka_2.13"))

needs_jars = pytest.mark.skipif(jars_here() is None, reason="no Apache Kafka on this machine")


@dataclass
class Repository:
    """A Maven repository on loopback that serves some of the real jars."""

    url: str
    root: Path
    asked: list[str] = field(default_factory=list)

    def file_of(self, artifact: str) -> Path:
        jar = next(jar for jar in SOME if jar.artifact == artifact)
        return self.root / jar.folder / jar.name


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    root = tmp_path / "maven2"
    for jar in SOME:
        (root / jar.folder).mkdir(parents=True)
        (root / jar.folder / jar.name).write_bytes((jars_here() / jar.name).read_bytes())

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(root))

        def do_GET(self) -> None:
            found.asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Repository(f"http://127.0.0.1:{server.server_port}", root)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def install_some(home: Path, source: str) -> Path:
    with Progress(disable=True) as progress:
        return install(home, progress, source=source, jars=SOME, backoff=wait_none())


@needs_jars
def test_jars_are_fetched_checked_and_found(repository, tmp_path):
    folder = install_some(tmp_path / "home", repository.url)
    assert folder == installed_at(tmp_path / "home").resolve()
    assert find_jars(Settings(home=tmp_path / "home")) == installed_at(tmp_path / "home") / "lib"
    assert sorted(p.name for p in (folder / "lib").iterdir()) == sorted(j.name for j in SOME)
    assert len(repository.asked) == len(SOME)
    install_some(tmp_path / "home", repository.url)
    assert len(repository.asked) == len(SOME)  # checked again, not fetched again


@needs_jars
def test_a_jar_that_is_another_is_refused_and_the_rest_is_kept_for_the_next_time(
    repository, tmp_path
):
    right = repository.file_of("jspecify").read_bytes()
    repository.file_of("jspecify").write_bytes(right[:-1] + b"!")
    with pytest.raises(ChecksumError, match=r"jspecify-1\.0\.0\.jar must have sha256 1fad6e"):
        install_some(tmp_path / "home", repository.url)
    with pytest.raises(StartError, match="headrace kafka install"):
        find_jars(Settings(home=tmp_path / "home"))
    repository.file_of("jspecify").write_bytes(right)
    repository.asked.clear()
    install_some(tmp_path / "home", repository.url)
    assert repository.file_of("argparse4j").name not in "".join(repository.asked)
    assert find_jars(Settings(home=tmp_path / "home")).is_dir()


@needs_jars
def test_a_jar_that_a_mirror_lacks_is_named(repository, tmp_path):
    repository.file_of("argparse4j").unlink()
    with pytest.raises(DownloadError, match=r"argparse4j-0\.7\.0\.jar must answer 200 or 206"):
        install_some(tmp_path, repository.url)


@needs_jars
def test_jars_come_from_a_folder_too(tmp_path):
    folder = install_some(tmp_path / "home", str(jars_here()))
    assert (folder / "lib" / "jspecify-1.0.0.jar").is_file()


@needs_jars
def test_pinned_checksums_are_those_of_the_jars_that_run_here():
    here = {jar.name: jar for jar in JARS if (jars_here() / jar.name).exists()}
    assert {f"kafka_2.13-{KAFKA_VERSION}.jar", f"kafka-clients-{KAFKA_VERSION}.jar"} <= set(here)
    assert len(here) >= len(JARS) - 1  # slf4j-simple stands for whatever binding is here
    for name, jar in here.items():
        found = (jars_here() / name).read_bytes()
        assert (jar.size, jar.sha256) == (len(found), hashlib.sha256(found).hexdigest()), name


def test_the_command_says_what_a_folder_lacks(tmp_path):
    command = [sys.executable, "-m", "infra.cli", "kafka", "install", "--from", str(tmp_path)]
    done = subprocess.run(
        [*command, "--to", str(tmp_path / "kafka")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"error {tmp_path} must hold lz4-java-1.10.2.jar" in done.stderr


@pytest.mark.parametrize(
    ("said", "reason"),
    [('openjdk version "11.0.2" 2019-01-15', "is Java 11"), ("no idea", "says no version")],
)
def test_java_that_is_too_old_is_named_with_what_to_install(tmp_path, monkeypatch, said, reason):
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(StartError, match=f"needs Java 17 or newer; {java} {reason}.*apt install"):
        checked_java()


def test_without_java_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartError, match="there is none here: install a Java runtime"):
        checked_java()


def test_the_doctor_names_what_apache_kafka_lacks(tmp_path, monkeypatch):
    def of_kafka(settings: Settings) -> dict[str, Finding]:
        return {finding.what: finding for finding in check_apache(settings)}

    here = of_kafka(Settings(home=tmp_path))
    assert (list(here), here["apache kafka"].grade) == (["apache kafka"], Grade.GOOD)
    wrong = of_kafka(Settings(home=tmp_path, kafka_home=tmp_path))
    assert wrong["apache kafka"].grade == Grade.BAD
    assert "headrace kafka install" in wrong["apache kafka"].remedy
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    found = of_kafka(Settings(home=tmp_path, kafka_home=find_home() or tmp_path))
    assert found["java"].grade == Grade.BAD
    assert "apt install" in found["java"].remedy


def test_a_redis_that_saves_has_its_keys_and_its_port_again(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    with DurableRedis(data, tmp_path / "logs") as server:
        port = server.port
        with redis.Redis.from_url(server.url) as client:
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
            assert client.config_get("appendfsync")["appendfsync"] == "everysec"
            assert client.config_get("bind")["bind"] == "127.0.0.1"
            client.set("a", "1")
            server.restart()  # by SIGKILL
            assert client.get("a") == b"1"
            client.set("b", "2")
    with (
        DurableRedis(data, tmp_path / "logs") as server,
        redis.Redis.from_url(server.url) as client,
    ):
        assert server.port == port
        assert client.mget("a", "b") == [b"1", b"2"]


def test_an_epoch_is_longer_than_what_redis_may_lose():
    found = lasting(Settings())
    assert (found.redis.may_lose_s, found.stream.epoch_s) == (2.0, 3.0)
    slower = lasting(Settings(redis={"may_lose_s": 5}, stream={"epoch_s": 5.5}))
    assert slower.stream.epoch_s == 6.0
    assert Settings.model_validate(found.model_dump()) == found
    with pytest.raises(ValidationError, match=r"stream.epoch_s must be more than redis.may_lose_s"):
        Settings(redis={"may_lose_s": 2}, stream={"epoch_s": 1})


def test_a_redis_of_somebody_else_keeps_the_settings_made_for_it():
    settings = Settings(redis={"url": "redis://10.0.0.1:6379/0"})
    assert lasting(settings) == settings
