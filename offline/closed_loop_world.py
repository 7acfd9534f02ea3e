"""A world in which viewers answer slates, and in which the worth of every choice is known.

It is made to compare policies that give slots to arms, so it holds what such policies are about and
no more. What it assumes, each in one place below:

**Titles** lie in 8 dimensions around 12 clusters (genres). They have a quality, and a fame that
correlates with it by half. New ones are released all the time, most on Friday evenings, and have a
buzz that fades. Now and then everybody wants one cluster for a while (a wave), and each cluster has
times of the day that suit it.

**Viewers** have a taste that drifts from one place to another, and a mood for each session that has
nothing to do with it. Two titles of one cluster in a session are enough: its others are less
welcome, and so is what is to taste in general (a wish for variety). What a viewer has played does
not come back. Three in ten viewers are new: nothing is known of them, and they like names they
know. Half are regular. Two in ten are power viewers: they come three times as often, have seen much
of what is famous, and look for what is new, or what few know.

**A slate** is looked at from the top: slot k (from 0) with probability `(k + 1) ** -0.7`. A title
that is looked at is opened with `sigmoid(appeal - 4)`, played in eight of ten cases, and watched
as far as it is to taste: to the end, in part, or skipped; some tell an opinion.

**Arms** order the same titles by what each can know, never by the truth. What is known of a viewer
is blurred by `1 / sqrt(answers)` and shrunk to the average viewer:

    als            factors of titles a day old and older, trained at midnight; the taste as it is
    content        the clusters alone, of which fewer answers are enough; no qualities; new titles
    covisitation   what is near the last three titles opened in the session; or fame
    trending       what the average viewer would open now, as of the last refresh
    long_tail      little fame, good ratings
    serendipity    far from the known taste, good ratings
    new            the latest releases, a little by taste
    ranker         factors, ratings and fame, weighted as is best for the average viewer; no session

So no arm is right for all: that a context (stage, session, saturation, hour, weekend) tells which,
is an assumption, and `has_contexts=False` is the world without it. Sizes of effects are round
numbers. They were set so that about one slot in twenty is opened and that each stage, the start and
the midst of a session, and satiation have arms of their own that do well, by the mean worth of the
arms under even shares, and of the best arm of each context beside that of the best arm. No policy
that learns had been run by then, and nothing was changed after the first one was.

Rewards are those of `online_models.reward`: watched to the end 1, in part the share, given up soon
-0.5 (a skip); an opinion counts instead: 0.8 or -1.

Titles are short (10 to 60 s): answers come within seconds. With films they would come in hours, and
the delay of learning would be lost in that of viewers.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from features.decision_context import (
    EARLY_ACTIONS,
    FIRST_WEEKEND_DAY,
    SATURATED_TITLES,
    SATURATIONS,
    SESSIONS,
    TIMES,
    WEEKS,
)
from features.user_habits import EPOCH_WEEKDAY, NEW, NEW_EVENTS, POWER, REGULAR
from features.user_sessions import SESSION_GAP_MS
from features.vocabulary import N_ARMS, Arm
from features.windows import DAY_MS, HOUR_MS
from online_models.reward_table import RewardTable

RANKER: Final = int(Arm.RANKER)  # who takes over where an arm has nothing left
N_DIMS: Final = 8
N_CLUSTERS: Final = 12
N_RECENT: Final = 3
EXAMINATION_EXPONENT: Final = 0.7
OPENING_BASE: Final = 4.0
PLAY: Final = 0.8
REWARDS: Final = RewardTable()
COMPLETED: Final = REWARDS.complete
LIKED: Final = REWARDS.like  # an opinion counts instead of what was watched
SKIPPED: Final = REWARDS.skip
DISLIKED: Final = REWARDS.dislike
OPINION: Final = 0.2  # of those who watch to the end
COMPLETE_SHARE: Final = 0.75
SKIP_SHARE: Final = 0.15
NO_ANSWER_AFTER_MS: Final = 30_000
N_SHARES: Final = 200
N_PLEASURES: Final = 101

# What makes a title appeal, in log-odds.
BY_TASTE: Final = 2.5
BY_MOOD: Final = 2.5
BY_QUALITY: Final = 0.5
BY_FAME: Final = (1.0, 0.25, -0.5)  # for new, regular and power viewers
BY_BUZZ: Final = (0.5, 1.0, 2.0)
BY_WAVE: Final = 1.0
BY_SATIATION: Final = 1.0
TASTE_WHEN_SATURATED: Final = -0.5  # of BY_TASTE: what is unlike the usual is welcome
AVERAGE_FAME: Final = 0.25  # what models of everybody take BY_FAME for
AVERAGE_BUZZ: Final = 1.0
BY_HOUR: Final = 0.4  # standard deviation of a cluster's effect of a quarter of the day

# How blurred the arms see.
ALS_PRIOR: Final = 20.0  # answers that the average viewer counts as
ALS_NOISE: Final = 1.5
CONTENT_PRIOR: Final = 5.0
CONTENT_NOISE: Final = 1.0
FACTOR_NOISE: Final = 0.1
RATING_NOISE: Final = 0.5
NEIGHBOUR_NOISE: Final = 0.15
TREND_NOISE: Final = 0.3
FAR_FROM_TASTE: Final = 0.2

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class WorldConfig:
    """What is simulated; two worlds of the same configuration are the same."""

    seed: int = 0
    n_decisions: int = 20_000
    slates_per_s: float = 1 / 30  # a week has 20,160 of them
    n_viewers: int = 2_000
    n_titles: int = 300  # at the start
    n_slots: int = 10
    start_ms: int = 1_704_067_200_000  # Monday, 1 January 2024
    releases_per_day: float = 6.0
    buzz_s: float = 1.5 * 86_400
    waves_per_day: float = 3.0
    wave_s: float = 4 * 3_600.0
    drift_s: float = 14 * 86_400.0  # a taste has become another
    refresh_s: float = 600.0  # of the trending list
    has_contexts: bool = True  # without: no moods, no satiation, all stages want the same

    def __post_init__(self) -> None:
        for name in ("n_decisions", "slates_per_s", "n_viewers", "n_slots", "buzz_s", "wave_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"world.{name} must be positive; got {getattr(self, name)}")
        if self.n_titles < 10 * self.n_slots:
            raise ValueError(
                f"world.n_titles must be {10 * self.n_slots} or more; got {self.n_titles}"
            )

    @property
    def span_s(self) -> float:
        """How long it lasts, about."""
        return self.n_decisions / self.slates_per_s


class Titles(NamedTuple):
    """All titles there will be, `(n,)` or `(n, N_DIMS)`, and the clusters' centres."""

    cluster: Ints
    centre: Floats
    place: Floats
    factors: Floats  # the place as the factors have it
    quality: Floats
    rated: Floats  # the quality as ratings have it
    fame: Floats
    born_ms: Ints
    length_ms: Ints


