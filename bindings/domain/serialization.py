"""Serialization of records as plain JSON values, in `record_lines` as lines of files. Pure.

Phones are masked unless the caller passes `revealed=True`, and records the reveal before.
"""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

Record = TypeVar("Record")

_INSTANT_LENGTHS = {20, 27}  # of instants in whole seconds, and with a fraction
# What may be a number with a fraction; it begins after a space, or first in an array.
_FRACTION, _FRACTION_IN_ARRAY = (re.compile(rf"{sign}-?[0-9]+[.eE]") for sign in (" ", r"\["))
_COMPACT = re.compile(r'":[^ ]')
_SHORT_FRACTION = re.compile(r"\.([0-9]{1,5}+)\+")


def to_plain(value: Any, *, revealed: bool = False) -> Any:
    """Return a value in JSON types: instants as RFC 3339 in UTC, phones masked unless `revealed`."""
    from bindings.domain.phone import Phone

    if isinstance(value, Phone):
        return value.digits if revealed else str(value)
    if isinstance(value, list | tuple):
        return [to_plain(item, revealed=revealed) for item in value]
    if dataclasses.is_dataclass(value):
        value = fields(value)
    if isinstance(value, dict):
        return {str(key): to_plain(item, revealed=revealed) for key, item in value.items()}
    if isinstance(value, datetime):
        return instant(value)
    return value.value if isinstance(value, Enum) else value


def fields(record: Any) -> dict[str, Any]:
    """Return the values of a dataclass instance by name, not converted."""
    names, read = _fields_of(record.__class__)
    return dict(zip(names, read(record), strict=True))


def field_names(record: Any) -> list[str]:
    """Return the names of the fields of a dataclass or its instance, in order."""
    names, _ = _fields_of(record if isinstance(record, type) else record.__class__)
    return list(names)


@cache
def _fields_of(record_type: Any) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    names = tuple(field.name for field in dataclasses.fields(record_type))
    return names, reader(names, attrgetter)


def reader(names: Sequence[str], get: Callable[..., Callable[[Any], Any]]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a function that returns the values of these names; `get` is `attrgetter` or `itemgetter`."""
    if len(names) > 1:
        return get(*names)
    read_one = get(names[0])
    return lambda record: (read_one(record),)


def instant(at: datetime) -> str:
    """Return an aware instant as RFC 3339 in UTC, with Z."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def stored_instants(texts: Sequence[str]) -> list[str]:
    """Return `instant` of the texts as which SQLite has instants (ISO 8601).

    Those that are regular and in UTC are converted all at once. ValueError if one is not an instant.
    """
    if not texts:
        return []
    converted = "\n".join(texts).replace(".000000Z", "Z")
    if converted.count("Z") != len(texts):
        return [instant(datetime.fromisoformat(text)) for text in texts]
    return [
        new if len(new) in _INSTANT_LENGTHS else instant(datetime.fromisoformat(text))
        for new, text in zip(converted.split("\n"), texts, strict=True)
    ]


def instants_in_csv(texts: Sequence[str]) -> list[str]:
    """Return `instant` of each instant in texts of PostgreSQL, which have any number of them, in UTC."""
    return _with_whole_fractions("\n".join(texts).replace(" ", "T")).replace("+00", "Z").split("\n")


def instants_in_json(arrays: Sequence[str]) -> list[str]:
    """Return the JSON text of `instant` of each instant, in UTC, in JSON arrays of PostgreSQL, in one list."""
    joined = ", ".join(arrays).replace("], [", ", ")[1:-1]
    return _with_whole_fractions(joined).replace("+00:00", "Z").split(", ")


def stored_json(texts: Sequence[str]) -> list[str]:
    """Return the text of `json.dumps` for each object in texts of PostgreSQL, or of `json.dumps` or SQLite.

    PostgreSQL writes the same, except for characters outside of ASCII and numbers with a fraction. SQLite writes
    no spaces. ValueError if a text that has to be parsed is not JSON.
    """
    if _is_as_dumped("\n".join(texts), line_feeds=len(texts) - 1):
        return list(texts)
    return [text if _is_as_dumped(text, line_feeds=0) else json.dumps(json.loads(text)) for text in texts]


def _is_as_dumped(text: str, *, line_feeds: int) -> bool:
    """Return whether JSON texts, with so many line feeds between them, are surely as `json.dumps` writes them."""
    return (
        text.isascii()
        and "\x7f" not in text
        and text.count("\n") == line_feeds
        and not _FRACTION.search(text)
        and not ("[" in text and _FRACTION_IN_ARRAY.search(text))
        and not _COMPACT.search(text)
    )


def _with_whole_fractions(text: str) -> str:
    """Return a text with six digits in each fraction of a second; PostgreSQL leaves out zeros at the end."""
    return _SHORT_FRACTION.sub(lambda digits: f".{digits[1]:0<6}+", text) if "." in text else text


def batches(records: Iterable[Record], size: int = 1_000) -> Generator[list[Record], None, None]:
    """Yield the records in lists of at most `size`, in their order."""
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def duration(seconds: float) -> str:
    """Return seconds as a short text: 12 s, 5 min, 3 h, 2 d; 0 s for less than none."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
