"""What a title is, as a vector: close for titles of one kind, known before anybody has watched one.

    vector = sum over fields of sqrt(share) * unit(sum over features of weight * code(feature))

A feature's code is a row of +1 and -1, so that the product of two titles' vectors says what they
share. Genres and decades are few and always there: they have codes at right angles to each other
(rows of the Walsh-Hadamard matrix of N_CONTENT). All else is hashed: the 64 bits of a feature's
hash are its signs (random signs as in A. Z. Broder's sketches; K. Weinberger et al.: Feature
Hashing for Large Scale Multitask Learning, ICML 2009), so that two titles that share nothing have a
product of 0 with a deviation of about 1 / sqrt(N_CONTENT) of these fields' share.

A field that a title lacks brings nothing, and the others are scaled up to length one. Weights stand
in for the inverse document frequency, so that the vector of a title depends on that title alone:
rare genres weigh more by a table (shares of 21,209 films of MovieLens), longer words weigh more,
and words of up to three letters, "the" and "and" among them, weigh nothing. Words are told apart by
their first six bytes, which makes "murder" of "murdered".

The same in every process and on every machine; about 35 us a title, with 500 letters of overview.
"""

import math
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from features.events import CatalogItem
from features.ids import finish, hash_range, id_hash, id_hashes
from features.vocabulary import GENRE_SLOT, N_GENRES, genre_mask

N_CONTENT: Final = 64
N_PEOPLE: Final = 12  # of a cast, those named first
N_WORDS: Final = 256  # of a text, the first
STEM_BYTES: Final = 6
FIRST_DECADE, N_DECADES = 1900, 14

# Shares of the squared length of a title that has every field.
GENRES, DECADE, LANGUAGE, SERIES, DIRECTOR, CAST, TITLE, OVERVIEW = range(8)
SHARES: Final = np.array([0.34, 0.10, 0.06, 0.16, 0.10, 0.10, 0.06, 0.08])

# Of 21,209 films of MovieLens; a genre without a number is as rare as the rarest.
RAREST = 0.007
GENRE_SHARES: Final = {
    "Drama": 0.465, "Comedy": 0.325, "Thriller": 0.184, "Action": 0.149, "Romance": 0.146,
    "Crime": 0.110, "Horror": 0.108, "Adventure": 0.094, "Sci-Fi": 0.077, "Documentary": 0.076,
    "Fantasy": 0.060, "Mystery": 0.056, "Animation": 0.048, "Children": 0.045, "War": 0.036,
    "Musical": 0.030, "Western": 0.017,
}  # fmt: skip
_GENRE_WEIGHTS = np.full(N_GENRES, math.log(1 / RAREST))
for _name, _share in GENRE_SHARES.items():
    _GENRE_WEIGHTS[GENRE_SLOT[_name]] = math.log(1 / _share)

_PERSON_SALT = np.uint64(0x9E3779B97F4A7C15)  # a name is not a word
_LANGUAGE_SALT = np.uint64(0xD1B54A32D192ED03)
_SERIES_SALT = np.uint64(0x8CB92BA72F3D8DD7)

Floats = NDArray[np.float64]


def content_vector(item: CatalogItem) -> NDArray[np.float32]:
    """`(N_CONTENT,) float32` of length one; zero for a title of which nothing is known.

    >>> alien = CatalogItem("a", "Alien", 1979, ("Horror", "Sci-Fi"), director="Ridley Scott")
    >>> aliens = CatalogItem("b", "Aliens", 1986, ("Action", "Horror", "Sci-Fi"))
    >>> amelie = CatalogItem("c", "Amelie", 2001, ("Comedy", "Romance"), language="fr")
    >>> near, far = (content_vector(alien) @ content_vector(other) for other in (aliens, amelie))
    >>> bool(near > 0.5), bool(far < 0.3)
    (True, True)
    """
    out = np.zeros(N_CONTENT, np.float32)
    _fill(
        genre_mask(item.genres),
        item.year,
        np.uint64(id_hash(item.language.casefold())),
        np.uint64(id_hash(item.series_id)),
        np.uint64(id_hash(item.director.casefold())),
        id_hashes([name.casefold() for name in item.cast[:N_PEOPLE]]),
        _letters(item.title),
        _letters(item.overview),
        out,
    )
    return out


def content_vectors(items: Iterable[CatalogItem]) -> NDArray[np.float32]:
    """`(n, N_CONTENT) float32` of titles, row by row."""
    rows = [content_vector(item) for item in items]
    return np.stack(rows) if rows else np.zeros((0, N_CONTENT), np.float32)


