"""From what age a title is for, by the certificates that are commonly met.

Known are FSK (0, 6, 12, 16, 18), MPAA (G to NC-17), US television (TV-Y to TV-MA), BBFC (U to 18)
and plain numbers, with or without the name of their board, with or without a plus sign.
"""

import re
from typing import Final

UNKNOWN_AGE: Final = 255  # no certificate, or one that says nothing
OLDEST: Final = 21

_AGES: Final = {
    "G": 0, "PG": 8, "PG-13": 13, "R": 17, "NC-17": 18, "X": 18,
    "TV-Y": 0, "TV-G": 0, "TV-Y7": 7, "TV-Y7-FV": 7, "TV-PG": 10, "TV-14": 14, "TV-MA": 17,
    "U": 0, "UC": 0, "R18": 18,
}  # fmt: skip
_BOARD: Final = re.compile(r"^(?:FSK|BBFC|MPAA|MPA|PEGI|USK)[\s:-]*(?=\S)")
_NUMBER: Final = re.compile(r"^(\d{1,2})(?:A|\+)?$")


def age_of(certification: str) -> int:
    """Years from which a title is for, UNKNOWN_AGE where its certificate does not say.

    >>> [age_of(text) for text in ("FSK 16", "pg-13", "TV-MA", "12A", "18+", "BBFC: U")]
    [16, 13, 17, 12, 18, 0]
    >>> [age_of(text) for text in ("", "Not Rated", "99")]
    [255, 255, 255]
    """
    text = _BOARD.sub("", certification.strip().upper())
    if text in _AGES:
        return _AGES[text]
    number = _NUMBER.match(text)
    age = int(number.group(1)) if number else UNKNOWN_AGE
    return age if age <= OLDEST else UNKNOWN_AGE