class Viewers(NamedTuple):
    """All viewers: what they are, and what has become of them; written to by `answer`."""

    was: Floats
    becomes: Floats
    power: Bools
    known: Ints  # answers given ever
    first_ms: Ints  # when the first was; -1: none yet
    blur: Floats  # of what content knows, `(n, N_DIMS)`
    seen: Bools  # (n, n_titles)
    deeds: Ints  # in the session
    last_ms: Ints
    recent: Ints  # (n, N_RECENT) titles opened last in the session; -1: none
    played: Ints  # (n, N_CLUSTERS) in the session


class Schedule(NamedTuple):
    """Who asks when, whatever is shown: the same for every policy. `(n_decisions,)`."""

    at_ms: Ints
    viewer: Ints
    session: Ints
    mood: Floats  # (n_sessions, N_DIMS)
    chance: Floats  # (n_decisions, n_slots, 5)


class Moment(NamedTuple):
    """What is true of everybody at a time, and what the arms that look at everybody see."""

    now_ms: int
    trained_ms: int  # when factors and ranker learnt last
    heat: Floats  # (N_CLUSTERS,) of waves and the time of the day
    trending: Floats  # (n_titles,) scores
    blur: Floats  # (n_viewers, N_DIMS) of the factors, drawn at each training
    neighbour_noise: Floats  # (n_titles,)


class Truth(NamedTuple):
    """What never changes, of a world and of how viewers answer."""

    examined: Floats  # (n_slots,)
    shares: Floats  # `watching`
    rewards: Floats
    mean: Floats  # (N_DIMS,) the average viewer's taste
    start_ms: int
    drift_ms: float
    buzz_ms: float
    by_mood: float
    taste_when_saturated: float
    by_satiation: float
    by_fame: Floats  # (3,), by stage
    by_buzz: Floats


