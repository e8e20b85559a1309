"""The routes of the console, and the error page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from litestar import MediaType, Router
from litestar.datastructures import CacheControlHeader
from litestar.response import Stream
from litestar.static_files import create_static_files_router

from bindings.errors import BindingsError, InvalidRequest
from bindings.web import problems
from bindings.web.console import (
    access_log,
    binding,
    binding_list,
    doubts,
    export,
    failures,
    holds,
    keys,
    number,
    number_at,
    overview,
    pools,
    reports,
    search,
    sessions,
    sign_in,
    templating,
    unbind_all,
    webhooks,
)
from bindings.web.console.page_context import PageContext, PageResponse
from bindings.web.console.security import CsrfError, SignInNeeded, authenticate_page, page_guard, read_token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from litestar import Request

YEAR_S = 365 * 24 * 3_600


def router() -> Router:
    """Return the routes of all console pages and of the static files."""
    pages = Router(
        "/",
        route_handlers=[
            *(sign_in.form, sign_in.sign_in, sign_in.sign_out, sign_in.zone),
            *(search.home, search.find, search.results, search.results_by_name, search.export),
            *(binding_list.show, binding_list.apply_filters, binding_list.export),
            *(binding.show, binding.reveal, binding.raw, binding.export),
            *(binding.extend, binding.replace, binding.unbind),
            *(number.history_of_binding_number, number.export_of_binding_number),
            *(number.history_of_search, number.export_of_search),
            *(number.start_at_time, number_at.show, number_at.statement),
            *(unbind_all.show_form, unbind_all.unbind_all, unbind_all.show_result),
            *(access_log.access_log, access_log.apply_filters, access_log.export),
            *(export.form, export.export_period, export.manifest),
            *(overview.show, failures.show, failures.choose_period, failures.failure, pools.show),
            *(doubts.show, doubts.resolve, doubts.reconcile_run, doubts.mark_absent_form, doubts.mark_absent),
            *(reports.show, reports.show_report, reports.download),
            *(keys.show, keys.create_form, keys.create, keys.revoke_form, keys.revoke),
            *(sessions.show, sessions.end, holds.show),
            *(webhooks.show, webhooks.add_form, webhooks.add, webhooks.show_webhook),
            *(webhooks.enable, webhooks.disable, webhooks.redeliver),
            *(webhooks.rotate_form, webhooks.rotate, webhooks.remove_form, webhooks.remove),
        ],
        guards=[page_guard],
        include_in_schema=False,
    )
    static = create_static_files_router(
        "/static",
        directories=[str(templating.STATIC)],
        include_in_schema=False,
        cache_control=CacheControlHeader(max_age=YEAR_S, public=True, immutable=True),
    )
    return Router("/", route_handlers=[pages, static], include_in_schema=False)


def wants_page(request: Request[Any, Any, Any]) -> bool:
    """Return whether an error is shown as a page: the client accepts HTML, and the path is not of the API."""
    return not request.url.path.startswith("/v1") and "text/html" in request.headers.get("accept", "")


def error_page(request: Request[Any, Any, Any], error: BindingsError) -> PageResponse:
    """Return the page of an error, or a redirect: to sign in first, or from the address of a form to its page."""
    context = PageContext(request)
    if isinstance(error, problems.MethodNotAllowed) and request.method == "GET":
        page = request.url.path.strip("/").rpartition("/")[0]  # each form is sent to an address below its page
        return context.redirect(f"/{quote(page)}")
    if isinstance(error, SignInNeeded):
        refused = "refused=form&" if request.method == "POST" else ""
        return context.redirect(f"/sign-in?{refused}next={quote(context.page_address)}")
    if context.principal is not None:
        return _error_page(context, error)
    if "token" not in context.state:
        read_token(request)

    async def body() -> AsyncIterator[str]:
        # No route, so no guard has found the principal, and a handler of errors cannot wait for it.
        await authenticate_page(request)
        yield _error_page(context, error).content

    response: PageResponse = Stream(
        body(), status_code=error.http_status, media_type=MediaType.HTML, headers=problems.headers(error)
    )
    return context.add_headers(response)


def _error_page(context: PageContext, error: BindingsError) -> PageResponse:
    field_errors = error.field_errors if isinstance(error, InvalidRequest) else ()
    return context.render(
        "error.html",
        status=error.http_status,
        headers=problems.headers(error),
        error=error,
        field_errors=field_errors,
        page_of_form=context.page_address if isinstance(error, CsrfError) else None,
    )
