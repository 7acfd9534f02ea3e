"""Titles before viewers, where the titles of one batch live on several workers.

    viewer shard -- Work(ticket) --> title shards: their rows are in the store -- Answer(ticket)
         |                                                                             |
         +-- Held(ticket, rows) --> held until all work is answered --> rows written <-+

What a viewer's row includes must be in the titles' rows too, at any moment of a crash (see
ARCHITECTURE, "Exactly-once effect"). One worker writes both in this order on one connection. With
several, each title shard answers once the store has acknowledged its rows, and only then does the
viewer shard's own worker write the rows of the viewers of that batch, batch by batch.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bytewax.operators import StatefulBatchLogic

from streams.failures import reported

MAX_UNANSWERED = 8  # batches of one worker; it reads no more while so many are on their way

Keyed = tuple[str, Any]


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of a batch for one title shard, and whom to answer."""

    sender: int
    ticket: int
    content: Any


@dataclass(frozen=True, slots=True)
class Held:
    """What is not to be written before `n_pieces` of work are answered."""

    ticket: int
    n_pieces: int
    rows: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A piece of work is done: its titles' rows can be read."""

    sender: int
    ticket: int


class Tickets:
    """The batches of one process that are on their way; numbered in order."""

    def __init__(self) -> None:
        self._issued = 0
        self._done = 0

    def issue(self) -> int:
        """The number of a new batch."""
        self._issued += 1
        return self._issued

    def done(self) -> None:
        """The oldest batch has been answered."""
        self._done += 1

    def have_room(self) -> bool:
        """Whether another batch may be read."""
        return self._issued - self._done < MAX_UNANSWERED


class AskingShard(StatefulBatchLogic[Any, Keyed, None]):
    """A viewer shard whose work for titles is numbered and whose rows are held under `key`."""

    def __init__(
        self,
        shard: StatefulBatchLogic[Any, Keyed, None],
        worker: int,
        key: str,
        tickets: Tickets,
        is_rows: Callable[[Any], bool],
    ) -> None:
        self._shard = shard
        self._worker = worker
        self._key = key
        self._tickets = tickets
        self._is_rows = is_rows

    @reported
    def on_batch(self, values: list[Any]) -> tuple[Iterable[Keyed], bool]:
        """The shard's work, numbered, and behind it all its rows."""
        made, discard = self._shard.on_batch(values)
        ticket = self._tickets.issue()
        out: list[Keyed] = []
        rows = []
        for key, value in made:
            if self._is_rows(value):
                rows.append(value)
            else:
                out.append((key, Work(self._worker, ticket, value)))
        out.append((self._key, Held(ticket, len(out), tuple(rows))))
        return out, discard

    def snapshot(self) -> None:
        """As the shard's."""
        self._shard.snapshot()


class AnsweringShard(StatefulBatchLogic[Work, Any, None]):
    """A title shard whose changes are followed by an answer for each piece of work in them."""

    def __init__(self, shard: StatefulBatchLogic[Any, Any, None]) -> None:
        self._shard = shard

    @reported
    def on_batch(self, values: list[Work]) -> tuple[Iterable[Any], bool]:
        """What the shard makes of the work, then the answers."""
        made, discard = self._shard.on_batch([work.content for work in values])
        return [*made, *(Answer(work.sender, work.ticket) for work in values)], discard

    def on_notify(self) -> tuple[Iterable[Any], bool]:
        """As the shard's."""
        return self._shard.on_notify()

    def notify_at(self) -> datetime | None:
        """As the shard's."""
        return self._shard.notify_at()

    def snapshot(self) -> None:
        """As the shard's."""
        self._shard.snapshot()


class StoreFirst:
    """Stores the rows among what title shards put out; the rest goes on once they can be read."""

    def __init__(
        self,
        is_rows: Callable[[Any], bool],
        write: Callable[[list[Any]], None],
        settle: Callable[[], None],
    ) -> None:
        self._is_rows = is_rows
        self._write = write
        self._settle = settle

    @reported
    def __call__(self, changes: list[Any]) -> Iterator[Any]:
        """Everything but rows. The wait is for the store, once for all that has come together."""
        rows = [change for change in changes if self._is_rows(change)]
        if rows:
            self._write(rows)
            self._settle()
        return (change for change in changes if not self._is_rows(change))


class ReleasedRows(StatefulBatchLogic[Held | Answer, Any, None]):
    """Lets the rows of a batch go when all its work is answered, in the order of the batches.

    A row may be in several batches, so a later batch waits for an earlier one. Answers come in the
    epoch of the work they are for; so nothing is held when an epoch has ended.
    """

    def __init__(self, tickets: Tickets) -> None:
        self._tickets = tickets
        self._held: deque[Held] = deque()
        self._answers: dict[int, int] = {}  # by ticket; an answer may come before what it is for

    @reported
    def on_batch(self, values: list[Held | Answer]) -> tuple[Iterable[Any], bool]:
        """Rows that need wait no longer."""
        for value in values:
            if isinstance(value, Held):
                self._held.append(value)
            else:
                self._answers[value.ticket] = self._answers.get(value.ticket, 0) + 1
        return list(self._released()), StatefulBatchLogic.RETAIN

    def _released(self) -> Iterator[Any]:
        while self._held and self._answers.get(self._held[0].ticket, 0) == self._held[0].n_pieces:
            held = self._held.popleft()
            self._answers.pop(held.ticket, None)
            self._tickets.done()
            yield from held.rows

    def snapshot(self) -> None:
        """Nothing to remember: the log has everything that was not committed."""
