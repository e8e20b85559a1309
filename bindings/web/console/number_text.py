"""Numbers as people type and paste them: with separators, in the digits of other scripts, as exports write them.

For the search form only: every other call takes digits, because what is bound must be exact.
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
