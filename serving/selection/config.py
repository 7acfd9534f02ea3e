"""What the operator decides of slates; `docs/selection.md` says what each costs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SelectionConfig:
    """Weights of the select stage, in deviations of the score unless told otherwise."""

    diversity: float = 0.05  # 0..1: of likeness to titles on the slate, against the score
    genre_cap: float = 0.7  # 0..1: of the slate, that one genre may take
    popularity_damping: float = 0.0  # 0..: taken from the most popular title
    coverage_boost: float = 0.05  # 0..: given to a title that was not shown for a day


PLAIN = SelectionConfig(0.0, 1.0, 0.0, 0.0)  # the best by score, nothing else
