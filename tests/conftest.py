"""Fixtures: real servers, a clock to set, a seeded generator.

The brokers and the shared Redis start once per session, on first use. Tests on a shared broker
keep apart by `topic_prefix`; a test that breaks a server starts its own.
"""

import uuid
from collections.abc import Iterator

import numpy as np
import pytest
import redis

from infra.embedded import EmbeddedBroker, EmbeddedRedis
from tests.apache_kafka import ApacheKafka, why_not_here
from tests.clock import FakeClock


@pytest.fixture
def rng() -> np.random.Generator:
    """The one source of randomness of a test."""
    return np.random.default_rng(7)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that the test sets."""
    return FakeClock()


@pytest.fixture
def topic_prefix() -> str:
    """A prefix of topic names, and of consumer groups, that no other test has."""
    return f"t{uuid.uuid4().hex[:12]}-"


@pytest.fixture(scope="session")
def embedded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """The session's embedded broker."""
    with EmbeddedBroker(tmp_path_factory.mktemp("broker")) as server:
        yield server


@pytest.fixture(scope="session")
def apache_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """The session's Apache Kafka; skips where the machine has none."""
    if reason := why_not_here():
        pytest.skip(reason)
    with ApacheKafka(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture
def broker(embedded_broker: EmbeddedBroker) -> str:
    """The address of the embedded broker."""
    return embedded_broker.bootstrap


@pytest.fixture(params=["embedded", "kafka"])
def any_broker(request: pytest.FixtureRequest) -> str:
    """The address of a broker: the test runs on the embedded one and on Apache Kafka."""
    fixture = {"embedded": "embedded_broker", "kafka": "apache_kafka"}[request.param]
    server: EmbeddedBroker | ApacheKafka = request.getfixturevalue(fixture)
    return server.bootstrap


@pytest.fixture(params=["sturdiest", pytest.param("embedded", marks=pytest.mark.long)])
def sturdy_broker(request: pytest.FixtureRequest) -> str:
    """Apache Kafka's address where it is here, else the embedded broker's.

    For tests that take a minute on each broker: `make test-long` runs them on the embedded one too.
    """
    is_kafka = request.param == "sturdiest" and not why_not_here()
    fixture = "apache_kafka" if is_kafka else "embedded_broker"
    server: EmbeddedBroker | ApacheKafka = request.getfixturevalue(fixture)
    return server.bootstrap


@pytest.fixture(scope="session")
def _session_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(_session_redis: EmbeddedRedis) -> str:
    """The address of the session's Redis, empty at the start of each test."""
    with redis.Redis.from_url(_session_redis.url) as client:
        client.flushall()
    return _session_redis.url


@pytest.fixture
def redis_server() -> Iterator[EmbeddedRedis]:
    """A Redis of the test's own, to stop and to restart."""
    with EmbeddedRedis() as server:
        yield server


SLOWEST = ("test_demo.py", "test_rescale.py", "test_learning.py", "test_kill_features.py")  # first


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests go first: side by side, the last file is then a short one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name not in SLOWEST, item.path not in slow))
