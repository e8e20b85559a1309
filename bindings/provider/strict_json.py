"""JSON as the provider's calls use it: compact when written, and without leniency when parsed."""

from __future__ import annotations

import json
from typing import Any


class NotStrictJson(ValueError):
    """The bytes are not JSON, or JSON that parsers read differently. The text repeats no value."""


def dump(value: Any) -> bytes:
    """Return compact UTF-8 bytes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def parse(body: bytes) -> Any:
    """Return the value of a body. Raises `NotStrictJson`, also for a duplicate field and for NaN."""
    try:
        return json.loads(body.decode(), object_pairs_hook=_reject_duplicate_keys, parse_constant=_reject_constant)
    except NotStrictJson:
        raise
    except (ValueError, RecursionError):  # the text of a ValueError would contain the body
        raise NotStrictJson("the body is not JSON") from None


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise NotStrictJson("a field occurs twice")
    return fields


def _reject_constant(_name: str) -> Any:
    raise NotStrictJson("the body contains a number that is not valid JSON")
