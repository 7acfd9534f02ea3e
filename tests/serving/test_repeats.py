"""Answers given again: when, to whom, what they say, and what they never are: stale."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import redis
from headrace.v1 import events_pb2, recommender_pb2
from headrace.v1.recommender_pb2_grpc import RecommendationServiceStub

from features.row_reader import RowPosition
from features.rules import Rule, RuleKind, RuleScope
from features.vocabulary import Device, Page
from serving.repeats import Repeats
from serving.rules.book import RuleBook
from serving.slate import Filters, Query, Viewer
from serving.slate_cache import OVERHEAD_BYTES, SlateCache
from serving.viewers import ViewerReader
from serving.wire import encode_decision
from tests.clock import START_MS, FakeClock
from tests.serving.harness import (
    TOPIC,
    FakeRecommender,
    FakeRows,
    Parts,
    eventually,
    row_at,
    served,
)


class Seconds:
    """A monotonic clock that stands still until a test moves it."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Site:
    """A server with a cache, and a way to ask it."""

    def __init__(self) -> None:
        self.seconds, self.rows = Seconds(), FakeRows()
        self.cache = SlateCache(5.0, monotonic_s=self.seconds)
        self.parts = Parts(rows=lambda: self.rows, cache=self.cache)

    def put(self, user_id: str, offset: int) -> None:
        self.rows.put(row_at(user_id, offset=offset, logged_at_ms=START_MS - 250))

    def ask(self, user_id: str = "ann", **fields: Any) -> recommender_pb2.RecommendResponse:
        """An answer, once the work behind it is done as well."""
        n_recorded = len(self.parts.decisions)
        request = recommender_pb2.RecommendRequest(user_id=user_id, **fields)
        answer: recommender_pb2.RecommendResponse = self.stub.Recommend(request, timeout=10)
        eventually(lambda: len(self.parts.decisions) == n_recorded + 1)
        return answer

    @property
    def n_made(self) -> int:
        return len(self.parts.recommender.viewers)

    @contextmanager
    def open(self) -> Iterator["Site"]:
        with served(self.parts) as (server, _), server.channel() as channel:
            self.stub: Any = RecommendationServiceStub(channel)  # type: ignore[no-untyped-call]
            yield self


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    with Site().open() as site:
        yield site


@pytest.fixture
def site(shared: Site) -> Site:
    """The server of all tests here, as it was at its start."""
    shared.cache.invalidate()
    shared.rows.rows.clear()
    shared.rows.failure = None
    shared.parts.decisions.clear()
    shared.parts.recommender.viewers.clear()
    return shared


def test_same_question_is_answered_again_without_being_worked_out(site: Site) -> None:
    site.put("ann", 41)
    first = site.ask()
    site.seconds.now_s += 2.5
    again = site.ask(request_id="r2")
    assert site.n_made == 1
    assert (first.cached, again.cached, again.cached_age_ms) == (False, True, 2_500)
    assert again.request_id == "r2"
    assert first.request_id not in {"", "r2"}
    assert list(again.items) == list(first.items)
    assert again.freshness == first.freshness
    assert (again.n_candidates, again.bundle_version) == (3, "b1")


def test_answer_given_again_is_recorded_with_the_chances_it_was_drawn_with(site: Site) -> None:
    site.put("ann", 41)
    site.ask(session_id="s1", request_id="r3")
    site.ask(session_id="s2", request_id="r4")
    first, again = (
        events_pb2.Impression.FromString(encode_decision(decision))
        for decision in site.parts.decisions
    )
    assert (again.request_id, again.session_id, again.user_id) == ("r4", "s2", "ann")
    assert (first.cached, again.cached) == (False, True)
    assert again.slots[0].propensity == 0.25
    again.cached, again.request_id, again.session_id = False, "r3", "s1"
    assert again == first


def test_event_of_the_viewer_is_in_the_next_answer(site: Site, rng: np.random.Generator) -> None:
    """Whatever the order of events and questions."""
    offsets, asked = {"ann": 0, "bob": 0}, 0
    for user_id in offsets:
        site.put(user_id, 0)
    for _ in range(100):
        user_id = str(rng.choice(["ann", "bob"]))
        if rng.random() < 0.3:
            offsets[user_id] += 1
            site.put(user_id, offsets[user_id])
        else:
            asked += 1
            answer = site.ask(user_id, count=int(rng.integers(1, 3)))
            assert [place.offset for place in answer.freshness.included] == [offsets[user_id]]
    assert site.n_made < asked


