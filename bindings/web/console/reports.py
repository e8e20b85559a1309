"""Reports of reconciliations: dated, never changed, and taken away as they are."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from litestar import MediaType, Request, Response, get

from bindings.domain.roles import Permission
from bindings.web.console.page_context import PageContext, Reply

if TYPE_CHECKING:
    from bindings.store.reports import Report

SHOWN = 50
CASES_SHOWN = 500


@get("/reports", for_=(Permission.READ,))
async def show(request: Request[Any, Any, Any]) -> Reply:
    """Show the reports, the newest first."""
    visit = PageContext(request)
    after = request.query_params.get("after")
    page = await visit.run_read(lambda service: service.reports(cursor=after, limit=SHOWN, cases=False))
    return visit.page("reports.html", page=page, first=after is None)


@get("/reports/{report_id:str}", for_=(Permission.READ,))
async def one(request: Request[Any, Any, Any]) -> Reply:
    """Show one report, case by case."""
    visit = PageContext(request)
    report = await _asked(visit)
    return visit.page("report.html", report=report, most=CASES_SHOWN, sha256=digest(report))


@get("/reports/{report_id:str}/download", for_=(Permission.READ,))
async def download(request: Request[Any, Any, Any]) -> Reply:
    """Give the report as a file: the same bytes whenever it is taken."""
    visit = PageContext(request)
    report = await _asked(visit)
    name = f"report-{report.began_at:%Y%m%dT%H%M%SZ}-{report.id[-8:]}.json"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return visit.add_headers(Response(body(report), media_type=MediaType.JSON, headers=headers))


def body(report: Report) -> bytes:
    """The file of a report; one report has one file."""
    shown = {
        "id": report.id,
        "began_at": report.began_at.isoformat().replace("+00:00", "Z"),
        "finished_at": report.finished_at.isoformat().replace("+00:00", "Z"),
        "actor": report.actor,
        "counts": report.counts,
        "cases": report.cases,
    }
    return json.dumps(shown, indent=1, sort_keys=True).encode() + b"\n"


def digest(report: Report) -> str:
    """The SHA-256 of a report's file, in hex."""
    return hashlib.sha256(body(report)).hexdigest()


async def _asked(visit: PageContext) -> Report:
    report_id = visit.request.path_params["report_id"]
    return await visit.run_read(lambda service: service.report(report_id))
