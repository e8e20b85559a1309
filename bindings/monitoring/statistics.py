"""Figures for people: how often what happened over a span, by status code, and how full the pools will be.

Everything comes from the tallies that a pass writes (`store.tallies`), so that a look at a month costs no more
than a few thousand small rows, however many bindings there are. `forecast` is pure and says things in plain
words; it never claims a capacity that nobody has seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from bindings.monitoring.health import duration
from bindings.store import pools as store
from bindings.store import statistics

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

    from bindings.domain.binding import EventKind
    from bindings.store.database import Database
    from bindings.store.pools import Pool
    from bindings.store.statistics import EventCount

EXAMPLES = 20
TREND = timedelta(hours=2)
STEADY_SHARE_PER_HOUR = 0.01  # of what is live: below it a pool neither grows nor shrinks
FULL = 0.9
SOON_S = 6 * 3_600


class TimeRange(StrEnum):
    """How far back a page looks, and in what steps."""

    HOUR = "1h"
    DAY = "24h"
    WEEK = "7d"
    MONTH = "30d"

    @property
    def period_s(self) -> int:
        """Seconds of the tallies that are read."""
        return statistics.MINUTE if self is TimeRange.HOUR else statistics.HOUR

    @property
    def step_s(self) -> int:
        """Seconds that one bar of a chart stands for."""
        return self.period_s * (6 if self is TimeRange.MONTH else 1)

    @property
    def steps(self) -> int:
        """How many bars there are."""
        return {TimeRange.HOUR: 60, TimeRange.DAY: 24, TimeRange.WEEK: 168, TimeRange.MONTH: 120}[self]

    def bucket_starts(self, now: datetime) -> tuple[datetime, ...]:
        """When each step began; the last one is under way."""
        newest = now.timestamp() // self.step_s * self.step_s
        return tuple(
            datetime.fromtimestamp(newest - self.step_s * back, now.tzinfo) for back in reversed(range(self.steps))
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """How many events of some kinds and one code, step by step; `examples` are the newest, by their ids."""

    kind: EventKind
    code: str
    counts: tuple[int, ...]
    first_at: datetime
    last_at: datetime
    examples: tuple[dict[str, Any], ...] = ()

    @property
    def total(self) -> int:
        """How many in all."""
        return sum(self.counts)


@dataclass(frozen=True, kw_only=True, slots=True)
class EventStatistics:
    """What happened over a span, by kind and code, the most frequent first.

    `counted_to` is up to when the pass has counted; None where it never ran.
    """

    span: TimeRange
    steps: tuple[datetime, ...]
    series: tuple[Series, ...]
    counted_to: datetime | None

    def counts_of(self, *kinds: EventKind, code: str | None = None) -> tuple[int, ...]:
        """Some kinds together, all codes of them or one, step by step."""
        found = [one.counts for one in self.series if one.kind in kinds and code in (None, one.code)]
        return tuple(sum(step) for step in zip(*found, strict=True)) or (0,) * len(self.steps)


def event_statistics(database: Database, span: TimeRange, kinds: Iterable[EventKind]) -> EventStatistics:
    """The figures of some kinds of event. Two small reads; safe to repeat."""
    steps = span.bucket_starts(database.clock())

    def query(connection: Connection) -> tuple[list[EventCount], datetime | None]:
        found = statistics.counts_since(connection, steps[0], period_s=span.period_s, kinds=kinds)
        return found, statistics.counted_to(connection)

    found, counted_to = database.read(query)
    return EventStatistics(
        span=span, steps=steps, series=_series(found, steps, span.step_s), counted_to=counted_to
    )


def _series(found: Sequence[EventCount], steps: tuple[datetime, ...], step_s: int) -> tuple[Series, ...]:
    grouped: dict[tuple[EventKind, str], list[EventCount]] = {}
    for tally in found:
        grouped.setdefault((tally.kind, tally.code), []).append(tally)
    series = []
    for (kind, code), group in grouped.items():
        counts = [0] * len(steps)
        for tally in group:
            place = int((tally.began_at - steps[0]).total_seconds()) // step_s
            counts[min(place, len(steps) - 1)] += tally.number  # counted while we read: it belongs to the newest
        examples = [example for tally in reversed(group) for example in tally.examples]
        series.append(
            Series(
                kind=kind,
                code=code,
                counts=tuple(counts),
                first_at=group[0].began_at,
                last_at=group[-1].began_at,
                examples=tuple(examples[:EXAMPLES]),
            )
        )
    return tuple(sorted(series, key=lambda one: (-one.total, one.kind, one.code)))


# Pools.


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolForecast:
    """A pool, how many were live in it over the last hours, and what that means."""

    pool: Pool
    levels: tuple[tuple[datetime, int], ...]
    forecast: Forecast


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What becomes of a pool at the present rate. `per_hour` None: too little is known for a trend.

    `used` is the share of the capacity that the provider has shown (None where it never refused), `full_in_s` the
    seconds until nothing is left of it (None where that is not in sight).
    """

    summary: str
    needs_attention: bool
    per_hour: float | None = None
    used: float | None = None
    full_in_s: float | None = None


