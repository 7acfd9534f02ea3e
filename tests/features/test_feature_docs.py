"""The page of features is what the code says."""

from pathlib import Path

from features.feature_docs import catalogue
from features.ranking import RANKING_COLUMNS
from features.registry import LIST_VIEWS, POPULARITY, VIEWS, names_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "features.md"


def test_the_page_is_generated_from_this_code():
    assert PAGE.read_text() == catalogue(), "run: headrace features docs > docs/features.md"


def test_every_feature_and_every_column_of_the_ranker_has_a_line():
    lines = catalogue().splitlines()
    views = [view.name for view in (*VIEWS, *LIST_VIEWS)] + [POPULARITY]
    for name in [*(name for view in views for name in names_of(view)), *RANKING_COLUMNS]:
        assert any(line.startswith(f"| `{name}` | ") for line in lines)
