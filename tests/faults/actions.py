"""What may happen to the features flow, as small values; a world where it happens; the check.

    script = [Send(1, 40), Kill(), Send(2, 40), RestartRedis(keeps_data=False), ...]
    run_script(make_world, script)      raises WrongError where rows are not those of a clean replay

Randomness lies in the numbers within the actions, so a script is all there is to know of a run,
but for the speed of the machine.

Rows are compared with a clean replay, which knows nothing of the ledger of erasures. Where events
before an erasure are read again, their viewer's row is empty meanwhile: they make no pairs then,
and did when they were first read. So once a script erases a viewer, the rows of co-visitation and
the global rates, which count the pairs, are left out of the comparison, until all rows were built
anew at the end of the script: then the ledger was known from the beginning.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import psutil
from confluent_kafka import Consumer, TopicPartition

from features.codec import encode_interaction
from features.decode import decode_records
from features.erasure import erase_event
from features.events import Interaction
from features.ids import viewer_hash
from features.log import LogConfig, read_to_end
from features.redis_config import RedisConfig
from features.redis_store import RedisLink, RedisRowStore
from features.store import COVISITATIONS, GLOBALS, USERS
from infra.embedded import LOOPBACK, ChildServer, EmbeddedRedis
from infra.producers import erase_user
from infra.rebuild import rebuild
from tests.flows import FeaturesSite, random_interactions
from tests.oracle import stored
from tests.proxy import LossyProxy

HOUR_MS = 3_600_000
N_USERS = 30
CAUGHT_UP_S = 90.0
STANDS_STILL_S = 6.0  # rows that are wrong for so long while nothing moves stay wrong
POISON = (b"", b"\xff" * 30, b'{"user_id":', b"[" * 3_000, b"\x0a\xff\xff\xff", "\u2603".encode())


class WrongError(AssertionError):
    """Something is not as a clean replay of the log has it."""


class DurableRedis(EmbeddedRedis):
    """A Redis that has on disk what it has acknowledged; `forget` empties it while it is down."""

    def command(self) -> list[str]:
        return [*super().command(), "--appendonly", "yes", "--appendfsync", "everysec"]

    def forget(self) -> None:
        shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)


class World:
    """Log, Redis behind a proxy, and the features process; what an action may touch."""

    def __init__(self, broker: str, prefix: str, folder: Path) -> None:
        self.redis = DurableRedis(folder / "redis")
        self.process: ChildServer | None = None
        self.sent: list[list[Interaction]] = []
        self.has_erased = False
        self._broker, self._prefix, self._folder = broker, prefix, folder
        self._cleanup = ExitStack()

    def __enter__(self) -> "World":
        try:
            self._cleanup.enter_context(self.redis)
            self.proxy = self._cleanup.enter_context(LossyProxy(self.redis.port))
            url = f"redis://{LOOPBACK}:{self.proxy.port}/0?socket_timeout=1"
            redis = RedisConfig(url, prefix=self._prefix)
            self.site = FeaturesSite(LogConfig(self._broker), redis, self._prefix, self._folder)
            self._cleanup.callback(self._close_process)
            self.process = self.site.process()
            self.process.start()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _close_process(self) -> None:
        if self.process is not None:
            self.process.kill()  # nothing more is wanted of it
            self.process.close()

    @property
    def is_alone(self) -> bool:
        """Whether the flow runs in a single process."""
        return self.site.n_workers == 1

    def ensure_redis(self) -> None:
        if not self.redis.is_alive():
            self.redis.start()

    def ensure_process(self) -> None:
        """Starts what is not running, as whoever supervises the flow would."""
        self.ensure_redis()
        if not self.process.is_alive():
            self.process.start()

    def supervise(self) -> None:
        """A flow in one process never ends by itself here; one of several may."""
        ended = self.process.exit_status
        if ended is None or ended in (0, 128 + signal.SIGKILL):  # runs, or was ended by an action
            return
        if self.is_alone:
            raise WrongError(f"the process has ended with {ended}:\n{self.process.log_tail()}")
        self.ensure_process()

    def wrong_rows(self, *, are_rebuilt: bool) -> list[str]:
        have_no_oracle = self.has_erased and not are_rebuilt
        left_out = (COVISITATIONS, GLOBALS) if have_no_oracle else ()
        return self.site.wrong_rows(are_rebuilt=are_rebuilt, left_out=left_out)

    def check(self, *, are_rebuilt: bool = False) -> None:
        """Returns when rows are those of a clean replay; WrongError when they stay others."""
        self.ensure_process()
        deadline_s = time.monotonic() + CAUGHT_UP_S
        wrong_since_s: float | None = None
        while True:
            self.supervise()
            found = self.wrong_rows(are_rebuilt=are_rebuilt) if self.site.is_applied() else None
            if found == []:
                return
            now_s = time.monotonic()
            if not found:
                wrong_since_s = None
                if now_s > deadline_s:
                    raise WrongError(f"not caught up: {self.site.committed()} committed")
            elif wrong_since_s is None:
                wrong_since_s = now_s
            elif now_s - wrong_since_s > STANDS_STILL_S:
                raise WrongError("\n".join(found[:12]))
            time.sleep(0.05)

    def rebuild(self) -> None:
        """All rows anew, in one process; returns when they are there."""
        Restart().run(self)
        rebuild(self.site.settings(), wait=True, progress=lambda *_: None)

    def spoil(self, user_id: str) -> None:
        """Puts another row of a viewer into Redis, behind the flow's back."""
        ids = np.array([viewer_hash(user_id)], np.uint64)
        row = stored(self.site.redis, USERS, ids)
        row["activity"]["last_ms"] += 1
        link = RedisLink(self.site.redis, give_up_after_s=5)
        RedisRowStore(link, USERS, self.site.redis).write(row)
        link.close()

    def check_dead_letters(self) -> None:
        """Every record that is no event has a dead letter that says where it lay, and no other."""
        records = list(read_to_end(self.site.log, self.site.topic("interactions")))
        bad = {(b.partition, b.offset) for b in decode_records(records).bad}
        letters = read_to_end(self.site.log, self.site.topic("dead-letters"))
        headers = [dict(letter.headers()) for letter in letters]
        found = {(int(h["partition"]), int(h["offset"])) for h in headers}
        if found != bad:
            raise WrongError(f"dead letters of {sorted(found)}, bad records at {sorted(bad)}")


