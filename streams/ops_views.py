"""Views for those on call, each a bounded table that is a function of the log and of the day.

Nothing here is kept anywhere: a view is made by reading its topic from the beginning, and goes on
with what comes. A record that is read twice by two processes gives both the same view. No view
holds the id of a viewer: accounts are told apart by a number (`account_number`).
"""

import hashlib
import json
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from features.codec import WireError, decode_exposure

DAY_MS: Final = 86_400_000
MAX_KINDS: Final = 200  # kinds of dead letters; the rarest gives way
MAX_PRODUCERS: Final = 1_000
MAX_HISTORY: Final = 1_000  # of drifts, of transitions of alerts
MAX_FIRING: Final = 500
MAX_EXPOSURES: Final = 500  # rows of a day
MAX_TEXT: Final = 200  # characters of a name
MAX_LABELS: Final = 16
OTHER: Final = "(other)"
VALUES: Final = re.compile(
    r"; got.*|(?<= as JSON):.*|(?<= as protobuf):.*|'[^']*'|\"[^\"]*\"|\d+", re.S
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A record of the log, as far as views look at it."""

    partition: int
    offset: int
    at_ms: int  # when the log took it
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes] = field(default_factory=dict)


def account_number(key: bytes | None) -> str:
    """Tells accounts apart without naming them; the same in every process.

    >>> account_number(b"ann"), account_number(None)
    ('8d3adf6abf23f3a5', '')
    """
    return "" if key is None else hashlib.blake2b(key, digest_size=8).hexdigest()


def kind_of(reason: str) -> str:
    """What was expected, without the value that came, which may be anybody's id.

    >>> kind_of("interaction.rating must be within 0..10; got 42.0")
    'interaction.rating must be within ~..~~'
    """
    return VALUES.sub("~", reason)[:MAX_TEXT]


@dataclass(slots=True)
class Tally:
    """How often something was seen, first, and last."""

    count: int = 0
    first_ms: int = 0
    last_ms: int = 0
    last_partition: int = -1
    last_offset: int = -1

    def add(self, seen: Seen) -> None:
        """One more."""
        self.count += 1
        self.first_ms = self.first_ms or seen.at_ms
        self.last_ms = max(self.last_ms, seen.at_ms)
        self.last_partition, self.last_offset = seen.partition, seen.offset

    def told(self) -> dict[str, int]:
        """For JSON."""
        return {
            "count": self.count,
            "first_ms": self.first_ms,
            "last_ms": self.last_ms,
            "last_partition": self.last_partition,
            "last_offset": self.last_offset,
        }


class Tallies:
    """Tallies by key, a bounded number; the rarest eighth gives way, counted in `given_way`."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._found: dict[Any, Tally] = {}
        self.given_way = 0

    def of(self, key: Any) -> Tally:
        """The tally of a key."""
        tally = self._found.get(key)
        if tally is None:
            if len(self._found) >= self._capacity:
                self._make_room()
            tally = self._found[key] = Tally()
        return tally

    def _make_room(self) -> None:
        for key, tally in self.ranked()[-self._capacity // 8 :]:
            self.given_way += tally.count
            del self._found[key]

    def ranked(self) -> list[tuple[Any, Tally]]:
        """The most frequent first."""
        found = self._found.items()
        return sorted(found, key=lambda entry: (-entry[1].count, -entry[1].last_ms, str(entry[0])))


class DeadLetterView:
    """Dead letters by reason, and by who sent them."""

    TOP: Final = 10  # producers told of a kind

    def __init__(self) -> None:
        self._kinds = Tallies(MAX_KINDS)
        self._producers = Tallies(MAX_PRODUCERS)
        self._pairs = Tallies(MAX_PRODUCERS)
        self._total = 0

    def take(self, seen: Seen) -> None:
        """Counts a dead letter."""
        reason = seen.headers.get("reason", b"").decode(errors="replace")
        kind, producer = kind_of(reason), account_number(seen.key)
        self._total += 1
        for tallies, key in (
            (self._kinds, kind),
            (self._producers, producer),
            (self._pairs, (kind, producer)),
        ):
            tallies.of(key).add(seen)

    def told(self) -> dict[str, Any]:
        """For JSON; `not_told` counts letters of kinds or producers that gave way to others."""
        producers: dict[str, list[dict[str, Any]]] = {}
        for (kind, producer), tally in self._pairs.ranked():
            of_kind = producers.setdefault(kind, [])
            if len(of_kind) < self.TOP:
                of_kind.append({"producer": producer, **tally.told()})
        return {
            "total": self._total,
            "by_reason": [
                {"reason": kind, **tally.told(), "producers": producers.get(kind, [])}
                for kind, tally in self._kinds.ranked()
            ],
            "by_producer": [
                {"producer": producer, **tally.told()}
                for producer, tally in self._producers.ranked()
            ],
            "not_told": {
                "reasons": self._kinds.given_way,
                "producers": self._producers.given_way,
            },
        }


class OpsEventView:
    """What happened to the site: alerts, drifts of models and viewers, deployments.

    Records are JSON objects with a `kind`. Whoever writes them may write one twice, so drifts are
    told apart by what they name; a transition of an alert to the state that it has is none.
    """

    def __init__(self) -> None:
        self._transitions: deque[dict[str, Any]] = deque(maxlen=MAX_HISTORY)
        self._firing: dict[tuple[str, str], dict[str, Any]] = {}
        self._drifts: dict[tuple[str, str, Any], dict[str, Any]] = {}
        self._deployments: deque[dict[str, Any]] = deque(maxlen=MAX_HISTORY)
        self.unreadable = 0
        self.unknown = 0

    def take(self, seen: Seen) -> None:
        """Takes an event in; what is none is counted."""
        event = event_of(seen.value)
        if event is None:
            self.unreadable += 1
            return
        kind = event.get("kind")
        if kind == "alert":
            self._take_alert(event, seen)
        elif kind == "drift":
            self._take_drift(event, seen)
        elif kind == "deployment":
            self._deployments.append({**event, "logged_ms": seen.at_ms})
        else:
            self.unknown += 1

    def _take_alert(self, event: dict[str, Any], seen: Seen) -> None:
        labels = event.get("labels", {})
        key = str(event.get("name", "")), json.dumps(labels, sort_keys=True)
        is_firing = event.get("state") == "firing"
        if is_firing == (key in self._firing):
            return
        told = {**event, "logged_ms": seen.at_ms}
        self._transitions.append(told)
        if not is_firing:
            del self._firing[key]
        elif len(self._firing) < MAX_FIRING:
            self._firing[key] = told

    def _take_drift(self, event: dict[str, Any], seen: Seen) -> None:
        key = str(event.get("what", "")), str(event.get("segment", "")), event.get("offset")
        if key in self._drifts:
            return
        if len(self._drifts) >= MAX_HISTORY:
            del self._drifts[next(iter(self._drifts))]
        self._drifts[key] = {**event, "logged_ms": seen.at_ms}

    def alerts(self) -> dict[str, Any]:
        """For JSON: what fires, and every transition, the newest first."""
        return {
            "firing": list(self._firing.values()),
            "transitions": list(reversed(self._transitions)),
            "deployments": list(reversed(self._deployments)),
            "unreadable": self.unreadable,
            "unknown": self.unknown,
        }

    def drifts(self) -> dict[str, Any]:
        """For JSON, the newest first."""
        return {"drifts": list(reversed(self._drifts.values())), "unreadable": self.unreadable}


def event_of(value: bytes | None) -> dict[str, Any] | None:
    """The event in a record, its texts and labels bounded; None where it is none.

    >>> event_of(b'{"kind": "alert", "name": "HeadraceLag", "value": 1200}')
    {'kind': 'alert', 'name': 'HeadraceLag', 'value': 1200}
    >>> event_of(b"[]") is None
    True
    """
    if value is None or len(value) > 65_536:
        return None
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("kind"), str):
        return None
    return {str(name)[:MAX_TEXT]: _bounded(it) for name, it in list(found.items())[:MAX_LABELS]}


def _bounded(value: Any) -> Any:
    if isinstance(value, dict):
        flat = list(value.items())[:MAX_LABELS]
        return {str(name)[:MAX_TEXT]: str(it)[:MAX_TEXT] for name, it in flat}
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:MAX_TEXT]


