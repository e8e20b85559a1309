"""How long the provider took to accept binds: percentiles and shares of the calls of a period.

A period with many binds is sampled at instants between which equally many binds were requested, so that each bind
of the sample stands for the same number of binds, at any time of day.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import accumulate
from math import ceil
from statistics import quantiles
from typing import TYPE_CHECKING, NamedTuple

from bindings.domain.binding import EventKind
from bindings.monitoring.bind_outcomes import ALL_BINDS
from bindings.store import response_times as stored
from bindings.store.statistics import HOUR, count_by_step, counted_to

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from bindings.monitoring.bind_outcomes import BindFilter
    from bindings.store.database import Database
    from bindings.store.statistics import Period

PLACES = 20  # instants at which a long period is sampled
PER_PLACE = 200
MAX_STEPS = 1_000
BOUNDS_S = (0.1, 0.3, 1.0, 3.0, 10.0)


class Share(NamedTuple):
    """How many calls were answered within some seconds; None is after the longest of these times."""

    within_s: float | None
    calls: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseTimes:
    """Response times of the binds that the provider accepted, in seconds, the shortest first.

    `binds` were looked at, `requested` of the period are counted; `is_sample` if there may be more than `binds`.
    """

    binds: int
    requested: int
    is_sample: bool
    durations_s: tuple[float, ...]

    @property
    def calls(self) -> int:
        """Return the number of calls that were measured."""
        return len(self.durations_s)

    def percentile(self, percent: int) -> float:
        """Return the time within which this share of the calls, 1 to 99 per cent, was answered."""
        return percentile(self.durations_s, percent)

    @property
    def shares(self) -> list[Share]:
        """Return how many calls were answered within each of `BOUNDS_S`, and how many took longer."""
        within = [Share(bound_s, bisect_right(self.durations_s, bound_s)) for bound_s in BOUNDS_S]
        return [*within, Share(None, self.calls - within[-1].calls)]


def percentile(durations_s: Sequence[float], percent: int) -> float:
    """Return a percentile, 1 to 99, of at least one sorted duration."""
    if len(durations_s) == 1:
        return durations_s[0]
    return quantiles(durations_s, n=100, method="inclusive")[percent - 1]


def response_times(database: Database, period: Period, *, bind_filter: BindFilter = ALL_BINDS) -> ResponseTimes:
    """Return the response times of the binds that were requested in a period.

    Two bounded reads; safe to repeat.
    """
    requested = database.read(_requested, period)
    total = sum(step.binds for step in requested)
    is_sample = total > PLACES * PER_PLACE
    places, limit = (_places(requested, total), PER_PLACE) if is_sample else ([period.until], PLACES * PER_PLACE)
    binds = database.read(
        stored.sample,
        since=period.since,
        before=places,
        limit=limit,
        app_id=bind_filter.app_id,
        pool_number=bind_filter.pool_number,
    )
    matches = [bind for bind in binds if bind.matches]
    return ResponseTimes(
        binds=len(matches),
        requested=total,
        is_sample=is_sample or len(binds) == limit,  # binds that are not counted yet may be left out
        durations_s=tuple(sorted(bind.seconds for bind in matches if bind.seconds is not None)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """A step of a period, and how many binds were requested in it."""

    since: datetime
    until: datetime
    binds: int


def _requested(connection: Connection, period: Period) -> list[_Step]:
    """Return the steps of a period in which binds were requested, at most `MAX_STEPS`.

    The last one ends where the counting does: nothing is known of what follows.
    """
    hours = replace(period, unit_s=min(period.unit_s, HOUR))
    unit_s = hours.unit_s
    step_s = unit_s * ceil((period.until - period.since).total_seconds() / unit_s / MAX_STEPS)
    counts = count_by_step(connection, hours, step_s=step_s, kinds=(EventKind.REQUESTED,))
    end = counted_to(connection) or period.until
    steps = []
    for count in counts:
        since = period.since + timedelta(seconds=count.step * step_s)
        until = max(since, min(since + timedelta(seconds=step_s), end))
        steps.append(_Step(since=since, until=until, binds=count.number))
    return steps


def _places(requested: Sequence[_Step], total: int) -> list[datetime]:
    """Return the ends of `PLACES` stretches of the period in which equally many binds were requested."""
    sums = list(accumulate(step.binds for step in requested))
    places = []
    for place in range(1, PLACES + 1):
        share = place * total / PLACES
        index = bisect_left(sums, share)
        step = requested[index]
        places.append(step.until - (sums[index] - share) / step.binds * (step.until - step.since))
    return places
