"""Statistics for charts: counts of events over a time range by status code, and the forecast of each pool.

All counts come from the tables `tallies` and `bind_counts`, which the job `tally` writes, so that a year costs no
more than some thousand small rows. `forecast` is pure; it never states a capacity that was not observed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from bindings.domain.serialization import duration
from bindings.monitoring.bind_outcomes import ALL_BINDS
from bindings.store import pools, statistics

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bindings.domain.binding import EventKind
    from bindings.monitoring.bind_outcomes import BindFilter
    from bindings.monitoring.chart_range import ChartRange
    from bindings.store.pools import Pool
    from bindings.store.read_once import Reads
    from bindings.store.statistics import EventCount

TREND = timedelta(hours=2)
STEADY_SHARE_PER_HOUR = 0.01  # of what is live: a smaller change per hour counts as steady
FULL = 0.9
SOON_S = 6 * 3_600
LONGEST_FORECAST_S = 7 * 86_400  # a line through two hours says nothing about a later time


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Counts of one kind and code, per step. `first_at` and `last_at`: when the first and last with any began."""

    kind: str
    code: str
    counts: tuple[int, ...]
    first_at: datetime
    last_at: datetime

    @property
    def total(self) -> int:
        """Return the sum of all steps."""
        return sum(self.counts)


@dataclass(frozen=True, kw_only=True, slots=True)
class EventStatistics:
    """Events over a range, by kind and code, the most frequent first.

    `counted_to` is up to when the job has counted; None if it never ran.
    """

    range: ChartRange
    steps: tuple[datetime, ...]
    series: tuple[Series, ...]
    counted_to: datetime | None

    def counts_of(self, *kinds: EventKind, code: str | None = None) -> tuple[int, ...]:
        """Return the sum of these kinds per step, over all codes or one."""
        counts = [series.counts for series in self.series if series.kind in kinds and code in (None, series.code)]
        return tuple(sum(step) for step in zip(*counts, strict=True)) or (0,) * len(self.steps)

    def total_of(self, *kinds: EventKind) -> int:
        """Return the number of events of these kinds."""
        return sum(self.counts_of(*kinds))


def event_statistics(
    database: Reads, chart_range: ChartRange, kinds: Iterable[EventKind], *, bind_filter: BindFilter = ALL_BINDS
) -> EventStatistics:
    """Return the statistics of these kinds of event. Two small reads; safe to repeat.

    Only of the kinds `OF_BINDS` it is known which application and pool an event belongs to.
    """
    steps = chart_range.steps

    event_counts = database.read(
        statistics.count_by_step,
        chart_range.period,
        step_s=chart_range.step_s,
        kinds=tuple(kinds),
        app_id=bind_filter.app_id,
        pool_number=bind_filter.pool_number,
    )
    return EventStatistics(
        range=chart_range,
        steps=steps,
        series=_series(event_counts, steps),
        counted_to=database.read(statistics.counted_to),
    )


def _series(event_counts: Sequence[EventCount], steps: Sequence[datetime]) -> tuple[Series, ...]:
    grouped: dict[tuple[str, str], list[EventCount]] = {}
    for event_count in event_counts:
        grouped.setdefault((event_count.kind, event_count.code), []).append(event_count)
    series = []
    for (kind, code), group in grouped.items():
        counts = [0] * len(steps)
        for event_count in group:
            counts[event_count.step] = event_count.number
        first_at, last_at = steps[group[0].step], steps[group[-1].step]
        series.append(Series(kind=kind, code=code, counts=tuple(counts), first_at=first_at, last_at=last_at))
    return tuple(sorted(series, key=lambda each_series: (-each_series.total, each_series.kind, each_series.code)))


