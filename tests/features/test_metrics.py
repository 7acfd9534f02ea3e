"""Ages of sources, and metrics that are switched off."""

from types import ModuleType

from prometheus_client import CollectorRegistry, Counter, Histogram

from features.metrics import AGE_NAME, Nothing, SourceAges, switch_off


def test_an_age_grows_until_the_source_is_heard_of(clock):
    registry = CollectorRegistry()
    ages = SourceAges(registry, lambda: clock.now_ms() / 1e3)
    redis = ages.source("redis")
    assert ages.source("redis") is redis
    clock.advance_ms(1_500)
    assert registry.get_sample_value(AGE_NAME, {"source": "redis"}) == 1.5
    redis.heard()
    assert registry.get_sample_value(AGE_NAME, {"source": "redis"}) == 0


def test_of_several_flows_the_oldest_age_is_told(clock):
    ages = SourceAges(None, lambda: clock.now_ms() / 1e3)
    ages.source("applied", "learning")
    clock.advance_ms(2_000)
    ages.source("applied", "attribution")
    assert ages.ages_s() == {"applied": 2.0}
    ages.forget("applied", "learning")
    assert ages.ages_s() == {"applied": 0.0}


def test_metrics_that_are_switched_off_take_everything_and_keep_nothing():
    registry = CollectorRegistry()
    module = ModuleType("some_metrics")
    module.EVENTS = Counter("events", "Events", ["kind"], registry=registry)
    module.SECONDS = Histogram("seconds", "Seconds", registry=registry)
    module.BY_NAME = {"a": module.EVENTS.labels("a")}
    module.LIMIT = 7
    switch_off(module)
    module.EVENTS.labels("x").inc(3)
    module.BY_NAME["a"].inc()
    module.SECONDS.observe(1.0)
    with module.SECONDS.time():
        pass
    assert isinstance(module.EVENTS, Nothing)
    assert isinstance(module.BY_NAME["a"], Nothing)
    assert module.LIMIT == 7
    assert registry.get_sample_value("events_total", {"kind": "a"}) == 0
    assert registry.get_sample_value("events_total", {"kind": "x"}) is None
    assert registry.get_sample_value("seconds_count") == 0
