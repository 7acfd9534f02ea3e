"""Runbooks: one for each alert, whole, and every command in them exists."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from infra.cli import app
from infra.ops.alerts import ALERTS
from infra.ops.rules import as_markdown
from infra.ops.thresholds import AlertSettings

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "docs/runbooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.md"))
SECTIONS = [
    "What it means", "Who is affected", "First look", "Cure", "How to know that it is over",
    "What it was in the end",
]  # fmt: skip
FENCE = re.compile(r"^```sh.*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}(?:export |)((?:[A-Z_]+=\S+ )*headrace .*)$", re.MULTILINE)
INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )*headrace [^`]+)`")
PLACES = {
    "OFFSET": "17", "SEQUENCE": "1201", "PROCESS": "features", "KEY": "k1", "CLIENT": "web",
    "RULE": "r1", "REASON": "rating",
}  # fmt: skip


def command_lines(text: str) -> Iterator[list[str]]:
    """Words of every line of headrace in blocks of commands, examples in the place of names."""
    lines = [line for block in FENCE.findall(text) for line in block.splitlines()]
    named = [line for line in INLINE.findall(text) if len(line.split()) > 3]  # not a mere name
    for line in [*lines, *INDENTED.findall(text), *named]:
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words and words[0] == "headrace":
            end = words.index(">") if ">" in words else None
            yield [PLACES.get(word, word) for word in words[1:end]]


COMMANDS = typer.main.get_command(app)


def parse(words: list[str]) -> None:
    """Resolves the command and its options without running it. Raises TyperException."""
    command, context = COMMANDS, None
    name = "headrace"
    while isinstance(command, TyperGroup):
        context = command.make_context(name, words[:1], parent=context)
        name, command, words = command.resolve_command(context, words)
        assert command is not None
    if "--help" not in words:
        command.make_context(name, words, parent=context)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_of_a_runbook_exists(name):
    found = list(command_lines((FOLDER / f"{name}.md").read_text()))
    assert found
    for words in found:
        try:
            parse(words)
        except TyperException as error:
            pytest.fail(f"headrace {' '.join(words)}: {error}")


def test_commands_of_the_page_of_alerts_exist():
    for words in command_lines((ROOT / "docs/alerts.md").read_text()):
        parse(words)


def test_a_command_that_does_not_exist_is_found():
    with pytest.raises(TyperException):
        parse(["dead-letters", "burn"])
    with pytest.raises(TyperException):
        parse(["lag", "--quickly"])


def test_every_alert_has_a_runbook_and_every_runbook_an_alert():
    assert {Path(alert.runbook) for alert in ALERTS} == {
        Path(f"docs/runbooks/{name}.md") for name in NAMES
    }
    for alert in ALERTS:
        assert f"`{alert.name}`" in (ROOT / alert.runbook).read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_runbook_answers_the_same_questions_in_the_same_order(name):
    text = (FOLDER / f"{name}.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS


def test_links_of_runbooks_lead_somewhere():
    for name in NAMES:
        for link in re.findall(r"\]\(([^)#]+)", (FOLDER / f"{name}.md").read_text()):
            assert (FOLDER / link).exists(), f"{name}: {link}"


def test_the_page_has_the_table_of_alerts_and_every_threshold():
    text = (ROOT / "docs/alerts.md").read_text()
    assert as_markdown(ALERTS) in text
    for field, setting in AlertSettings.model_fields.items():
        assert f"| `{field.upper()}` |" in text
        assert str(setting.description) in text
