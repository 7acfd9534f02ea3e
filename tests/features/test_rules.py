"""Rules: what makes one unusable, whom it is for, what its history says; bytes and back."""

import re
from dataclasses import replace

import pytest
from headrace.v1 import events_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from features.codec import WireError, decode_rule, encode_rule
from features.rules import (
    MAX_RULE_ITEMS,
    Rule,
    RuleKind,
    RuleScope,
    changes_in,
    problem_with_rule,
    removal_of,
)
from features.vocabulary import Device, Page
from tests.clock import START_MS
from tests.features.examples import texts

PIN = Rule("r", RuleKind.PIN, ("tt1",), slot=3)
BOOST = Rule("r", RuleKind.BOOST, genres=("Drama",), boost=-0.5)
BLOCK = Rule("r", RuleKind.BLOCK, ("tt1",), ("Drama",))
CEILING = Rule("r", RuleKind.CEILING, scope=RuleScope(user_id="ann", profile_id="kids"), max_age=6)

times = st.integers(-(2**63), 2**63 - 1)
numbers = st.integers(0, 2**32 - 1)
scopes = st.builds(
    RuleScope,
    pages=st.lists(st.sampled_from(Page)).map(tuple),
    devices=st.lists(st.sampled_from(Device)).map(tuple),
    regions=st.lists(texts).map(tuple),
    user_id=texts,
    profile_id=texts,
)
rules = st.builds(
    Rule,
    rule_id=texts.filter(bool),
    kind=st.sampled_from(RuleKind),
    item_ids=st.lists(texts).map(tuple),
    genres=st.lists(texts).map(tuple),
    scope=scopes,
    from_ms=times,
    until_ms=times,
    slot=numbers,
    boost=st.floats(-1, 1, width=32),
    max_age=numbers,
    reason=texts,
    author=texts,
    changed_at_ms=times,
)


@settings(max_examples=40)
@given(rules)
def test_a_rule_is_read_as_it_was_written(rule: Rule) -> None:
    assert decode_rule(encode_rule(rule)) == rule


def test_kinds_have_the_names_and_numbers_of_the_wire_format() -> None:
    wire = {n.removeprefix("RULE_KIND_"): k for n, k in events_pb2.RuleKind.items()}
    assert {kind.name: int(kind) for kind in RuleKind} == wire


@pytest.mark.parametrize("value", [b"\xff", encode_rule(replace(PIN, rule_id=""))])
def test_bytes_that_are_no_rule_are_refused(value: bytes) -> None:
    with pytest.raises(WireError):
        decode_rule(value)


@pytest.mark.parametrize("rule", [PIN, BOOST, BLOCK, CEILING])
def test_a_plain_rule_of_each_kind_is_good(rule: Rule) -> None:
    assert problem_with_rule(rule) is None


