"""The snippets of docs/feast.md run as they stand, over a small lake."""

import re
import warnings
from pathlib import Path

import pyarrow as pa

from features import lake
from features.codec import encode_interaction
from features.events import Interaction
from features.lake import LakeRecord, LogIdentity
from features.redis_config import RedisConfig
from features.vocabulary import EventType
from streams.archive import rows_of
from tests.clock import START_MS
from tests.streams.test_archive import Given, impression

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of libraries that Feast brings along
    from features.definitions import Sources
    from features.feast_store import write_repo

PAGE = Path(__file__).resolve().parents[2] / "docs" / "feast.md"


def write_small_lake(folder):
    """One click of ann on a title, at 22:13:20 UTC, and a slate of three titles."""
    lake.claim(folder, LogIdentity("c", {}, {lake.INTERACTIONS: 1, lake.CATALOG: 1}))
    click = Interaction("e1", "ann", "tt0113277", EventType.CLICK, START_MS)
    record = LakeRecord("interactions", 0, 0, START_MS, b"ann", encode_interaction(click), [])
    rows = pa.table(lake.raw_columns([record]), pa.schema(lake.RAW))
    lake.write_file(folder / lake.INTERACTIONS / "day=2023-11-14", 0, 0, 0, rows)
    slate = rows_of(lake.IMPRESSIONS, [Given(5, impression("r1", 3))])
    lake.write_file(folder / lake.IMPRESSIONS / "day=2023-11-14", 2, 5, 5, slate)


def test_every_snippet_runs(redis_url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_small_lake(tmp_path / "lake")
    write_repo(RedisConfig(redis_url), tmp_path / "feast", Sources(tmp_path / "lake"))
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(snippets) == 5
    names = {}
    for snippet in snippets:
        exec(snippet, names)  # noqa: S102 (our own page)
    assert names["now"]["user_events_total"] == [None]
    assert names["around"]["covisitation_items"] == [None]
    assert names["past"]["user_clicks_24h"].tolist() == [1.0, 0.0]
    assert names["past"]["item_engaged_total"].notna().all()
    assert len(names["served"]) == 3
