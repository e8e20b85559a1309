"""The access log page: reveals of full phones and exports of lists, with actor, time and reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get, post

from bindings.access.access_log import AccessLogEntry
from bindings.domain.roles import Permission
from bindings.domain.serialization import field_names, fields
from bindings.web.console.export import stream_export
from bindings.web.console.page_context import PageContext, PageResponse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.service import BindingService

PER_PAGE = 50
# Columns of the file that keep their names from earlier exports, by field of an entry.
COLUMN_NAMES = {"description": "what", "complete": "whole"}


@get("/access", permissions=(Permission.READ,))
async def access_log(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the access log, newest first."""
    context = PageContext(request)
    cursor = request.query_params.get("cursor")
    page = await context.run_read(lambda service: service.access_log.entries(cursor=cursor, limit=PER_PAGE))
    return context.render("access.html", entries=page.data, next_cursor=page.next_cursor)


@post("/access/export", permissions=(Permission.READ,), status_code=200)
async def export(request: Request[Any, Any, Any]) -> PageResponse:
    """Export the whole access log."""
    context = PageContext(request)

    def read(service: BindingService, _reason: str | None) -> Iterator[dict[str, Any]]:
        cursor, has_more = None, True
        while has_more:
            page = service.access_log.entries(cursor=cursor, limit=PER_PAGE)
            yield from map(_row, page.data)
            cursor, has_more = page.next_cursor, page.next_cursor is not None

    columns = [COLUMN_NAMES.get(name, name) for name in field_names(AccessLogEntry)]
    return await stream_export(context, view="access log", narrowed={}, columns=columns, read=read)


def _row(entry: AccessLogEntry) -> dict[str, Any]:
    return {COLUMN_NAMES.get(name, name): value for name, value in fields(entry).items()}