class Answers(NamedTuple):
    """What became of a slate, `(n_slots,)` each, and what it was worth."""

    title: Ints
    reward: Floats
    watch_share: Floats  # -1: not played
    opened: Bools
    delay_ms: Ints  # until it is known
    expected: Floats  # the reward expected of what was shown
    regret: Floats  # what the best arm's next title would have been worth, less `expected`


def examination(n_slots: int) -> Floats:
    """Probability that each slot is looked at."""
    return np.asarray((1.0 + np.arange(n_slots)) ** -EXAMINATION_EXPONENT, np.float64)


def watching() -> tuple[Floats, Floats]:
    """How far is watched, by pleasure: cumulative `(N_PLEASURES, N_SHARES)`; rewards expected.

    Shares are Beta(1 + 3p, 3 - 2p) on N_SHARES even steps, so that what is expected is exact.
    """
    pleasure = np.linspace(0, 1, N_PLEASURES)[:, None]
    share = (np.arange(N_SHARES) + 0.5) / N_SHARES
    density = share ** (3 * pleasure) * (1 - share) ** (2 - 2 * pleasure)
    density /= density.sum(axis=1, keepdims=True)
    opinion = liking(pleasure) * LIKED + (1 - liking(pleasure)) * DISLIKED
    told = np.where(share > COMPLETE_SHARE, OPINION, 0.0)
    reward = (1 - told) * reward_of_shares(share) + told * opinion
    return np.cumsum(density, axis=1), (density * reward).sum(axis=1)


def reward_of_shares(share: Floats) -> Floats:
    """Rewards of watching `share` of titles: to the end, in part, or skipped."""
    return np.where(share > COMPLETE_SHARE, COMPLETED, np.where(share < SKIP_SHARE, SKIPPED, share))


@compiled
def liking(pleasure: Any) -> Any:
    """The chance that an opinion is a good one."""
    return 0.3 + 0.6 * pleasure


