"""Rules of editors: set through the API, followed from the log, brought to requests."""

import asyncio
from dataclasses import replace

import pytest

from features.codec import decode_rule, encode_rule
from features.log import LogConfig, LogWriter, read_to_end
from features.rules import Rule, RuleKind, RuleScope, changes_in
from features.vocabulary import Device, Page
from infra import topics
from serving.catalogue import CatalogueTable
from serving.rules.book import NEVER_MS, NO_RULES, RuleBook
from serving.rules.editor import BadRuleError, RuleEditor, TooManyRulesError
from serving.rules.follower import RuleFollower
from serving.rules.rulings import MOST_PLACES, Rulings
from serving.slate import Query
from serving.track import LogUnavailableError, SteadyWriter, track_writer
from tests.clock import START_MS, FakeClock
from tests.serving.harness import NOWHERE, create_topic, eventually

BLOCK = Rule("block", RuleKind.BLOCK, ("tt1",), changed_at_ms=START_MS)
PIN = Rule("pin", RuleKind.PIN, ("tt2",), slot=1, changed_at_ms=START_MS)
TABLE = CatalogueTable.empty(0)


# --- the book ---


def test_a_book_tells_the_moments_at_which_rules_begin_and_end():
    book = RuleBook.of([replace(BLOCK, from_ms=10, until_ms=30), replace(PIN, until_ms=20)])
    edges = [book.next_edge_ms(at_ms) for at_ms in (0, 10, 19, 20, 30)]
    assert edges == [10, 20, 20, 30, NEVER_MS]


def test_a_changed_book_is_another_one():
    book = NO_RULES.changed("block", BLOCK)
    assert dict(book.rules) == {"block": BLOCK}
    later = replace(BLOCK, item_ids=("tt9",))
    assert dict(book.changed("block", later).rules) == {"block": later}
    assert dict(book.changed("block", None).rules) == {}
    assert dict(NO_RULES.rules) == {}


def query(**fields) -> Query:
    return Query("ann", **fields)


def test_what_holds_depends_on_page_device_region_viewer_and_time():
    rules = [
        replace(PIN, rule_id="tv", scope=RuleScope(devices=(Device.TV,))),
        replace(PIN, rule_id="home", slot=2, scope=RuleScope(pages=(Page.HOME,), regions=("DE",))),
        replace(PIN, rule_id="ann", slot=3, scope=RuleScope(user_id="ann")),
        replace(PIN, rule_id="later", slot=4, from_ms=START_MS + 5),
    ]
    rulings = Rulings(RuleBook.of(rules), TABLE)

    def held(now_ms=START_MS, **fields):
        return [pin.rule_id for pin in rulings.of(Query(**fields), now_ms).pins]

    assert held(user_id="bob") == []
    assert held(user_id="bob", device=Device.TV) == ["tv"]
    assert held(user_id="bob", page=Page.HOME, region="de") == ["home"]
    assert held(user_id="ann", profile_id="kids") == ["ann"]
    assert held(START_MS + 5, user_id="bob") == ["later"]
    assert held(user_id="bob") == []  # the clock of a replay may go back


def test_of_two_rules_for_a_slot_the_one_changed_last_holds():
    newer = replace(PIN, rule_id="newer", changed_at_ms=START_MS + 1)
    for rules in ([PIN, newer], [newer, PIN]):
        (pin,) = Rulings(RuleBook.of(rules), TABLE).of(query(), START_MS).pins
        assert pin.rule_id == "newer"


def test_the_lowest_ceiling_holds():
    ceilings = [Rule(f"c{age}", RuleKind.CEILING, max_age=age) for age in (12, 6, 16)]
    found = Rulings(RuleBook.of(ceilings), TABLE).of(query(), START_MS)
    assert (found.max_age, found.ceiling_id) == (6, "c6")
    assert Rulings(NO_RULES, TABLE).of(query(), START_MS).max_age is None


def test_requests_alike_are_looked_at_once_and_few_are_kept():
    rulings = Rulings(RuleBook.of([BLOCK]), TABLE)
    first = rulings.of(query(), START_MS)
    assert rulings.of(Query("bob"), START_MS + 10**9) is first
    for k in range(2 * MOST_PLACES):
        rulings.of(query(region=f"R{k}"), START_MS)
    assert len(rulings._found) == MOST_PLACES


# --- the log ---


@pytest.fixture
def prefix(broker: str, topic_prefix: str) -> str:
    for name in (topics.RULES, topics.RULE_CHANGES):
        create_topic(LogConfig(broker), topic_prefix + name)
    return topic_prefix


