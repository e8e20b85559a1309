"""Overview: whether all is well, in plain words, and what happens minute by minute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get

from bindings.domain.binding import EventKind
from bindings.domain.roles import Permission
from bindings.monitoring import health, overview
from bindings.monitoring.health import MAX_DOUBTS_READ, Level
from bindings.monitoring.statistics import TimeRange, event_statistics, pool_forecasts
from bindings.web.api import ops_routes
from bindings.web.console import charts
from bindings.web.console.page_context import PageContext, Reply

if TYPE_CHECKING:
    from bindings.monitoring.health import Check
    from bindings.monitoring.overview import Overview
    from bindings.monitoring.statistics import EventStatistics, PoolForecast
    from bindings.service import BindingService

LIVE_S = 10
CREATED = (EventKind.ACTIVATED, EventKind.ADOPTED)
ENDED = (EventKind.EXPIRED, EventKind.UNBOUND, EventKind.LAPSED)
KINDS = (*CREATED, *ENDED, EventKind.FAILED, EventKind.IN_DOUBT, EventKind.REFUSED)


@get("/overview", for_=(Permission.READ,))
async def show(request: Request[Any, Any, Any]) -> Reply:
    """Show the state of the whole service."""
    visit = PageContext(request)

    def ask(service: BindingService) -> tuple[Overview, EventStatistics, list[PoolForecast]]:
        return (
            overview.build_overview(service.runtime),
            event_statistics(service.runtime.database, TimeRange.HOUR, KINDS),
            pool_forecasts(service.runtime.database),
        )

    seen, figures, trends = await visit.run_read(ask)
    checks = await ops_routes.checks(visit.app_state)
    counted = [trend.pool.counted_at for trend in trends if trend.pool.counted_at is not None]
    return visit.page(
        "overview.html",
        live_s=LIVE_S,
        seen=seen,
        figures=figures,
        charts=_charts(figures),
        worst=health.worst_level(checks),
        reds=_of(Level.RED, checks),
        warnings=_of(Level.WARN, checks) + [trend for trend in trends if trend.forecast.needs_attention],
        checks=checks,
        active=sum(trend.pool.live or 0 for trend in trends) if counted else None,
        counted_at=min(counted, default=None),
        most_doubts=MAX_DOUBTS_READ,
    )


def _of(level: Level, checks: tuple[Check, ...]) -> list[Any]:
    return [check for check in checks if check.level is level]


def _charts(figures: EventStatistics) -> list[charts.Chart]:
    return [
        charts.chart("Created", "good", figures, figures.counts_of(*CREATED)),
        charts.chart("Ended", "calm", figures, figures.counts_of(*ENDED)),
        charts.chart("Failed", "bad", figures, figures.counts_of(EventKind.FAILED)),
        charts.chart("In doubt", "warn", figures, figures.counts_of(EventKind.IN_DOUBT)),
        charts.chart("Stopped here", "calm", figures, figures.counts_of(EventKind.REFUSED)),
    ]
