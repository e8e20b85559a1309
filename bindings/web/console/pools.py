"""The pools page: how full each pool is, its forecast, and when the provider last had no number left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get

from bindings.domain.binding import EventKind
from bindings.domain.roles import Permission
from bindings.monitoring.chart_range import TimeRange
from bindings.monitoring.statistics import event_statistics, pool_forecasts
from bindings.provider.statuses import NO_NUMBER
from bindings.web.console.charts import SeriesToDraw, charts, sparklines
from bindings.web.console.page_context import PageContext, PageResponse

if TYPE_CHECKING:
    from bindings.monitoring.statistics import EventStatistics, PoolForecast
    from bindings.service import BindingService


@get("/pools", permissions=(Permission.READ,))
async def show(request: Request[Any, Any, Any]) -> PageResponse:
    """Show every pool, the fullest first."""
    context = PageContext(request)

    def read(service: BindingService) -> tuple[list[PoolForecast], EventStatistics]:
        database = service.runtime.database
        last_day = TimeRange.DAY.chart_range(database.clock())
        return pool_forecasts(database), event_statistics(database, last_day, (EventKind.FAILED,))

    forecasts, statistics = await context.run_read(read)
    no_number_counts = statistics.counts_of(EventKind.FAILED, code=NO_NUMBER)
    return context.render(
        "pools.html",
        forecasts=forecasts,
        statistics=statistics,
        charts=charts(
            statistics, context.zone, [SeriesToDraw(f"No number left ({NO_NUMBER})", "bad", no_number_counts)]
        ),
        sparklines=sparklines,
        no_number=NO_NUMBER,
    )
