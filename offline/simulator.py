"""Viewers that behave: seeded interactions at any scale, and answers to what is shown.

Titles have popularities that fall with a power of their rank (Zipf) and belong to taste clusters.
A viewer likes one cluster, and slowly moves on to the next: `taste` is the truth that a
recommender tries to find. Some viewers are active at a time; each takes one step after the other

    impression ... impression -> click -> play -> progress ... progress -> complete | skip -> ...

and leaves when the session is over: the one who has rested longest comes next. The time between
two steps of a viewer is about `step_s`; a rest lasts half an hour and more if there are enough
viewers for the rate (`enough_users`), else steps follow each other faster and rests grow shorter.
Watch positions advance by shares of the title, not by the clock, so that a minute of simulation
holds whole stories.

Events come as NumPy columns (`batches`), as protobuf payloads (`encode_batch`), or one by one
(`interactions`), the same events each time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.events import NO_RATING, NO_SLOT, CatalogItem, Interaction
from features.ids import id_hash
from features.vocabulary import GENRES, Device, EventType, Page

BATCH: Final = 10_000
USER_DIGITS: Final = 9  # u000000007
ITEM_DIGITS: Final = 8
EVENT_DIGITS: Final = 10  # hexadecimal, behind the 16 of the run
SESSION_GAP_S: Final = 1_800
LAST_MS: Final = 1 << 42  # times fit a varint of six bytes: until the year 2109
REGIONS: Final = ("DE", "FR", "GB", "US")
PAGE_SLOTS: Final = 20

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, slots=True)
class EventMix:
    """Shares of the events, about; they sum to 1."""

    shown_and_progress: float = 0.70
    click_and_play: float = 0.25
    other: float = 0.05

    def __post_init__(self) -> None:
        shares = [getattr(self, f.name) for f in fields(self)]
        if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"simulation.mix must be positive shares that sum to 1; got {shares}")


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """What is simulated. Two simulators of the same configuration say the same."""

    n_users: int = 10_000
    n_items: int = 2_000
    seed: int = 7
    zipf_exponent: float = 1.0
    n_clusters: int = 16
    drift_period_s: float = 7 * 86_400.0  # a viewer's taste has moved on after this time
    step_s: float = 20.0  # between two steps of an active viewer, where there are viewers enough
    session_titles: float = 3.0  # opened in a session, on average
    mix: EventMix = EventMix()

    def __post_init__(self) -> None:
        limits = {"n_users": 10**USER_DIGITS, "n_items": 10**ITEM_DIGITS, "n_clusters": 1_024}
        for name, limit in limits.items():
            if not 2 <= getattr(self, name) <= limit:
                raise ValueError(
                    f"simulation.{name} must be within 2..{limit}; got {getattr(self, name)}"
                )
        for name in ("drift_period_s", "step_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"simulation.{name} must be positive; got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"simulation.seed must not be negative; got {self.seed}")
        if not self.session_titles >= 1:
            raise ValueError(f"simulation.session_titles must be 1; got {self.session_titles}")
        if self.zipf_exponent < 0:
            raise ValueError(
                f"simulation.zipf_exponent must not be negative; got {self.zipf_exponent}"
            )


@dataclass(frozen=True, slots=True)
class SimulatedBatch:
    """Simulated events as columns, `(n,)` each, in order of time."""

    run: int  # 64 bits that no other simulation has: the first half of event ids
    number: Ints  # of the event within its run
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    session: Ints
    type: NDArray[np.uint8]
    at_ms: Ints
    slot: NDArray[np.int16]  # NO_SLOT but for impressions
    rating: Floats  # NO_RATING but for ratings
    watch_position_s: Floats
    watch_duration_s: Floats

    def __len__(self) -> int:
        return len(self.number)

    def keys(self) -> list[bytes]:
        """Keys of the records: user ids."""
        rows = np.empty((len(self), 1 + USER_DIGITS), np.uint8)
        rows[:, 0] = ord("u")
        rows[:, 1:] = _digits(self.user, USER_DIGITS, _DECIMAL)
        keys: list[bytes] = rows.view(f"S{1 + USER_DIGITS}").ravel().tolist()
        return keys

    def interactions(self) -> Iterator[Interaction]:
        """The events one by one."""
        devices, pages = _device(self.user).tolist(), _page(self.type).tolist()
        regions = _region(self.user).tolist()
        columns = (getattr(self, f.name).tolist() for f in fields(self)[1:])
        for (
            number,
            user,
            item,
            session,
            type_,
            at,
            slot,
            rating,
            position,
            duration,
        ), d, p, r in zip(zip(*columns, strict=True), devices, pages, regions, strict=True):
            yield Interaction(
                f"{self.run:016x}{number:0{EVENT_DIGITS}x}",
                user_id(user),
                item_id(item),
                EventType(type_),
                at,
                session_id=f"s{session:0{EVENT_DIGITS}x}",
                slot=None if slot == NO_SLOT else slot,
                watch_position_s=position,
                watch_duration_s=duration,
                rating=None if rating == NO_RATING else rating,
                device=Device(d),
                page=Page(p),
                region=REGIONS[r],
            )


def user_id(number: int) -> str:
    """Id of the viewer with a number.

    >>> user_id(7), item_id(7)
    ('u000000007', 'i00000007')
    """
    return f"u{number:0{USER_DIGITS}d}"


def item_id(number: int) -> str:
    """Id of the title with a number."""
    return f"i{number:0{ITEM_DIGITS}d}"


class Simulator:
    """Viewers, titles and tastes of one configuration.

    `interactions` and `batches` always begin anew; `answer` draws from one stream of chance.
    """

    def __init__(self, config: SimulationConfig | None = None) -> None:
        self.config = config or SimulationConfig()
        rng = np.random.default_rng([self.config.seed, 0])
        n = self.config.n_items
        ranks = rng.permutation(n)
        self._weights = (1.0 + ranks) ** -self.config.zipf_exponent
        self._cluster = (np.arange(n) % self.config.n_clusters).astype(np.int64)
        self._by_cluster = np.argsort(self._cluster, kind="stable")
        self._cumulative = np.concatenate([[0.0], np.cumsum(self._weights[self._by_cluster])])
        sizes = np.bincount(self._cluster, minlength=self.config.n_clusters)
        self._cluster_ends = np.concatenate([[0], np.cumsum(sizes)])
        self._runtime_s = (rng.integers(20, 150, n) * 60).astype(np.float32)
        self._years = rng.integers(1960, 2025, n)
        self._answers = np.random.default_rng([self.config.seed, 1])

    def catalogue(self) -> list[CatalogItem]:
        """All titles; two genres tell their taste cluster."""
        return [self._title(item) for item in range(self.config.n_items)]

    def _title(self, item: int) -> CatalogItem:
        cluster = int(self._cluster[item])
        first, second = cluster % len(GENRES), (cluster // len(GENRES) + cluster + 5) % len(GENRES)
        return CatalogItem(
            item_id(item),
            title=f"Title {item}",
            year=int(self._years[item]),
            genres=tuple(dict.fromkeys((GENRES[first], GENRES[second]))),
            overview=f"A story of kind {cluster}, the {item}th of its time.",
            director=f"Director {cluster}-{item % 7}",
            runtime_min=int(self._runtime_s[item]) // 60,
        )

    def popularity(self) -> NDArray[np.float64]:
        """`(n_items,) float64` shares of attention that do not depend on taste; sum 1."""
        shares: NDArray[np.float64] = self._weights / self._weights.sum()
        return shares

    def taste(self, user: str, items: Sequence[str], now_ms: int) -> Floats:
        """`(n_items,) float32` within 0..1: how much a viewer likes titles at a time.

        The truth behind all behaviour, for evaluation. Any ids will do: those that the simulation
        does not know have tastes and clusters by their hashes.
        """
        numbers = np.array([_number_of(item) for item in items], np.uint64)
        clusters = (numbers % np.uint64(self.config.n_clusters)).astype(np.int64)
        users = np.full(len(items), _number_of(user), np.uint64)
        return self._affinity(users, clusters, np.full(len(items), now_ms, np.int64))

    def _affinity(self, users: NDArray[np.uint64], clusters: Ints, at_ms: Ints) -> Floats:
        now, following, weight = self._tastes(users, at_ms)
        liked = (1 - weight) * (clusters == now) + weight * (clusters == following)
        return np.asarray(liked, np.float32)

    def _tastes(
        self, users: NDArray[np.uint64], at_ms: Ints
    ) -> tuple[Ints, Ints, NDArray[np.float64]]:
        """The liked cluster, the next one, and how far (0..1) each viewer is on the way to it."""
        period = self.config.drift_period_s * 1_000
        own = _mixed(users, self.config.seed)
        phase = (own >> np.uint64(40)).astype(np.float64) / (1 << 24)
        epochs = at_ms / period + phase
        epoch = np.floor(epochs).astype(np.int64)
        return self._liked(own, epoch), self._liked(own, epoch + 1), epochs - epoch

    def _liked(self, own: NDArray[np.uint64], epoch: Ints) -> Ints:
        mixed = _mixed(own ^ (epoch.astype(np.uint64) * _GOLDEN), 1)
        return (mixed % np.uint64(self.config.n_clusters)).astype(np.int64)

    def interactions(
        self, n: int, start_ms: int, events_per_s: float = 1_000.0
    ) -> Iterator[Interaction]:
        """The first `n` events of a simulation that begins at `start_ms`, one by one."""
        for batch in self.batches(n, start_ms, events_per_s):
            yield from batch.interactions()

    def batches(
        self, n: int, start_ms: int, events_per_s: float = 1_000.0
    ) -> Iterator[SimulatedBatch]:
        """The same events as columns, 10,000 at a time.

        Event k happens `k / events_per_s` seconds after the start, whatever `n` is. Raises
        ValueError for times beyond 2109, for a rate that is not positive, or a negative number.
        """
        if not events_per_s > 0 or n < 0:
            raise ValueError(
                f"a simulation takes n >= 0 and events_per_s > 0; got {n} and {events_per_s}"
            )
        if not 0 <= start_ms <= start_ms + (n + BATCH) * 1_000 / events_per_s < LAST_MS:
            raise ValueError(f"simulated time must be within 1970..2109; got {start_ms} ms and on")
        return self._batches(n, start_ms, events_per_s)

    def _batches(self, n: int, start_ms: int, events_per_s: float) -> Iterator[SimulatedBatch]:
        crowd = _Crowd(self, events_per_s, start_ms)
        run = id_hash(f"{self.config} {start_ms} {events_per_s}")
        for start in range(0, n, BATCH):
            number = np.arange(start, start + BATCH, dtype=np.int64)
            at_ms = start_ms + (number * (1_000 / events_per_s)).astype(np.int64)
            columns = {"number": number, **crowd.steps(at_ms)}  # always whole: chance is used alike
            yield SimulatedBatch(run, **{name: c[: n - start] for name, c in columns.items()})

    def draw_items(
        self, users: NDArray[np.int32], at_ms: Ints, rng: np.random.Generator
    ) -> NDArray[np.int32]:
        """What a catalogue page shows: half by the viewer's taste, half by popularity alone."""
        now, following, weight = self._tastes(users.astype(np.uint64), at_ms)
        chance = rng.random((3, len(users)))
        cluster = np.where(chance[0] < weight, following, now)
        cluster = np.minimum(cluster, min(self.config.n_items, self.config.n_clusters) - 1)
        by_taste = chance[1] < 0.5
        first = np.where(by_taste, self._cluster_ends[cluster], 0)
        behind = np.where(by_taste, self._cluster_ends[cluster + 1], self.config.n_items)
        low, high = self._cumulative[first], self._cumulative[behind]
        place = np.searchsorted(self._cumulative, low + chance[2] * (high - low), side="right") - 1
        return np.asarray(self._by_cluster[np.clip(place, first, behind - 1)], np.int32)

    def durations_s(self, items: NDArray[np.int32]) -> Floats:
        """Lengths of titles, seconds."""
        return np.asarray(self._runtime_s[items], np.float32)

    def affinity(self, users: NDArray[np.int32], items: NDArray[np.int32], at_ms: Ints) -> Floats:
        """`taste` of viewers for titles by their numbers, pair by pair."""
        return self._affinity(users.astype(np.uint64), self._cluster[items], at_ms)

    def answer(
        self, user: str, slate: Sequence[str], now_ms: int, request_id: str = ""
    ) -> list[Interaction]:
        """What a viewer does with a slate: sees all of it, opens what is near the top and to taste.

        Slot k is examined with probability `1 / (k + 1) ** 0.7` and, if so, opened with 0.03 to
        0.53, by taste (a position-based click model). Then most play, and the more the title is to
        taste, the further they watch. Times grow from `now_ms` on, a few seconds for each title
        opened; event ids are made from `request_id`, or else from the viewer and the time.
        """
        told = _Story(user, request_id, now_ms)
        taste = self.taste(user, slate, now_ms)
        for slot, item in enumerate(slate):
            told.tell(item, EventType.IMPRESSION, slot)
        for slot, item in enumerate(slate):
            examined = self._answers.random() < (slot + 1) ** -0.7
            if examined and self._answers.random() < 0.03 + 0.5 * taste[slot]:
                self._watch(told, item, slot, float(taste[slot]))
        return told.events

    def _watch(self, told: "_Story", item: str, slot: int, taste: float) -> None:
        """A title is opened, mostly played, and given up or watched to its end."""
        rng = self._answers
        told.after(int(rng.integers(500, 1_500))).tell(item, EventType.CLICK, slot)
        if rng.random() > 0.8:
            return
        told.after(500).tell(item, EventType.PLAY, slot)
        duration_s = self._duration_s(item)
        share = float(rng.beta(1 + 3 * taste, 1 + 2 * (1 - taste)))
        last = EventType.COMPLETE if share > 0.75 else EventType.PROGRESS
        if share < 0.15:
            last = EventType.SKIP
        reached_s = duration_s if last == EventType.COMPLETE else round(share * duration_s)
        told.after(1_000).tell(item, last, slot, reached_s, duration_s)
        if last == EventType.COMPLETE and rng.random() < 0.2:
            liked = rng.random() < 0.3 + 0.6 * taste
            opinion = EventType.LIKE if liked else EventType.DISLIKE
            told.after(500).tell(item, opinion, slot)

    def _duration_s(self, item: str) -> int:
        return int(self._runtime_s[_number_of(item) % self.config.n_items])


