"""Load: simulated viewers' events at a steady rate, from a process of its own.

Payloads are made first, so that while sending this process costs its neighbours little.
"""

import argparse
import time

from confluent_kafka import Producer

from benchmarks.mix import realistic
from features.codec import encode_catalog_item
from features.log import LogConfig, LogWriter
from offline.simulator import SimulationConfig, Simulator, encode_batch

N_ITEMS = 50_000
MIXES = ("steps", "realistic")  # one title a step as the simulator tells it, or whole slates
CHUNK_S = 0.005  # events are due in chunks of five milliseconds


def simulator(n_users: int, seed: int, n_items: int = N_ITEMS) -> Simulator:
    """The world of the benchmarks: Zipf 1.0."""
    return Simulator(SimulationConfig(n_users=n_users, n_items=n_items, seed=seed))


def publish_titles(log: LogConfig, topic: str, n_users: int, seed: int) -> None:
    """Sends the simulated catalogue."""
    writer = LogWriter(log, **{"linger.ms": 5})
    for item in simulator(n_users, seed).catalogue():
        writer.append(topic, item.item_id.encode(), encode_catalog_item(item))
    writer.flush()


def messages(
    n: int, n_users: int, seed: int, rate: float, n_items: int = N_ITEMS, mix: str = "steps"
) -> list[dict[str, bytes]]:
    """`n` records ready for `Producer.produce_batch`; their event times end about now."""
    if mix == "realistic":
        pairs = realistic(n, n_users, n_items, seed, rate)
        return [{"key": key, "value": value} for key, value in pairs]
    start_ms = time.time_ns() // 1_000_000 - int(1_000 * n / rate)
    return [
        {"key": key, "value": value}
        for batch in simulator(n_users, seed, n_items).batches(n, start_ms, rate)
        for key, value in zip(batch.keys(), encode_batch(batch), strict=True)
    ]


def send(bootstrap: str, topic: str, records: list[dict[str, bytes]], rate: float) -> float:
    """Sends records at a rate (0: as fast as the log takes them); the rate it came to."""
    producer = Producer(
        {
            **LogConfig(bootstrap).producer(),
            "linger.ms": 5,
            "queue.buffering.max.messages": 2_000_000,
            "queue.buffering.max.kbytes": 1_048_576,
        }
    )
    producer.list_topics(timeout=10)
    started_s = time.perf_counter()
    sent = 0
    while sent < len(records):
        due = len(records)
        if rate:
            due = min(due, int((time.perf_counter() - started_s + CHUNK_S) * rate))
        if due > sent:
            chunk = records[sent : min(due, sent + 5_000)]
            sent += producer.produce_batch(topic, chunk)
        else:
            time.sleep(CHUNK_S)
        producer.poll(0)
    left = producer.flush(60)
    if left:
        raise RuntimeError(f"{left} events of the load were not delivered")
    return len(records) / (time.perf_counter() - started_s)


def main() -> None:
    """Command line of the load process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bootstrap")
    parser.add_argument("--topic", default="interactions")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--items", type=int, default=N_ITEMS)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--mix", choices=MIXES, default="steps")
    options = parser.parse_args()
    n = int(options.rate * options.seconds)
    records = messages(n, options.users, options.seed, options.rate, options.items, options.mix)
    print("ready", flush=True)
    print(send(options.bootstrap, options.topic, records, options.rate), flush=True)


if __name__ == "__main__":
    main()
