"""The catalogue says of every column what the rows compute, in their order."""

import subprocess
import sys

import numpy as np
import pytest

from features import item_row, registry, user_row
from features.registry import ITEM_COLUMNS, USER_COLUMNS, VIEWS, feature_version, view_named
from features.windows import DAY_MS
from tests.clock import START_MS
from tests.features.examples import item_values, user_values


def test_the_views_of_an_entity_are_its_columns_in_order() -> None:
    for entity, columns in (("user", USER_COLUMNS), ("item", ITEM_COLUMNS)):
        views = [view for view in VIEWS if view.entity == entity]
        assert tuple(column for view in views for column in view.columns) == columns
        for view in views:
            assert columns[view.places] == view.columns


def test_columns_are_those_that_the_rows_compute() -> None:
    assert tuple(column.name for column in USER_COLUMNS) == user_row.NAMES
    assert tuple(column.name for column in ITEM_COLUMNS) == item_row.NAMES
    defaults = np.array([column.default for column in ITEM_COLUMNS], np.float32)
    assert np.array_equal(defaults, item_row.DEFAULTS)


def test_every_column_has_a_name_of_its_own_a_unit_and_a_description() -> None:
    columns = (*USER_COLUMNS, *ITEM_COLUMNS)
    assert len({column.name for column in columns}) == len(columns)
    for column in columns:
        assert column.name.isidentifier()
        assert column.name.startswith(("user_", "item_"))
        assert column.unit
        assert column.description


def test_the_default_of_a_column_is_its_value_in_an_empty_row() -> None:
    of_item = item_values(item_row.new_row())
    for column in ITEM_COLUMNS:
        assert of_item[column.name] == pytest.approx(column.default), column.name


@pytest.mark.parametrize("now_ms", [0, 1, DAY_MS, START_MS, START_MS + 4_000 * DAY_MS])
def test_the_columns_of_an_empty_viewer_are_the_defaults_at_any_time(now_ms: int) -> None:
    of_user = user_values(user_row.new_row(), now_ms)
    for column in USER_COLUMNS:
        assert of_user[column.name] == pytest.approx(column.default), column.name


def test_an_unknown_view_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(KeyError, match="user_activity, user_sessions, user_habits, user_taste, "):
        view_named("weather")


def test_the_version_changes_with_a_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    before = feature_version()
    feature_version.cache_clear()
    monkeypatch.setattr(item_row, "LAYOUT", item_row.LAYOUT + 1)
    assert feature_version() != before
    feature_version.cache_clear()


def test_the_version_changes_with_the_order_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    before = feature_version()
    feature_version.cache_clear()
    monkeypatch.setattr(registry, "USER_COLUMNS", USER_COLUMNS[::-1])
    assert feature_version() != before
    feature_version.cache_clear()


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    return done.stdout.strip()


def test_another_process_sees_the_same_version() -> None:
    code = "from features.registry import feature_version; print(feature_version())"
    assert run_python(code) == feature_version()


def test_the_hot_path_loads_neither_feast_nor_a_kafka_client() -> None:
    code = (
        "import sys, features.registry;"
        "print({'feast', 'confluent_kafka', 'redis', 'google.protobuf'} & set(sys.modules))"
    )
    assert run_python(code) == "set()"
