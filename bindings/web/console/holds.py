"""The page of holds: phones that the provider holds for something other than a binding in force here."""

from __future__ import annotations

from typing import Any

from litestar import Request, get

from bindings.domain.roles import Permission
from bindings.lifecycle.resolution_times import next_scan
from bindings.web.console.page_context import PageContext, PageResponse

PER_PAGE = 50


@get("/holds", permissions=(Permission.READ,))
async def show(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the holds in force, the next to end first."""
    context = PageContext(request)
    after = request.query_params.get("after")
    page = await context.run_read(
        lambda service: service.investigation.holds_in_force(cursor=after, limit=PER_PAGE)
    )
    scan_at = await context.run_read(lambda service: next_scan(service.runtime))
    return context.render(
        "holds_in_force.html",
        rows=page.data,
        next_cursor=page.next_cursor,
        is_first_page=after is None,
        next_scan=scan_at,
    )
