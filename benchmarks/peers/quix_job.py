"""The job in Quix Streams: a stateful step over RocksDB, and a sink that writes at checkpoints.

    python -m benchmarks.peers.quix_job BOOTSTRAP REDIS_URL DIRECTORY

Titles are counted in a dictionary of the process, without the second topic that several would need.
"""

import sys
from typing import Any

import orjson
import redis
from quixstreams import Application, State
from quixstreams.sinks import BatchingSink, SinkBatch

from benchmarks.peers.job import (
    decode,
    genres_of_titles,
    new_title,
    new_viewer,
    update_title,
    update_viewer,
    viewer_id,
)

COMMIT_S = 1.0


class Titles:
    """Counts of titles, and which of them changed since they were last written."""

    def __init__(self) -> None:
        self.all: dict[str, Any] = {}
        self.changed: dict[str, Any] = {}

    def count(self, event: Any) -> None:
        """Takes an event in."""
        title = self.all.get(event.item_id)
        if title is None:
            title = self.all[event.item_id] = new_title()
        update_title(title, event)
        self.changed[event.item_id] = title


class RedisSink(BatchingSink):  # type: ignore[misc]
    """Writes the last state of each changed viewer, and the changed titles, in one round trip."""

    def __init__(self, url: str, titles: Titles) -> None:
        super().__init__()
        self._store = redis.Redis.from_url(url)
        self._titles = titles

    def write(self, batch: SinkBatch) -> None:
        """Called for each partition before its offsets are committed."""
        titles, self._titles.changed = self._titles.changed, {}
        values = {f"title:{id_}": orjson.dumps(title) for id_, title in titles.items()}
        latest = dict(item.value for item in batch)
        latest.pop(None, None)
        values.update((f"viewer:{id_}", orjson.dumps(state)) for id_, state in latest.items())
        with self._store.pipeline(transaction=False) as pipe:
            if values:
                pipe.mset(values)
            pipe.incrby("applied", batch.size)
            pipe.execute()


def build(bootstrap: str, redis_url: str, directory: str) -> Application:
    """The application, ready to run."""
    app = Application(
        broker_address=bootstrap,
        consumer_group="peer-quix",
        auto_offset_reset="earliest",
        commit_interval=COMMIT_S,
        state_dir=directory,
        loglevel="WARNING",
    )
    genres, titles = genres_of_titles(bootstrap), Titles()

    def update(
        value: bytes, _key: str, logged_at_ms: int, _headers: Any, state: State
    ) -> tuple[str | None, Any]:
        event = decode(value, logged_at_ms)
        if event is None:
            return None, None
        viewer = viewer_id(event)
        known = state.get(viewer) or new_viewer()
        if update_viewer(known, event, genres):
            titles.count(event)
            state.set(viewer, known)
        return viewer, known

    interactions = app.topic("interactions", key_deserializer="str", value_deserializer="bytes")
    viewers = app.dataframe(interactions).apply(update, stateful=True, metadata=True)
    viewers.sink(RedisSink(redis_url, titles))
    return app


def main() -> None:
    """Runs until SIGTERM."""
    build(*sys.argv[1:4]).run()


if __name__ == "__main__":
    main()
