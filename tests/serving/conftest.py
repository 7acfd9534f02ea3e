"""What tests of the server share."""

from pathlib import Path

import pytest

from serving.bundle import Bundle, load_current
from tests.serving import engine


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the small world, with a ranker; trained once."""
    folder: Path = tmp_path_factory.mktemp("bundles")
    engine.train_small(folder)
    return load_current(folder)
