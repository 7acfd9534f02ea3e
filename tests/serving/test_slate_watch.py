"""What slates are like, as told beside the answers."""

import numpy as np
import pytest
from prometheus_client import REGISTRY

from features import item_row
from features.position import Position
from serving.served_freshness import GIVEN_UP_S, MOST_WAITING, ServedFreshness
from serving.slate_watch import SlateWatch

ENGAGED = item_row.NAMES.index("item_engaged_total")
SERVED = "headrace_freshness_seconds"


def told(name, **labels):
    return REGISTRY.get_sample_value(name, labels) or 0.0


def catalogue(*engaged):
    values = np.tile(item_row.DEFAULTS, (len(engaged), 1))
    values[:, ENGAGED] = engaged
    return values


def slots_of(ids):
    return np.where(ids < 4, ids.astype(np.int64), -1)


def test_novelty_and_long_tail_are_those_of_each_slate_that_was_served():
    values = catalogue(796, 99, 63, 38)  # with one more each 797, 100, 64, 39 of 1,000
    watch = SlateWatch(slots_of, lambda: values)
    names = "headrace_slate_novelty_bits", "headrace_slate_long_tail_share"
    before = {f"{name}{end}": told(f"{name}{end}") for name in names for end in ("_sum", "_count")}
    watch.add(np.array([0, 1], np.uint64))
    watch.add(np.array([1, 2, 3, 77], np.uint64))  # one is no title of this server
    watch.add(np.array([], np.uint64))
    watch.step(0.0)
    bits = -np.log2(np.array([0.797, 0.1, 0.064, 0.039]))
    rose = {name: told(name) - value for name, value in before.items()}
    assert rose["headrace_slate_novelty_bits_count"] == 2
    assert rose["headrace_slate_novelty_bits_sum"] == pytest.approx(
        bits[:2].mean() + bits[1:].mean()
    )
    assert rose["headrace_slate_long_tail_share_sum"] == pytest.approx(0 + 2 / 3)


def test_coverage_and_inequality_are_those_of_the_last_hour():
    watch = SlateWatch(slots_of, lambda: catalogue(1, 1, 1, 1))
    for _ in range(9):
        watch.add(np.array([0], np.uint64))
    watch.add(np.array([1], np.uint64))
    watch.step(0.0)
    assert told("headrace_slate_coverage_titles") == 2
    assert told("headrace_slate_gini") == pytest.approx(0.4)
    for minute in range(1, 71, 10):
        watch.add(np.array([2, 3], np.uint64))
        watch.step(60.0 * minute)
    assert told("headrace_slate_coverage_titles") == 2
    assert told("headrace_slate_gini") == 0


def test_freshness_ends_with_the_first_slate_that_includes_the_event(clock):
    freshness = ServedFreshness(lambda: clock.now_ms() / 1e3)
    ann, at = ("ann", ""), Position("interactions", 1, 7)

    def observed():
        return told(f"{SERVED}_count", stage="served"), told(f"{SERVED}_sum", stage="served")

    n, seconds = observed()
    freshness.acknowledged(ann, at)
    clock.advance_ms(250)
    freshness.served(ann, (Position("interactions", 1, 6),))
    freshness.served(("bob", ""), (at,))
    assert observed() == (n, seconds)
    freshness.served(ann, (Position("interactions", 1, 9),))
    freshness.served(ann, (Position("interactions", 1, 9),))
    assert observed() == (n + 1, pytest.approx(seconds + 0.25))
    freshness.acknowledged(ann, at)
    clock.advance_ms(int(1e3 * GIVEN_UP_S) + 1)
    freshness.served(ann, (at,))
    assert observed()[0] == n + 1


def test_viewers_who_never_come_back_take_no_more_than_their_room():
    freshness = ServedFreshness()
    for k in range(MOST_WAITING + 5):
        freshness.acknowledged((f"u{k}", ""), Position("interactions", 0, k))
    assert len(freshness._waiting) == MOST_WAITING
    assert ("u4", "") not in freshness._waiting
