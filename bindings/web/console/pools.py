"""Pools: how full each is, where that goes, and when the provider last had no number left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get

from bindings.domain.binding import EventKind
from bindings.domain.roles import Permission
from bindings.monitoring.statistics import Span, over, pools
from bindings.provider.statuses import NO_NUMBER
from bindings.web.console import charts
from bindings.web.console.page_context import Reply, Visit

if TYPE_CHECKING:
    from bindings.monitoring.statistics import Figures, PoolTrend
    from bindings.service import BindingService


@get("/pools", for_=(Permission.READ,))
async def show(request: Request[Any, Any, Any]) -> Reply:
    """Show every pool, the fullest first."""
    visit = Visit(request)

    def ask(service: BindingService) -> tuple[list[PoolTrend], Figures]:
        return pools(service.database), over(service.database, Span.DAY, (EventKind.FAILED,))

    trends, figures = await visit.ask(ask)
    empty = charts.chart(
        f"No number left ({NO_NUMBER})", "bad", figures, figures.of(EventKind.FAILED, code=NO_NUMBER)
    )
    return visit.page(
        "pools.html", trends=trends, figures=figures, empty=empty, line=charts.line, no_number=NO_NUMBER
    )
