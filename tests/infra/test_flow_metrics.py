"""What a real features process tells of itself, also while Redis is gone."""

import time
from collections import defaultdict

import pytest

from features.decode import decode_records
from features.events import kind_of
from features.log import CONTENT_TYPE, JSON_TYPE, LogConfig
from features.redis_config import RedisConfig
from infra.ops.scrape import samples_of
from tests.faults.load import recent_interactions
from tests.flows import FeaturesSite, wait_until

N_BAD = 30
MARK = "sent-by-a-stranger"
MOST_SERIES = 32  # of a metric: partitions x sides, tables, kinds


@pytest.fixture
def site(broker, redis_server, topic_prefix, tmp_path):
    return FeaturesSite(
        LogConfig(broker),
        RedisConfig(redis_server.url, prefix=topic_prefix),
        topic_prefix,
        tmp_path,
    )


class Reading:
    """One reading of an endpoint."""

    def __init__(self, url: str) -> None:
        self.samples = list(samples_of(url))

    def total(self, name: str, **labels: str) -> float:
        return sum(self._values(name, labels))

    def most(self, name: str, **labels: str) -> float:
        return max(self._values(name, labels), default=-1.0)

    def _values(self, name: str, labels: dict[str, str]) -> list[float]:
        return [
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def age_s(self, source: str) -> float:
        return self.most("headrace_source_age_seconds", source=source)


def test_lag_and_ages_move_on_while_redis_is_gone(site, redis_server, rng):
    site.send(recent_interactions(rng, 600))
    send_bad(site)
    with site.running():
        url = site.metrics_url

        def reading() -> Reading:
            return Reading(url)

        wait_until(
            lambda: (
                (now := reading()).total("headrace_stream_log_end_offset") == 600 + N_BAD
                and now.total("headrace_stream_lag") == 0
            )
        )
        before = reading()
        assert before.total("headrace_stream_applied_offset") == 600 + N_BAD
        assert before.most("headrace_stream_lag_seconds") == 0
        tells_of_its_work(before)
        is_bounded(before)

        redis_server.kill()
        asleep_since_s = time.monotonic()
        site.send(recent_interactions(rng, 50))
        wait_until(lambda: reading().total("headrace_stream_lag") == 50)
        first_s = reading().most("headrace_stream_lag_seconds", by="ingestion")
        wait_until(
            lambda: reading().most("headrace_stream_lag_seconds", by="ingestion") > first_s + 1
        )
        gone = reading()
        waited_s = time.monotonic() - asleep_since_s
        assert 1 < gone.most("headrace_stream_lag_seconds", by="ingestion") < waited_s + 1
        assert gone.most("headrace_stream_lag_seconds", by="event") > 10_000  # of the last day
        assert 1 < gone.age_s("redis") < waited_s + 2
        assert 1 < gone.age_s("applied") < waited_s + 2
        assert gone.age_s("log_end") < gone.age_s("applied")
        assert gone.total("headrace_redis_errors_total", kind="connection") > 0

        redis_server.start()
        wait_until(lambda: reading().total("headrace_stream_lag") == 0)
        wait_until(lambda: max(reading().age_s("redis"), reading().age_s("applied")) < 1)
        after = reading()
        assert after.total("headrace_stream_applied_offset") == 650 + N_BAD
        assert after.total("headrace_redis_retries_total") > 0


def send_bad(site: FeaturesSite) -> None:
    """Records that are no events, each with words of its own."""
    for k in range(N_BAD):
        value = f'{{"event_id": "b{k}", "{MARK}-{k}": 1}}' if k % 2 else f"{MARK} {k}"
        headers = [(CONTENT_TYPE, JSON_TYPE)] if k % 2 else []
        topic = site.topic("interactions")
        site.writer.append(topic, f"{MARK}-{k}".encode(), value.encode(), headers=headers)
    site.writer.flush()


def tells_of_its_work(now: Reading) -> None:
    assert now.total("headrace_stream_bad_records_total") == N_BAD
    assert now.total("headrace_stream_late_total") > 500  # they happened yesterday
    assert 0 < now.total("headrace_stream_hot_key_share", kind="user") < 0.5
    assert 0 < now.total("headrace_stream_hot_key_share", kind="item") < 0.5
    assert now.total("headrace_stream_row_cache_total", table="user", outcome="load") >= 40
    assert now.total("headrace_stream_row_cache_total", table="item", outcome="hit") > 100
    for stage in ("applied", "servable"):
        assert now.total("headrace_freshness_seconds_count", stage=stage) > 0
    assert now.total("headrace_stream_batch_seconds_sum") > 0
    for target in ("redis", "log"):
        assert now.total("headrace_stream_flush_seconds_count", target=target) > 0
    assert now.total("headrace_build_info") == 1


def is_bounded(now: Reading) -> None:
    series = defaultdict(set)
    for sample in now.samples:
        labels = {k: v for k, v in sample.labels.items() if k != "le"}
        series[sample.name].add(tuple(sorted(labels.items())))
        assert all(MARK not in value for value in labels.values())
    assert max(map(len, series.values())) <= MOST_SERIES


def test_kinds_of_bad_records_are_as_many_as_rules(rng):
    """Whatever is sent, the kind has nothing of it: a label may hold it."""
    words = [rng.bytes(int(n)) for n in rng.integers(0, 60, 300)]
    said = [f"{{{MARK}{word.hex()}" for word in words]
    bad = decode_records([Raw(value) for value in words] + [Raw(w.encode()) for w in said]).bad
    kinds = {kind_of(record.reason) for record in bad}
    assert len(bad) > 500
    assert kinds <= {
        "record must hold an Interaction",
        "record is not a Interaction as JSON",
        "record is not a Interaction as protobuf",
        *(f"interaction.{name} is required" for name in ("event_id", "user_id", "item_id")),
    }


class Raw:
    """A record of the log with a value alone."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def value(self) -> bytes:
        return self._value

    def key(self) -> bytes:
        return MARK.encode()

    def headers(self) -> None:
        return None

    def topic(self) -> str:
        return "interactions"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 0

    def timestamp(self) -> tuple[int, int]:
        return 1, 1_700_000_000_000
