"""What each deed is worth: a setting, so it is read by commands that start at once."""

import math
from dataclasses import dataclass, fields


class RewardError(ValueError):
    """A reward outside -1..1; the message names field, expectation and value."""


@dataclass(frozen=True, slots=True)
class RewardTable:
    """The reward of each deed, -1..1. A partial watch earns its share of `complete`.

    >>> RewardTable(like=2.0)
    Traceback (most recent call last):
    online_models.reward_table.RewardError: rewards.like must be within -1..1; got 2.0
    """

    complete: float = 1.0
    like: float = 0.8
    dislike: float = -1.0
    skip: float = -0.5
    share: float = 0.6
    add: float = 0.5
    play: float = 0.1
    click: float = 0.1
    search: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value: float = getattr(self, field.name)
            if not (math.isfinite(value) and -1.0 <= value <= 1.0):
                raise RewardError(f"rewards.{field.name} must be within -1..1; got {value}")