class _Story:
    """Events of one viewer and one slate, in order of time."""

    def __init__(self, user: str, request_id: str, now_ms: int) -> None:
        self.events: list[Interaction] = []
        self._user, self._request, self._at_ms = user, request_id, now_ms
        self._event = request_id or f"{user}-{now_ms}"

    def after(self, duration_ms: int) -> "_Story":
        """Lets time pass."""
        self._at_ms += duration_ms
        return self

    def tell(
        self, item: str, type_: EventType, slot: int, position_s: float = 0, duration_s: float = 0
    ) -> None:
        """Adds an event."""
        self.events.append(
            Interaction(
                f"{self._event}-{slot}-{type_.name.lower()}",
                self._user,
                item,
                type_,
                self._at_ms,
                request_id=self._request,
                slot=slot,
                watch_position_s=float(position_s),
                watch_duration_s=float(duration_s),
                page=Page.HOME,
            )
        )


BROWSING, OPENING, STARTING, WATCHING, CLOSING = range(5)  # what an active viewer does next


class _Crowd:
    """The active viewers, a step at a time: arrays over places, a viewer in each.

    A step of all places is a round, in random order. Who leaves goes to the end of the queue of
    those who rest, and the first of the queue takes the place.
    """

    def __init__(self, simulator: Simulator, events_per_s: float, start_ms: int) -> None:
        config = simulator.config
        self._simulator = simulator
        self._rng = np.random.default_rng([config.seed, 2])
        self._chances = _Chances.of(config)
        wanted = round(events_per_s * config.step_s)
        n = max(1, min(wanted, config.n_users // 2))
        queue = self._rng.permutation(config.n_users).astype(np.int32)
        self._user, self._resting, self._next = queue[:n].copy(), queue[n:].copy(), 0
        self._session = np.arange(n, dtype=np.int64)
        self._n_sessions = n
        self._order = self._rng.permutation(n)
        self._at = 0  # how many places have stepped in this round
        # The simulation begins in the midst of things: everybody somewhere in a story.
        self._phase = self._rng.choice(5, n, p=self._chances.phase_shares()).astype(np.uint8)
        self._item = simulator.draw_items(self._user, np.full(n, start_ms, np.int64), self._rng)
        self._slot = self._rng.integers(0, 3, n).astype(np.int16)
        begun = np.where(self._phase >= WATCHING, self._rng.random(n, np.float32) / 2, 0)
        self._position = (simulator.durations_s(self._item) * begun).astype(np.float32)

    def steps(self, at_ms: Ints) -> dict[str, Any]:
        """One event for each time, as columns."""
        parts = []
        done = 0
        while done < len(at_ms):
            places = self._order[self._at : self._at + len(at_ms) - done]
            parts.append(self._step(places, at_ms[done : done + len(places)]))
            done += len(places)
            self._at += len(places)
            if self._at == len(self._order):
                self._order, self._at = self._rng.permutation(len(self._order)), 0
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _step(self, places: Ints, at_ms: Ints) -> dict[str, Any]:
        phase, user, session = self._phase[places], self._user[places], self._session[places]
        chance = self._rng.random((2, len(places)), np.float32)
        self._show(places[phase == BROWSING], at_ms[phase == BROWSING])
        item = self._item[places]
        taste = self._simulator.affinity(user, item, at_ms)
        type_ = _types(phase, taste, chance)
        duration = self._simulator.durations_s(item)
        position = self._watch(places, type_, duration, chance[1])
        watched = np.isin(type_, _WATCHED)
        columns = {
            "user": user,
            "item": item,
            "session": session,
            "type": type_,
            "at_ms": at_ms,
            "slot": np.where(phase == BROWSING, self._slot[places], np.int16(NO_SLOT)),
            "rating": _ratings(type_, taste, chance[0]),
            "watch_position_s": np.where(watched, position, np.float32(0)),
            "watch_duration_s": np.where(watched, duration, np.float32(0)),
        }
        self._move_on(places, phase, taste, chance[0])
        return columns

    def _show(self, places: Ints, at_ms: Ints) -> None:
        """Puts the next title of the page before browsing viewers."""
        self._item[places] = self._simulator.draw_items(self._user[places], at_ms, self._rng)
        self._position[places] = 0

    def _watch(
        self, places: Ints, types: NDArray[np.uint8], duration: Floats, chance: Floats
    ) -> Floats:
        """Positions after this step, seconds: further on with progress, at the end if complete."""
        before = self._position[places]
        further = np.minimum(before + duration * (0.05 + 0.3 * chance), duration)
        after = np.select(
            [types == EventType.PROGRESS, types == EventType.COMPLETE], [further, duration], before
        ).astype(np.float32)
        self._position[places] = after
        return after

    def _move_on(
        self, places: Ints, phase: NDArray[np.uint8], taste: Floats, chance: Floats
    ) -> None:
        """Decides what each viewer does next."""
        c = self._chances
        appeal = 0.4 + 1.2 * np.minimum(1.5 * taste, 1)  # about 1 on average
        following = np.select(
            [phase == BROWSING, phase == OPENING, phase == STARTING, phase == WATCHING],
            [
                np.where(chance < c.open * appeal, OPENING, BROWSING),
                np.where(chance < c.play, STARTING, BROWSING),
                WATCHING,
                np.where(chance < c.keep, WATCHING, np.where(chance > c.leave, CLOSING, BROWSING)),
            ],
            BROWSING,
        ).astype(np.uint8)
        next_slot = (self._slot[places] + 1) % PAGE_SLOTS
        stays = (phase == BROWSING) & (following == BROWSING)
        self._slot[places] = np.where(stays, next_slot, 0)
        self._phase[places] = following
        done = (phase > BROWSING) & (following == BROWSING)
        self._replace(places[done & (self._rng.random(len(places)) < c.end_session)])

    def _replace(self, places: Ints) -> None:
        """Sends viewers to rest, and seats those who have rested longest."""
        for start in range(0, len(places), len(self._resting)):
            some = places[start : start + len(self._resting)]
            seats = (self._next + np.arange(len(some))) % len(self._resting)
            rested = self._resting[seats].copy()
            self._resting[seats] = self._user[some]
            self._user[some] = rested
            self._next = int(self._next + len(some)) % len(self._resting)
        self._session[places] = self._n_sessions + np.arange(len(places))
        self._n_sessions += len(places)
        self._slot[places] = 0


@dataclass(frozen=True, slots=True)
class _Chances:
    """Transition probabilities that give a mix, derived from numbers of events per opened title.

    An opened title makes 1 click and `play` plays; their share of all events says how many there
    are in all, hence how many impressions, progress reports and others.
    """

    impressions: float  # for each title opened
    play: float  # after a click
    progress: float  # reports for each play
    closing: float  # the chance that the end of watching is told
    end_session: float  # after a title

    @classmethod
    def of(cls, config: SimulationConfig) -> "_Chances":
        """The chances of a configuration, as near to its mix as chances can be."""
        play = 0.8
        mix = config.mix
        events = (1 + play) / mix.click_and_play
        shown_and_progress = mix.shown_and_progress * events
        progress = max(1.0, 0.4 * shown_and_progress / play)
        impressions = max(1.0, shown_and_progress - play * progress)
        closing = min(1.0, mix.other * events / play)
        return cls(impressions, play, progress, closing, 1 / config.session_titles)

    @property
    def open(self) -> float:
        """The chance of a click after an impression."""
        return 1 / self.impressions

    @property
    def keep(self) -> float:
        """The chance of another progress report after one."""
        return 1 - 1 / self.progress

    @property
    def leave(self) -> float:
        """Above this chance watching ends and the end is told."""
        return 1 - self.closing * (1 - self.keep)

    def phase_shares(self) -> list[float]:
        """How many viewers are in each phase at any time; sum 1."""
        play, progress = self.play, self.play * self.progress
        numbers = [self.impressions, 1.0, play, progress, play * self.closing]
        return [number / sum(numbers) for number in numbers]


def _types(
    phase: NDArray[np.uint8], taste: Floats, chance: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """What each step is; an end is told as complete or skip, by taste, or as an opinion."""
    complete = chance[0] < 0.3 + 0.6 * taste
    end = np.where(complete, np.uint8(EventType.COMPLETE), np.uint8(EventType.SKIP))
    opinion = _OPINIONS[(chance[1] * len(_OPINIONS)).astype(np.int64)]
    told = np.where(opinion > 0, opinion, end)
    return np.where(phase == CLOSING, told, _TYPE_OF_PHASE[phase])


_TYPE_OF_PHASE = np.array(
    [EventType.IMPRESSION, EventType.CLICK, EventType.PLAY, EventType.PROGRESS, EventType.SKIP],
    np.uint8,
)
_WATCHED = np.array([EventType.PROGRESS, EventType.COMPLETE, EventType.SKIP], np.uint8)
_OPINIONS = np.zeros(20, np.uint8)  # six of twenty endings are told as an opinion
_OPINIONS[:6] = (
    EventType.LIKE, EventType.LIKE, EventType.RATE, EventType.ADD, EventType.DISLIKE,
    EventType.SHARE,
)  # fmt: skip


def _ratings(types: NDArray[np.uint8], taste: Floats, chance: Floats) -> Floats:
    points = np.floor(1 + 5 * taste + 5 * chance)  # 1..10
    return np.where(types == EventType.RATE, points, NO_RATING).astype(np.float32)


def _device(users: NDArray[np.int32]) -> NDArray[np.uint8]:
    return (1 + users % 4).astype(np.uint8)


def _region(users: NDArray[np.int32]) -> NDArray[np.uint8]:
    return (users // 4 % len(REGIONS)).astype(np.uint8)


def _page(types: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where(types == EventType.IMPRESSION, Page.HOME, Page.ITEM).astype(np.uint8)


def _mixed(numbers: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """SplitMix64 of each number (https://prng.di.unimi.it/splitmix64.c)."""
    mixed = numbers + np.uint64((seed * int(_GOLDEN) + int(_GOLDEN)) & 0xFFFFFFFFFFFFFFFF)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    return mixed ^ (mixed >> np.uint64(31))


def _number_of(text: str) -> int:
    """The number in an id of the simulation, the hash of any other id."""
    digits = text[1:]
    is_ours = text[:1] in ("u", "i") and len(digits) in (USER_DIGITS, ITEM_DIGITS)
    return int(digits) if is_ours and digits.isdecimal() else id_hash(text)


def enough_users(config: SimulationConfig, events_per_s: float) -> int:
    """How many viewers it takes for rests of half an hour at a rate."""
    chances = _Chances.of(config)
    share_of_clicks = chances.phase_shares()[OPENING]
    sessions_per_s = events_per_s * share_of_clicks * chances.end_session
    return round(events_per_s * config.step_s + 1.1 * SESSION_GAP_S * sessions_per_s) + 1


# A protobuf Interaction (protos/headrace/v1/events.proto) of fixed width. What not every event has
# stands at the end and is cut off: first the tag and value of the slot, or those of the rating.
_PAYLOAD = np.dtype(
    [
        ("event_tag", "u1", 2), ("run", "u1", 16), ("number", "u1", EVENT_DIGITS),
        ("user_tag", "u1", 3), ("user", "u1", USER_DIGITS),
        ("item_tag", "u1", 3), ("item", "u1", ITEM_DIGITS),
        ("session_tag", "u1", 3), ("session", "u1", EVENT_DIGITS),
        ("type_tag", "u1"), ("type", "u1"),
        ("at_tag", "u1"), ("at_ms", "u1", 6),
        ("position_tag", "u1"), ("watch_position_s", "<f4"),
        ("duration_tag", "u1"), ("watch_duration_s", "<f4"),
        ("device_tag", "u1", 3), ("device", "u1"), ("page_tag", "u1"), ("page", "u1"),
        ("region_tag", "u1", 2), ("region", "u1", 2),
        ("last", "u1", 5),
    ]
)  # fmt: skip
_TAGS: Final = {
    "event_tag": (1 << 3 | 2, 16 + EVENT_DIGITS),
    "user_tag": (2 << 3 | 2, 1 + USER_DIGITS, ord("u")),
    "item_tag": (4 << 3 | 2, 1 + ITEM_DIGITS, ord("i")),
    "session_tag": (5 << 3 | 2, 1 + EVENT_DIGITS, ord("s")),
    "type_tag": 6 << 3,
    "at_tag": 7 << 3,
    "position_tag": 10 << 3 | 5,
    "duration_tag": 11 << 3 | 5,
    "device_tag": (13 << 3 | 2, 8, 1 << 3),
    "page_tag": 2 << 3,
    "region_tag": (3 << 3 | 2, 2),
}
_SLOT_TAG, _RATING_TAG = 9 << 3, 12 << 3 | 5
_SHORTEST = _PAYLOAD.itemsize - 5

_DECIMAL = np.array([b"%04d" % number for number in range(10**4)]).view(np.uint32)
_HEXADECIMAL = np.array([b"%04x" % number for number in range(16**4)]).view(np.uint32)
_REGION_LETTERS = np.frombuffer("".join(REGIONS).encode(), np.uint8).reshape(-1, 2)


def encode_batch(batch: SimulatedBatch) -> list[bytes]:
    """Protobuf payloads of a batch, each what `batch.interactions()` says; under 1 us an event."""
    rows = np.zeros(len(batch), _PAYLOAD)
    for name, tag in _TAGS.items():
        rows[name] = tag
    rows["run"] = np.frombuffer(b"%016x" % batch.run, np.uint8)
    rows["number"] = _digits(batch.number, EVENT_DIGITS, _HEXADECIMAL)
    rows["user"] = _digits(batch.user, USER_DIGITS, _DECIMAL)
    rows["item"] = _digits(batch.item, ITEM_DIGITS, _DECIMAL)
    rows["session"] = _digits(batch.session, EVENT_DIGITS, _HEXADECIMAL)
    rows["type"] = batch.type
    rows["at_ms"] = _varints(batch.at_ms)
    rows["watch_position_s"] = batch.watch_position_s
    rows["watch_duration_s"] = batch.watch_duration_s
    rows["device"], rows["page"] = _device(batch.user), _page(batch.type)
    rows["region"] = _REGION_LETTERS[_region(batch.user)]
    lengths = _SHORTEST + _fill_last(rows["last"], batch)
    return _cut(rows.tobytes(), lengths)


def _fill_last(last: NDArray[np.uint8], batch: SimulatedBatch) -> Ints:
    """Writes the slot or the rating where there is one; how many bytes that took."""
    has_slot, has_rating = batch.slot != NO_SLOT, batch.rating != NO_RATING
    last[:, 0] = np.where(has_slot, _SLOT_TAG, _RATING_TAG)
    last[:, 1] = np.where(has_slot, batch.slot, 0)
    ratings = batch.rating[has_rating].astype("<f4")
    last[has_rating, 1:] = ratings.view(np.uint8).reshape(-1, 4)
    return np.where(has_slot, 2, np.where(has_rating, 5, 0)).astype(np.int64)


def _cut(blob: bytes, lengths: Ints) -> list[bytes]:
    """The first `lengths[i]` bytes of each row."""
    starts = np.arange(len(lengths)) * _PAYLOAD.itemsize
    ends = starts + lengths
    return [blob[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def _digits(numbers: NDArray[Any], width: int, table: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """`(n, width) uint8` ASCII digits, four at a time from a table of all that there are."""
    left = numbers.astype(np.int64)
    n_groups = -(-width // 4)
    groups = np.empty((len(left), n_groups), np.uint32)
    for group in reversed(range(n_groups)):
        left, low = np.divmod(left, len(table))
        groups[:, group] = table[low]
    return groups.view(np.uint8)[:, 4 * n_groups - width :]


def _varints(numbers: Ints) -> NDArray[np.uint8]:
    """`(n, 6) uint8` varints of numbers below 2**42, longer than need be for small ones."""
    shifted = numbers[:, None] >> (7 * np.arange(6))
    more = np.array([0x80] * 5 + [0])
    return np.asarray((shifted & 0x7F) | more, np.uint8)