@pytest.mark.parametrize(
    ("rule", "changed", "problem"),
    [
        (PIN, {"rule_id": ""}, "rule.rule_id is required; got an empty string"),
        (PIN, {"kind": 9}, "rule.kind must be one of pin, boost, block, ceiling; got 9"),
        (PIN, {"kind": RuleKind.UNSPECIFIED}, "rule.kind must be one of .*; got 0"),
        (PIN, {"item_ids": ()}, "rule.item_ids must name at least one title; got none"),
        (PIN, {"item_ids": ("",)}, r"rule.item_ids\[0\] must not be empty"),
        (PIN, {"item_ids": ("x" * 129,)}, r"rule.item_ids\[0\] must be at most 128 bytes; got 129"),
        (PIN, {"item_ids": ("t",) * (MAX_RULE_ITEMS + 1)}, "rule.item_ids must have at most 1000"),
        (PIN, {"genres": ("Drama",)}, "rule.genres must be empty for a pin; got 1 values"),
        (PIN, {"slot": 10_001}, "rule.slot must be within 0..10000; got 10001"),
        (PIN, {"boost": 0.5}, "rule.boost must be 0 but for a boost; got 0.5"),
        (PIN, {"reason": "x" * 1_001}, "rule.reason must be at most 1000 bytes; got 1001"),
        (BOOST, {"genres": ()}, "rule.item_ids or rule.genres must say what to boost; got neither"),
        (BOOST, {"boost": 0.0}, "rule.boost must be within -1..1, not 0; got 0.0"),
        (BOOST, {"boost": float("nan")}, "rule.boost must be within -1..1, not 0; got nan"),
        (BOOST, {"slot": 2}, "rule.slot must be 0 but for a pin; got 2"),
        (BLOCK, {"from_ms": -1}, "rule.from_ms must be 0 or later; got -1"),
        (BLOCK, {"from_ms": 5, "until_ms": 5}, "rule.until_ms must be 0 or after from_ms"),
        (CEILING, {"item_ids": ("tt1",)}, "rule.item_ids must be empty for a ceiling"),
        (CEILING, {"max_age": 22}, "rule.max_age must be within 0..21; got 22"),
        (CEILING, {"scope": RuleScope(profile_id="kids")}, "rule.scope.profile_id needs user_id"),
        (CEILING, {"scope": RuleScope(pages=(Page.UNSPECIFIED,))}, r"scope.pages\[0\] must be"),
        (CEILING, {"scope": RuleScope(devices=(7,))}, r"rule.scope.devices\[0\] .*1..4; got 7"),
        (CEILING, {"scope": RuleScope(regions=("x" * 17,))}, r"regions\[0\] must be at most 16"),
    ],
)
def test_a_bad_field_is_named_with_expectation_and_value(
    rule: Rule, changed: dict[str, object], problem: str
) -> None:
    found = problem_with_rule(replace(rule, **changed))  # type: ignore[arg-type]
    assert found is not None
    assert re.search(problem, found), found


def test_a_scope_holds_where_all_that_it_names_agrees() -> None:
    scope = RuleScope((Page.HOME,), (Device.TV, Device.WEB), ("de",), "ann")
    assert scope.holds_for(Page.HOME, Device.TV, "DE", "ann", "kids")
    assert not scope.holds_for(Page.SEARCH, Device.TV, "DE", "ann", "")
    assert not scope.holds_for(Page.HOME, Device.PHONE, "DE", "ann", "")
    assert not scope.holds_for(Page.HOME, Device.TV, "", "ann", "")
    assert not scope.holds_for(Page.HOME, Device.TV, "DE", "bob", "")
    assert RuleScope().holds_for(Page.UNSPECIFIED, Device.UNSPECIFIED, "", "", "")
    kids = RuleScope(user_id="ann", profile_id="kids")
    assert kids.holds_for(Page.HOME, Device.TV, "", "ann", "kids")
    assert not kids.holds_for(Page.HOME, Device.TV, "", "ann", "")


def test_a_rule_holds_from_its_first_moment_to_before_its_last() -> None:
    dated = replace(BLOCK, from_ms=10, until_ms=20)
    assert [at_ms for at_ms in (9, 10, 19, 20) if dated.is_in_force(at_ms)] == [10, 19]
    assert BLOCK.is_in_force(0)


def test_the_history_tells_before_and_after_and_leaves_out_what_changed_nothing() -> None:
    again = replace(PIN, changed_at_ms=START_MS + 5)
    moved = replace(PIN, slot=4, author="bob", changed_at_ms=START_MS + 9)
    gone = removal_of("r", "cy", "over", START_MS + 10)
    changes = changes_in([PIN, again, moved, gone, gone, PIN])
    assert [(change.what, change.before, change.after) for change in changes] == [
        ("set", None, PIN),
        ("changed", PIN, moved),
        ("taken away", moved, None),
        ("set", None, PIN),
    ]
    assert (changes[2].author, changes[2].reason) == ("cy", "over")


def test_a_rule_for_the_history_does_not_name_its_viewer() -> None:
    kept = CEILING.without_names()
    assert "ann" not in kept.scope.user_id
    assert kept.scope.profile_id == ""
    assert kept == CEILING.without_names() != replace(CEILING, scope=RuleScope()).without_names()
    assert PIN.without_names() == PIN
