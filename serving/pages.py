"""Endless slates without a session on the server: what was shown travels in the token.

A token is base64url of: version, digest of the request that it continues, number of the next page,
when it was made, the 64-bit ids of all titles shown so far, and a keyed checksum over all that.
Any process of a deployment can go on from it, whatever has happened meanwhile: titles are named by
their ids, so a changed catalogue, new charts and new events move the pages and repeat nothing.
"""

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from headrace.v1 import recommender_pb2
from numpy.typing import NDArray

from features.clock import Clock
from features.ids import id_hashes
from serving.errors import InvalidRequestError
from serving.settings import ServingSettings
from serving.slate import Slate

VERSION: Final = 1
MAX_SHOWN: Final = 1_000  # titles; then the slate ends
MAX_AGE_S: Final = 3_600
MAX_SKEW_S: Final = 60  # a clock of another process may be ahead
DIGEST_BYTES: Final = 16

_HEAD: Final = struct.Struct(f"<B{DIGEST_BYTES}sHIH")  # version, digest, page, made at, titles
_ID_BYTES: Final = 8
MAX_CHARS: Final = 4 * -(-(_HEAD.size + _ID_BYTES * MAX_SHOWN + DIGEST_BYTES) // 3)
# Fields that may differ from page to page: they say when and how to answer, not with what.
_OF_THE_CALL: Final = ("page_token", "request_id", "session_id", "after", "wait_ms", "debug")


@dataclass(frozen=True, slots=True)
class Page:
    """Where an endless slate goes on."""

    number: int = 0
    shown: frozenset[int] = frozenset()  # 64-bit ids of the titles on earlier pages


FIRST: Final = Page()


def content_digest(request: recommender_pb2.RecommendRequest) -> bytes:
    """16 bytes that tell requests apart by what they ask for; the same for pages of one slate."""
    return whole_digest(request, _OF_THE_CALL)


def whole_digest(request: recommender_pb2.RecommendRequest, without: Sequence[str] = ()) -> bytes:
    """16 bytes that tell requests apart by every field, but for those named `without`.

    What is not said and what is said to be empty are the same.
    """
    asked = recommender_pb2.RecommendRequest()
    asked.CopyFrom(request)
    for name in without:
        asked.ClearField(name)
    if not asked.context.ByteSize():
        asked.ClearField("context")
    if not asked.filters.ByteSize():
        asked.ClearField("filters")
    return digest_of(asked.SerializeToString(deterministic=True))


def digest_of(data: bytes) -> bytes:
    """16 bytes of BLAKE2b."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def shown_of(slate: Slate) -> NDArray[np.uint64]:
    """Ids of the titles of a slate; none where nothing may follow it."""
    return id_hashes([item.item_id for item in slate.items] if slate.has_more else [])


class PageTokens:
    """Writes and reads tokens. With a `key` of the deployment nobody else can make one.

    Without, the checksum finds accidents alone: a forged token can hide titles from the forger's
    own slate, which `exclude_item_ids` may do as well, and nothing more.
    """

    def __init__(self, clock: Clock, key: bytes = b"", *, max_age_s: int = MAX_AGE_S) -> None:
        self._clock = clock
        self._key = hashlib.blake2b(key).digest()
        self._max_age_s = max_age_s

    @classmethod
    def of(cls, settings: ServingSettings, clock: Clock) -> Self:
        """As the settings say. Raises OSError where the key cannot be read."""
        path = settings.page_key_file
        key = b"" if path is None else path.read_bytes().strip()
        return cls(clock, key, max_age_s=settings.page_age_s)

    def next(self, digest: bytes, page: Page, shown: NDArray[np.uint64]) -> str:
        """The token of what follows a page that showed these titles; empty: nothing may follow.

        About 10 us.
        """
        ids = shown
        if page.shown:
            ids = np.concatenate([np.fromiter(page.shown, np.uint64), shown])
        if not len(shown) or len(ids) > MAX_SHOWN:
            return ""
        made_at_s = self._clock.now_ms() // 1_000 & 0xFFFFFFFF
        head = _HEAD.pack(VERSION, digest, page.number + 1, made_at_s, len(ids))
        body = head + ids.astype("<u8").tobytes()
        return base64.urlsafe_b64encode(body + self._tag(body)).rstrip(b"=").decode()

    def read(self, token: str, digest: bytes) -> Page:
        """Where a request goes on. Raises InvalidRequestError, naming what is wrong."""
        body = self._checked(token)
        version, of, number, made_at_s, n_shown = _HEAD.unpack_from(body)
        if version != VERSION or len(body) != _HEAD.size + _ID_BYTES * n_shown:
            raise _refused("of this version of the API", "another")
        if of != digest:
            raise _refused(
                "sent with the request that it belongs to, all else as it was", "another request"
            )
        age_s = self._clock.now_ms() // 1_000 - made_at_s
        if not -MAX_SKEW_S <= age_s <= self._max_age_s:
            raise _refused(f"at most {self._max_age_s} s old; begin again", f"one of {age_s} s")
        ids = np.frombuffer(body, "<u8", n_shown, _HEAD.size)
        return Page(number, frozenset(ids.tolist()))

    def _checked(self, token: str) -> bytes:
        """What a token says, its checksum taken off."""
        if len(token) > MAX_CHARS:
            raise _refused(f"at most {MAX_CHARS} characters", f"{len(token)} characters")
        try:
            data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            data = b""
        body, tag = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
        if len(body) < _HEAD.size or not hmac.compare_digest(tag, self._tag(body)):
            raise _refused("as an answer gave it", "something else")
        return body

    def _tag(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, digest_size=DIGEST_BYTES, key=self._key).digest()


def _refused(expectation: str, value: str) -> InvalidRequestError:
    return InvalidRequestError("page_token", expectation, value)
