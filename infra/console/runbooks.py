"""Runbooks as pages: Markdown to HTML in which nothing can run."""

import html
import re
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt

NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "runbooks"
MAX_BYTES: Final = 1 << 18
LINK: Final = re.compile(r'href="(?!https?:|#)([^"]*)"')


def names_in(folder: Path) -> list[str]:
    """The runbooks of a folder."""
    return sorted(path.stem for path in folder.glob("*.md") if NAME.fullmatch(path.stem))


def page_of(folder: Path, name: str) -> str | None:
    """A runbook as a page; None where there is none of this name."""
    if not NAME.fullmatch(name):
        return None
    try:
        text = (folder / f"{name}.md").read_bytes()[:MAX_BYTES].decode(errors="replace")
    except OSError:
        return None
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return _page(name, LINK.sub(_link, body))


def index_of(folder: Path) -> str:
    """All runbooks, as a page."""
    links = "".join(f'<li><a href="/runbooks/{n}">{n}</a></li>' for n in names_in(folder))
    return _page("runbooks", f"<h1>Runbooks</h1><ul>{links or '<li>none are installed</li>'}</ul>")


def _link(match: re.Match[str]) -> str:
    """Links among runbooks lead to their pages; those to other files lead nowhere here."""
    path, _, place = match.group(1).partition("#")
    stem = Path(path).stem
    if path == f"{stem}.md" and NAME.fullmatch(stem):
        return f'href="/runbooks/{stem}{"#" + place if place else ""}"'
    return f'title="{html.escape(path)}"'


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)} - Headrace</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="/page/console.css"></head>'
        '<body class="text"><p><a href="/">Console</a> / <a href="/runbooks/">runbooks</a></p>'
        f"<main>{body}</main></body></html>"
    )
