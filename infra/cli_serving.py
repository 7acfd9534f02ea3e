"""Commands that ask a running server: a slate with its sources and filters, and why a title."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from infra.cli_console import JsonFlag, console
from infra.settings import Settings

requests_app = typer.Typer()

Address = Annotated[
    str, typer.Option(help="host:port of a server; empty: that of the stack that runs here")
]
User = Annotated[str, typer.Argument(help="the account that asks")]
Profile = Annotated[str, typer.Option(help="one of the account's profiles")]
Count = Annotated[int, typer.Option(min=1, max=100, help="titles in the slate")]
PageName = Annotated[str, typer.Option("--page", help="home, category, item or search")]
Item = Annotated[str, typer.Option(help="on the page of an item: its id")]
Candidate = Annotated[list[str] | None, typer.Option(help="on a search page: order these ids")]
Genre = Annotated[list[str] | None, typer.Option(help="only titles with one of these")]
Language = Annotated[list[str] | None, typer.Option(help="only titles in one of these")]
Category = Annotated[list[str] | None, typer.Option(help="only titles of one of these")]
Region = Annotated[str, typer.Option(help="ISO 3166 code")]
Rating = Annotated[float, typer.Option(help="lowest mean rating, 0..10")]
Age = Annotated[int | None, typer.Option(help="parental ceiling in years, 0..21")]
Exclude = Annotated[list[str] | None, typer.Option(help="not these ids")]
Rewatch = Annotated[bool, typer.Option("--include-watched", help="what was watched, too")]
NotBegun = Annotated[bool, typer.Option("--exclude-in-progress", help="nothing that was begun")]
Serendipity = Annotated[
    float | None, typer.Option(min=0, max=1, help="at least this share far from the taste")
]


def _request(user: str, count: int, page: str, item: str, **fields: Any) -> Any:
    """A request in words of the command line. Raises typer.BadParameter."""
    from features.vocabulary import Page
    from serving.client import Request

    page = page or ("item" if item else "search" if fields["candidate_item_ids"] else "home")
    try:
        place = Page[page.upper()]
    except KeyError:
        names = ", ".join(each.name.lower() for each in Page if each)
        raise typer.BadParameter(f"--page must be one of {names}; got {page}") from None
    return Request(user, count=count, page=place, item_id=item, **fields)


def _filters(
    languages: list[str] | None,
    categories: list[str] | None,
    min_rating: float,
    max_age: int | None,
    *,
    rewatch: bool,
    not_begun: bool,
) -> Any:
    from serving.slate import Filters

    some = tuple(languages or ()), tuple(categories or ())
    return Filters(*some, min_rating, max_age, rewatch, not_begun)


@requests_app.command()
def recommend(
    user: User,
    profile: Profile = "",
    count: Count = 20,
    page: PageName = "",
    item: Item = "",
    candidate: Candidate = None,
    genre: Genre = None,
    language: Language = None,
    category: Category = None,
    region: Region = "",
    min_rating: Rating = 0.0,
    max_age: Age = None,
    exclude: Exclude = None,
    include_watched: Rewatch = False,
    exclude_in_progress: NotBegun = False,
    serendipity: Serendipity = None,
    pages: Annotated[int, typer.Option(min=1, max=50, help="pages of an endless slate")] = 1,
    address: Address = "",
    as_json: JsonFlag = False,
) -> None:
    """A slate, as a client would get it: sources, arms, chances, and what the filters took out.

    It is recorded as any slate that a server gives.
    """
    from itertools import islice

    from infra.rules import admin_client
    from infra.slates import show_slate

    request = _request(
        user, count, page, item,
        profile_id=profile, candidate_item_ids=tuple(candidate or ()), genres=tuple(genre or ()),
        region=region, exclude_item_ids=tuple(exclude or ()), serendipity=serendipity, debug=True,
        filters=_filters(
            language, category, min_rating, max_age,
            rewatch=include_watched, not_begun=exclude_in_progress,
        ),
    )  # fmt: skip
    with admin_client(Settings(), address) as client:
        found = list(islice(client.pages(request), pages))
    if as_json:
        print(json.dumps([asdict(slate) for slate in found], indent=2))  # noqa: T201 (the answer)
        return
    for number, slate in enumerate(found):
        show_slate(slate, number, console)


@requests_app.command()
def explain(
    user: User,
    title: Annotated[str, typer.Argument(help="id of the title that is asked about")],
    profile: Profile = "",
    count: Count = 20,
    page: PageName = "",
    item: Item = "",
    candidate: Candidate = None,
    genre: Genre = None,
    language: Language = None,
    category: Category = None,
    region: Region = "",
    min_rating: Rating = 0.0,
    max_age: Age = None,
    exclude: Exclude = None,
    include_watched: Rewatch = False,
    exclude_in_progress: NotBegun = False,
    address: Address = "",
    as_json: JsonFlag = False,
) -> None:
    """Why a title is, or is not, on the slate that the viewer would get now.

    The options say which slate, as those of `headrace recommend`. Nothing is recorded; for slates
    that were served, see `headrace why`.
    """
    from infra.rules import admin_client
    from infra.slates import show_explanation

    request = _request(
        user, count, page, item,
        profile_id=profile, candidate_item_ids=tuple(candidate or ()), genres=tuple(genre or ()),
        region=region, exclude_item_ids=tuple(exclude or ()),
        filters=_filters(
            language, category, min_rating, max_age,
            rewatch=include_watched, not_begun=exclude_in_progress,
        ),
    )  # fmt: skip
    with admin_client(Settings(), address) as client:
        explained = client.explain(request, title)
    if as_json:
        print(json.dumps(asdict(explained), indent=2))  # noqa: T201 (the answer itself)
        return
    show_explanation(explained, console)
