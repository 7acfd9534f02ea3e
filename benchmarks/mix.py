"""The mix of a streaming service: slates seen at once, and what follows from them.

    45 % impressions, 25 % progress, 25 % clicks and plays, 5 % others

A viewer gets a slate of ten: ten impressions one behind the other, at one time and with one
`request_id`. `offline.simulator` shows one title a step instead; of its impressions some become
whole slates here and the others are left out. The titles of a slate are drawn independently, so a
popular one may stand there twice.
"""

import time
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Final

import numpy as np

from features.vocabulary import EventType
from offline.simulator import (
    EventMix,
    SimulatedBatch,
    SimulationConfig,
    Simulator,
    encode_batch,
)

SLATE: Final = 10
IMPRESSIONS, PROGRESS, OPENED, OTHER = 0.45, 0.25, 0.25, 0.05

# The simulator tells three impressions for two progress reports.
_SHOWN = 1.5 * PROGRESS
_STEPS = _SHOWN + PROGRESS + OPENED + OTHER  # of the simulator, for each event of the mix
_STEP_MIX = EventMix((_SHOWN + PROGRESS) / _STEPS, OPENED / _STEPS, OTHER / _STEPS)
_BECOMES_SLATE = IMPRESSIONS / SLATE / _SHOWN

_REQUEST_TAG = bytes([8 << 3 | 2, 11]) + b"r"  # request_id of an Interaction, ten digits follow


def realistic(
    n: int, n_users: int, n_items: int, seed: int, rate: float
) -> Iterator[tuple[bytes, bytes]]:
    """Keys and payloads of `n` events in order of time; their times end about now."""
    left = n
    for batch, slates in slate_batches(n, n_users, n_items, seed, rate):
        keys, payloads = batch.keys(), with_requests(encode_batch(batch), slates.tolist())
        yield from list(zip(keys, payloads, strict=True))[:left]
        left -= len(batch)
        if left <= 0:
            return


def slate_batches(
    n: int, n_users: int, n_items: int, seed: int, rate: float
) -> Iterator[tuple[SimulatedBatch, np.ndarray]]:
    """Batches of at least `n` events in all, and the number of each one's slate (-1: none)."""
    config = SimulationConfig(n_users=n_users, n_items=n_items, seed=seed, mix=_STEP_MIX)
    simulator, rng = Simulator(config), np.random.default_rng([seed, 3])
    start_ms = time.time_ns() // 1_000_000 - int(1_000 * n / rate)
    n_events = n_slates = 0
    for steps in simulator.batches(2 * n, start_ms, rate * _STEPS):
        batch, slates = _with_slates(steps, simulator, rng)
        shown = slates >= 0
        slates[shown] += n_slates
        yield replace(batch, number=n_events + np.arange(len(batch))), slates
        n_events, n_slates = n_events + len(batch), n_slates + int(shown.sum()) // SLATE


def _with_slates(
    steps: SimulatedBatch, simulator: Simulator, rng: np.random.Generator
) -> tuple[SimulatedBatch, np.ndarray]:
    """Some impressions as ten, the others not at all; numbers of slates begin at 0."""
    shown = steps.type == EventType.IMPRESSION
    kept = np.flatnonzero(~shown | (rng.random(len(steps)) < _BECOMES_SLATE))
    place = np.repeat(kept, np.where(shown[kept], SLATE, 1))
    names = [f.name for f in fields(steps) if f.name != "run"]
    batch = replace(steps, **{name: getattr(steps, name)[place] for name in names})
    shown = shown[place]
    nth = np.arange(np.count_nonzero(shown))
    batch.slot[shown] = nth % SLATE
    batch.item[shown] = simulator.draw_items(batch.user[shown], batch.at_ms[shown], rng)
    slates = np.full(len(batch), -1, np.int64)
    slates[shown] = nth // SLATE
    return batch, slates


def with_requests(payloads: list[bytes], slates: list[int]) -> list[bytes]:
    """Payloads of impressions with the `request_id` of their slate behind the other fields."""
    return [
        payload if slate < 0 else payload + _REQUEST_TAG + b"%010x" % slate
        for payload, slate in zip(payloads, slates, strict=True)
    ]
