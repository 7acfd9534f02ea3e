"""What is asked of `Recommend`, and when: made before the load runs, sent by raw frames.

strangers   each call is of another viewer: nothing can be given again
sessions    viewers who come back to the page they had, as people do: a session asks the same
            page eight times, a second apart on average; after 15 of 100 answers the viewer
            clicks; a quarter of the sessions is of visitors of whom nothing is known
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from headrace.v1 import recommender_pb2

from benchmarks.raw_caller import RawCaller
from features.codec import encode_interaction
from features.events import Interaction
from features.vocabulary import EventType
from offline.simulator import item_id, user_id

PATH: Final = "/headrace.v1.RecommendationService/Recommend"
COUNT: Final = 20
CHANNELS: Final = 2
ASKED: Final = 8  # by a session, on average
PAUSE_S: Final = 1.0
CLICKS: Final = 0.15  # of the answers
UNKNOWN: Final = 0.25  # of the sessions
REACTION_S: Final = 0.3  # from an answer to the click

Send = Callable[[bytes, bytes], None]  # key and value of an event


@dataclass(frozen=True, slots=True)
class Planned:
    """A call, or an event of its viewer (`value`), due so long after the beginning."""

    due_s: float
    message: bytes
    key: bytes = b""
    value: bytes = b""


@dataclass(slots=True)
class Answers:
    """What came of planned calls."""

    latencies_ms: list[float] = field(default_factory=list)  # from when the call was due
    messages: list[bytes] = field(default_factory=list)
    taken_s: float = 0.0

    def read(self) -> list[recommender_pb2.RecommendResponse]:
        """The answers; of a call that failed there is none."""
        parse = recommender_pb2.RecommendResponse.FromString
        return [parse(message) for message in self.messages if message]


def request(user: str) -> bytes:
    """What a call sends."""
    return recommender_pb2.RecommendRequest(user_id=user, count=COUNT).SerializeToString()


def strangers(rate: float, seconds: float, users: Sequence[int]) -> list[Planned]:
    """Calls of one viewer after the other."""
    return [
        Planned(k / rate, request(user_id(users[k % len(users)])))
        for k in range(int(rate * seconds))
    ]


def sessions(
    rate: float, seconds: float, users: Sequence[int], n_items: int, rng: np.random.Generator
) -> list[Planned]:
    """Calls and clicks of sessions, so many calls a second from the first second on.

    Sessions that would have begun earlier have: each starts somewhere in its course.
    """
    plan: list[Planned] = []
    before_s = 3 * ASKED * PAUSE_S  # the beginnings that matter: sessions are seldom longer
    n_sessions = int(rate * (before_s + seconds) / ASKED)
    for k in range(n_sessions):
        n_asked = rng.geometric(1 / ASKED)
        at_s = rng.uniform(-before_s, seconds) + np.cumsum(rng.exponential(PAUSE_S, n_asked))
        is_known = rng.random() >= UNKNOWN
        user = user_id(users[k % len(users)]) if is_known else f"visitor-{k}"
        message = request(user)
        plan += [Planned(float(s), message) for s in at_s if 0 <= s < seconds]
        clicked = at_s[rng.random(n_asked) < CLICKS] + REACTION_S if is_known else ()
        plan += [
            Planned(float(s), b"", user.encode(), _click(user, int(rng.integers(n_items))))
            for s in clicked
            if 0 <= s < seconds
        ]
    return sorted(plan, key=lambda planned: planned.due_s)


def _click(user: str, item: int) -> bytes:
    at_ms = time.time_ns() // 1_000_000
    event_id = f"{user}-{item}-{at_ms}"
    click = Interaction(event_id, user, item_id(item), EventType.CLICK, at_ms)
    return encode_interaction(click)


async def run(target: str, plan: Sequence[Planned], send: Send | None = None) -> Answers:
    """Makes the planned calls when they are due, whatever became of the ones before."""
    callers = [await RawCaller.connect(target, PATH) for _ in range(CHANNELS)]
    answers, started_s = Answers(), time.perf_counter()
    waiting = []
    for k, planned in enumerate(plan):
        pause_s = started_s + planned.due_s - time.perf_counter()
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        if planned.value:
            if send is not None:
                send(planned.key, planned.value)
            continue
        call = callers[k % CHANNELS].call(planned.message)
        call.add_done_callback(_noting(answers, started_s + planned.due_s))
        waiting.append(call)
    answers.messages = await asyncio.wait_for(asyncio.gather(*waiting), 60)
    answers.taken_s = time.perf_counter() - started_s
    for caller in callers:
        caller.close()
    return answers


def _noting(answers: Answers, due_s: float) -> "Callable[[asyncio.Future[bytes]], None]":
    def note(_: "asyncio.Future[bytes]") -> None:
        answers.latencies_ms.append(1_000 * (time.perf_counter() - due_s))

    return note
