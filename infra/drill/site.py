"""The stack of a drill: everything real, in a folder of its own, under a small steady load.

headrace up (embedded broker and Redis, two workers)   headrace ops (the console)
headrace simulate (events)                             infra.drill.load (viewers who ask for slates)
"""

import http.client
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil

from features.log import LogWriter
from infra import topics
from infra.drill.course import Fault, RunbookError, Seen
from infra.drill.load import KEY
from infra.embedded import ChildServer, free_port, is_listening
from infra.running import NotRunningError, read_addresses, read_status
from infra.settings import KafkaSettings

PYTHON: Final = (sys.executable, "-m", "infra.cli")
START_S: Final = 900.0  # a first start compiles
COMMAND_S: Final = 300.0
ASK_S: Final = 2.0
EVENTS_PER_S: Final = 50
VIEWERS, PAUSE_S = 2, 0.2  # they ask for a slate, and pause
FLOOD: Final = 10  # times as many viewers, who do not pause
AT_A_TIME: Final = 4  # calls that the server takes at a time: a flood shows on any machine
POISON: Final = 300
KILL_EVERY_S: Final = 0.2
SHOWN_KEY = re.compile(r"^key (\S+) of ", re.MULTILINE)


class Site:
    """A stack for a drill, as a context manager; all of it ends with its owner."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._cleanup = ExitStack()
        self._ops_port = free_port()
        self._flood_key = ("", "")
        self._environment = {
            "HEADRACE_HOME": str(home),
            "HEADRACE_STREAM__WORKERS": "2",
            "HEADRACE_SERVING__PORT": "0",
            "HEADRACE_SERVING__MAX_CONCURRENT": str(AT_A_TIME),
            "HEADRACE_SERVING__KEYS_FILE": str(home / "keys.json"),
            "HEADRACE_OPS__PORT": str(self._ops_port),
            # without a bundle all slates are charts: of one arm, and of any diversity
            "HEADRACE_ALERTS__ARM_SHARE": "1",
            "HEADRACE_ALERTS__DIVERSITY_BASELINE": "0",
        }

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cleanup.close()

    def _start(self) -> None:
        steady = self._new_key("steady")
        self._flood_key = self._new_key("flood")
        self._child("up", [*PYTHON, "up"], self._is_healthy)
        self._child("ops", [*PYTHON, "ops"], lambda: is_listening(self._ops_port))
        events = ["--rate", str(EVENTS_PER_S), "--events", "10000000", "--users", "2000"]
        self._child("events", [*PYTHON, "simulate", *events, "--items", "500"])
        self._viewers("viewers", VIEWERS, PAUSE_S, steady[1])

    def _child(
        self, name: str, command: list[str], ready: Any = None, key: str = ""
    ) -> ChildServer:
        server = ChildServer(
            name, command, directory=self.home / "logs", env={**self._environment, KEY: key},
            start_timeout_s=START_S, **({} if ready is None else {"ready": ready}),
        )  # fmt: skip
        return self._cleanup.enter_context(server)

    def _viewers(self, name: str, n: int, pause_s: float, key: str) -> None:
        """Viewers who ask for slates; returns with the first answer."""
        address, begun = read_addresses(self.home)["grpc"], self.home / f"{name}.begun"
        words = [address, str(n), str(pause_s), str(begun)]
        self._child(name, [sys.executable, "-m", "infra.drill.load", *words], begun.exists, key)

    def _is_healthy(self) -> bool:
        with suppress(NotRunningError, OSError, ValueError):
            return bool(read_status(self.home)["healthy"])
        return False

    def _new_key(self, client: str) -> tuple[str, str]:
        """Id and text of a new key."""
        words = ["keys", "create", client, "--scope", "recommend"]
        answer = subprocess.run(
            [*PYTHON, *words], env={**os.environ, **self._environment, "COLUMNS": "400"},
            capture_output=True, text=True, timeout=COMMAND_S, check=True,
        )  # fmt: skip
        shown = SHOWN_KEY.search(answer.stdout)
        if shown is None:
            raise RuntimeError(f"headrace keys create must show a key; got {answer.stdout!r}")
        return shown.group(1), answer.stdout.strip().splitlines()[-1]

    def look(self) -> Seen:
        """What the console's page shows now; `blind` where it does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._ops_port, timeout=ASK_S)
        try:
            connection.request("GET", "/api/snapshot")
            page = json.loads(connection.getresponse().read())
            firing = {one["name"] for one in page["alerts"] if one["state"] == "firing"}
            return Seen(page["sequence"], page["headline"]["state"], frozenset(firing))
        except (OSError, ValueError, KeyError, http.client.HTTPException):
            return Seen(-1, "blind", frozenset())
        finally:
            connection.close()

    def run(self, line: str) -> int:
        """A command line of a runbook, as somebody on call would type it; its exit status."""
        words = shlex.split(line)
        if words[:1] != ["headrace"]:
            raise RunbookError(f"a cure must be commands of headrace; got {line!r}")
        with (self.home / "logs" / "commands.log").open("ab") as log:
            log.write(f"$ {line}\n".encode())
            log.flush()
            return subprocess.run(
                [*PYTHON, *words[1:]], env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=COMMAND_S, check=False,
            ).returncode  # fmt: skip

    def faults(self) -> tuple[Fault, ...]:
        """What is done to the stack, one after the other."""
        killing = _Killing(self)
        return (
            Fault(
                "poison", f"{POISON} records that are no events", "HeadraceDeadLetters",
                "dead-letters", self._poison,
            ),
            Fault(
                "flood", f"{FLOOD} times the viewers, and none of them pauses", "HeadraceOverload",
                "overload", self._flood, {"KEY": self._flood_key[0]},
            ),
            Fault(
                "redis", "Redis is stopped (SIGSTOP): it takes calls and answers none",
                "HeadraceRedisDown", "redis-down", self._stop_redis,
            ),
            Fault(
                "worker", "a worker is killed (SIGKILL) as often as it starts",
                "HeadraceProcessDown", "process-down", killing.begin, {"PROCESS": "features"},
                killing.end,
            ),
            Fault(
                "stall", "one worker of two is stopped (SIGSTOP): its partitions stand still",
                "HeadraceNoProgress", "no-progress", self._stall,
            ),
        )  # fmt: skip

    def _poison(self) -> None:
        writer = LogWriter(
            KafkaSettings(bootstrap=read_addresses(self.home)["broker"]).log_config()
        )
        for i in range(POISON):
            writer.append(topics.INTERACTIONS, b"broken-producer", b"\xff\xff no event %d" % i)
        writer.flush()

    def _stop_redis(self) -> None:
        pids = {one["name"]: one["pid"] for one in read_status(self.home)["processes"]}
        os.kill(pids["redis"], signal.SIGSTOP)

    def _stall(self) -> None:
        self.workers()[-1].suspend()

    def _flood(self) -> None:
        """Its end is the cure's: the key is taken away."""
        self._viewers("flood", FLOOD * VIEWERS, 0.0, self._flood_key[1])

    def workers(self) -> list[psutil.Process]:
        """The workers of the features flow, in their order."""
        found = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            words = process.info["cmdline"] or []
            is_ours = (process.info["environ"] or {}).get("HEADRACE_HOME") == str(self.home)
            if is_ours and words[1:4] == ["-m", "infra.cli", "stream"] and "--process" in words:
                found.append((words[words.index("--process") + 1], process))
        return [process for _, process in sorted(found, key=lambda one: one[0])]


class _Killing:
    """Kills a worker again and again, since what is killed once is started again at once."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="killing", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            for worker in self._site.workers()[:1]:
                with suppress(psutil.NoSuchProcess):
                    worker.kill()
            self._over.wait(KILL_EVERY_S)
