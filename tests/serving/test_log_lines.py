"""Lines of log about calls have what finds the call again, and nothing that names a viewer."""

import json

import pytest
from structlog.testing import capture_logs

from serving.client import RequestError
from serving.errors import names_of
from tests.serving.harness import FakeRecommender, Parts, served


class Unwell(FakeRecommender):
    """Says that its answers lack something."""

    def recommend(self, query, viewer, now_ms):
        slate = super().recommend(query, viewer, now_ms)
        slate.degraded = ("ranker",)
        return slate


def lines_of(entries, event):
    return [entry for entry in entries if entry["event"] == event]


def test_refused_failed_slow_and_degraded_calls_are_found_again_by_their_request_id():
    settings = Parts().settings.model_copy(update={"slow_call_ms": 10.0})
    parts = Parts(settings, recommender=Unwell(takes_s=0.02))
    with capture_logs() as entries, served(parts) as (_, client):
        client.recommend("ann", request_id="r-degraded")
        with pytest.raises(RequestError):
            client.recommend("ann", request_id="r-refused", count=1_000)
        parts.recommender.failure = RuntimeError("ann is in this text")
        with pytest.raises(RequestError):
            client.recommend("ann", request_id="r-failed")
    (degraded,) = lines_of(entries, "answer_degraded")
    assert (degraded["request_id"], degraded["missing"]) == ("r-degraded", ("ranker",))
    (slow,) = lines_of(entries, "call_slow")
    assert slow["request_id"] == "r-degraded"
    assert slow["seconds"] >= 0.01
    refused, failed = lines_of(entries, "call_refused")
    assert (refused["request_id"], refused["code"]) == ("r-refused", "INVALID_ARGUMENT")
    assert refused["reason"] == "count must be within 0..100"
    assert (failed["request_id"], failed["code"]) == ("r-failed", "INTERNAL")
    (trouble,) = lines_of(entries, "call_failed")
    assert trouble["request_id"] == "r-failed"
    told = [degraded, slow, refused, failed]
    assert "ann" not in json.dumps(told)


def test_what_has_no_id_and_what_has_an_endless_one_are_told_too():
    assert names_of(object()) == {}
    request = type("Request", (), {"request_id": "x" * 10_000})()
    assert names_of(request) == {"request_id": "x" * 128}
