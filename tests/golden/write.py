"""Writes the golden log and what its features are: `python -m tests.golden.write`."""

import json
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from features import item_row, user_row
from features.events import CatalogItem, Interaction
from features.vocabulary import GENRES, Device, EventType, Page
from tests.golden import DIGITS, FOLDER, NOW_MS, START_MS, Columns, Golden, replay_one_by_one

N_EVENTS = 300
N_VIEWERS = 14
N_TITLES = 24
DAY_MS = 86_400_000


def titles() -> list[CatalogItem]:
    """Titles of every genre over a century, films and three series, in several languages."""
    return [_title(k) for k in range(N_TITLES)]


def _title(k: int) -> CatalogItem:
    is_episode = k % 3 == 0
    return CatalogItem(
        f"g{k}",
        f"Golden {k}",
        1924 + 4 * k,
        (GENRES[k % 19], GENRES[(k * 5 + 1) % 19]),
        cast=tuple(f"Player {n}" for n in (k % 4, 4 + k % 7, 11 + k % 5)[: 1 + k % 3]),
        runtime_min=100,
        language=("en", "de", "fr", "ja", "hi", "es", "ko", "pt")[k % 8],
        series_id=f"series {k // 9}" if is_episode else "",
        season=1 if is_episode else 0,
        episode=1 + k // 3 % 3 if is_episode else 0,
    )


def interactions() -> list[Interaction]:
    """Twenty days of every type of event: sessions, profiles, duplicates, late events."""
    rng = np.random.default_rng(20_240_229)
    ages_ms = np.sort(rng.exponential(4 * DAY_MS, N_EVENTS).clip(0, 19 * DAY_MS))[::-1]
    ages_ms[-60:] = np.sort(rng.uniform(0, 7_200_000, 60))[::-1]  # for the shortest windows
    found: list[Interaction] = []
    for k, age_ms in enumerate(ages_ms.astype(int).tolist()):
        if k % 17 == 16:
            found.append(found[-3])  # a duplicate
            continue
        kind = EventType(1 + int(rng.integers(12)))
        user = int(rng.integers(N_VIEWERS))
        late_ms = int(rng.choice([0, 0, 0, 5_000_000, 3 * DAY_MS]))
        found.append(
            Interaction(
                event_id=f"golden-{k}",
                user_id=f"u{user}" if user else "benutzer-\u00e4\u00f6\u00fc",
                profile_id="kids" if user % 5 == 1 and k % 2 else "",
                item_id=f"g{int(rng.integers(N_TITLES + 3))}",  # three of no catalogue
                type=kind,
                occurred_at_ms=max(NOW_MS - age_ms - late_ms, START_MS),
                session_id=f"s{k // 20}-{user}",
                request_id=f"r{k}" if kind == EventType.IMPRESSION else "",
                slot=k % 20 if kind in (EventType.IMPRESSION, EventType.CLICK) else None,
                watch_position_s=float(rng.integers(0, 6_000)),
                watch_duration_s=6_000.0,
                rating=float(rng.integers(0, 21)) / 2 if kind == EventType.RATE else None,
                device=Device(k % 5),
                page=Page(k % 5),
                region="DE" if k % 3 else "",
            )
        )
    return found


def _told(item: Interaction | CatalogItem) -> dict[str, Any]:
    """The fields that are not as they are by default."""
    defaults = {f.name: f.default for f in fields(item)}
    return {name: value for name, value in asdict(item).items() if value != defaults[name]}


def _rounded(columns: Columns) -> dict[str, list[float]]:
    return {
        name: [round(value, DIGITS) for value in values.tolist()]
        for name, values in columns.items()
    }


def _lines(name: str, entries: list[str], brackets: str) -> str:
    """A member of a JSON object with an entry a line, so that differences can be read."""
    inside = ",\n".join(entries)
    return f"{json.dumps(name)}: {brackets[0]}\n{inside}\n{brackets[1]}"


def main() -> None:
    """Writes both files."""
    golden = Golden(titles(), interactions())
    parts = [
        _lines("titles", [json.dumps(_told(title)) for title in golden.titles], "[]"),
        _lines("interactions", [json.dumps(_told(event)) for event in golden.interactions], "[]"),
    ]
    (FOLDER / "interactions.json").write_text("{" + ",\n".join(parts) + "}\n")
    users, items = replay_one_by_one(golden)
    parts = [
        f'"now_ms": {NOW_MS}',
        f'"user_columns": {json.dumps(user_row.NAMES)}',
        f'"item_columns": {json.dumps(item_row.NAMES)}',
        *(
            _lines(
                kind,
                [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in _rounded(found).items()],
                "{}",
            )
            for kind, found in (("users", users), ("items", items))
        ),
    ]
    (FOLDER / "expected.json").write_text("{" + ",\n".join(parts) + "}\n")


if __name__ == "__main__":
    main()
