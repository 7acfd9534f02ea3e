"""The job in Faust: an agent that takes up to a thousand events, and a table in memory.

    python -m benchmarks.peers.faust_job BOOTSTRAP REDIS_URL DIRECTORY

The table holds the states as they are and sends each changed one to its changelog once a batch.
Titles are counted in a dictionary of the worker, without the second topic that several would need.
"""

import sys

import faust
import orjson
import redis.asyncio
import uvloop

from benchmarks.peers.job import (
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
    viewers = app.Table(
        "viewers", default=new_viewer, partitions=PARTITIONS, use_partitioner=True
    )
    genres = genres_of_titles(bootstrap)
    titles: dict = {}
    store = redis.asyncio.Redis.from_url(redis_url)

    @app.agent(interactions)
    async def update(stream):
        async for batch in stream.take_events(BATCH, within=WITHIN_S):
            changed_viewers, changed_titles = {}, {}
            for record in batch:
                event = decode(record.value, int(record.message.timestamp * 1_000))
                if event is None:
                    continue
                viewer = viewer_id(event)
                state = changed_viewers.get(viewer)
                if state is None:
                    state = changed_viewers[viewer] = viewers[viewer]
                if not update_viewer(state, event, genres):
                    continue
                title = titles.get(event.item_id)
                if title is None:
                    title = titles[event.item_id] = new_title()
                update_title(title, event)
                changed_titles[event.item_id] = title
            values = {f"title:{id_}": orjson.dumps(t) for id_, t in changed_titles.items()}
            for id_, state in changed_viewers.items():
                viewers[id_] = state
                values[f"viewer:{id_}"] = orjson.dumps(state)
            async with store.pipeline(transaction=False) as pipe:
                if values:
                    pipe.mset(values)
                pipe.incrby("applied", len(batch))
                await pipe.execute()

    return app


def main() -> None:
    """Runs a worker until SIGTERM."""
    uvloop.install()
    faust.Worker(build(*sys.argv[1:4]), loglevel="WARNING").execute_from_commandline()


if __name__ == "__main__":
    main()