class World:
    """One world: who asks, what each arm would offer, what was answered, what it was worth.

    Decisions are taken in order: `context`, then `answer`, for 0, 1, 2 and on. `restart` begins
    anew: the same viewers, requests and chances, whatever was answered before.
    """

    def __init__(self, config: WorldConfig | None = None) -> None:
        self.config = config = config or WorldConfig()
        self.titles = _titles(config, _rng(config, 0))
        self._born = _viewers(config, self.titles, _rng(config, 1))
        self.schedule = _schedule(config, self.titles, self._born.power, _rng(config, 2))
        self._waves = _waves(config, _rng(config, 3))
        self._hours = _rng(config, 4).normal(0, BY_HOUR, (len(TIMES), N_CLUSTERS))
        self._neighbour_noise = _rng(config, 5).normal(0, NEIGHBOUR_NOISE, len(self.titles.fame))
        self._truth = _truth(config, self._born.was.mean(axis=0))
        self._trained: tuple[int, Floats] = (-1, np.empty((0, N_DIMS)))
        self.restart()

    def restart(self) -> None:
        """Forgets all answers."""
        columns: list[Any] = [column.copy() for column in self._born]
        self.viewers = Viewers(*columns)
        self._moment = self._moment_at(self.config.start_ms)

    def __len__(self) -> int:
        return len(self.schedule.at_ms)

    def context(self, decision: int) -> int:
        """The code of features.decision_context that the engine would give to this decision."""
        viewer, now_ms = self.schedule.viewer[decision], self.schedule.at_ms[decision]
        return int(context_of_viewer(self.viewers, viewer, now_ms))

    def answer(self, decision: int, arms: Ints) -> Answers:
        """Shows the slate whose slots have `arms`, and has it answered.

        Each slot takes the first title of its arm's order that is not in the slate yet. An arm of
        -1 stands for whichever arm offers most: the oracle, whose regret is 0.
        """
        self._refresh(int(self.schedule.at_ms[decision]))
        n = len(arms)
        told = Answers(
            np.empty(n, np.int64), np.zeros(n), np.full(n, -1.0), np.zeros(n, np.bool_),
            np.full(n, NO_ANSWER_AFTER_MS), np.zeros(n), np.zeros(n),
        )  # fmt: skip
        answer_slate(
            decision, arms, self.titles, self.viewers, self.schedule, self._moment, self._truth,
            told,
        )  # fmt: skip
        return told

    def _refresh(self, now_ms: int) -> None:
        if now_ms - self._moment.now_ms >= 1_000 * self.config.refresh_s:
            self._moment = self._moment_at(now_ms)

    def _moment_at(self, now_ms: int) -> Moment:
        """What is true of everybody now. Trends see waves as they were a refresh ago."""
        config, titles = self.config, self.titles
        trained_ms = now_ms // DAY_MS * DAY_MS
        blur = self._blur_of(trained_ms // DAY_MS)
        seen_ms = now_ms - int(1_000 * config.refresh_s)
        noise = np.random.default_rng([config.seed, 7, now_ms]).normal(
            0, TREND_NOISE, len(titles.fame)
        )
        trending = (
            BY_TASTE * (titles.place @ self._truth.mean)
            + BY_QUALITY * titles.rated
            + AVERAGE_FAME * titles.fame
            + AVERAGE_BUZZ
            * np.exp(-np.maximum(now_ms - titles.born_ms, 0) / (1_000 * config.buzz_s))
            + self._heat(seen_ms)[titles.cluster]
            + noise
        )
        return Moment(now_ms, trained_ms, self._heat(now_ms), trending, blur, self._neighbour_noise)

    def _blur_of(self, day: int) -> Floats:
        if day != self._trained[0]:
            shape = (self.config.n_viewers, N_DIMS)
            rng = np.random.default_rng([self.config.seed, 6, day])
            self._trained = day, rng.normal(size=shape)
        return self._trained[1]

    def _heat(self, now_ms: int) -> Floats:
        """`(N_CLUSTERS,)` what is added to each cluster's appeal at a time."""
        begun_ms, cluster = self._waves
        age_s = (now_ms - begun_ms) / 1_000
        strength = np.where(age_s >= 0, BY_WAVE * np.exp(-age_s / self.config.wave_s), 0.0)
        waves = np.bincount(cluster, strength, minlength=N_CLUSTERS)
        return np.asarray(waves + self._hours[now_ms % DAY_MS // (6 * HOUR_MS)], np.float64)


def _truth(config: WorldConfig, mean: Floats) -> Truth:
    shares, rewards = watching()
    has = config.has_contexts
    return Truth(
        examined=examination(config.n_slots),
        shares=shares,
        rewards=rewards,
        mean=mean,
        start_ms=config.start_ms,
        drift_ms=1_000.0 * config.drift_s,
        buzz_ms=1_000.0 * config.buzz_s,
        by_mood=BY_MOOD if has else 0.0,
        taste_when_saturated=TASTE_WHEN_SATURATED if has else 1.0,
        by_satiation=BY_SATIATION if has else 0.0,
        by_fame=np.array(BY_FAME if has else (AVERAGE_FAME,) * 3),
        by_buzz=np.array(BY_BUZZ if has else (AVERAGE_BUZZ,) * 3),
    )


def _rng(config: WorldConfig, stream: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, stream])


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float64)


def _titles(config: WorldConfig, rng: np.random.Generator) -> Titles:
    days = config.span_s / 86_400
    n_new = rng.poisson(config.releases_per_day * days)
    n = config.n_titles + n_new
    centre = _unit(rng.normal(size=(N_CLUSTERS, N_DIMS)))
    cluster = rng.integers(0, N_CLUSTERS, n)
    place = _unit(centre[cluster] + rng.normal(0, 0.5 / np.sqrt(N_DIMS), (n, N_DIMS)))
    quality = rng.normal(size=n)
    old_ms = config.start_ms - rng.uniform(0, 2 * 365, config.n_titles) * DAY_MS
    born_ms = np.concatenate([old_ms, _releases(config, n_new, rng)]).astype(np.int64)
    return Titles(
        cluster=cluster,
        centre=centre,
        place=place,
        factors=place + rng.normal(0, FACTOR_NOISE, (n, N_DIMS)),
        quality=quality,
        rated=quality + rng.normal(0, RATING_NOISE, n),
        fame=0.5 * quality + np.sqrt(0.75) * rng.normal(size=n),
        born_ms=born_ms,
        length_ms=rng.integers(10_000, 60_000, n),
    )


def _releases(config: WorldConfig, n: int, rng: np.random.Generator) -> Floats:
    """When titles come out: six of ten on Fridays between 16 and 20 h, if there is a Friday."""
    at_ms = config.start_ms + rng.uniform(0, 1, n) * 1_000 * config.span_s
    week_ms = 7 * DAY_MS
    friday = (config.start_ms // week_ms + 1) * week_ms + DAY_MS  # weeks of 1970 begin on Thursdays
    friday_ms = friday + (16 + 4 * rng.uniform(0, 1, n)) * HOUR_MS
    is_friday = (rng.random(n) < 0.6) & (friday_ms < config.start_ms + 1_000 * config.span_s)
    return np.where(is_friday, friday_ms, at_ms)


def _viewers(config: WorldConfig, titles: Titles, rng: np.random.Generator) -> Viewers:
    """Viewers as they are at the start; what they have seen is what is famous and to taste."""
    n = config.n_viewers
    crowds = rng.dirichlet(np.full(N_CLUSTERS, 1.0))  # some clusters are liked by more viewers
    was, becomes = (
        _unit(titles.centre[rng.choice(N_CLUSTERS, n, p=crowds)] + rng.normal(0, 0.2, (n, N_DIMS)))
        for _ in range(2)
    )
    stage = rng.choice([NEW, REGULAR, POWER], n, p=[0.3, 0.5, 0.2])
    known = np.choose(
        stage, [np.zeros(n, np.int64), rng.integers(10, 200, n), rng.integers(200, 800, n)]
    )
    return Viewers(
        was=was,
        becomes=becomes,
        power=stage == POWER,
        known=known,
        first_ms=np.where(stage == NEW, -1, 0),
        blur=rng.normal(size=(n, N_DIMS)),
        seen=_seen(config, titles, was, known, rng),
        deeds=np.zeros(n, np.int64),
        last_ms=np.zeros(n, np.int64),
        recent=np.full((n, N_RECENT), -1),
        played=np.zeros((n, N_CLUSTERS), np.int64),
    )


def _seen(
    config: WorldConfig, titles: Titles, tastes: Floats, known: Ints, rng: np.random.Generator
) -> Bools:
    """`(n_viewers, n_titles)`: a title for every eight answers, at most half of all there are."""
    old, n_old = slice(0, config.n_titles), config.n_titles
    wish = 2 * tastes @ titles.place[old].T + titles.fame[old]
    wish += rng.gumbel(size=wish.shape)
    place = np.argsort(np.argsort(-wish, axis=1), axis=1)
    seen = np.zeros((len(known), len(titles.fame)), np.bool_)
    seen[:, old] = place < np.minimum(known // 8, n_old // 2)[:, None]
    return seen


def _waves(config: WorldConfig, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """When waves begin, and of which clusters."""
    n = rng.poisson(config.waves_per_day * config.span_s / 86_400)
    at_ms = config.start_ms + rng.uniform(0, 1_000 * config.span_s, n)
    return at_ms.astype(np.int64), rng.integers(0, N_CLUSTERS, n)


def _schedule(
    config: WorldConfig, titles: Titles, power: Bools, rng: np.random.Generator
) -> Schedule:
    """Sessions of four slates on average, 80 s apart; most in the evening, more at weekends."""
    n_sessions = int(config.n_decisions / 4 * 1.2) + 20
    hours = np.arange(int(np.ceil(config.span_s / 3_600)))
    now_ms = config.start_ms + hours * HOUR_MS
    of_day = now_ms // HOUR_MS % 24
    busy = 1.0 + 2.0 * ((of_day >= 18) & (of_day < 23)) - 0.7 * (of_day < 6)
    weekend = (now_ms // DAY_MS + EPOCH_WEEKDAY) % 7 >= FIRST_WEEKEND_DAY
    weights = busy * np.where(weekend, 1.3, 1.0)
    hour = rng.choice(hours, n_sessions, p=weights / weights.sum())
    within = np.minimum(3_600, config.span_s) * 1_000
    begins_ms = config.start_ms + hour * HOUR_MS + rng.uniform(0, within, n_sessions)
    visits = np.where(power, 3.0, 1.0)
    viewer = rng.choice(config.n_viewers, n_sessions, p=visits / visits.sum())
    n_slates = rng.geometric(0.25, n_sessions)
    session = np.repeat(np.arange(n_sessions), n_slates)
    pauses_ms = 20_000 + rng.exponential(60_000, len(session))
    before = np.repeat(np.cumsum(n_slates) - n_slates, n_slates)
    waited = np.cumsum(pauses_ms) - np.cumsum(pauses_ms)[before]  # 0 for a session's first slate
    at_ms = (begins_ms[session] + waited).astype(np.int64)
    order = np.argsort(at_ms, kind="stable")[: config.n_decisions]
    of_cluster = titles.centre[rng.integers(0, N_CLUSTERS, n_sessions)]
    moods = _unit(of_cluster + rng.normal(0, 0.2, (n_sessions, N_DIMS)))
    return Schedule(
        at_ms=at_ms[order],
        viewer=viewer[session[order]],
        session=session[order],
        mood=moods,
        chance=rng.random((len(order), config.n_slots, 5)),
    )


@compiled
def context_of_viewer(viewers: Viewers, viewer: int, now_ms: int) -> int:
    """As features.decision_context has it, of a viewer of this world."""
    position, saturated = 0, 0
    if now_ms - viewers.last_ms[viewer] <= SESSION_GAP_MS:
        deeds = viewers.deeds[viewer]
        position = 0 if deeds == 0 else (1 if deeds <= EARLY_ACTIONS else 2)
        saturated = 1 if viewers.played[viewer].max() >= SATURATED_TITLES else 0
    code = stage_of(viewers, viewer, now_ms) * len(SESSIONS) + position
    code = code * len(SATURATIONS) + saturated
    code = code * len(TIMES) + (now_ms % DAY_MS) // (6 * HOUR_MS)
    weekend = 1 if (now_ms // DAY_MS + EPOCH_WEEKDAY) % 7 >= FIRST_WEEKEND_DAY else 0
    return int(code * len(WEEKS) + weekend)


@compiled
def stage_of(viewers: Viewers, viewer: int, now_ms: int) -> int:
    """New until five answers and a day after the first one; power viewers are so from the start."""
    first_ms = viewers.first_ms[viewer]
    if viewers.known[viewer] < NEW_EVENTS or first_ms < 0 or now_ms - first_ms < DAY_MS:
        return NEW
    return POWER if viewers.power[viewer] else REGULAR


@compiled
def taste_at(viewers: Viewers, viewer: int, share: float) -> Floats:
    """A viewer's taste when `share` of the way to the next one is done."""
    share = min(max(share, 0.0), 1.0)
    taste = (1 - share) * viewers.was[viewer] + share * viewers.becomes[viewer]
    unit: Floats = taste / np.sqrt((taste * taste).sum())
    return unit


@compiled
def estimate(taste: Floats, mean: Floats, known: int, prior: float, noise: Floats) -> Floats:
    """A taste as it is known after `known` answers: shrunk to the mean one, and blurred."""
    found: Floats = (known * taste + prior * mean + np.sqrt(known) * noise) / (known + prior)
    return found


@compiled
def begin_session(viewers: Viewers, viewer: int, now_ms: int) -> None:
    """Forgets the last session if it is over."""
    if now_ms - viewers.last_ms[viewer] > SESSION_GAP_MS:
        viewers.deeds[viewer] = 0
        viewers.recent[viewer] = -1
        viewers.played[viewer] = 0


@compiled
def arm_scores(
    viewer: int, titles: Titles, viewers: Viewers, moment: Moment, mean: Floats,
    taste: Floats, now_ms: int, scores: Floats,
) -> None:  # fmt: skip
    """What each arm thinks of each title, into `scores`, `(N_ARMS, n_titles)`; -inf: no offer."""
    known = viewers.known[viewer]
    als = estimate(taste, mean, known, ALS_PRIOR, ALS_NOISE * moment.blur[viewer])
    content = estimate(taste, mean, known, CONTENT_PRIOR, CONTENT_NOISE * viewers.blur[viewer])
    by_cluster = titles.centre @ content
    recent, n_recent = near_recent(viewers.recent[viewer], titles.place)
    scores[:] = -np.inf
    for title in range(len(titles.fame)):
        age_ms = now_ms - titles.born_ms[title]
        if age_ms < 0 or viewers.seen[viewer, title]:
            continue
        genre = by_cluster[titles.cluster[title]]
        rated, fame = titles.rated[title], titles.fame[title]
        quality = BY_QUALITY * rated
        scores[Arm.CONTENT, title] = genre + 1e-3 * moment.neighbour_noise[title]
        scores[Arm.NEW, title] = 0.5 * genre - age_ms / DAY_MS
        scores[Arm.TRENDING, title] = moment.trending[title]
        near = n_recent * moment.neighbour_noise[title] + dot(recent, titles.place, title)
        scores[Arm.COVISITATION, title] = (
            BY_MOOD * near / (1 + n_recent) + AVERAGE_FAME * fame + 0.5 * quality
        )
        if titles.born_ms[title] > moment.trained_ms - DAY_MS:
            scores[Arm.RANKER, title] = BY_TASTE * genre
            continue
        factor = dot(als, titles.factors, title)
        scores[Arm.ALS, title] = BY_TASTE * factor + AVERAGE_FAME * fame + 0.5 * quality
        scores[Arm.RANKER, title] = scores[Arm.ALS, title] + 0.5 * quality
        if fame < 0:
            scores[Arm.LONG_TAIL, title] = rated + factor
        if factor < FAR_FROM_TASTE:
            scores[Arm.SERENDIPITY, title] = rated - factor


@compiled
def near_recent(recent: Ints, places: Floats) -> tuple[Floats, int]:
    """The sum of the places of the titles opened last, and how many they are."""
    total, n = np.zeros(N_DIMS), 0
    for title in recent:
        if title >= 0:
            total += places[title]
            n += 1
    return total, n


@compiled
def dot(vector: Floats, matrix: Floats, row: int) -> float:
    """Inner product with a row; a slice of the matrix would cost more than the product."""
    total = 0.0
    for k in range(N_DIMS):
        total += vector[k] * matrix[row, k]
    return total


@compiled
def best_of(scores: Floats, order: Ints) -> None:
    """The places of the highest scores, best first, into `order`; -1 behind the last offer."""
    order[:] = -1
    n = 0
    for title in range(len(scores)):
        score = scores[title]
        if score == -np.inf or (n == len(order) and score <= scores[order[n - 1]]):
            continue
        at = n if n < len(order) else n - 1
        n = min(n + 1, len(order))
        while at > 0 and scores[order[at - 1]] < score:
            order[at] = order[at - 1]
            at -= 1
        order[at] = title


@compiled
def appeal_of(
    title: int, viewer: int, titles: Titles, viewers: Viewers, moment: Moment,
    truth: Truth, wanted: Floats, stage: int, now_ms: int,
) -> float:  # fmt: skip
    """The truth: log-odds, but for the base, that a viewer opens a title now. Quality included."""
    cluster = titles.cluster[title]
    appeal = dot(wanted, titles.place, title) + BY_QUALITY * titles.quality[title]
    appeal += truth.by_fame[stage] * titles.fame[title] + moment.heat[cluster]
    age_ms = now_ms - titles.born_ms[title]
    appeal += truth.by_buzz[stage] * np.exp(-age_ms / truth.buzz_ms)
    return float(appeal - truth.by_satiation * max(viewers.played[viewer, cluster] - 1, 0))


@compiled
def sigmoid(x: float) -> float:
    """Log-odds as a probability."""
    return float(1 / (1 + np.exp(-x)))


@compiled
def pleasure_of(appeal: float) -> int:
    """How much a title pleases who plays it, in steps of `watching`."""
    return int(sigmoid(appeal - 1.0) * (N_PLEASURES - 1) + 0.5)


@compiled
def worth(appeal: float, rewards: Floats) -> float:
    """The reward expected of a title that is looked at."""
    return float(sigmoid(appeal - OPENING_BASE) * PLAY * rewards[pleasure_of(appeal)])


@compiled
def answer_slate(
    decision: int, arms: Ints, titles: Titles, viewers: Viewers, schedule: Schedule,
    moment: Moment, truth: Truth, told: Answers,
) -> None:  # fmt: skip
    """Fills `told` and moves the viewer on. `O(n_titles * N_ARMS)`."""
    viewer, now_ms = schedule.viewer[decision], schedule.at_ms[decision]
    begin_session(viewers, viewer, now_ms)
    taste = taste_at(viewers, viewer, (now_ms - truth.start_ms) / truth.drift_ms)
    is_saturated = viewers.played[viewer].max() >= SATURATED_TITLES
    wanted = truth.by_mood * schedule.mood[schedule.session[decision]]
    wanted += BY_TASTE * (truth.taste_when_saturated if is_saturated else 1.0) * taste
    stage = stage_of(viewers, viewer, now_ms)
    scores = np.empty((N_ARMS, len(titles.fame)))
    arm_scores(viewer, titles, viewers, moment, truth.mean, taste, now_ms, scores)
    orders = np.empty((N_ARMS, len(arms)), np.int64)
    appeals = np.zeros((N_ARMS, len(arms)))
    worths = np.zeros((N_ARMS, len(arms)))
    for arm in range(N_ARMS):
        best_of(scores[arm], orders[arm])
        for place in range(len(arms)):
            if orders[arm, place] >= 0:
                appeals[arm, place] = appeal_of(
                    orders[arm, place], viewer, titles, viewers, moment, truth, wanted, stage,
                    now_ms,
                )  # fmt: skip
                worths[arm, place] = worth(appeals[arm, place], truth.rewards)
    shown = fill_slots(arms, orders, appeals, worths, truth, told)
    for slot in range(len(arms)):
        if told.title[slot] >= 0:
            look_at(slot, shown[slot], schedule.chance[decision, slot], titles, truth, told)
    for slot in range(len(arms)):
        if told.opened[slot]:
            remember(viewer, now_ms, slot, titles, viewers, told)


@compiled
def fill_slots(
    arms: Ints, orders: Ints, appeals: Floats, worths: Floats, truth: Truth, told: Answers
) -> Floats:
    """Gives each slot its arm's first free title; what that is worth, and what was lost.

    An arm that has nothing left gives its slot to the best of the ranker's. Returns the appeal of
    what is shown.
    """
    shown = np.zeros(len(arms))
    told.title[:] = -1
    for slot in range(len(arms)):
        most, best = -np.inf, -1
        for arm in range(N_ARMS):
            place = first_free(orders[arm], told.title[:slot])
            if place >= 0 and worths[arm, place] > most:
                most, best = worths[arm, place], arm
        arm = best if arms[slot] < 0 else arms[slot]
        place = first_free(orders[arm], told.title[:slot])
        if place < 0:
            arm = RANKER
            place = first_free(orders[arm], told.title[:slot])
        if place < 0:
            continue
        told.title[slot] = orders[arm, place]
        shown[slot] = appeals[arm, place]
        told.expected[slot] = truth.examined[slot] * worths[arm, place]
        told.regret[slot] = truth.examined[slot] * most - told.expected[slot]
    return shown


@compiled
def first_free(order: Ints, taken: Ints) -> int:
    """The place in `order` of the first title that is not in `taken`; -1: none."""
    for place in range(len(order)):
        if order[place] < 0:
            return -1
        is_free = True
        for other in taken:
            is_free = is_free and other != order[place]
        if is_free:
            return place
    return -1


@compiled
def look_at(
    slot: int, appeal: float, chance: Floats, titles: Titles, truth: Truth, told: Answers
) -> None:
    """One slot: seen or not, opened or not, watched so far, an opinion; what is told when."""
    if chance[0] >= truth.examined[slot] * sigmoid(appeal - OPENING_BASE):
        return
    told.opened[slot] = True
    if chance[1] >= PLAY:
        return
    pleasure = pleasure_of(appeal)
    step = np.searchsorted(truth.shares[pleasure], chance[2])
    share = (min(step, N_SHARES - 1) + 0.5) / N_SHARES
    told.watch_share[slot] = share
    told.reward[slot] = share
    if share < SKIP_SHARE:
        told.reward[slot] = SKIPPED
    elif share > COMPLETE_SHARE:
        told.reward[slot] = COMPLETED
        if chance[3] < OPINION:
            likes = chance[4] < liking(pleasure / (N_PLEASURES - 1))
            told.reward[slot] = LIKED if likes else DISLIKED
    told.delay_ms[slot] = 1_000 * (1 + slot) + int(share * titles.length_ms[told.title[slot]])


@compiled
def remember(
    viewer: int, now_ms: int, slot: int, titles: Titles, viewers: Viewers, told: Answers
) -> None:
    """What an opened title changes: a click, or a click, a play and an end of watching."""
    title = told.title[slot]
    n_deeds = 1 if told.watch_share[slot] < 0 else 3
    viewers.deeds[viewer] += n_deeds
    viewers.known[viewer] += n_deeds
    viewers.last_ms[viewer] = now_ms
    if viewers.first_ms[viewer] < 0:
        viewers.first_ms[viewer] = now_ms
    viewers.recent[viewer, 1:] = viewers.recent[viewer, :-1].copy()
    viewers.recent[viewer, 0] = title
    if n_deeds > 1:
        viewers.seen[viewer, title] = True
        viewers.played[viewer, titles.cluster[title]] += 1
