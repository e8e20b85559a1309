"""The provider's texts without phones and secrets, fit for a log line, an event and a page.

The provider's reason is free text and may repeat what was sent to it. Invariant: of six or more digits in a row,
in any notation, a result of `redact` shows at most half; of a secret it shows nothing. No I/O.
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import TYPE_CHECKING
from urllib.parse import unquote

from bindings.domain.phone import mask

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_LENGTH = 200  # of a result, in characters

_MAX_READ = 10 * MAX_LENGTH  # of a text: escapes take more characters than what they stand for
_MIN_SECRET = 4  # letters and digits; less is no different from an ordinary word
_UNICODE_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})|\\x([0-9A-Fa-f]{2})")
_SEPARATORS = r"[\W_]*"  # spaces, punctuation, combining marks, characters without width
_NUMBER = re.compile(f"[0-9](?:{_SEPARATORS}[0-9]){{5,}}")


def redact(text: str, *, secrets: Iterable[str] = ()) -> str:
    """Return a text short, printable, with long numbers masked and the secrets replaced by `***`.

    A number is found in the digits of any script, with separators between them, and in percent, HTML and Unicode
    escapes, which the result has decoded. Secrets are found in any case.
    """
    text = _unescape(text[:_MAX_READ])
    for secret in secrets:
        text = _remove(secret, text)
    return _mask_numbers("".join(char if char.isprintable() else " " for char in text))[:MAX_LENGTH]


def _unescape(text: str) -> str:
    """Return a text without escapes, also nested ones."""
    encoded = ""
    while text != encoded:  # each round makes it shorter
        encoded = text
        text = _UNICODE_ESCAPE.sub(lambda code: chr(int(code[1] or code[2], 16)), text)
        text = html.unescape(unquote(text))
    return text


def _remove(secret: str, text: str) -> str:
    characters = [char for char in secret if char.isalnum()]
    if not _MIN_SECRET <= len(characters) <= len(text):
        return text
    return re.sub(_SEPARATORS.join(characters), "***", text, flags=re.IGNORECASE)


def _mask_numbers(text: str) -> str:
    plain = "".join(map(_ascii_digit, text))  # of the same length: only the matches are replaced
    parts, end = [], 0
    for number in _NUMBER.finditer(plain):
        parts += [text[end : number.start()], mask(re.sub("[^0-9]", "", number[0]))]
        end = number.end()
    return "".join(parts) + text[end:]


def _ascii_digit(char: str) -> str:
    """Return the ASCII digit of a character with the numeric value of one, else the character."""
    value = unicodedata.numeric(char, -1)
    return str(int(value)) if value in range(10) else char
