"""Numbers, names and times as people type and paste them: as pages and exports show them, or in other scripts.

For the console only: every other call takes digits, because what is bound must be exact.
"""

from __future__ import annotations

import re
import unicodedata

_PREFIX = re.compile(r"\A(?:tel:|')", re.IGNORECASE)  # of a link, and of a cell of a CSV export
_NUMBER = re.compile(r"\(?\+?[0-9][0-9()]*\Z")
_NATIONAL_ZERO = re.compile(r"(?<=[0-9])\(0\)")  # as in +44 (0)20 ...: it is not dialled from abroad
_SEPARATORS = frozenset("./")
_SEPARATOR_CATEGORIES = ("Zs", "Pd")  # spaces and dashes of every kind
_INVISIBLE_CATEGORIES = ("Cf", "Mn")  # direction marks, joiners, variation selectors: copied with the number
_INVISIBLE = "\\u200b-\\u200f\\u202a-\\u202e\\u2066-\\u2069\\ufeff"  # direction marks, joiners, byte order mark
_INVISIBLE_ENDS = re.compile(rf"\A[\s{_INVISIBLE}]+|(?<![\s{_INVISIBLE}])[\s{_INVISIBLE}]+\Z")


def without_invisible_ends(text: str) -> str:
    """Return the text without spaces and invisible characters at its ends, which copying may add."""
    return _INVISIBLE_ENDS.sub("", text)


def plain_time(text: str) -> str:
    """Return the text of a time as it is typed, with Z for UTC, in which pages show times."""
    visible = re.sub(f"[{_INVISIBLE}]", "", unicodedata.normalize("NFKC", text)).strip()
    return re.sub(r"(?<=[0-9]) ?UTC\Z", "Z", visible)


def digits_of_number(text: str) -> str | None:
    """Return the digits of a number without separators and plus sign, or None if the text is not a number."""
    compact = _PREFIX.sub("", "".join(map(_plain, unicodedata.normalize("NFKC", text))), count=1)
    if not _NUMBER.match(compact):
        return None
    return re.sub(r"[+()]", "", _NATIONAL_ZERO.sub("", compact))


def _plain(character: str) -> str:
    """Return an ASCII digit for a digit of any script, nothing for a separator, and any other character itself."""
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    is_left_out = category in _SEPARATOR_CATEGORIES or category in _INVISIBLE_CATEGORIES
    return "" if is_left_out or character in _SEPARATORS or character.isspace() else character
