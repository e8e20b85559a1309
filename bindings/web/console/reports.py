"""The pages of reconciliation reports. A report never changes; each download of it is the same file."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from litestar import MediaType, Request, Response, get

from bindings.domain.roles import Permission
from bindings.domain.serialization import instant
from bindings.web.console.page_context import PageContext, PageResponse

if TYPE_CHECKING:
    from bindings.store.reports import Report

PER_PAGE = 50
MAX_CASES = 500


@get("/reports", permissions=(Permission.READ,))
async def show(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the reports, newest first."""
    context = PageContext(request)
    after = request.query_params.get("after")
    page = await context.run_read(lambda service: service.reports(cursor=after, limit=PER_PAGE, cases=False))
    return context.render(
        "reports.html", reports=page.data, next_cursor=page.next_cursor, is_first_page=after is None
    )


@get("/reports/{report_id:str}", permissions=(Permission.READ,))
async def show_report(request: Request[Any, Any, Any]) -> PageResponse:
    """Show one report, case by case."""
    context = PageContext(request)
    report = await _get_report(context)
    return context.render("report.html", report=report, max_cases=MAX_CASES, sha256=digest(report))


@get("/reports/{report_id:str}/download", permissions=(Permission.READ,))
async def download(request: Request[Any, Any, Any]) -> PageResponse:
    """Return the report as a file; each download has the same bytes."""
    context = PageContext(request)
    report = await _get_report(context)
    name = f"report-{report.began_at:%Y%m%dT%H%M%SZ}-{report.id[-8:]}.json"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return context.add_headers(Response(body(report), media_type=MediaType.JSON, headers=headers))


def body(report: Report) -> bytes:
    """Return the content of a report's file; the same report gives the same bytes."""
    content = {
        "id": report.id,
        "began_at": instant(report.began_at),
        "finished_at": instant(report.finished_at),
        "actor": report.actor,
        "counts": report.counts,
        "cases": report.cases,
    }
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def digest(report: Report) -> str:
    """Return the SHA-256 of a report's file, in hex."""
    return hashlib.sha256(body(report)).hexdigest()


async def _get_report(context: PageContext) -> Report:
    report_id = context.request.path_params["report_id"]
    return await context.run_read(lambda service: service.report(report_id))