@pytest.mark.parametrize(
    "other",
    [
        {"user_id": "bob"}, {"profile_id": "kids"}, {"count": 2}, {"genres": ["Drama"]},
        {"exclude_item_ids": ["tt2"]}, {"context": {"page": Page.HOME}},
        {"context": {"device": Device.TV}}, {"context": {"region": "DE"}}, {"debug": True},
    ],
)  # fmt: skip
def test_other_question_gets_an_answer_of_its_own(site: Site, other: dict[str, Any]) -> None:
    for user_id in ("ann", "bob"):
        site.put(user_id, 5)
    site.ask()
    assert not site.ask(**{"user_id": "ann", **other}).cached
    assert site.ask().cached


def test_slate_that_is_too_old_is_made_again(site: Site) -> None:
    site.put("ann", 5)
    site.ask()
    site.seconds.now_s += 4.9
    assert site.ask().cached
    site.seconds.now_s += 0.1
    assert not site.ask().cached


def test_answer_that_must_include_an_event_is_given_again_if_it_does(site: Site) -> None:
    site.put("ann", 5)
    site.ask()
    assert site.ask(after={"partition": 0, "offset": 5}).cached
    missing = site.ask(after={"partition": 0, "offset": 6}, wait_ms=5)
    assert (missing.cached, missing.freshness.after_included) == (False, False)
    site.put("ann", 6)
    present = site.ask(after={"partition": 0, "offset": 6})
    assert (present.cached, present.freshness.after_included) == (False, True)


def test_those_of_whom_nothing_is_known_share_a_slate(site: Site) -> None:
    first, again = site.ask("nobody"), site.ask("no one")
    assert (first.cached, again.cached, site.n_made) == (False, True, 1)
    assert (again.freshness.state_age_ms, len(again.freshness.included)) == (-1, 0)
    assert not site.ask("nobody", count=2).cached
    site.put("nobody", 1)
    assert not site.ask("nobody").cached


def test_without_the_store_a_viewers_slate_is_not_trusted_and_nobodys_is(site: Site) -> None:
    site.put("ann", 5)
    site.ask("ann"), site.ask("nobody")
    site.rows.failure = redis.TimeoutError("stalls")
    answers = [site.ask("ann"), site.ask("nobody")]
    assert [(answer.cached, list(answer.degraded)) for answer in answers] == [(True, ["redis"])] * 2
    assert [len(answer.freshness.included) for answer in answers] == [0, 0]
    impression = events_pb2.Impression.FromString(encode_decision(site.parts.decisions[-1]))
    assert list(impression.degraded) == ["redis"]
    site.rows.failure = None
    eventually(lambda: not site.ask("ann").degraded)


def test_nothing_made_before_an_invalidation_is_given_after_it(site: Site) -> None:
    site.put("ann", 5)
    site.ask("ann"), site.ask("nobody")
    site.cache.invalidate()
    assert [site.ask(user_id).cached for user_id in ("ann", "nobody")] == [False, False]


def repeats_with_rules(cache: SlateCache, clock: FakeClock, book: RuleBook) -> Repeats:
    return Repeats(
        cache, ViewerReader(FakeRows(), TOPIC), lambda _: None, lambda: 0, clock, clock, TOPIC,
        edge_after_ms=book.next_edge_ms, has_rules_for=book.speaks_of,
    )  # fmt: skip


def test_those_of_whom_a_rule_speaks_never_share_nobodys_slate() -> None:
    kids = RuleScope(user_id="ann", profile_id="kids")
    book = RuleBook.of([Rule("c", RuleKind.CEILING, scope=kids, max_age=6)])
    repeats, stranger = repeats_with_rules(SlateCache(5.0), FakeClock(), book), Viewer(None)
    repeats.prepare(FakeRecommender(), Query("whoever"))
    assert repeats.of_nobody(Query("bob"), stranger) is not None
    for query in (Query("ann", "kids"), Query("ann")):
        assert repeats.of_nobody(query, stranger) is None
        assert repeats.key_of(query, stranger) is None


