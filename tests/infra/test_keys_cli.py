"""Keys on the command line: shown once, then as hashes alone."""

import json
import time

import pytest
from typer.testing import CliRunner

from infra.cli import app
from serving.guard.keys import KeyFileError, read_keys


@pytest.fixture
def keys(tmp_path):
    """Runs a command of `headrace keys` over a file of the test's own."""
    path = tmp_path / "keys.json"

    def run(*arguments: str) -> str:
        found = CliRunner().invoke(app, ["keys", *arguments, "--file", str(path)])
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        assert found.exit_code == 0, found.output
        return found.output

    run.path = path
    return run


def key_in(output: str) -> str:
    (text,) = [line for line in output.splitlines() if line.startswith("hr_")]
    return text


def test_a_key_is_created_listed_rotated_and_revoked(keys):
    first = key_in(
        keys("create", "web", "--scope", "recommend", "--scope", "ingest", "--rate", "9")
    )
    (entry,) = json.loads(keys("list", "--json"))
    assert entry["scopes"] == "recommend,ingest"
    assert (entry["rate"], entry["burst"], entry["valid"]) == (9.0, 18, True)
    second = key_in(keys("rotate", entry["id"], "--overlap-h", "1"))
    ring, now_ms = read_keys(keys.path), time.time_ns() // 1_000_000
    for at_ms, expected in ((now_ms, [True, True]), (now_ms + 3_601_000, [False, True])):
        assert [ring.find(text, at_ms) is not None for text in (first, second)] == expected
    keys("revoke", entry["id"])
    assert [entry["client"] for entry in json.loads(keys("list", "--json"))] == ["web"]
    assert read_keys(keys.path).find(first, now_ms) is None
    with pytest.raises(KeyFileError, match="there is no key"):
        keys("revoke", entry["id"])


def test_dates_bound_a_key(keys):
    dates = ["--not-before", "2030-01-01", "--expires", "2031-01-01T00:00:00"]
    keys("create", "later", "--scope", "admin", *dates)
    (entry,) = json.loads(keys("list", "--json"))
    assert entry["not_before"] == "2030-01-01T00:00:00+00:00"
    assert entry["expires"] == "2031-01-01T00:00:00+00:00"
    assert not entry["valid"]


def test_a_client_with_an_odd_name_is_refused(keys):
    with pytest.raises(KeyFileError, match="client of key"):
        keys("create", "a b", "--scope", "admin")
    assert not keys.path.exists()
