"""API keys: whose calls they are, what they may do, how often, and from when until when.

A key is `hr_ID_SECRET`. The secret has 256 random bits, so the file keeps a plain SHA-256 of the
whole key: scrypt and the like slow down the guessing of passwords that people choose, which nobody
can do with 2^256 equally likely ones, and would cost every call tens of milliseconds. The id is no
secret: it finds the entry, stands in logs, and names the key on the command line.
"""

import hashlib
import hmac
import json
import math
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

import structlog

FORMAT: Final = 1
PREFIX: Final = "hr"
MAX_PRESENTED: Final = 256  # characters of a key that are looked at
CLIENT: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NOBODY: Final = "0" * 64

log = structlog.get_logger(__name__)


class Scope(StrEnum):
    """What a key may be used for; none of them includes another."""

    RECOMMEND = "recommend"  # slates and lists of titles
    INGEST = "ingest"  # events
    ADMIN = "admin"  # erasures, rules, reflection


class KeyFileError(Exception):
    """The file of keys cannot be used; the message names file, field, expectation and value."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One entry of the file; the key itself is not in it."""

    id: str
    client: str  # whose it is; keys of one client with the same quota share it
    sha256: str  # of the whole key, in hexadecimal digits
    scopes: tuple[Scope, ...]
    rate: float  # calls a second; 0: without a quota
    burst: int  # calls at once, after a pause
    not_before_ms: int
    expires_ms: int | None  # None: never

    def __post_init__(self) -> None:
        _demand(CLIENT.fullmatch(self.client), self.id, "client", CLIENT.pattern, self.client)
        _demand(re.fullmatch("[0-9a-f]{64}", self.sha256), self.id, "sha256", "64 digits", "?")
        _demand(self.scopes, self.id, "scopes", f"some of {', '.join(Scope)}", self.scopes)
        is_rate = math.isfinite(self.rate) and self.rate >= 0
        _demand(is_rate, self.id, "rate", "0 or more calls a second", self.rate)
        _demand(self.burst >= 1, self.id, "burst", "1 or more", self.burst)

    def is_valid(self, now_ms: int) -> bool:
        """Whether it counts at this moment."""
        return self.not_before_ms <= now_ms and (
            self.expires_ms is None or now_ms < self.expires_ms
        )

    @classmethod
    def of_json(cls, entry: Mapping[str, Any]) -> Self:
        """From an entry of the file. Raises KeyFileError."""
        names = {field.name for field in fields(cls)}
        if not isinstance(entry, dict) or set(entry) != names:
            odd = sorted(set(entry) ^ names) if isinstance(entry, dict) else [type(entry).__name__]
            raise KeyFileError(f"a key must have exactly the fields of a key; see {', '.join(odd)}")
        try:
            return cls(**{**entry, "scopes": tuple(map(Scope, entry["scopes"]))})
        except (TypeError, ValueError) as error:
            raise KeyFileError(f"key {entry['id']!r} is not as it must be: {error}") from error


def _demand(holds: object, id_: str, field: str, expectation: str, value: object) -> None:
    if not holds:
        raise KeyFileError(f"{field} of key {id_!r} must be {expectation}; got {value!r}")


class KeyRing:
    """All keys, looked up without telling by the time it takes which exist. Immutable."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys = {key.id: key for key in keys}

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, presented: str | None, now_ms: int) -> ApiKey | None:
        """The valid key that was presented, or None. O(1), about 3 us."""
        if not presented or len(presented) > MAX_PRESENTED:
            return None
        key = self._keys.get(_id_of(presented))
        expected = _NOBODY if key is None else key.sha256
        is_same = hmac.compare_digest(digest_of(presented), expected)
        return key if is_same and key is not None and key.is_valid(now_ms) else None

    def one(self, id_: str) -> ApiKey:
        """The key of an id. Raises KeyFileError."""
        if id_ not in self._keys:
            raise KeyFileError(f"there is no key {id_!r}; `headrace keys list` shows all")
        return self._keys[id_]

    def plus(self, *keys: ApiKey) -> "KeyRing":
        """With these keys, in place of those of the same ids."""
        return KeyRing([*(self._keys | {key.id: key for key in keys}).values()])

    def without(self, id_: str) -> "KeyRing":
        """Without one key. Raises KeyFileError where there is no such."""
        gone = self.one(id_)
        return KeyRing(key for key in self if key is not gone)


def digest_of(presented: str) -> str:
    """SHA-256 in hexadecimal digits.

    >>> digest_of("hr_1_x")[:8]
    'c0fd9108'
    """
    return hashlib.sha256(presented.encode(errors="replace")).hexdigest()


def _id_of(presented: str) -> str:
    parts = presented.split("_", 2)
    return parts[1] if len(parts) == 3 and parts[0] == PREFIX else ""


def new_key(
    client: str,
    scopes: Iterable[Scope],
    *,
    rate: float = 0.0,
    burst: int = 1,
    not_before_ms: int = 0,
    expires_ms: int | None = None,
) -> tuple[ApiKey, str]:
    """An entry for the file, and the key to hand over. Raises KeyFileError."""
    id_ = secrets.token_hex(6)
    text = f"{PREFIX}_{id_}_{secrets.token_urlsafe(32)}"
    scopes = tuple(dict.fromkeys(scopes))
    key = ApiKey(id_, client, digest_of(text), scopes, rate, burst, not_before_ms, expires_ms)
    return key, text


def rotated(key: ApiKey, now_ms: int, overlap_ms: int) -> tuple[ApiKey, ApiKey, str]:
    """The old key, which ends after the overlap; its successor; and the successor's text."""
    ends_ms = now_ms + overlap_ms
    old = replace(key, expires_ms=min(ends_ms, key.expires_ms or ends_ms))
    successor, text = new_key(
        key.client, key.scopes, rate=key.rate, burst=key.burst, not_before_ms=now_ms
    )
    return old, successor, text


def read_keys(path: Path) -> KeyRing:
    """All keys of a file. Raises KeyFileError."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise KeyFileError(
            f"{path} cannot be read: {error.strerror}; `headrace keys create` makes it"
        ) from error
    except ValueError as error:
        raise KeyFileError(f"{path} must be JSON; {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise KeyFileError(f"{path} must hold keys of format {FORMAT}")
    keys = [ApiKey.of_json(entry) for entry in found.get("keys", [])]
    if len({key.id for key in keys}) != len(keys):
        raise KeyFileError(f"{path} must have one entry for each id")
    return KeyRing(keys)


def write_keys(path: Path, keys: KeyRing) -> None:
    """Puts a whole file in place, for its owner alone (mode 0600). Raises OSError."""
    entries = [asdict(key) for key in keys]
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:  # mkstemp gives mode 0600
            json.dump({"format": FORMAT, "keys": entries}, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class KeyFile:
    """The keys of a file, read again when it changes; a broken file leaves the keys as they were.

    Raises KeyFileError where it cannot be read at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = _stamp(path)
        self.ring = read_keys(path)

    def refresh(self) -> bool:
        """Looks at the file; whether its keys were taken over. O(1) while nothing changes."""
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self.ring = read_keys(self._path)
        except KeyFileError as error:
            log.error("keys_refused", reason=str(error), keys_in_force=len(self.ring))
            return False
        log.info("keys_read", keys=len(self.ring))
        return True


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is replaced or written; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
