"""Parsing and formatting of times in the zone that the user chose; the output names the zone. Pure functions.

A time without a date is the most recent one that the clock showed; a date without a time is its midnight, if the
field accepts dates. A time that a clock shows twice or never (when summer time ends or begins) is ambiguous: it is
refused with the advice to add its offset.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from bindings.errors import InvalidRequest
from bindings.web.console.pasted_text import plain_time

OFFSET = re.compile(r"(?:UTC)?([+-])(\d{1,2}):?([0-5]\d)?\Z")
NAME = re.compile(r"[A-Za-z]+(?:[/_+-][A-Za-z0-9]+)*\Z")
DATE = re.compile(r"\d{4}-\d{2}-\d{2}\Z")
CLOCK = re.compile(r"(?:(\d{4}-\d{2}-\d{2})[T ]+)?(\d{1,2}):(\d{2})(?::(\d{2}))?\Z")
MAX_OFFSET_HOURS = 14
UTC_NAME, UTC_OFFSET = "UTC", "+00:00"
EARLIEST_YEAR, LATEST_YEAR = 1900, 2200  # both excluded


@dataclass(frozen=True, kw_only=True, slots=True)
class Zone:
    """A zone that the user chose: `name` is displayed and stored in the cookie."""

    name: str
    info: tzinfo


DEFAULT = Zone(name=UTC_NAME, info=UTC)


def zone(text: str) -> Zone:
    """Return the zone with this name (Asia/Kolkata) or offset (+05:30). Raise `InvalidRequest` if invalid."""
    name = text.strip()
    if name.upper() in ("", "Z", UTC_NAME):
        return DEFAULT
    if (match := OFFSET.match(name)) and int(match[2]) <= MAX_OFFSET_HOURS:
        difference = timedelta(hours=int(match[2]), minutes=int(match[3] or 0))
        offset_name = f"{match[1]}{int(match[2]):02}:{match[3] or '00'}"
        return Zone(name=offset_name, info=timezone(-difference if match[1] == "-" else difference))
    try:
        if NAME.match(name):
            return Zone(name=name, info=ZoneInfo(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise InvalidRequest.of_field("zone", "must be a zone such as Asia/Kolkata, or an offset such as +05:30")


def parse(text: str, zone: Zone, now: datetime, *, date_alone: bool = False) -> datetime | None:
    """Return the instant that the user typed, or None if the text is empty. Raise `InvalidRequest` if invalid.

    With `date_alone`, a date without a time is accepted as the midnight at its start.
    """
    text = plain_time(text)
    if not text:
        return None
    if text.lower() == "now":
        return now
    if date_alone and DATE.match(text):
        text = f"{text} 00:00"
    try:
        at = _parse_wall_clock(text, zone, now) or datetime.fromisoformat(text)
    except ValueError:
        raise _time_error("must be a time such as 14:32, 2026-11-23 14:32:00 or 2026-11-23T14:32:00Z") from None
    if at.tzinfo is None:
        raise _time_error("needs a date and a time, such as 2026-11-23 14:32")
    return _in_range(at).astimezone(UTC)


def _in_range(at: datetime) -> datetime:
    """Return the same instant. Raise `InvalidRequest` if its conversion to another zone could overflow."""
    if not EARLIEST_YEAR < at.year < LATEST_YEAR:
        raise _time_error(f"must lie between the years {EARLIEST_YEAR} and {LATEST_YEAR}")
    return at


def _parse_wall_clock(text: str, zone: Zone, now: datetime) -> datetime | None:
    match = CLOCK.match(text)
    if match is None:
        return None
    clock = time(int(match[2]), int(match[3]), int(match[4] or 0))
    today = now.astimezone(zone.info).date()
    if match[1] is not None:
        return _instant(datetime.combine(datetime.fromisoformat(match[1]).date(), clock), zone)
    at = _instant(datetime.combine(today, clock), zone)
    return at if at <= now else _instant(datetime.combine(today - timedelta(days=1), clock), zone)


def _instant(local: datetime, zone: Zone) -> datetime:
    _in_range(local)
    first, second = local.replace(tzinfo=zone.info), local.replace(tzinfo=zone.info, fold=1)
    if first.utcoffset() != second.utcoffset():
        raise _time_error(
            f"occurs twice or never on a clock in {zone.name}; add its offset, such as 2026-10-25T02:30:00+01:00"
        )
    return first


def _time_error(message: str) -> InvalidRequest:
    return InvalidRequest.of_field("time", message)


def start_of_day(now: datetime, zone: Zone, *, days_ago: int = 0) -> datetime:
    """Return the instant at which a day began in the zone: today, or so many days ago."""
    day = now.astimezone(zone.info).date() - timedelta(days=days_ago)
    return datetime.combine(day, time(), zone.info).astimezone(UTC)


def in_zone(at: datetime, zone: Zone) -> datetime:
    """Return the same instant as a time in the zone, or unchanged if that is outside of the calendar."""
    try:
        return at.astimezone(zone.info)
    except OverflowError:
        return at


def format_instant(at: datetime, zone: Zone, *, precise: bool = False) -> str:
    """Return date, time and offset of an instant in the zone; `precise` adds milliseconds."""
    text = in_zone(at, zone).isoformat(" ", "milliseconds" if precise else "seconds")
    clock, offset = (text[:23], text[23:]) if precise else (text[:19], text[19:])
    return f"{clock} {UTC_NAME if offset == UTC_OFFSET else offset[:6]}"


def ago(at: datetime, now: datetime) -> str:
    """Return the distance of an instant from now in words, such as "3 min ago"."""
    seconds = (now - at).total_seconds()
    duration = format_duration(abs(seconds))
    return f"in {duration}" if seconds < 0 else f"{duration} ago"


def format_duration(seconds: float) -> str:
    """Return a duration in words, as its two largest units."""
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    whole = round(seconds)
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
