"""Instants as the provider writes them, parsed and formatted. Field names and bodies are in `wire`.

The documents name two forms of an end, a local time and a Unix time; others of the same family are read too. The
configured time zone counts only for a text that has none of its own.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import tzinfo

FORMS = ("local", "unix", "unix_ms", "iso")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)  # before it is what stands for "no end": the year 1, 1900 or 1970
LATEST = datetime(9999, 12, 1, tzinfo=UTC)  # a guard can still be added, and any time zone shows it
_LATEST_UNIX_S = 253_402_300_799  # the last second of the year 9999
_LOCAL_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]([0-9]{2}:[0-9]{2})"
    r"(?:(:[0-9]{2})([.,][0-9]{1,9})?)? ?(Z|[+-][0-9]{2}:?[0-9]{2})?",
    re.IGNORECASE,
)
# Milliseconds have 13 or 15 digits: 14 may be a date and a time without separators, and 8 may be a date.
_UNIX_SECONDS = re.compile(r"[0-9]{9,12}(\.[0-9]{1,9})?")
_UNIX_MILLISECONDS = re.compile(r"[0-9]{13}|[0-9]{15}")


def parse(text: str, *, zone: tzinfo) -> datetime:
    """Return the aware UTC instant of a local time, an ISO 8601 time, or a Unix time in seconds or milliseconds.

    `zone` is the time zone of a text without one. Seconds that are left out are 0. An instant after the year 9999
    becomes the last one that can be stored and computed with. Raises ValueError, without the text, for anything
    else, and for an instant before 2000: a binding that has such an end in a list has none.
    """
    if _UNIX_SECONDS.fullmatch(text):
        return _of_unix_time(float(text))
    if _UNIX_MILLISECONDS.fullmatch(text):
        return _of_unix_time(int(text) / 1_000)
    match = _LOCAL_TIME.fullmatch(text)
    if match is None:
        raise ValueError("not a time")
    date, time, seconds, fraction, offset = match.groups()
    suffix = (fraction or "").replace(",", ".") + (offset or "").upper()
    try:
        instant = datetime.fromisoformat(f"{date}T{time}{seconds or ':00'}{suffix}")
    except ValueError:
        raise ValueError("not a time") from None
    instant = instant if instant.tzinfo is not None else instant.replace(tzinfo=zone)
    try:
        return _within_bounds(instant.astimezone(UTC))
    except OverflowError:  # its UTC time is in the year 0 or 10000
        return _within_bounds(instant.replace(tzinfo=UTC))


def format_local(instant: datetime, *, zone: tzinfo) -> str:
    """Format an aware instant as the provider's documents do: in its time zone, cut to whole seconds."""
    return instant.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")


def format_as(form: str, instant: datetime, *, zone: tzinfo) -> str | int:
    """Format an aware instant in one of the `FORMS`."""
    match form:
        case "unix":
            return int(instant.timestamp())
        case "unix_ms":
            return int(instant.timestamp() * 1_000)
        case "iso":
            return instant.astimezone(zone).isoformat()
        case _:
            return format_local(instant, zone=zone)


def _of_unix_time(seconds: float) -> datetime:
    return _within_bounds(EPOCH + timedelta(seconds=min(seconds, _LATEST_UNIX_S)))


def _within_bounds(instant: datetime) -> datetime:
    if instant < EARLIEST:
        raise ValueError("not a time")
    return min(instant, LATEST)
