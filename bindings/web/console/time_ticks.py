"""The labelled instants of a time axis, on round times of the clock in the reader's zone. Pure functions.

The first label and each midnight carry the date, and the first date and each new year the year, so that no label
needs another page to be understood. Where a clock is put forward or back, the labels are those that it shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

from bindings.web.console import time_zones

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.web.console.time_zones import Zone

DAY_S = 86_400
WEEK_DAYS = 7
SECONDS = (1, 5, 15, 30, 60, 300, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200)
DAYS = (1, 2, WEEK_DAYS, 14)
MONTHS = (1, 2, 3, 6)
MONTH_DAYS = 31
LAST_DAY = datetime(9999, 12, 1)  # noqa: DTZ001 -- a wall clock; no step from here leaves the calendar


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A label at `x` per cent of the axis; `second` is its second line, or ""."""

    x: float
    at: datetime
    label: str
    second: str


def time_ticks(
    since: datetime, until: datetime, zone: Zone, *, most: int, margin: float = 0.0
) -> tuple[Tick, ...]:
    """Return up to about `most` ticks; none is nearer than `margin` per cent to an end of the axis."""
    length_s = (until - since).total_seconds()
    ticks: list[Tick] = []
    shown_date: date | None = None
    instants, unit = _instants(since, until, zone, length_s / most)
    for at in instants:
        x = 100 * (at - since).total_seconds() / length_s
        if not margin <= x <= 100 - margin:
            continue
        local = time_zones.in_zone(at, zone)
        label, second = _labels(local, unit, shown_date)
        shown_date = local.date()
        ticks.append(Tick(x=round(x, 2), at=at, label=label, second=second))
    return tuple(ticks)


def _instants(since: datetime, until: datetime, zone: Zone, spacing_s: float) -> tuple[Iterator[datetime], str]:
    """Return the round instants between two others, at least `spacing_s` apart, and the unit of their labels."""
    start, end = (time_zones.in_zone(at, zone).replace(tzinfo=None) for at in (since, until))
    for step_s in SECONDS:
        if step_s >= spacing_s:
            return _within(
                since, until, zone, _wall_times(start, end, step_s)
            ), "second" if step_s < 60 else "minute"  # noqa: PLR2004
    for days in DAYS:
        if days * DAY_S >= spacing_s:
            return _within(since, until, zone, _dates(start, end, days)), "day"
    months = next((months for months in MONTHS if months * MONTH_DAYS * DAY_S >= spacing_s), None)
    years = int(spacing_s / (365 * DAY_S)) + 1
    return _within(since, until, zone, _months(start, end, 12 * years if months is None else months)), "month"


def _within(since: datetime, until: datetime, zone: Zone, walls: Iterator[datetime]) -> Iterator[datetime]:
    """Yield the instants at which a clock in the zone shows these times, leaving out those that it never shows."""
    for wall in walls:
        try:
            at = wall.replace(tzinfo=zone.info).astimezone(UTC)
            is_shown = at.astimezone(zone.info).replace(tzinfo=None) == wall or wall.time() == time()
        except OverflowError:  # outside of the calendar
            continue
        if is_shown and since <= at <= until:
            yield at


def _wall_times(start: datetime, end: datetime, step_s: int) -> Iterator[datetime]:
    midnight = datetime.combine(start.date(), time())
    wall = midnight + timedelta(seconds=(start - midnight).total_seconds() // step_s * step_s)
    # A clock that is put back shows a part of its times twice.
    last = min(max(start, end), LAST_DAY) + timedelta(hours=2)
    while wall <= last:
        yield wall
        wall += timedelta(seconds=step_s)


def _dates(start: datetime, end: datetime, days: int) -> Iterator[datetime]:
    """Yield every `days`th midnight; each seventh is a Monday."""
    day = start.date() - timedelta(days=(start.toordinal() - 1) % days)
    while day <= min(end, LAST_DAY).date():
        yield datetime.combine(day, time())
        day += timedelta(days=days)


def _months(start: datetime, end: datetime, months: int) -> Iterator[datetime]:
    number = (start.year * 12 + start.month - 1) // months * months
    while (number // 12, number % 12 + 1) <= (end.year, end.month):
        yield datetime(number // 12, number % 12 + 1, 1)  # noqa: DTZ001 -- the zone is added by the caller
        number += months


def _labels(local: datetime, unit: str, shown_date: date | None) -> tuple[str, str]:
    """Return both lines of a label after one of `shown_date`."""
    is_new_year = shown_date is None or shown_date.year != local.year
    if unit == "month":
        return f"{local:%b}", f"{local:%Y}" if is_new_year else ""
    day = f"{local.day} {local:%b}"
    if unit == "day":
        return day, f"{local:%Y}" if is_new_year else ""
    is_new_day = shown_date != local.date()
    return f"{local:%H:%M:%S}" if unit == "second" else f"{local:%H:%M}", day if is_new_day else ""