def test_slates_are_let_go_at_the_moment_at_which_a_rule_begins() -> None:
    async def run() -> None:
        clock, cache = FakeClock(), SlateCache(5.0)
        book = RuleBook.of([Rule("b", RuleKind.BLOCK, ("tt1",), from_ms=START_MS + 100)])
        repeats = repeats_with_rules(cache, clock, book)
        kept = []
        for now_ms in (0, 99, 100, 101):
            clock.set_ms(START_MS + now_ms)
            await repeats.of_viewer(Query("ann"))
            kept.append(repeats.of_nobody(Query("bob"), Viewer(None)) is not None)
            repeats.prepare(FakeRecommender(), Query("whoever"))
        assert kept == [False, True, False, True]

    asyncio.run(run())


def test_nobodys_slate_is_made_anew_before_it_grows_old() -> None:
    async def run() -> None:
        rows, recommender, clock = FakeRows(), FakeRecommender(), FakeClock()
        cache = SlateCache(0.4)
        repeats = Repeats(
            cache, ViewerReader(rows, TOPIC), lambda _: None, lambda: 0, clock, clock, TOPIC
        )
        repeats.prepare(recommender, Query("whoever", count=2))
        key = cache.key_of(Query("another", count=2), is_anonymous=True)
        first = cache.get(key)
        renewing = asyncio.create_task(repeats.renew(recommender))
        while len(recommender.viewers) < 3:
            await asyncio.sleep(0)
        renewing.cancel()
        last = cache.get(key)
        assert first is not None
        assert last is not None
        assert last.made_s > first.made_s
        assert {viewer.row is None for viewer in recommender.viewers} == {True}

    asyncio.run(run())


def test_slate_of_another_bundle_or_catalogue_does_not_hold() -> None:
    world = ["b1"]
    cache = SlateCache(5.0, world=lambda: tuple(world))
    filled(cache, "a")
    assert cache.get(cache.key_of(Query("a")))
    world[0] = "b2"
    assert not cache.get(cache.key_of(Query("a")))


QUERY = Query("ann", count=7, filters=Filters(languages=("de",)))
PLACE = RowPosition(0, 5, START_MS)


def filled(cache: SlateCache, names: str, n_bytes: int = 10) -> dict[str, Any]:
    keys = {name: cache.key_of(Query(name)) for name in names}
    for name, key in keys.items():
        cache.put(key, Query(name), PLACE, bytes(n_bytes), b"")
    return keys


def test_slate_that_was_not_asked_for_longest_gives_way() -> None:
    cache = SlateCache(5.0, max_slates=2)
    keys = filled(cache, "ab")
    assert cache.get(keys["a"])
    keys |= filled(cache, "c")
    assert [cache.get(keys[name]) is not None for name in "abc"] == [True, False, True]


def test_cache_holds_no_more_bytes_than_it_may() -> None:
    cache = SlateCache(5.0, max_bytes=3 * (OVERHEAD_BYTES + 500))
    filled(cache, "abcdefgh", n_bytes=500)
    assert (len(cache), cache.n_bytes) == (3, 3 * (OVERHEAD_BYTES + 500))
    filled(cache, "z", n_bytes=10_000)
    assert (len(cache), cache.n_bytes) == (0, 0)


@pytest.mark.parametrize(
    "other",
    [
        {"debug": True}, {"shown": frozenset({1})}, {"page_number": 1},
        {"exclude_item_ids": tuple(map(str, range(65)))},
    ],
)  # fmt: skip
def test_what_is_asked_once_is_not_kept(other: dict[str, Any]) -> None:
    assert SlateCache(5.0).key_of(replace(QUERY, **other)) is None
    assert SlateCache(5.0).key_of(QUERY) is not None
    assert SlateCache(0.0).key_of(QUERY) is None


def test_pages_go_on_behind_an_answer_that_is_given_again(site: Site) -> None:
    site.put("ann", 77)
    for user_id in ("ann", "nobody at all"):
        first, again = (site.ask(user_id=user_id, count=2) for _ in range(2))
        assert again.cached
        second = site.ask(user_id=user_id, count=2, page_token=again.next_page_token)
        shown = {item.item_id for item in again.items}
        assert not second.cached
        assert shown == {item.item_id for item in first.items}
        assert shown.isdisjoint(item.item_id for item in second.items)
