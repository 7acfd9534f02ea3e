"""Commands on who may call the server: keys created, listed, rotated, revoked."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from infra.cli_console import JsonFlag, console
from infra.settings import Settings
from serving.guard.keys import (
    ApiKey,
    KeyRing,
    Scope,
    new_key,
    read_keys,
    rotated,
    write_keys,
)

keys_app = typer.Typer(
    help="API keys of the server; a running one takes changes over within a second.",
    no_args_is_help=True,
)

HOUR_MS = 3_600_000
File = Annotated[
    Path | None,
    typer.Option("--file", help="default: HEADRACE_SERVING__KEYS_FILE, or keys.json in the home"),
]
KeyId = Annotated[str, typer.Argument(help="of the key, see `keys list`")]


@keys_app.command("create")
def create_key(
    client: Annotated[str, typer.Argument(help="whose key it is: letters, digits, . _ -")],
    scope: Annotated[list[Scope], typer.Option(help="what it is for; repeat for several")],
    rate: Annotated[float, typer.Option(min=0, help="calls a second; 0: no quota")] = 0.0,
    burst: Annotated[int | None, typer.Option(min=1, help="calls at once; twice the rate")] = None,
    not_before: Annotated[str | None, typer.Option(help="ISO date or time, UTC")] = None,
    expires: Annotated[str | None, typer.Option(help="ISO date or time, UTC")] = None,
    file: File = None,
) -> None:
    """Makes a key and prints it, once: the file keeps its hash alone."""
    key, text = new_key(
        client,
        scope,
        rate=rate,
        burst=burst or max(round(2 * rate), 1),
        not_before_ms=_time_ms(not_before) or 0,
        expires_ms=_time_ms(expires),
    )
    path = _path(file)
    write_keys(path, _keys(path).plus(key))
    _show_once(key, text, path)


@keys_app.command("list")
def list_keys(file: File = None, as_json: JsonFlag = False) -> None:
    """Lists the keys: whose they are, what they are for, from when until when."""
    now_ms, keys = _now_ms(), read_keys(_path(file))
    if as_json:
        print(json.dumps([_entry(key, now_ms) for key in keys], indent=2))  # noqa: T201
        return
    table = Table("id", "client", "scopes", "calls/s", "burst", "from", "until", "valid")
    for key in keys:
        entry = _entry(key, now_ms)
        table.add_row(*(escape(str("" if v is None else v)) for v in entry.values()))
    console.print(table)


@keys_app.command("rotate")
def rotate_key(
    id_: KeyId,
    overlap_h: Annotated[float, typer.Option(min=0, help="hours that the old one stays")] = 24.0,
    file: File = None,
) -> None:
    """Makes the successor of a key; for a while both are valid, and share one quota."""
    path = _path(file)
    keys = read_keys(path)
    old, new, text = rotated(keys.one(id_), _now_ms(), round(overlap_h * HOUR_MS))
    write_keys(path, keys.plus(old, new))
    _show_once(new, text, path)
    console.print(f"{old.id} ends at {_iso(old.expires_ms)}")


@keys_app.command("revoke")
def revoke_key(id_: KeyId, file: File = None) -> None:
    """Takes a key out of the file: no call with it is answered from the next second on."""
    path = _path(file)
    write_keys(path, read_keys(path).without(id_))
    console.print(f"{id_} is revoked")


def _path(file: Path | None) -> Path:
    if file is not None:
        return file
    settings = Settings()
    return settings.serving.keys_file or settings.home / "keys.json"


def _keys(path: Path) -> KeyRing:
    return read_keys(path) if path.exists() else KeyRing()


def _show_once(key: ApiKey, text: str, path: Path) -> None:
    console.print(f"key {key.id} of {key.client}, in {path}; it is shown this once:")
    print(text)  # noqa: T201 (the answer itself)


def _entry(key: ApiKey, now_ms: int) -> dict[str, object]:
    return {
        "id": key.id,
        "client": key.client,
        "scopes": ",".join(key.scopes),
        "rate": key.rate,
        "burst": key.burst,
        "not_before": _iso(key.not_before_ms or None),
        "expires": _iso(key.expires_ms),
        "valid": key.is_valid(now_ms),
    }


def _iso(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="seconds")


def _time_ms(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"must be an ISO date like 2027-08-01; got {text!r}") from error
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
