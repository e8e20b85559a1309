"""The time ranges of charts: from when to when, and in which steps. Pure functions.

A range begins and ends with a stored period: a minute, an hour or a day of UTC. The older it is, and the longer,
the coarser are the counts that are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from bindings.store.statistics import BINDS_KEPT_FOR, DAY, HOUR, MINUTE, Period

WEEK = 7 * DAY
MONDAY_S = 4 * DAY  # from Thursday, 1 January 1970, to the first Monday
MAX_STEPS = 170
LONGEST = {MINUTE: timedelta(hours=2), HOUR: timedelta(days=35), DAY: timedelta.max}
STEPS_S = {MINUTE: (MINUTE,), HOUR: (HOUR, 6 * HOUR), DAY: (DAY, WEEK)}


@dataclass(frozen=True, kw_only=True, slots=True)
class ChartRange:
    """What a chart shows: a period in steps of `step_s` seconds; the last step may be shorter."""

    period: Period
    step_s: int

    @property
    def steps(self) -> tuple[datetime, ...]:
        """Return the start of each step."""
        length_s = int((self.period.until - self.period.since).total_seconds())
        return tuple(self.period.since + timedelta(seconds=past_s) for past_s in range(0, length_s, self.step_s))


class TimeRange(StrEnum):
    """A range up to now, whose last step is incomplete."""

    HOUR = "1h"
    DAY = "24h"
    WEEK = "7d"
    MONTH = "30d"
    YEAR = "1y"

    def chart_range(self, now: datetime) -> ChartRange:
        """Return the range. Its steps stay where they are while time goes on."""
        unit_s, step_s, steps = _STEPS[self]
        until = _floor(now, step_s) + timedelta(seconds=step_s)
        return _range(until - timedelta(seconds=step_s * steps), until, unit_s, step_s)


_STEPS = {
    TimeRange.HOUR: (MINUTE, MINUTE, 60),
    TimeRange.DAY: (HOUR, HOUR, 24),
    TimeRange.WEEK: (HOUR, HOUR, 168),
    TimeRange.MONTH: (HOUR, 6 * HOUR, 120),
    TimeRange.YEAR: (DAY, WEEK, 53),
}


def range_between(since: datetime, until: datetime | None, now: datetime) -> ChartRange:
    """Return the range between two instants, rounded outwards to the periods that are stored; None is up to now.

    What is not stored any more or lies in the future is left out; one stored period is always left.
    """
    since = min(max(since, now - BINDS_KEPT_FOR[DAY]), now)
    until = now if until is None else until
    unit_s = next(
        unit_s
        for unit_s, longest in LONGEST.items()
        if min(until, now) - since <= longest and since >= now - BINDS_KEPT_FOR[unit_s]
    )
    unit = timedelta(seconds=unit_s)
    since, end = _floor(since, unit_s), _floor(now, unit_s) + unit
    if until < now:
        end = min(end, since + unit * max(1, -((since - until) // unit)))
    step_s = next(step_s for step_s in STEPS_S[unit_s] if (end - since).total_seconds() <= MAX_STEPS * step_s)
    return _range(since, end, unit_s, step_s)


def _range(since: datetime, until: datetime, unit_s: int, step_s: int) -> ChartRange:
    return ChartRange(period=Period(since=since, until=until, unit_s=unit_s), step_s=step_s)


def _floor(at: datetime, unit_s: int) -> datetime:
    """Return when the minute, the hours, the day or the week began."""
    offset_s = MONDAY_S if unit_s == WEEK else 0
    return datetime.fromtimestamp((at.timestamp() - offset_s) // unit_s * unit_s + offset_s, UTC)
