"""What docs/api.md promises, on a real stack: its examples are run, in Python, curl and grpcurl."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import httpx
import pytest
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass
from headrace.v1 import admin_pb2, ingest_pb2, recommender_pb2

from features.events import CatalogItem, Interaction
from features.log import LogWriter
from features.vocabulary import EventType
from infra import topics
from infra.ops.scrape import samples_of
from infra.settings import Settings
from infra.stack import Stack
from offline.replay import publish_catalogue
from serving.client import Client, Request
from serving.http.calls import CALLS
from tests.flows import PATIENT

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "api.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = [code for language, code in BLOCKS if language == "bash"]
CURL = [code for code in SHELL if "curl -" in code and "grpcurl" not in code]
GRPCURL = [code for code in SHELL if "grpcurl" in code]
GRPC, HTTP = "127.0.0.1:50051", "http://127.0.0.1:50052"  # as the examples have them
METHODS = {
    f"{service.full_name}/{method.name}": method
    for file in (recommender_pb2, ingest_pb2, admin_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
TITLES = [
    CatalogItem("tt0113277", "Heat", 1995, ("Crime", "Drama")),
    *(
        CatalogItem(f"e{k}", f"Title {k}", 2000 + k % 20, ("Drama" if k % 2 else "Comedy",))
        for k in range(300)
    ),
]


@pytest.fixture(scope="module")
def compiled() -> dict[str, float]:
    """How many functions the server had compiled or loaded, by when."""
    return {}


@pytest.fixture(scope="module")
def stack(embedded_broker, tmp_path_factory, compiled):
    prefix = f"docs{uuid.uuid4().hex[:8]}-"
    settings = Settings(
        kafka={"bootstrap": embedded_broker.bootstrap, "prefix": prefix},
        stream={"group": f"{prefix}features", "epoch_s": 0.2},
        serving={"port": 0, **PATIENT},
        home=tmp_path_factory.mktemp("home"),
    )
    with Stack(settings) as running:
        log = running.settings.kafka.log_config()
        publish_catalogue(TITLES, LogWriter(log), prefix + topics.CATALOG)
        running.start_features()
        running.start_serve()
        compiled["when ready"] = n_compiled(running)
        with Client(running.addresses.grpc, timeout_s=10) as client:
            client.wait_until_connected()
            at = client.track(Interaction("", "fan", "tt0113277", EventType.COMPLETE))
            assert client.recommend("fan", after=at, wait_ms=1_000).freshness.after_included
        yield running


@pytest.fixture
def client(stack):
    with Client(stack.addresses.grpc, timeout_s=10) as client:
        yield client


def here(text: str, stack: Stack) -> str:
    """An example with the addresses of this stack, and with time for a machine that is busy."""
    text = text.replace(f'Client("{GRPC}"', f'Client("{GRPC}", timeout_s=10')
    return text.replace(HTTP, stack.addresses.http).replace(GRPC, stack.addresses.grpc)


def n_compiled(stack: Stack) -> float:
    name = "headrace_serving_compiled_functions"
    (sample,) = [s for s in samples_of(stack.addresses.metrics["serve"]) if s.name == name]
    return sample.value


def run(*command: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_call_has_an_example_in_every_language():
    for call in CALLS:
        assert any(call.path in code for code in CURL), call.path
        assert any(call.method[1:] in code for code in GRPCURL), call.method
    assert len(PYTHON) >= 10


def test_examples_in_python_run_one_after_the_other(stack, capsys):
    names = {"__name__": "docs"}
    for code in PYTHON:
        exec(compile(here(code, stack), "docs/api.md", "exec"), names)  # noqa: S102 (ours)
    assert "INVALID_ARGUMENT" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_examples_with_curl_run(stack):
    script = "\n".join(["set -euo pipefail", *(here(code, stack) for code in CURL)])
    printed = run("bash", "-c", script)
    answers = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert len(answers) >= 10
    assert all("code" not in answer for answer in answers)
    slates = [answer for answer in answers if "next_page_token" in answer]
    assert all(slate["items"] and slate["request_id"] for slate in slates)


@pytest.mark.parametrize("code", GRPCURL)
def test_examples_with_grpcurl_are_calls_of_the_contract(code):
    words = shlex.split(code)
    method = METHODS[words[-1]]
    message = GetMessageClass(method.input_type)()
    json_format.Parse(words[words.index("-d") + 1], message)
    assert words[-2] == GRPC


@pytest.mark.skipif(shutil.which("grpcurl") is None, reason="grpcurl is not installed")
def test_examples_with_grpcurl_run(stack):
    for code in GRPCURL:
        if "TOKEN OF THE PAGE BEFORE" not in code:
            run("bash", "-euc", here(code, stack))


def test_the_example_of_a_backend_runs(stack):
    printed = run(sys.executable, "examples/backend.py", stack.addresses.grpc, "eve")
    assert "knows it: True" in printed
    assert "is not shown: the viewer has watched it." in printed


def test_pages_never_repeat_a_title_while_events_flow_and_titles_change(stack, client):
    settings = stack.settings
    writer = LogWriter(settings.kafka.log_config())
    catalogue = settings.kafka.prefix + topics.CATALOG
    shown = []
    for number, page in enumerate(client.pages(Request("pat", count=25))):
        shown += [item.item_id for item in page.items]
        position = client.track(Interaction("", "pat", shown[-1], EventType.COMPLETE))
        for k in range(20):
            seen = f"e{(37 * number + k) % 300}"
            client.track(Interaction("", f"crowd{k}", seen, EventType.COMPLETE))
        publish_catalogue([CatalogItem(f"new{number}", "New", 2020, ("Drama",))], writer, catalogue)
        assert client.recommend("pat", after=position, wait_ms=1_000).freshness.after_included
    assert len(shown) == len(set(shown))
    assert len(shown) >= len(TITLES) - 20  # all but what was watched meanwhile, and a little


def test_the_same_answer_through_both_doors_and_after_a_retry(stack, client):
    with httpx.Client(base_url=stack.addresses.http, timeout=10) as web:
        asked = {"user_id": "kim", "count": 7, "request_id": "kim-1"}
        told = web.post("/v1/recommend", json=asked).json()
    slate = client.recommend("kim", count=7, request_id="kim-1")
    assert [item["item_id"] for item in told["items"]] == [item.item_id for item in slate.items]


def test_a_slate_and_an_explanation_on_the_command_line(stack, client):
    position = client.track(Interaction("", "lou", "e8", EventType.COMPLETE))
    assert client.recommend("lou", after=position, wait_ms=1_000).freshness.after_included
    headrace = [sys.executable, "-m", "infra.cli"]
    address = ["--address", stack.addresses.grpc]
    os.environ.setdefault("COLUMNS", "160")
    table = run(
        *headrace, "recommend", "lou", "--count", "3", "--genre", "Comedy", "--pages", "2",
        *address,
    )  # fmt: skip
    assert "page 1" in table
    assert "taken out:" in table
    assert "trending" in table or "popular" in table
    told = json.loads(run(*headrace, "explain", "lou", "e8", "--json", *address))
    assert told["removed_by"] == ["watched"]
    assert told["summary"] == "Title 8 is not shown: the viewer has watched it."


def test_no_call_had_to_wait_for_a_compiler(stack, compiled):
    assert n_compiled(stack) == compiled["when ready"] > 0
