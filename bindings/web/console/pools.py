"""Pools: how full each is, where that goes, and when the provider last had no number left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get

from bindings.domain.binding import EventKind
from bindings.domain.roles import Permission
from bindings.monitoring.statistics import TimeRange, event_statistics, pool_forecasts
from bindings.provider.statuses import NO_NUMBER
from bindings.web.console import charts
from bindings.web.console.page_context import PageContext, Reply

if TYPE_CHECKING:
    from bindings.monitoring.statistics import EventStatistics, PoolForecast
    from bindings.service import BindingService


@get("/pools", for_=(Permission.READ,))
async def show(request: Request[Any, Any, Any]) -> Reply:
    """Show every pool, the fullest first."""
    visit = PageContext(request)

    def ask(service: BindingService) -> tuple[list[PoolForecast], EventStatistics]:
        return pool_forecasts(service.runtime.database), event_statistics(
            service.runtime.database, TimeRange.DAY, (EventKind.FAILED,)
        )

    trends, figures = await visit.run_read(ask)
    empty = charts.chart(
        f"No number left ({NO_NUMBER})", "bad", figures, figures.counts_of(EventKind.FAILED, code=NO_NUMBER)
    )
    return visit.page(
        "pools.html",
        trends=trends,
        figures=figures,
        empty=empty,
        line=charts.sparkline_points,
        no_number=NO_NUMBER,
    )