@pytest.fixture
def follower(broker: str, prefix: str):
    books: list[RuleBook] = []
    found = RuleFollower(LogConfig(broker), prefix + topics.RULES, books.append)
    found.start()
    yield found
    found.stop()
    assert not found.is_alive()
    assert books[-1] is found.book


@pytest.fixture
def writer(broker: str):
    found = track_writer(LogConfig(broker))
    found.start()
    yield found
    found.close(5.0)


def editor_of(writer: SteadyWriter, prefix: str, book=NO_RULES, **changed) -> RuleEditor:
    return RuleEditor(
        writer,
        prefix + topics.RULES,
        prefix + topics.RULE_CHANGES,
        lambda: book,
        FakeClock(),
        **changed,
    )


def test_a_rule_that_is_set_changed_and_taken_away_is_followed_and_kept_in_the_history(
    broker, prefix, writer, follower
):
    editor = editor_of(writer, prefix)
    kids = replace(BLOCK, scope=RuleScope(user_id="ann", profile_id="kids"))
    put, position = asyncio.run(editor.put(replace(kids, author="liar"), "eve", 5.0))
    assert put == replace(kids, author="eve", changed_at_ms=FakeClock().now_ms())
    assert position.topic == prefix + topics.RULES
    eventually(lambda: follower.book.rules == {"block": put})
    asyncio.run(editor.put(replace(put, item_ids=("tt7",)), "eve", 5.0))
    eventually(lambda: follower.book.rules["block"].item_ids == ("tt7",))
    asyncio.run(editor.delete("block", "bob", "over", 5.0))
    eventually(lambda: not follower.book.rules)
    entries = read_to_end(LogConfig(broker), prefix + topics.RULE_CHANGES)
    changes = changes_in([decode_rule(entry.value()) for entry in entries])
    assert [(change.what, change.author) for change in changes] == [
        ("set", "eve"),
        ("changed", "eve"),
        ("taken away", "bob"),
    ]
    assert "ann" not in repr(changes)


def test_a_follower_that_starts_later_knows_what_holds_and_not_what_went(broker, prefix, writer):
    editor = editor_of(writer, prefix)
    for rule in (BLOCK, PIN):
        asyncio.run(editor.put(rule, "eve", 5.0))
    asyncio.run(editor.delete("pin", "eve", "", 5.0))
    late = RuleFollower(LogConfig(broker), prefix + topics.RULES)
    late.start()
    late.stop()
    assert set(late.book.rules) == {"block"}


def test_a_record_that_is_no_rule_leaves_the_rules_as_they_are(broker, prefix, follower):
    writer, topic = LogWriter(LogConfig(broker)), prefix + topics.RULES
    bad = encode_rule(replace(BLOCK, item_ids=()))
    for key, value in ((b"block", encode_rule(BLOCK)), (b"x", b"\xff"), (b"block", bad)):
        writer.append(topic, key, value)
    writer.append(topic, b"pin", encode_rule(PIN))
    writer.flush()
    eventually(lambda: set(follower.book.rules) == {"block", "pin"})
    assert follower.book.rules["block"] == BLOCK


def test_a_rule_without_an_id_gets_one_and_a_bad_one_is_not_written(broker, prefix, writer):
    editor = editor_of(writer, prefix)
    put, _ = asyncio.run(editor.put(replace(BLOCK, rule_id=""), "", 5.0))
    assert len(put.rule_id) == 32
    with pytest.raises(BadRuleError, match="must say what to block; got neither"):
        asyncio.run(editor.put(replace(BLOCK, item_ids=()), "", 5.0))
    assert len(list(read_to_end(LogConfig(broker), prefix + topics.RULES))) == 1


def test_no_more_rules_are_taken_than_servers_keep(prefix, writer):
    editor = editor_of(writer, prefix, RuleBook.of([BLOCK]), max_rules=1)
    with pytest.raises(TooManyRulesError, match="must be at most 1; there are 1 already"):
        asyncio.run(editor.put(PIN, "", 5.0))
    assert asyncio.run(editor.put(BLOCK, "", 5.0))[0].rule_id == "block"


def test_a_log_that_is_away_is_told_and_the_rule_may_be_put_again():
    writer = track_writer(NOWHERE, timeout_ms=200)
    writer.start()
    try:
        with pytest.raises(LogUnavailableError, match="ask for it again"):
            asyncio.run(editor_of(writer, "", timeout_s=0.1).put(BLOCK, "", 5.0))
    finally:
        with pytest.raises(Exception, match="not delivered"):
            writer.close(0.1)
