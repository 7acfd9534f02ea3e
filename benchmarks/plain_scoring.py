"""Scoring as one would write it first: for each title, for each tree, down to a leaf."""

import time
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from features.bundle_format import RANKER
from features.ranking import RANKING_COLUMNS
from serving.ranking.ranker import Ranker

ROWS = 1_000
PLAIN_ROWS = 100  # the plain way is timed on fewer, and told for as many
TIMES = 20


def leaf(node: dict[str, Any], row: list[float]) -> float:
    """The value of the leaf that a row comes to."""
    while "leaf_value" not in node:
        is_left = row[node["split_feature"]] <= node["threshold"]
        node = node["left_child"] if is_left else node["right_child"]
    value: float = node["leaf_value"]
    return value


def compared(bundle: Path, rng: np.random.Generator) -> dict[str, float]:
    """Milliseconds for 1,000 titles, compiled and plain, on the same rows, with the same scores."""
    text = (bundle / RANKER).read_text()
    ranker, booster = Ranker.parse(text, RANKER), lightgbm.Booster(model_str=text)
    roots = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    rows = rng.exponential(2.0, (ROWS, len(RANKING_COLUMNS))).astype(np.float32)
    compiled = ranker.score(rows)
    started_s = time.process_time()
    for _ in range(TIMES):
        ranker.score(rows)
    compiled_ms = 1_000 * (time.process_time() - started_s) / TIMES
    started_s = time.process_time()
    plain = [
        sum(leaf(root, row) for root in roots) for row in rows[:PLAIN_ROWS].astype(float).tolist()
    ]
    plain_ms = 1_000 * (time.process_time() - started_s) * ROWS / PLAIN_ROWS
    if not np.allclose(plain, compiled[:PLAIN_ROWS]):
        raise AssertionError("the compiled scores must be those of the plain way")
    return {
        "score_1000_ms": round(compiled_ms, 3),
        "score_1000_plain_python_ms": round(plain_ms, 1),
        "score_ratio": round(plain_ms / compiled_ms, 1),
    }