# Pools.


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolForecast:
    """A pool, its live bindings over the last two hours, and the forecast."""

    pool: Pool
    levels: tuple[tuple[datetime, int], ...]
    forecast: Forecast


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """The state of a pool and its trend. `per_hour` is None if too few counts are stored for a trend.

    `used` is the used share of the capacity (None if the capacity is not known); `full_in_s` the seconds until the
    pool is full at the present rate (None if it does not grow).
    """

    summary: str
    needs_attention: bool
    per_hour: float | None = None
    used: float | None = None
    full_in_s: float | None = None


def pool_forecasts(database: Reads) -> list[PoolForecast]:
    """Return every pool, the fullest first, then those of unknown capacity by what is live in them.

    Two small reads; safe to repeat.
    """
    now = database.clock()
    all_pools = database.read(pools.list_all)
    levels = database.read(statistics.levels, since=now - TREND)
    forecasts = []
    for pool in all_pools:
        pool_levels = tuple(levels.get((pool.app_id, pool.pool_number), ()))
        forecasts.append(PoolForecast(pool=pool, levels=pool_levels, forecast=forecast(pool, pool_levels)))
    return sorted(forecasts, key=_emptiness)


def _emptiness(entry: PoolForecast) -> tuple[bool, float, int]:
    used = entry.forecast.used
    return used is None, -(used or 0.0), -(entry.pool.live or 0)


def forecast(pool: Pool, levels: Sequence[tuple[datetime, int]]) -> Forecast:
    """Return the forecast of a pool by a straight line through its `levels`."""
    if pool.live is None:
        return Forecast(summary="not counted yet", needs_attention=False)
    per_hour = _slope_per_hour(levels)
    trend = _trend(pool.live, per_hour)
    if pool.capacity is None:
        summary = f"{pool.live:,} live, {trend}; no forecast: the capacity is not known"
        return Forecast(summary=summary, needs_attention=False, per_hour=per_hour)
    free = max(0, pool.capacity - pool.live)
    used = pool.live / pool.capacity if pool.capacity else 1.0
    head = f"{pool.live:,} of about {pool.capacity:,} in use ({min(used, 9.99):.0%}), {trend}"
    if not free:
        return Forecast(
            summary=f"{head}; full",
            needs_attention=True,
            per_hour=per_hour,
            used=used,
            full_in_s=0,
        )
    if per_hour is None or per_hour <= STEADY_SHARE_PER_HOUR * max(pool.live, 1):
        return Forecast(summary=head, needs_attention=used >= FULL, per_hour=per_hour, used=used)
    full_in_s = free / per_hour * 3_600
    if full_in_s > LONGEST_FORECAST_S:
        outlook = f"not full within {duration(LONGEST_FORECAST_S)} at this rate"
    else:
        outlook = f"full in about {duration(full_in_s)}"
    return Forecast(
        summary=f"{head}: {outlook}",
        needs_attention=used >= FULL or full_in_s <= SOON_S,
        per_hour=per_hour,
        used=used,
        full_in_s=full_in_s,
    )


def _trend(live: int, per_hour: float | None) -> str:
    if per_hour is None:
        return "trend not known yet"
    if abs(per_hour) <= STEADY_SHARE_PER_HOUR * max(live, 1):
        return "steady"
    return f"{'growing' if per_hour > 0 else 'shrinking'} by {abs(per_hour):,.0f} per hour"


def _slope_per_hour(levels: Sequence[tuple[datetime, int]]) -> float | None:
    """Return the slope of the least-squares line, or None if the levels span less than 15 minutes."""
    if len(levels) < 3 or levels[-1][0] - levels[0][0] < timedelta(minutes=15):  # noqa: PLR2004 -- two points fit any line
        return None
    hours = [(at - levels[0][0]).total_seconds() / 3_600 for at, _ in levels]
    lives = [live for _, live in levels]
    mean_hour, mean_live = sum(hours) / len(hours), sum(lives) / len(lives)
    spread = sum((hour - mean_hour) ** 2 for hour in hours)
    covariance = sum((hour - mean_hour) * (live - mean_live) for hour, live in zip(hours, lives, strict=True))
    return covariance / spread
