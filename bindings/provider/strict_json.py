"""JSON as the provider's calls use it: compact when written, and without leniency when parsed.

What parsers read differently, such as an object that has a field twice, becomes a value of no JSON type in its
place: a reader that needs that value finds it malformed, and the rest of the body can be used.
"""

from __future__ import annotations

import json
from typing import Any

_MAX_DIGITS = 1_000  # of an integer


class NotStrictJson(ValueError):
    """The bytes are not JSON. The text repeats no value."""


class Ambiguous:
    """Stands for an object that has a field twice, or for a number that JSON lacks or Python does not read."""


AMBIGUOUS = Ambiguous()


def dump(value: Any) -> bytes:
    """Return compact UTF-8 bytes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def parse(body: bytes) -> Any:
    """Return the value of a body, with `AMBIGUOUS` for each part that parsers read differently.

    A byte order mark is left out. Bytes that are not UTF-8 become U+FFFD: the words of an answer may be in another
    encoding, and its fields are compared and checked. Raises `NotStrictJson`.
    """
    try:
        return json.loads(
            body.decode("utf-8-sig", "replace"),
            object_pairs_hook=_object,
            parse_constant=_ambiguous,
            parse_int=_integer,
        )
    except (ValueError, RecursionError):  # the text of a ValueError would contain the body
        raise NotStrictJson("the body is not JSON") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Ambiguous:
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else AMBIGUOUS


def _ambiguous(_text: str) -> Ambiguous:
    return AMBIGUOUS


def _integer(text: str) -> int | Ambiguous:
    return int(text) if len(text) <= _MAX_DIGITS else AMBIGUOUS
