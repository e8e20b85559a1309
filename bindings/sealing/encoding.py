"""The canonical encoding: the bytes of an event, a seal or a request that are hashed and signed.

JSON by the rules of RFC 8785, restricted to objects, arrays, strings, integers, booleans and null. A number with a
fraction is written as a string. docs/reference/sealed-history.md defines it byte by byte: what is sealed once must
have the same encoding in every later version.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_WITHOUT_FRACTION = frozenset((str, int, bool, type(None)))
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False)


def canonical(value: Any) -> bytes:
    """Return the canonical JSON of a value that was read from JSON."""
    whole = _without_fractions(value) if _has_fraction(value) else value
    return _ENCODER.encode(whole).encode("utf-8", "surrogatepass")


def _has_fraction(value: Any) -> bool:
    """Return whether there is a float in the value; most values have none, and are encoded as they are."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return isinstance(value, float)
    for inner in value:  # noqa: SIM110 -- `any` with a generator takes twice the time
        if type(inner) not in _WITHOUT_FRACTION and _has_fraction(inner):
            return True
    return False


def _without_fractions(value: Any) -> Any:
    """Return the value with each float as its text: two programs may write the same float differently."""
    if isinstance(value, dict):
        return {name: _without_fractions(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_fractions(inner) for inner in value]
    return repr(value) if isinstance(value, float) else value


def event_bytes(columns: Mapping[str, Any]) -> bytes:
    """Return the bytes of an event from its columns by name; a column without a value is left out.

    So an event keeps its encoding when a later version of the schema adds a column.
    """
    present = {name: value for name, value in columns.items() if value is not None}
    return canonical(present | {"at": instant_text(as_instant(present["at"]))})


def parse_json(text: str) -> Any:
    """Return a value from its JSON. Raises `ValueError` also if an object names a member twice.

    Another program may read the other value of the two.
    """
    return json.loads(text, object_pairs_hook=_with_unique_names)


def _with_unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name is there twice")
    return members


def instant_text(at: datetime) -> str:
    """Return an aware instant as ISO 8601 in UTC with microseconds and Z."""
    in_utc = at if at.tzinfo is UTC else at.astimezone(UTC)
    return in_utc.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def as_instant(value: datetime | str) -> datetime:
    """Return an instant that may be its text."""
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)


def sha256(data: bytes) -> str:
    """Return the SHA-256 of the bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