class Action:
    """Something that happens; its repr makes it anew."""

    def run(self, world: World) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Send(Action):
    """New events: of every type, some twice, late, of unknown titles, far ahead of all clocks."""

    seed: int
    n: int
    hours_ahead: int = 0  # of the wall clock: a producer whose clock is wrong

    def run(self, world: World) -> None:
        rng = np.random.default_rng(self.seed)
        start_ms = time.time_ns() // 1_000_000 - 1_000 + self.hours_ahead * HOUR_MS
        tag = f"{len(world.sent)}-{self.seed}-"
        batch = random_interactions(rng, self.n, start_ms, N_USERS, tag)
        world.sent.append(batch)
        world.site.send(batch)


@dataclass(frozen=True)
class SendAgain(Action):
    """A producer that sends a whole batch a second time, or very often."""

    back: int  # how many batches ago it was sent first
    times: int = 1

    def run(self, world: World) -> None:
        if world.sent:
            batch = world.sent[-1 - self.back % len(world.sent)]
            for _ in range(self.times):
                world.site.send(batch)


@dataclass(frozen=True)
class SendPoison(Action):
    """Records that are no events, of which one is a tombstone, and one in a wrong partition."""

    seed: int

    def run(self, world: World) -> None:
        rng = np.random.default_rng(self.seed)
        topic = world.site.topic("interactions")
        for value in (*POISON, bytes(rng.bytes(200)), None):
            world.site.writer.append(topic, b"poison", value)
        (event,) = random_interactions(rng, 1, time.time_ns() // 1_000_000, N_USERS, "astray-")
        astray = encode_interaction(replace(event, event_id=f"astray-{self.seed}"))
        world.site.writer.append(topic, None, astray, partition=self.seed % 4)
        world.site.writer.flush()


@dataclass(frozen=True)
class Erase(Action):
    """A viewer is forgotten; without an entry in the ledger the flow has to write it."""

    user: int
    tells_ledger: bool = True

    def run(self, world: World) -> None:
        world.has_erased = True
        user_id = f"u{self.user}"
        if self.tells_ledger:
            erase_user(world.site.settings(), user_id)
        else:
            world.site.send([erase_event(user_id, "", time.time_ns() // 1_000_000)])


@dataclass(frozen=True)
class Pause(Action):
    """Time passes; what comes next finds the flow somewhere else."""

    ms: int

    def run(self, world: World) -> None:  # noqa: ARG002
        time.sleep(self.ms / 1_000)


@dataclass(frozen=True)
class Kill(Action):
    """kill -9 of the flow, or of one of its workers, and a start."""

    worker: int = 0

    def run(self, world: World) -> None:
        worker = _worker(world, self.worker)
        if worker is not None:
            worker.kill()
            world.process.wait(30)
        world.process.kill()
        world.ensure_process()


def _worker(world: World, number: int) -> psutil.Process | None:
    """One of several workers; None where the flow is a single process or does not run."""
    if world.is_alone or not world.process.is_alive():
        return None
    for child in psutil.Process(world.process.pid).children(recursive=True):
        line = child.cmdline()
        if line[1:2] == ["-m"] and ("--process", str(number)) in pairwise(line):
            return child
    return None


@dataclass(frozen=True)
class KillAndLeave(Action):
    """kill -9 of the flow: what comes meanwhile waits for it, until something starts it."""

    def run(self, world: World) -> None:
        world.process.kill()


@dataclass(frozen=True)
class Restart(Action):
    """SIGTERM and a start, perhaps with another number of workers."""

    n_workers: int = 1

    def run(self, world: World) -> None:
        if world.redis.is_alive():
            world.process.stop()
        world.process.kill()
        world.process.close()
        world.site.n_workers = self.n_workers
        world.process = world.site.process()
        world.ensure_process()


@dataclass(frozen=True)
class RestartRedis(Action):
    """Redis is killed and comes back, with what it had, or with nothing."""

    keeps_data: bool
    away_ms: int = 0

    def run(self, world: World) -> None:
        world.redis.kill()
        if not self.keeps_data:
            world.redis.forget()
        time.sleep(self.away_ms / 1_000)
        world.redis.start()


@dataclass(frozen=True)
class StallRedis(Action):
    """Redis stands still: beyond a second, clients give up waiting and send again."""

    ms: int

    def run(self, world: World) -> None:
        world.ensure_redis()
        os.kill(world.redis.pid, signal.SIGSTOP)
        try:
            time.sleep(self.ms / 1_000)
        finally:
            os.kill(world.redis.pid, signal.SIGCONT)


@dataclass(frozen=True)
class LoseAnswer(Action):
    """The next write is done, and its answer never comes."""

    def run(self, world: World) -> None:
        world.proxy.lose_answer_to(b"MSET")


@dataclass(frozen=True)
class Rebuild(Action):
    """Somebody asks for all rows to be built anew."""

    def run(self, world: World) -> None:
        world.ensure_redis()
        rebuild(world.site.settings(), wait=False, progress=lambda *_: None)


@dataclass(frozen=True)
class Rewind(Action):
    """The group's offsets go back, as if the last commits had never reached the broker."""

    by: int

    def run(self, world: World) -> None:
        world.process.kill()
        topic = world.site.topic("interactions")
        consumer = Consumer(world.site.log.consumer(f"{world.site.prefix}features"))
        offsets = [
            TopicPartition(topic, p, max(at - self.by, 0))
            for p, at in world.site.committed().items()
        ]
        consumer.commit(offsets=offsets, asynchronous=False)
        consumer.close()
        world.ensure_process()


@dataclass(frozen=True)
class Check(Action):
    """The flow catches up; its rows are those of a clean replay."""

    def run(self, world: World) -> None:
        world.check()


Script = Sequence[Action]
MakeWorld = Callable[[], AbstractContextManager[World]]


def run_script(make_world: MakeWorld, script: Script) -> None:
    """Does one action after the other, then checks everything. Raises WrongError."""
    with make_world() as world:
        for action in script:
            world.supervise()
            action.run(world)
        world.check()
        world.check_dead_letters()
        if world.has_erased:
            world.rebuild()
            world.check(are_rebuilt=True)


def worlds(broker: str, prefix: str, folder: Path) -> MakeWorld:
    """Builds worlds over a broker, each with topics and servers of its own."""
    numbers = count()

    @contextmanager
    def make() -> Iterator[World]:
        number = next(numbers)
        own_folder = folder / f"world-{number}"
        own_folder.mkdir(parents=True)
        with World(broker, f"{prefix}w{number}-", own_folder) as world:
            yield world

    return make


def random_script(seed: int, n: int, *, n_checks: int = 3) -> list[Action]:
    """`n` actions; the same for the same seed. About half send something, one in eight is costly.

    Viewers are erased in every second seed, so that in the others all tables are compared.
    """
    rng = np.random.default_rng(seed)
    cheap = [_send] * 9 + [_send_again, _send_wrong_time, _poison, _lose_answer, _stall]
    cheap += [_pause] * 6 + ([_erase] if seed % 2 else [])
    costly = [_kill, _kill, _leave, _restart, _rescale, _redis_back, _redis_empty]
    costly += [_rebuild, _rewind]
    script: list[Action] = []
    for k in range(n):
        if (k + 1) % (n // n_checks + 1) == 0:
            script.append(Check())
            continue
        choices = costly if rng.random() < 1 / 8 else cheap
        script.append(choices[int(rng.integers(len(choices)))](rng))
    return script


def _number(rng: np.random.Generator, low: int, high: int) -> int:
    return int(rng.integers(low, high))


def _send(rng: np.random.Generator) -> Action:
    return Send(_number(rng, 0, 1 << 20), _number(rng, 5, 120))


def _send_again(rng: np.random.Generator) -> Action:
    return SendAgain(_number(rng, 0, 5), _number(rng, 1, 4))


def _send_wrong_time(rng: np.random.Generator) -> Action:
    return Send(_number(rng, 0, 1 << 20), 30, _number(rng, -400, 400))


def _poison(rng: np.random.Generator) -> Action:
    return SendPoison(_number(rng, 0, 1 << 20))


def _erase(rng: np.random.Generator) -> Action:
    return Erase(_number(rng, 0, N_USERS), bool(rng.random() < 0.8))


def _lose_answer(rng: np.random.Generator) -> Action:  # noqa: ARG001
    return LoseAnswer()


def _stall(rng: np.random.Generator) -> Action:
    return StallRedis(_number(rng, 100, 1_500))


def _pause(rng: np.random.Generator) -> Action:
    return Pause(_number(rng, 10, 500))


def _kill(rng: np.random.Generator) -> Action:
    return Kill(_number(rng, 0, 2))


def _leave(rng: np.random.Generator) -> Action:  # noqa: ARG001
    return KillAndLeave()


def _restart(rng: np.random.Generator) -> Action:  # noqa: ARG001
    return Restart()


def _rescale(rng: np.random.Generator) -> Action:
    return Restart(_number(rng, 1, 3))


def _redis_back(rng: np.random.Generator) -> Action:
    return RestartRedis(keeps_data=True, away_ms=_number(rng, 0, 600))


def _redis_empty(rng: np.random.Generator) -> Action:
    return RestartRedis(keeps_data=False, away_ms=_number(rng, 0, 600))


def _rebuild(rng: np.random.Generator) -> Action:  # noqa: ARG001
    return Rebuild()


def _rewind(rng: np.random.Generator) -> Action:
    return Rewind(_number(rng, 0, 300))
