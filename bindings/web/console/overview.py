"""The overview page: the state of the service in plain words, and the events of the last hour per minute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from litestar import Request, get

from bindings.domain.binding import EventKind
from bindings.domain.roles import Permission
from bindings.jobs.registry import POOLS
from bindings.monitoring import health, overview
from bindings.monitoring.chart_range import TimeRange
from bindings.monitoring.check import Level
from bindings.monitoring.health_metrics import MAX_DOUBTS_READ
from bindings.monitoring.health_reads import reads_of_all
from bindings.monitoring.statistics import event_statistics, pool_forecasts
from bindings.store import job_runs
from bindings.web.api import ops_routes
from bindings.web.console import check_areas
from bindings.web.console.charts import SeriesToDraw, charts
from bindings.web.console.page_context import PageContext, PageResponse

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.monitoring.check import Check
    from bindings.monitoring.overview import Overview
    from bindings.monitoring.statistics import EventStatistics, PoolForecast
    from bindings.service import BindingService
    from bindings.web.console.charts import Chart

REFRESH_S = 10
CREATED = (EventKind.ACTIVATED, EventKind.ADOPTED)
ENDED = (EventKind.EXPIRED, EventKind.UNBOUND, EventKind.LAPSED)
KINDS = (*CREATED, *ENDED, EventKind.FAILED, EventKind.IN_DOUBT, EventKind.REFUSED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """What the page shows of the database. The checks of the process stand between the two parts of the checks.

    `pools_counted_at` is when the pools were last counted, also if none was in use.
    """

    overview: Overview
    statistics: EventStatistics
    forecasts: list[PoolForecast]
    pools_counted_at: datetime | None
    readiness_checks: tuple[Check, ...]
    service_checks: tuple[Check, ...]


def read(service: BindingService) -> Data:
    """Return what the page shows of the database, read once."""
    runtime = service.runtime
    reads = reads_of_all(runtime.database, runtime.settings)
    return Data(
        overview=overview.build_overview(runtime, reads),
        statistics=event_statistics(reads, TimeRange.HOUR.chart_range(reads.clock()), KINDS),
        forecasts=pool_forecasts(reads),
        pools_counted_at=reads.read(job_runs.last_finished, POOLS.name),
        readiness_checks=health.readiness_checks(runtime, reads),
        service_checks=health.service_checks(runtime, reads),
    )


@get("/overview", permissions=(Permission.READ,))
async def show(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the state of the whole service."""
    context = PageContext(request)
    data = await context.run_read(read)
    statistics, forecasts = data.statistics, data.forecasts
    checks = (*data.readiness_checks, *ops_routes.process_checks(context.app_state), *data.service_checks)
    counted_times = [forecast.pool.counted_at for forecast in forecasts if forecast.pool.counted_at is not None]
    counted_at = min(counted_times, default=data.pools_counted_at)
    return context.render(
        "overview.html",
        refresh_s=REFRESH_S,
        overview=data.overview,
        statistics=statistics,
        charts=_charts(context, statistics),
        red_checks=_with_level(Level.RED, checks),
        warning_checks=_with_level(Level.WARN, checks),
        checks=checks,
        areas=check_areas.by_area(checks),
        level=health.service_level(checks),
        active=None if counted_at is None else sum(forecast.pool.live or 0 for forecast in forecasts),
        counted_at=counted_at,
        max_counted_doubts=MAX_DOUBTS_READ,
    )


def _with_level(level: Level, checks: tuple[Check, ...]) -> list[Check]:
    return [check for check in checks if check.level is level]


def _charts(context: PageContext, statistics: EventStatistics) -> list[Chart]:
    usual = [
        SeriesToDraw("Created", "good", statistics.counts_of(*CREATED)),
        SeriesToDraw("Ended", "calm", statistics.counts_of(*ENDED)),
    ]
    unusual = [
        SeriesToDraw("Failed", "bad", statistics.counts_of(EventKind.FAILED)),
        SeriesToDraw("In doubt", "warn", statistics.counts_of(EventKind.IN_DOUBT)),
        SeriesToDraw("Refused here", "calm", statistics.counts_of(EventKind.REFUSED)),
    ]
    # A scale for each: a few failures would not be seen beside many bindings.
    return [*charts(statistics, context.zone, usual), *charts(statistics, context.zone, unusual)]
