"""`headrace user show`: what is known of a viewer, read from the row as servers read it."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from features import user_row
from features.codec import WireError, decode_catalog_item
from features.compiled import Rows
from features.ids import id_hash, viewer_hash
from features.log import read_to_end
from features.redis_store import RedisLink, RedisRowStore
from features.store import USERS
from features.viewing_state import ABANDONED, FRACTION_STEPS, IN_PROGRESS, REJECTED, SEEN, WATCHED
from infra import topics
from infra.settings import Settings

STATES: Final = {
    SEEN: "seen", IN_PROGRESS: "in progress", WATCHED: "watched", ABANDONED: "abandoned",
    REJECTED: "rejected",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LastTitle:
    """A title that the viewer touched."""

    item_id: str  # its 64-bit id in hex where the catalogue has no such title
    title: str
    state: str
    progress: float
    at_ms: int


@dataclass(frozen=True, slots=True)
class KnownViewer:
    """A viewer as the row has them; `partition` -1: nobody knows them."""

    user_id: str
    profile_id: str
    partition: int
    offset: int
    logged_at_ms: int
    features: dict[str, float]  # those that are not as for an unknown viewer
    titles: tuple[LastTitle, ...]

    def as_dict(self) -> dict[str, Any]:
        """For scripts."""
        titles = [
            {name: getattr(title, name) for name in LastTitle.__slots__} for title in self.titles
        ]
        return {
            **{name: getattr(self, name) for name in KnownViewer.__slots__ if name != "titles"},
            "titles": titles,
        }


def viewer_of(
    settings: Settings, user_id: str, profile_id: str = "", now_ms: int | None = None
) -> KnownViewer:
    """Reads one row. Raises redis.RedisError, and LogError for the catalogue."""
    redis = settings.redis.config()
    link = RedisLink(redis, give_up_after_s=5.0)
    try:
        ids = np.array([viewer_hash(user_id, profile_id)], np.uint64)
        rows, found = RedisRowStore(link, USERS, redis).read(ids)
    finally:
        link.close()
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    row = rows[0]
    is_known = bool(found[0])
    return KnownViewer(
        user_id,
        profile_id,
        int(row["partition"]) if is_known else -1,
        int(row["offset"]) if is_known else -1,
        int(row["logged_at_ms"]),
        _features(rows, now_ms),
        _titles(settings, row) if is_known else (),
    )


def _features(rows: Rows, now_ms: int) -> dict[str, float]:
    """Columns that differ from those of a viewer of whom nothing is known."""
    values = np.empty((2, user_row.N_COLUMNS), np.float32)
    user_row.values(rows[0], now_ms, values[0])
    user_row.values(USERS.empty[0], now_ms, values[1])
    return {
        name: round(float(own), 4)
        for name, own, empty in zip(user_row.NAMES, values[0], values[1], strict=True)
        if own != empty
    }


def _titles(settings: Settings, row: np.void) -> tuple[LastTitle, ...]:
    touched = [title for title in row["viewing"]["titles"] if title["item"]]
    names = _names(settings, {int(title["item"]) for title in touched})
    return tuple(
        LastTitle(
            *names.get(int(title["item"]), (f"{int(title['item']):016x}", "")),
            STATES.get(int(title["state"]), "?"),
            round(int(title["fraction"]) / FRACTION_STEPS, 3),
            1_000 * int(title["at_s"]),
        )
        for title in touched
    )


def _names(settings: Settings, wanted: set[int]) -> dict[int, tuple[str, str]]:
    """Ids and titles of these, from the catalogue. O(catalogue)."""
    found: dict[int, tuple[str, str]] = {}
    topic = settings.kafka.prefix + topics.CATALOG
    for record in read_to_end(settings.kafka.log_config(), topic):
        try:
            item = decode_catalog_item(record.value() or b"")
        except WireError:
            continue
        if (id_ := id_hash(item.item_id)) in wanted:
            found[id_] = (item.item_id, item.title)
    return found


def show(viewer: KnownViewer, console: Console) -> None:
    """For people."""
    name = f"{viewer.user_id} {viewer.profile_id}".strip()
    if viewer.partition < 0:
        console.print(f"{name}: nothing is known; slates are charts until the first event")
        return
    at = datetime.fromtimestamp(viewer.logged_at_ms / 1_000, UTC)
    console.print(
        f"[bold]{name}[/]: includes partition {viewer.partition} up to offset {viewer.offset}, "
        f"which the log took at {at:%Y-%m-%d %H:%M:%S} UTC",
        highlight=False,
    )
    titles = Table("title", "id", "state", "progress", "touched", title="last titles")
    for title in viewer.titles:
        touched = datetime.fromtimestamp(title.at_ms / 1_000, UTC)
        titles.add_row(
            title.title, title.item_id, title.state, f"{title.progress:.0%}",
            f"{touched:%Y-%m-%d %H:%M}",
        )  # fmt: skip
    console.print(titles)
    features = Table("feature", "value", title="features that say something")
    for feature, value in viewer.features.items():
        features.add_row(feature, f"{value:g}")
    console.print(features)
