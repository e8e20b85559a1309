"""Text of one line, lists of names in it, and the characters that control how text is shown or stored.

Spaces of every kind, joiners and variation selectors are text: Chinese, Persian, Hindi and emoji need them.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_NAMES = 5  # that a list in a sentence has

_NONCHARACTERS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
# Control characters, line and paragraph separators, what changes the direction of text, lone surrogates, and the
# code points that Unicode never assigns. None of them is printable, which is found in a tenth of the time.
_CONTROLS = re.compile(
    rf"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}]"
)


class FreeText(str):
    """A text in the detail of an event that a person or the provider wrote: it may name a person.

    The database stores it apart from its event, so that it can be deleted (`store/texts`).
    """

    __slots__ = ()


class FreeFields(dict[str, Any]):
    """Named values in the detail of an event that may name a person, such as a filter: stored as a `FreeText`."""


def optional_text(text: str | None) -> FreeText | None:
    """Return a text as a `FreeText`, and None as it is."""
    return None if text is None else FreeText(text)


def has_control_characters(text: str) -> bool:
    """Return whether a character of the text is a control character: see the module."""
    return not text.isprintable() and _CONTROLS.search(text) is not None


def replace_control_characters(text: str, replacement: str) -> str:
    """Return the text with each control character replaced."""
    return text if text.isprintable() else _CONTROLS.sub(replacement, text)


def escape_control_characters(text: str) -> str:
    r"""Return the text with each control character escaped as in a JSON string, such as `\n`."""
    return text if text.isprintable() else _CONTROLS.sub(lambda match: json.dumps(match[0])[1:-1], text)


def first_names(names: Sequence[str]) -> str:
    """Return the first names as a list, and how many more there are."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
