"""Times as people type and read them: in the zone that they chose, with the zone named. Pure.

What is typed without a date is the last time that the clock showed it. A time that a clock shows twice or never
(when summer time ends or begins) names no instant, and is refused with a way out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from bindings.errors import FieldError, InvalidRequest

OFFSET = re.compile(r"(?:UTC)?([+-])(\d{1,2}):?([0-5]\d)?\Z")
NAME = re.compile(r"[A-Za-z]+(?:[/_+-][A-Za-z0-9]+)*\Z")
CLOCK = re.compile(r"(?:(\d{4}-\d{2}-\d{2})[T ]+)?(\d{1,2}):(\d{2})(?::(\d{2}))?\Z")
WIDEST_OFFSET = 14
UTC_NAME = "UTC"
EARLIEST, LATEST = 1900, 2200


@dataclass(frozen=True, kw_only=True, slots=True)
class Zone:
    """A zone as it was chosen: `name` is what is shown and kept."""

    name: str
    info: tzinfo


DEFAULT = Zone(name=UTC_NAME, info=UTC)


def zone(text: str) -> Zone:
    """The zone of this name (Asia/Kolkata), or offset (+05:30); `InvalidRequest` where it is none."""
    name = text.strip()
    if name.upper() in ("", "Z", UTC_NAME):
        return DEFAULT
    if (match := OFFSET.match(name)) and int(match[2]) <= WIDEST_OFFSET:
        gap = timedelta(hours=int(match[2]), minutes=int(match[3] or 0))
        shown = f"{match[1]}{int(match[2]):02}:{match[3] or '00'}"
        return Zone(name=shown, info=timezone(-gap if match[1] == "-" else gap))
    try:
        if NAME.match(name):
            return Zone(name=name, info=ZoneInfo(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise InvalidRequest([FieldError("zone", "must be a zone such as Asia/Kolkata, or an offset such as +05:30")])


def parse(text: str, where: Zone, now: datetime) -> datetime | None:
    """The instant that somebody typed; None where they typed nothing. `InvalidRequest` where it names none."""
    said = text.strip()
    if not said:
        return None
    if said.lower() == "now":
        return now
    try:
        found = _parse_wall_clock(said, where, now) or datetime.fromisoformat(said)
    except ValueError:
        raise _fault("must be a time such as 14:32, 2026-11-23 14:32:00 or 2026-11-23T14:32:00Z") from None
    if found.tzinfo is None:
        raise _fault("needs a date and a time, such as 2026-11-23 14:32")
    return _in_range(found).astimezone(UTC)


def _in_range(at: datetime) -> datetime:
    """An instant that every zone can show, and that some time can be added to."""
    if not EARLIEST < at.year < LATEST:
        raise _fault(f"must lie between the years {EARLIEST} and {LATEST}")
    return at


def _parse_wall_clock(said: str, where: Zone, now: datetime) -> datetime | None:
    match = CLOCK.match(said)
    if match is None:
        return None
    clock = time(int(match[2]), int(match[3]), int(match[4] or 0))
    today = now.astimezone(where.info).date()
    if match[1] is not None:
        return _instant(datetime.combine(datetime.fromisoformat(match[1]).date(), clock), where)
    found = _instant(datetime.combine(today, clock), where)
    return found if found <= now else _instant(datetime.combine(today - timedelta(days=1), clock), where)


def _instant(local: datetime, where: Zone) -> datetime:
    _in_range(local)
    one, other = local.replace(tzinfo=where.info), local.replace(tzinfo=where.info, fold=1)
    if one.utcoffset() != other.utcoffset():
        raise _fault(f"comes twice or never on a clock in {where.name}; give it with its offset, such as +01:00")
    return one


def _fault(message: str) -> InvalidRequest:
    return InvalidRequest([FieldError("time", message)])


def format_instant(at: datetime, where: Zone, *, precise: bool = False) -> str:
    """An instant as it stands on a page: date, time and offset; `precise` to the millisecond."""
    local = at.astimezone(where.info)
    clock = f"{local:%Y-%m-%d %H:%M:%S}" + (f".{local.microsecond // 1_000:03}" if precise else "")
    return f"{clock} {offset(local)}"


def offset(local: datetime) -> str:
    """The offset of an aware time; UTC by its name."""
    text = f"{local:%z}"
    return UTC_NAME if text in ("+0000", "") else f"{text[:3]}:{text[3:5]}"


def ago(at: datetime, now: datetime) -> str:
    """How far an instant is from now, in words."""
    seconds = (now - at).total_seconds()
    gap = format_duration(abs(seconds))
    return f"in {gap}" if seconds < 0 else f"{gap} ago"


def format_duration(seconds: float) -> str:
    """A duration in words: its two largest units."""
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    whole = round(seconds)
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