def cold_factors(
    vectors: NDArray[np.float32], content_map: NDArray[np.float32]
) -> NDArray[np.float32]:
    """`(n, n_factors)` of titles without factors of their own, from `(n, N_CONTENT)` vectors.

    `content_map`, `(N_CONTENT + 1, n_factors)`, is that of a bundle.
    """
    factors: NDArray[np.float32] = vectors @ content_map[:-1] + content_map[-1]
    return factors


def _letters(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.casefold().encode(), np.uint8)


@compiled
def _fill(
    genres: int,
    year: int,
    language: np.uint64,
    series: np.uint64,
    director: np.uint64,
    cast: NDArray[np.uint64],
    title: NDArray[np.uint8],
    overview: NDArray[np.uint8],
    out: NDArray[np.float32],
) -> None:
    """Adds up the fields, and brings `out`, `(N_CONTENT,)`, to length one."""
    total, field = np.zeros(N_CONTENT, np.float64), np.zeros(N_CONTENT, np.float64)
    for slot in range(N_GENRES):
        if (genres >> slot) & 1:
            _add_row(1 + slot, _GENRE_WEIGHTS[slot], field)
    _add_field(field, SHARES[GENRES], total)
    _add_decades(year, field)
    _add_field(field, SHARES[DECADE], total)
    _add_id(language, _LANGUAGE_SALT, field)
    _add_field(field, SHARES[LANGUAGE], total)
    _add_id(series, _SERIES_SALT, field)
    _add_field(field, SHARES[SERIES], total)
    _add_id(director, _PERSON_SALT, field)
    _add_field(field, SHARES[DIRECTOR], total)
    for person in cast:
        _add_id(person, _PERSON_SALT, field)
    _add_field(field, SHARES[CAST], total)
    _add_words(title, field)
    _add_field(field, SHARES[TITLE], total)
    _add_words(overview, field)
    _add_field(field, SHARES[OVERVIEW], total)
    length = math.sqrt(_squared(total))
    if length > 0.0:
        for k in range(N_CONTENT):
            out[k] = total[k] / length


@compiled
def _add_field(field: Floats, share: float, total: Floats) -> None:
    """Adds a field at its share of the squared length, whatever its own, and empties it."""
    squared = _squared(field)
    scale = math.sqrt(share / squared) if squared > 0.0 else 0.0
    for k in range(N_CONTENT):
        total[k] += scale * field[k]
        field[k] = 0.0


@compiled
def _squared(vector: Floats) -> float:
    total = 0.0
    for value in vector:
        total += value * value
    return total


@compiled
def _add_row(row: int, weight: float, out: Floats) -> None:
    """A row of the Walsh-Hadamard matrix: the sign of column k is the parity of `row & k`."""
    for k in range(N_CONTENT):
        bits = row & k
        bits ^= bits >> 4
        bits ^= bits >> 2
        bits ^= bits >> 1
        out[k] += -weight if bits & 1 else weight


@compiled
def _add_decades(year: int, out: Floats) -> None:
    """The two decades whose middles lie around the year, the nearer one more: 1989 is near 1991."""
    if year <= 0:
        return
    at = (year - FIRST_DECADE - 5) / 10.0
    at = min(max(at, 0.0), N_DECADES - 1.001)
    low = int(at)
    _add_row(1 + N_GENRES + low, 1.0 - (at - low), out)
    _add_row(2 + N_GENRES + low, at - low, out)


@compiled
def _add_id(id_: np.uint64, salt: np.uint64, out: Floats) -> None:
    if id_ != 0:
        _add_signs(finish(id_ ^ salt), 1.0, out)


@compiled
def _add_signs(code: np.uint64, weight: float, out: Floats) -> None:
    for k in range(N_CONTENT):
        out[k] += weight if (code >> np.uint64(k)) & np.uint64(1) else -weight


@compiled
def _add_words(text: NDArray[np.uint8], out: Floats) -> None:
    """The different words of a text, each once: runs of letters, digits and bytes beyond ASCII."""
    codes, weights = np.zeros(N_WORDS, np.uint64), np.zeros(N_WORDS, np.float64)
    n, start = 0, 0
    for at in range(len(text) + 1):
        if at < len(text) and _is_letter(text[at]):
            continue
        weight = min((at - start - 3) / 5.0, 1.0)
        if weight > 0.0 and n < N_WORDS:
            codes[n] = hash_range(text, start, min(start + STEM_BYTES, at))
            weights[n] = weight
            n += 1
        start = at + 1
    order = np.argsort(codes[:n], kind="mergesort")
    for k in range(n):
        if k == 0 or codes[order[k]] != codes[order[k - 1]]:
            _add_signs(codes[order[k]], weights[order[k]], out)


@compiled
def _is_letter(byte: int) -> bool:
    """Whether a byte of lower-case UTF-8 belongs to a word."""
    return bool(byte >= 128 or 97 <= byte <= 122 or 48 <= byte <= 57)
