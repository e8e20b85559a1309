"""The console's routes in one place, and what becomes of an error on one of its pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from litestar import Router
from litestar.datastructures import CacheControlHeader
from litestar.static_files import create_static_files_router

from bindings.errors import BindingsError, InvalidRequest
from bindings.web import problems
from bindings.web.console import (
    access_log,
    binding,
    doubts,
    export,
    failures,
    number,
    overview,
    pools,
    reports,
    search,
    sign_in,
    templating,
)
from bindings.web.console.page_context import PageContext, Reply
from bindings.web.console.security import SignInNeeded, page_guard

if TYPE_CHECKING:
    from litestar import Request

A_YEAR_S = 365 * 24 * 3_600


def router() -> Router:
    """Everything that a browser sees."""
    pages = Router(
        "/",
        route_handlers=[
            *(sign_in.form, sign_in.sign_in, sign_in.sign_out, sign_in.zone),
            *(search.home, search.find, search.found, search.export),
            *(binding.show, binding.reveal, binding.raw, binding.export),
            *(number.of_binding, number.export_of_binding, number.of_search, number.export_of_search),
            *(access_log.access_log, access_log.export),
            *(export.form, export.period, export.manifest),
            *(overview.show, failures.show, failures.failure, pools.show),
            *(doubts.show, doubts.resolve, doubts.resolved, doubts.mark_absent_form, doubts.mark_absent),
            *(reports.show, reports.one, reports.download),
        ],
        guards=[page_guard],
        include_in_schema=False,
    )
    static = create_static_files_router(
        "/static",
        directories=[str(templating.STATIC)],
        include_in_schema=False,
        cache_control=CacheControlHeader(max_age=A_YEAR_S, public=True, immutable=True),
    )
    return Router("/", route_handlers=[pages, static], include_in_schema=False)


def wants_page(request: Request[Any, Any, Any]) -> bool:
    """Whether an error is to be shown as a page: a browser asks, and not for the API."""
    return not request.url.path.startswith("/v1") and "text/html" in request.headers.get("accept", "")


def error_page(request: Request[Any, Any, Any], error: BindingsError) -> Reply:
    """An error as a page; whoever is not signed in is led to where they can, and back."""
    visit = PageContext(request)
    if isinstance(error, SignInNeeded):
        back = quote(request.url.path) if request.method == "GET" else "/"
        return visit.redirect(f"/sign-in?next={back}")
    faults = error.field_errors if isinstance(error, InvalidRequest) else ()
    return visit.page(
        "error.html", status=error.http_status, headers=problems.headers(error), error=error, faults=faults
    )
