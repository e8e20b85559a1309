"""The access log: who was shown full phones, who took a list away, when and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get, post

from bindings.access.access_log import Access
from bindings.domain.roles import Permission
from bindings.domain.serialization import names_of
from bindings.web.console.export import take
from bindings.web.console.page_context import Reply, Visit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.service import BindingService

PER_PAGE = 50


@get("/access", for_=(Permission.READ,))
async def log(request: Request[Any, Any, Any]) -> Reply:
    """Show the access log, newest first."""
    visit = Visit(request)
    cursor = request.query_params.get("cursor")
    page = await visit.ask(lambda service: service.access_log.log(cursor=cursor, limit=PER_PAGE))
    return visit.page("access.html", found=page.data, next_cursor=page.next_cursor)


@post("/access/export", for_=(Permission.READ,), status_code=200)
async def export(request: Request[Any, Any, Any]) -> Reply:
    """Take the whole access log away."""
    visit = Visit(request)

    def read(service: BindingService, _reason: str | None) -> Iterator[Access]:
        cursor, more = None, True
        while more:
            page = service.access_log.log(cursor=cursor, limit=PER_PAGE)
            yield from page.data
            cursor, more = page.next_cursor, page.next_cursor is not None

    return await take(visit, view="access log", narrowed={}, names=names_of(Access), read=read)
