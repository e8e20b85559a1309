"""The access log: who was shown full phones, who took a list away, when and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get, post

from bindings.access.access_log import AccessLogEntry
from bindings.domain.roles import Permission
from bindings.domain.serialization import field_names
from bindings.web.console.export import stream_export
from bindings.web.console.page_context import PageContext, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.service import BindingService

PER_PAGE = 50


@get("/access", for_=(Permission.READ,))
async def access_log(request: Request[Any, Any, Any]) -> Reply:
    """Show the access log, newest first."""
    visit = PageContext(request)
    cursor = request.query_params.get("cursor")
    page = await visit.run_read(lambda service: service.access_log.entries(cursor=cursor, limit=PER_PAGE))
    return visit.page("access.html", found=page.data, next_cursor=page.next_cursor)


@post("/access/export", for_=(Permission.READ,), status_code=200)
async def export(request: Request[Any, Any, Any]) -> Reply:
    """Take the whole access log away."""
    visit = PageContext(request)

    def read(service: BindingService, _reason: str | None) -> Iterator[AccessLogEntry]:
        cursor, more = None, True
        while more:
            page = service.access_log.entries(cursor=cursor, limit=PER_PAGE)
            yield from page.data
            cursor, more = page.next_cursor, page.next_cursor is not None

    return await stream_export(visit, view="access log", narrowed={}, names=field_names(AccessLogEntry), read=read)