class ExposureView:
    """Slots that were shown, by day, policy, bundle and arm.

    Days are those of the log's clock, in UTC. A day is complete where `complete_from_ms`, which the
    start of reading sets, lies before it.
    """

    def __init__(self, days: int) -> None:
        self._days = days
        self._by_day: dict[int, dict[tuple[str, str, str], list[int]]] = {}
        self.complete_from_ms = 0
        self.unreadable = 0

    def take(self, seen: Seen) -> None:
        """Counts the slots of a slate, unless its day is over and done with."""
        try:
            shown = decode_exposure(seen.value or b"")
        except WireError:
            self.unreadable += 1
            return
        day = seen.at_ms // DAY_MS
        if self._by_day and day <= max(self._by_day) - self._days:
            return
        rows = self._by_day.setdefault(day, {})
        for old in [old for old in self._by_day if old <= day - self._days]:
            del self._by_day[old]
        for arm in set(shown.arms):
            key = shown.policy[:MAX_TEXT], shown.bundle_version[:MAX_TEXT], arm[:MAX_TEXT]
            if key not in rows and len(rows) >= MAX_EXPOSURES:
                key = OTHER, OTHER, OTHER
            row = rows.setdefault(key, [0, 0, 0])
            row[0] += 1
            row[1] += shown.arms.count(arm)
            row[2] += shown.cached

    def told(self) -> dict[str, Any]:
        """For JSON: rows of every day, the newest day first, the most shown arm first."""
        return {
            "days": [
                {
                    "day_ms": day * DAY_MS,
                    "is_complete": day * DAY_MS >= self.complete_from_ms,
                    "exposures": [
                        {
                            "policy": policy,
                            "bundle": bundle,
                            "arm": arm,
                            "slates": slates,
                            "slots": slots,
                            "slates_shown_again": again,
                        }
                        for (policy, bundle, arm), (slates, slots, again) in sorted(
                            rows.items(), key=lambda entry: (-entry[1][1], entry[0])
                        )
                    ],
                }
                for day, rows in sorted(self._by_day.items(), reverse=True)
            ],
            "unreadable": self.unreadable,
        }