def pool_forecasts(database: Database) -> list[PoolForecast]:
    """Every pool that is known, the fullest first. Two small reads; safe to repeat."""
    now = database.clock()
    found = sorted(database.read(store.list_all), key=lambda pool: -(pool.live or 0))
    levels = database.read(statistics.levels, since=now - TREND)
    trends = []
    for pool in found:
        seen = tuple(levels.get((pool.app_id, pool.pool_number), ()))
        trends.append(PoolForecast(pool=pool, levels=seen, forecast=forecast(pool, seen)))
    return trends


def forecast(pool: Pool, levels: Sequence[tuple[datetime, int]]) -> Forecast:
    """What becomes of a pool at the rate of its `levels`: a straight line through them, and plain words."""
    if pool.live is None:
        return Forecast(summary="not counted yet", needs_attention=False)
    per_hour = _slope_per_hour(levels)
    trend = _trend(pool.live, per_hour)
    if pool.capacity is None:
        says = f"{pool.live:,} live, {trend}; the provider has never run out here, so its size is not known"
        return Forecast(summary=says, needs_attention=False, per_hour=per_hour)
    left = max(0, pool.capacity - pool.live)
    used = pool.live / pool.capacity if pool.capacity else 1.0
    head = f"{pool.live:,} of about {pool.capacity:,} in use ({min(used, 9.99):.0%}), {trend}"
    if not left:
        return Forecast(
            summary=f"{head}; as full as when it ran out",
            needs_attention=True,
            per_hour=per_hour,
            used=used,
            full_in_s=0,
        )
    if per_hour is None or per_hour <= STEADY_SHARE_PER_HOUR * max(pool.live, 1):
        return Forecast(summary=head, needs_attention=used >= FULL, per_hour=per_hour, used=used)
    full_in_s = left / per_hour * 3_600
    return Forecast(
        summary=f"{head}: full in about {duration(full_in_s)}",
        needs_attention=used >= FULL or full_in_s <= SOON_S,
        per_hour=per_hour,
        used=used,
        full_in_s=full_in_s,
    )


def _trend(live: int, per_hour: float | None) -> str:
    if per_hour is None:
        return "its trend is not known yet"
    if abs(per_hour) <= STEADY_SHARE_PER_HOUR * max(live, 1):
        return "steady"
    return f"{'growing' if per_hour > 0 else 'shrinking'} by {abs(per_hour):,.0f} an hour"


def _slope_per_hour(levels: Sequence[tuple[datetime, int]]) -> float | None:
    """The slope of the straight line that fits best; None for less than a quarter of an hour."""
    if len(levels) < 3 or levels[-1][0] - levels[0][0] < timedelta(minutes=15):  # noqa: PLR2004 -- two points fit any line
        return None
    hours = [(at - levels[0][0]).total_seconds() / 3_600 for at, _ in levels]
    lives = [live for _, live in levels]
    mean_hour, mean_live = sum(hours) / len(hours), sum(lives) / len(lives)
    spread = sum((hour - mean_hour) ** 2 for hour in hours)
    together = sum((hour - mean_hour) * (live - mean_live) for hour, live in zip(hours, lives, strict=True))
    return together / spread
