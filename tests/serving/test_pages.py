"""Endless slates: what a token promises, and what is refused."""

import base64

import pytest
from headrace.v1 import recommender_pb2
from hypothesis import given
from hypothesis import strategies as st

from features.events import CatalogItem
from features.ids import id_hash, id_hashes
from serving.catalogue import CatalogueTable
from serving.errors import InvalidRequestError
from serving.pages import FIRST, MAX_CHARS, MAX_SHOWN, Page, PageTokens, content_digest
from serving.recommender import Recommender
from serving.slate import Query, Viewer
from tests.clock import FakeClock
from tests.serving import engine

DIGEST = bytes(range(16))


@pytest.fixture
def tokens(clock: FakeClock) -> PageTokens:
    return PageTokens(clock, b"secret of the deployment")


def refusal(tokens: PageTokens, token: str, digest: bytes = DIGEST) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        tokens.read(token, digest)
    return str(caught.value)


def test_token_says_which_page_follows_and_what_was_shown(tokens):
    second = tokens.read(tokens.next(DIGEST, FIRST, id_hashes(["tt1", "tt2"])), DIGEST)
    assert second == Page(1, frozenset({id_hash("tt1"), id_hash("tt2")}))
    third = tokens.read(tokens.next(DIGEST, second, id_hashes(["tt3"])), DIGEST)
    assert third == Page(2, second.shown | {id_hash("tt3")})


def test_slate_ends_with_the_titles_that_a_token_can_hold(tokens):
    most = Page(9, frozenset(range(1, MAX_SHOWN)))
    token = tokens.next(DIGEST, most, id_hashes(["tt1"]))
    assert len(token) <= MAX_CHARS
    assert len(tokens.read(token, DIGEST).shown) == MAX_SHOWN
    assert tokens.next(DIGEST, most, id_hashes(["tt1", "tt2"])) == ""
    assert tokens.next(DIGEST, FIRST, id_hashes([])) == ""


def test_token_of_another_request_is_refused(tokens):
    token = tokens.next(DIGEST, FIRST, id_hashes(["tt1"]))
    assert refusal(tokens, token, DIGEST[::-1]).startswith(
        "page_token must be sent with the request that it belongs to"
    )


def test_token_that_is_too_old_or_from_the_future_is_refused(tokens, clock):
    token = tokens.next(DIGEST, FIRST, id_hashes(["tt1"]))
    clock.advance_ms(3_600_000)
    assert tokens.read(token, DIGEST).number == 1
    clock.advance_ms(1_000)
    assert refusal(tokens, token) == "page_token must be at most 3600 s old; begin again; " + (
        "got one of 3601 s"
    )
    clock.advance_ms(-3_700_000)
    assert "page_token must be at most" in refusal(tokens, token)


def test_token_of_another_deployment_is_refused(tokens, clock):
    foreign = PageTokens(clock, b"another secret").next(DIGEST, FIRST, id_hashes(["tt1"]))
    assert refusal(tokens, foreign) == "page_token must be as an answer gave it; got something else"


@given(st.data())
def test_token_that_was_changed_anywhere_is_refused(data):
    tokens = PageTokens(FakeClock())
    raw = bytearray(
        base64.urlsafe_b64decode(tokens.next(DIGEST, FIRST, id_hashes(["tt1", "tt2"])) + "==")
    )
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert "page_token must be" in refusal(tokens, base64.urlsafe_b64encode(raw).decode())


@given(st.text(max_size=200))
def test_text_that_is_no_token_is_refused(text):
    assert "page_token must be" in refusal(PageTokens(FakeClock()), text)


def test_longest_token_is_bounded(tokens):
    assert refusal(tokens, "A" * (MAX_CHARS + 1)) == (
        f"page_token must be at most {MAX_CHARS} characters; got {MAX_CHARS + 1} characters"
    )


def test_pages_may_differ_in_when_they_are_asked_for_and_in_nothing_else():
    first = recommender_pb2.RecommendRequest(user_id="ann", count=5)
    later = recommender_pb2.RecommendRequest(
        user_id="ann", count=5, request_id="r", wait_ms=5, session_id="s"
    )
    later.page_token = "of the page before"  # noqa: S105 (no secret)
    later.after.offset = 7
    assert content_digest(first) == content_digest(later)
    for name, value in (("user_id", "bob"), ("count", 6), ("exclude_item_ids", ["tt1"])):
        other = recommender_pb2.RecommendRequest(**{"user_id": "ann", "count": 5, name: value})
        assert content_digest(first) != content_digest(other)


def test_pages_never_repeat_a_title_while_everything_moves(rng):
    """Between pages the viewer watches, charts change, titles go and come, servers change."""
    titles = engine.catalogue()
    shown, watched, page = [], [], Page()
    tokens = PageTokens(FakeClock())
    while True:
        kept = [title for title in titles if rng.random() > 0.02]
        table = CatalogueTable.of([*kept, CatalogItem(f"new{len(shown)}", "New", 2013, ("Crime",))])
        mirror = engine.FixedMirror.of(table)
        mirror.values[:] = mirror.values[rng.permutation(len(table))]
        server = Recommender(table, mirror, None)
        query = Query("ann", count=20, shown=page.shown, page_number=page.number)
        row = engine.viewer_row(*watched) if watched else None
        slate = server.recommend(query, Viewer(row), engine.START_MS)
        found = [item.item_id for item in slate.items]
        assert len(set(found)) == len(found) == 20 or not slate.has_more
        assert not {*found} & {*shown}
        shown += found
        watched = [*watched, found[0]] if found and found[0] in {t.item_id for t in titles} else []
        token = tokens.next(DIGEST, page, id_hashes(found)) if slate.has_more else ""
        if not token:
            break
        page = tokens.read(token, DIGEST)
    assert len(shown) >= 200
