"""Bytes written by hand are what the generated classes would have written."""

import numpy as np
import pytest
from headrace.v1 import events_pb2, recommender_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from features.position import Position
from features.vocabulary import Device, Page
from serving.raw_wire import length_of, varint
from serving.slate import Decision, Query, Slate, SlateItem, Viewer
from serving.wire import encode_decision, recommend_answer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=150)  # beyond one byte's length
WORDS = st.sampled_from(["", "for_you", "covisitation", "trending"])
NUMBERS = st.floats(allow_nan=False)
FEATURES = st.none() | st.lists(st.floats(width=32, allow_nan=False), max_size=60).map(
    lambda values: np.array(values, np.float32)
)
ITEMS = st.builds(
    SlateItem, TEXTS, TEXTS, NUMBERS, WORDS, WORDS, NUMBERS, TEXTS, TEXTS, TEXTS, FEATURES,
    NUMBERS, NUMBERS, NUMBERS, NUMBERS, TEXTS, st.floats(0, 1, width=32), TEXTS,
)  # fmt: skip
SLATES = st.builds(
    Slate,
    st.lists(ITEMS, max_size=4).map(tuple),
    TEXTS,
    TEXTS,
    st.integers(0, 2**32 - 1),
    st.lists(TEXTS, max_size=2).map(tuple),
    st.just(()),
    TEXTS,
    TEXTS,
    st.integers(0, 2**63),
    rules=st.lists(TEXTS, max_size=2).map(tuple),
)
QUERY = Query("ann", "kids", "s1", "r1", 7, Device.TV, Page.HOME, "DE")
PLACES = st.lists(st.builds(Position, TEXTS, st.integers(0, 15), st.integers(0, 2**40)), max_size=2)


def generated_item(item: SlateItem) -> recommender_pb2.RecommendedItem:
    fields = (
        "item_id", "title", "score", "source", "cause_item_id", "cause_title", "reason", "arm",
        "propensity", "item_propensity", "posterior_mean", "posterior_weight", "click_probability",
        "reason_kind", "progress", "rule_id",
    )  # fmt: skip
    return recommender_pb2.RecommendedItem(**{name: getattr(item, name) for name in fields})


def generated_slot(item: SlateItem) -> events_pb2.SlateSlot:
    fields = (
        "item_id", "source", "arm", "propensity", "score", "cause_item_id", "item_propensity",
        "posterior_mean", "posterior_weight",
    )  # fmt: skip
    features = [] if item.features is None else item.features.tolist()
    return events_pb2.SlateSlot(**{name: getattr(item, name) for name in fields}, features=features)


def generated_places(places: tuple[Position, ...]) -> list[events_pb2.Position]:
    return [
        events_pb2.Position(topic=place.topic, partition=place.partition, offset=place.offset)
        for place in places
    ]


@given(SLATES, PLACES, st.booleans(), st.integers(-1, 2**40))
@settings(max_examples=60, deadline=None)
def test_answer_is_what_the_generated_classes_make_of_it(
    slate: Slate, places: list[Position], includes: bool, age_ms: int
) -> None:
    decision = Decision(QUERY, slate, 12, tuple(places))
    viewer = Viewer(None, waited_ms=3, after_included=includes)
    answer = recommender_pb2.RecommendResponse.FromString(
        recommend_answer(decision, viewer, age_ms, 1_500)
    )
    assert answer == recommender_pb2.RecommendResponse(
        request_id="r1",
        items=[generated_item(item) for item in slate.items],
        freshness=recommender_pb2.Freshness(
            after_included=includes,
            included=generated_places(decision.included),
            state_age_ms=age_ms,
            items_age_ms=1_500,
            waited_ms=3,
        ),
        degraded=slate.degraded,
        bundle_version=slate.bundle_version,
        n_candidates=slate.n_candidates,
        decision_context=slate.decision_context,
        policy=slate.policy,
        model_sequence=slate.model_sequence,
        rules=slate.rules,
    )


@given(SLATES, PLACES)
@settings(max_examples=60, deadline=None)
def test_decision_is_what_the_generated_classes_make_of_it(
    slate: Slate, places: list[Position]
) -> None:
    decision = Decision(QUERY, slate, 12, tuple(places))
    assert events_pb2.Impression.FromString(encode_decision(decision)) == events_pb2.Impression(
        request_id="r1",
        user_id="ann",
        profile_id="kids",
        session_id="s1",
        served_at_ms=12,
        context=events_pb2.Context(device=Device.TV, page=Page.HOME, region="DE"),
        slots=[generated_slot(item) for item in slate.items],
        bundle_version=slate.bundle_version,
        feature_version=slate.feature_version,
        included=generated_places(decision.included),
        degraded=slate.degraded,
        n_candidates=slate.n_candidates,
        decision_context=slate.decision_context,
        policy=slate.policy,
        model_sequence=slate.model_sequence,
        rules=slate.rules,
    )


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_152])
def test_length_stands_before_a_field_as_a_varint(size: int) -> None:
    assert length_of(bytes(size)) == varint(size)
    message = events_pb2.ModelSnapshot(payload=bytes(size))
    assert message.SerializeToString().startswith(b"\x32" + varint(size) if size else b"")
