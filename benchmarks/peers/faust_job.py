"""The job in Faust: an agent that takes up to a thousand events, and a table in memory.

    python -m benchmarks.peers.faust_job BOOTSTRAP REDIS_URL DIRECTORY

The table holds the states as they are and sends each changed one to its changelog once a batch.
Titles are counted in a dictionary of the worker, without the second topic that several would need.
"""

import logging
import sys
from collections.abc import AsyncIterator
from typing import Any

import faust
import orjson
import redis.asyncio
import uvloop

from benchmarks.peers.job import (
    Genres,
    State,
    decode,
    genres_of_titles,
    new_title,
    new_viewer,
    update_title,
    update_viewer,
    viewer_id,
)

BATCH, WITHIN_S = 1_000, 0.1
PARTITIONS = 4


class Features:
    """The table of viewers, and the titles."""

    def __init__(self, viewers: Any, genres: Genres) -> None:
        self._viewers, self._genres = viewers, genres
        self._titles: dict[str, State] = {}

    def apply(self, batch: list[Any]) -> dict[str, bytes]:
        """Takes a batch in; the values that it changed, as they go to Redis."""
        viewers: dict[str, State] = {}
        titles: dict[str, State] = {}
        for record in batch:
            event = decode(record.value, int(record.message.timestamp * 1_000))
            if event is None:
                continue
            viewer = viewer_id(event)
            state = viewers.get(viewer)
            if state is None:
                state = viewers[viewer] = self._viewers[viewer]
            if update_viewer(state, event, self._genres):
                title = self._titles.get(event.item_id)
                if title is None:
                    title = self._titles[event.item_id] = new_title()
                update_title(title, event)
                titles[event.item_id] = title
        values = {f"title:{id_}": orjson.dumps(title) for id_, title in titles.items()}
        for id_, state in viewers.items():
            self._viewers[id_] = state  # the changelog takes it
            values[f"viewer:{id_}"] = orjson.dumps(state)
        return values


def build(bootstrap: str, redis_url: str, directory: str) -> faust.App:
    """The app, ready to run."""
    app = faust.App(
        "peer-faust",
        broker=f"aiokafka://{bootstrap}",
        datadir=directory,
        store="memory://",
        topic_partitions=PARTITIONS,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
        producer_linger=0.02,
        web_enabled=False,
    )
    interactions = app.topic("interactions", value_type=bytes, value_serializer="raw")
    viewers = app.Table("viewers", default=new_viewer, partitions=PARTITIONS, use_partitioner=True)
    features = Features(viewers, genres_of_titles(bootstrap))
    store = redis.asyncio.Redis.from_url(redis_url)

    @app.agent(interactions)
    async def update(stream: Any) -> None:
        batches: AsyncIterator[list[Any]] = stream.take_events(BATCH, within=WITHIN_S)
        async for batch in batches:
            values = features.apply(batch)
            async with store.pipeline(transaction=False) as pipe:
                if values:
                    pipe.mset(values)
                pipe.incrby("applied", len(batch))
                await pipe.execute()

    return app


def main() -> None:
    """Runs a worker until SIGTERM."""
    uvloop.install()
    for name in ("aiokafka", "faust"):  # they format messages for nobody at the level DEBUG
        logging.getLogger(name).setLevel(logging.WARNING)
    faust.Worker(build(*sys.argv[1:4]), loglevel="WARNING").execute_from_commandline()


if __name__ == "__main__":
    main()
