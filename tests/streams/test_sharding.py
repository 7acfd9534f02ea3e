"""Where Bytewax sends a shard, asked of Bytewax itself; and rows that wait for others."""

import threading
from itertools import permutations

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import cluster_main

from streams.runner import Cluster
from streams.sharding import shard_keys, worker_of
from streams.write_order import MAX_UNANSWERED, Answer, Held, ReleasedRows, Tickets


class Once(StatefulSourcePartition):
    """Puts out its items, then ends."""

    def __init__(self, items):
        self._items = items

    def next_batch(self):
        if not self._items:
            raise StopIteration
        items, self._items = self._items, []
        return items

    def snapshot(self):
        return None


class OneSource(FixedPartitionedSource):
    def __init__(self, items):
        self._items = items

    def list_parts(self):
        return ["0"]

    def build_part(self, *_):
        return Once(self._items)


class Pass(StatefulBatchLogic):
    def on_batch(self, values):
        return values, StatefulBatchLogic.RETAIN

    def snapshot(self):
        return None


class Places(DynamicSink):
    """Notes which worker each key came to."""

    def __init__(self):
        self.found = []
        self.lock = threading.Lock()

    def build(self, step_id, worker_index, worker_count):  # noqa: ARG002
        return Place(self, worker_index)


class Place(StatelessSinkPartition):
    def __init__(self, places, worker):
        self._places = places
        self._worker = worker

    def write_batch(self, items):
        with self._places.lock:
            self._places.found += [(key, self._worker) for key, _ in items]


def places_of(keys, n_workers):
    """The worker to which Bytewax, run with that many, sends each key."""
    places = Places()
    flow = Dataflow("places")
    items = op.input("items", flow, OneSource([(key, None) for key in keys]))
    shards = op.stateful_batch("shards", items, lambda _: Pass())
    op.output("places", shards, places)
    cluster_main(flow, [], 0, worker_count_per_proc=n_workers)
    return dict(places.found)


@pytest.mark.parametrize("n_workers", [1, 2, 3, 4, 8])
def test_every_worker_owns_exactly_one_shard(n_workers):
    keys = shard_keys(n_workers)
    assert places_of(keys, n_workers) == {key: worker for worker, key in enumerate(keys)}


def test_any_key_goes_where_its_hash_says():
    keys = ["", "a", "seven b", "eight by", "nine byte", "sixteen bytes is.", "ä", "x" * 100]
    assert places_of(keys, 8) == {key: worker_of(key, 8) for key in keys}


def test_a_process_must_be_one_of_the_cluster():
    with pytest.raises(ValueError, match=r"process must be one of 0\.\.1.*got 2"):
        Cluster(("a:1", "b:1"), 2)


def released(values):
    shard = ReleasedRows(Tickets())
    out = []
    for value in values:
        out += shard.on_batch([value])[0]
    return out


def test_rows_wait_for_every_answer_in_whatever_order_these_come():
    held = [Held(1, 2, ("a",)), Held(2, 1, ("b",))]
    answers = [Answer(0, 1), Answer(0, 1), Answer(0, 2)]
    for order in permutations(range(5)):
        values = [(held + answers)[k] for k in order]
        if values.index(held[0]) < values.index(held[1]):
            assert released(values) == ["a", "b"]


def test_later_rows_never_overtake_earlier_ones():
    held = [Held(1, 1, ("old",)), Held(2, 1, ("new",))]
    assert released([*held, Answer(0, 2)]) == []
    assert released([*held, Answer(0, 2), Answer(0, 1)]) == ["old", "new"]


def test_a_reader_pauses_while_too_many_batches_are_on_their_way():
    tickets = Tickets()
    for _ in range(MAX_UNANSWERED):
        assert tickets.have_room()
        tickets.issue()
    assert not tickets.have_room()
    tickets.done()
    assert tickets.have_room()
