"""Keys, quotas and load, without a server; the clock is the test's."""

import asyncio
import json
import stat
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from serving.errors import retry_metadata
from serving.guard.guard import SCOPES, Guard
from serving.guard.interceptor import GuardInterceptor
from serving.guard.keys import (
    ApiKey,
    KeyFile,
    KeyFileError,
    KeyRing,
    Scope,
    new_key,
    read_keys,
    rotated,
    write_keys,
)
from serving.guard.overload import CHARTS, FEWER, FULL, REFUSE, DelayControl, LoadLevel
from serving.guard.quotas import Quotas, TokenBucket
from serving.guard.refusals import (
    OverloadedError,
    QuotaExceededError,
    RefusalError,
    ScopeMissingError,
    TooManyCallsError,
    UnauthenticatedError,
)
from tests.clock import START_MS, FakeClock

RECOMMEND = "/headrace.v1.RecommendationService/Recommend"
TRACK = "/headrace.v1.IngestService/Track"
HEALTH = "/grpc.health.v1.Health/Check"


class Time:
    """Seconds that the test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def guard_of(path: Path, keys: list[ApiKey], clock: FakeClock | None = None, **kwargs) -> Guard:
    write_keys(path, KeyRing(keys))
    kwargs.setdefault("rng", np.random.default_rng(7))
    return Guard(KeyFile(path), wall=clock or FakeClock(), **kwargs)


def reason_of(guard: Guard, method: str, key: str | None) -> str:
    try:
        guard.admit(method, key).release()
    except RefusalError as refusal:
        return refusal.reason
    return "admitted"


def test_the_file_has_no_secret_and_is_for_its_owner_alone(tmp_path):
    key, text = new_key("backend", [Scope.RECOMMEND])
    path = tmp_path / "keys.json"
    write_keys(path, KeyRing([key]))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert text.split("_", 2)[2] not in path.read_text()
    assert list(read_keys(path)) == [key]
    assert [file.name for file in tmp_path.iterdir()] == ["keys.json"]


def test_a_key_opens_what_its_scopes_name_and_nothing_else(tmp_path):
    keys = {scope: new_key("backend", [scope]) for scope in Scope}
    guard = guard_of(tmp_path / "keys.json", [key for key, _ in keys.values()])
    for method, needed in SCOPES.items():
        for scope, (_, text) in keys.items():
            allowed = needed in (scope, "any") or method.startswith("/grpc.health")
            assert reason_of(guard, method, text) == ("admitted" if allowed else "scope")


def test_a_method_nobody_has_thought_of_needs_admin(tmp_path):
    (viewer, viewer_text), (admin, admin_text) = (
        new_key("a", [Scope.RECOMMEND]),
        new_key("b", [Scope.ADMIN]),
    )
    guard = guard_of(tmp_path / "keys.json", [viewer, admin])
    assert reason_of(guard, "/headrace.v1.NewService/New", viewer_text) == "scope"
    assert reason_of(guard, "/headrace.v1.NewService/New", admin_text) == "admitted"


def test_the_history_names_client_and_id_of_a_key_and_of_no_other(tmp_path):
    key, text = new_key("editors", [Scope.ADMIN])
    guard = guard_of(tmp_path / "keys.json", [key])
    assert guard.name_of(text) == f"editors/{key.id}"
    assert guard.name_of(None) == guard.name_of("hr_made_up") == Guard().name_of(text) == ""


def test_refusals_do_not_tell_which_keys_exist(tmp_path):
    key, text = new_key("backend", [Scope.RECOMMEND], expires_ms=START_MS)
    guard = guard_of(tmp_path / "keys.json", [key])
    presented = [
        None,
        "",
        "x",
        "hr_",
        f"hr_{key.id}_wrong",
        "hr_000000000000_wrong",
        text,
        "é" * 9_999,
    ]
    messages = set()
    for one in presented:
        with pytest.raises(UnauthenticatedError) as caught:
            guard.admit(RECOMMEND, one)
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_a_key_counts_from_its_beginning_to_before_its_end(tmp_path):
    key, text = new_key("a", [Scope.INGEST], not_before_ms=START_MS + 10, expires_ms=START_MS + 20)
    clock = FakeClock()
    guard = guard_of(tmp_path / "keys.json", [key], clock)
    found = []
    for at_ms in (0, 9, 10, 19, 20):
        clock.set_ms(START_MS + at_ms)
        found.append(reason_of(guard, TRACK, text))
    assert found == [*["unauthenticated"] * 2, *["admitted"] * 2, "unauthenticated"]


def test_both_keys_of_a_client_count_while_it_changes_over_and_share_one_quota(tmp_path):
    clock = FakeClock()
    first, text = new_key("backend", [Scope.RECOMMEND], rate=1.0, burst=3)
    old, new, new_text = rotated(first, clock.now_ms(), overlap_ms=1_000)
    guard = guard_of(tmp_path / "keys.json", [old, new], clock, steady_s=Time())
    assert [reason_of(guard, RECOMMEND, key) for key in (text, new_text, text, new_text)] == [
        *["admitted"] * 3,
        "quota",
    ]
    clock.advance_ms(1_000)
    assert reason_of(guard, RECOMMEND, text) == "unauthenticated"


def test_a_changed_file_counts_at_the_next_look_and_a_broken_one_does_not(tmp_path):
    path = tmp_path / "keys.json"
    (old, old_text), (new, new_text) = new_key("a", [Scope.ADMIN]), new_key("b", [Scope.ADMIN])
    guard = guard_of(path, [old])
    write_keys(path, KeyRing([new]))
    guard.refresh()
    assert [reason_of(guard, HEALTH + "x", key) for key in (old_text, new_text)]
    assert reason_of(guard, "/x", old_text) == "unauthenticated"
    for broken in ("{", "[]", json.dumps({"format": 1, "keys": [{"id": 3}]})):
        path.write_text(broken)
        guard.refresh()
        assert reason_of(guard, "/x", new_text) == "admitted"
    path.unlink()
    guard.refresh()
    assert reason_of(guard, "/x", new_text) == "admitted"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scopes": ["root"]}, "'root' is not a valid Scope"),
        ({"scopes": []}, "scopes of key .* must be some of recommend, ingest, admin"),
        ({"rate": -1}, "rate of key .* must be 0 or more calls a second; got -1"),
        ({"burst": 0}, "burst of key .* must be 1 or more; got 0"),
        ({"client": "a b"}, "client of key"),
        ({"sha256": "x"}, "sha256 of key"),
        ({"colour": "red"}, "exactly the fields of a key; see colour"),
    ],
)
def test_a_file_that_is_not_as_it_must_be_is_refused_at_the_start(tmp_path, change, message):
    path = tmp_path / "keys.json"
    write_keys(path, KeyRing([new_key("a", [Scope.ADMIN])[0]]))
    found = json.loads(path.read_text())
    found["keys"][0] |= change
    path.write_text(json.dumps(found))
    with pytest.raises(KeyFileError, match=message):
        KeyFile(path)


def test_a_bucket_gives_its_burst_and_then_its_rate():
    bucket = TokenBucket(rate=10.0, burst=5.0, at_s=0.0)
    assert [bucket.take(0.0) for _ in range(5)] == [0.0] * 5
    assert bucket.take(0.0) == pytest.approx(0.1)
    taken = sum(bucket.take(k / 1_000) == 0.0 for k in range(1, 10_001))
    assert taken == 100  # ten seconds
    assert bucket.take(5.0) > 0  # a clock that goes back gives nothing


def test_a_quota_says_when_to_come_again_and_each_process_has_its_part(tmp_path):
    key, text = new_key("a", [Scope.RECOMMEND], rate=8.0, burst=4)
    guard = guard_of(tmp_path / "k", [key], steady_s=Time(), n_processes=2)
    assert [reason_of(guard, RECOMMEND, text) for _ in range(2)] == ["admitted"] * 2
    with pytest.raises(QuotaExceededError, match="try again in 250 ms") as caught:
        guard.admit(RECOMMEND, text)
    assert retry_metadata(caught.value) == (("grpc-retry-pushback-ms", "250"),)


def test_buckets_of_keys_that_are_gone_are_forgotten():
    quotas = Quotas()
    keys = [new_key(f"c{k}", [Scope.INGEST], rate=1.0)[0] for k in range(100)]
    for key in keys:
        quotas.charge(key, 0.0)
    quotas.keep({("c7", 1.0, 1)})
    with pytest.raises(QuotaExceededError):
        quotas.charge(keys[7], 0.0)
    quotas.charge(keys[8], 0.0)


def test_no_more_calls_run_than_may_and_health_is_told_all_the_same():
    guard = Guard(max_concurrent=2, rng=np.random.default_rng(7))
    running = [guard.admit(RECOMMEND, None) for _ in range(2)]
    with pytest.raises(TooManyCallsError, match="2 calls are being answered; try again in"):
        guard.admit(TRACK, None)
    assert reason_of(guard, HEALTH, None) == "admitted"
    running[0].release()
    running[0].release()
    assert guard.running == 1
    with guard.admit(RECOMMEND, None):
        assert guard.running == 2
    assert guard.running == 1


def test_health_needs_a_key_where_it_is_not_open(tmp_path):
    key, text = new_key("balancer", [Scope.INGEST])
    guard = guard_of(tmp_path / "k", [key], is_health_open=False)
    assert reason_of(guard, HEALTH, None) == "unauthenticated"
    assert reason_of(guard, HEALTH, text) == "admitted"


def test_under_load_slates_are_refused_and_events_are_not():
    load = LoadLevel(REFUSE, refused_share=1.0)
    guard = Guard(load=load, rng=np.random.default_rng(7))
    with pytest.raises(OverloadedError, match="try again in"):
        guard.admit(RECOMMEND, None)
    assert reason_of(guard, TRACK, None) == "admitted"
    load.level, load.refused_share = CHARTS, 0.0
    assert reason_of(guard, RECOMMEND, None) == "admitted"


def levels(delays_ms: list[float]) -> list[int]:
    """The level after each interval of ten measurements of a delay."""
    control, found, now_s = DelayControl(LoadLevel()), [], 0.0
    control.observe(0.0, now_s)
    for delay_ms in delays_ms:
        for _ in range(10):
            now_s += 0.0101
            control.observe(delay_ms / 1_000, now_s)
        found.append(control.load.level)
    return found


def test_a_standing_queue_makes_answers_cheaper_step_by_step_and_back():
    assert levels([1, 30, 30, 30, 1, 1, 1]) == [FULL, FEWER, CHARTS, CHARTS, FEWER, FULL, FULL]


def test_calls_are_refused_beyond_the_limit_and_let_in_again_slowly():
    found = levels([200, 200, 50, *[1] * 12])
    assert found[:3] == [REFUSE] * 3
    assert found[-1] == FULL
    assert found[3:8] == [REFUSE] * 5


def test_a_stop_of_the_process_is_no_overload_and_two_in_a_row_are():
    control = DelayControl(LoadLevel())
    delays_s = [0.0, 0.3, 0.0, 0.3, 0.3]
    found = [control.observe(delay_s, 0.3 * k) for k, delay_s in enumerate(delays_s)]
    assert found == [FULL, FEWER, FULL, FEWER, REFUSE]


def test_a_burst_that_is_worked_off_within_an_interval_changes_nothing():
    control, now_s = DelayControl(LoadLevel()), 0.0
    for delay_s in [0.5, 0.4, 0.3, 0.001, 0.001] * 20:
        now_s += 0.02
        control.observe(delay_s, now_s)
        assert control.load.level == FULL


def test_scope_errors_name_the_scope_alone(tmp_path):
    key, text = new_key("a", [Scope.INGEST])
    guard = guard_of(tmp_path / "k", [key])
    with pytest.raises(ScopeMissingError, match="must have the scope recommend; it has not"):
        guard.admit(RECOMMEND, text)


def test_a_silent_call_whose_time_is_just_over_is_not_ended_twice() -> None:
    async def scenario() -> None:
        interceptor = GuardInterceptor(Guard(), cast("Any", None), idle_s=1.0, max_silent=0)
        limits = []

        async def silent() -> None:
            task = asyncio.current_task()
            assert task is not None
            async with asyncio.timeout(0) as limit:
                limits.append(limit)
                interceptor._silent[task] = limit
                await asyncio.sleep(10)

        call = asyncio.create_task(silent())
        while not limits or not limits[0].expired():
            await asyncio.sleep(0)
        interceptor._end_oldest()  # for another call that has come
        assert not interceptor._silent
        with pytest.raises(TimeoutError):
            await call

    asyncio.run(scenario())
