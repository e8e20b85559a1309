"""The ASGI application: the routes, the mapping of exceptions to problem objects, and the middleware in front.

What a route does is in `api` and `console`; what an error means is in `problems` and `bindings.errors`.
"""

from __future__ import annotations

from copy import copy
from functools import cache
from typing import TYPE_CHECKING, Any

import structlog
from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from bindings.errors import BindingsError
from bindings.logs import innermost_frames
from bindings.web import problems
from bindings.web.api import openapi, ops_routes, routes
from bindings.web.console import router
from bindings.web.direct_calls import DirectCalls
from bindings.web.middleware import RequestMiddleware

if TYPE_CHECKING:
    from bindings.web.state import AppState

_log = structlog.get_logger("bindings.web")


def application(app_state: AppState) -> RequestMiddleware:
    """Return the application that a server runs."""
    return RequestMiddleware(DirectCalls(framework(app_state), error_response), app_state.metrics)


def framework(app_state: AppState) -> Litestar:
    """Return the framework's application, which has every route."""
    app = copy(_without_state())
    app.state = State({"app_state": app_state, "openapi_document": openapi.document_bytes})
    return app


@cache
def _without_state() -> Litestar:
    """Build the routes once in a process: the framework takes longer for it than for all else at the start."""
    return Litestar(
        route_handlers=[routes.router(), ops_routes.router(), router.router()],
        exception_handlers={Exception: error_response},
        openapi_config=None,
        logging_config=None,
    )


def error_response(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Return the response of an exception."""
    match error:
        case BindingsError():
            return _problem(request, error)
        case HTTPException():
            return _framework_error(request, error)
        case _:
            return _unexpected_error(request, error)


def _problem(request: Request[Any, Any, Any], error: BindingsError) -> Response[Any]:
    if isinstance(error, problems.ConcurrencyLimited):
        request.app.state.app_state.metrics.record_concurrency_limited(error.limit_name)
    if isinstance(error, problems.BudgetUsedUp):
        request.app.state.app_state.metrics.record_budget_used_up(error.budget)
    if router.wants_page(request):
        return router.error_page(request, error)
    return Response(
        problems.body(error, request.scope["state"]["request_id"]),
        status_code=error.http_status,
        headers=problems.headers(error),
        media_type=problems.MEDIA_TYPE,
    )


def _framework_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """Map an error of the framework to one of our errors: its own texts repeat the path and the values."""
    match error:
        case NotFoundException():
            mapped: BindingsError = problems.NoSuchPath()
        case MethodNotAllowedException():
            mapped = problems.MethodNotAllowed()
        case _ if error.status_code < 500:  # noqa: PLR2004 -- a client error
            mapped = problems.Malformed()
        case _:
            return _unexpected_error(request, error)
    response = _problem(request, mapped)
    allowed = (error.headers or {}).get("allow")
    if allowed is not None:
        response.headers["Allow"] = allowed
    return response


def _unexpected_error(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Log the type and the place of an unexpected exception, never its text: that may carry a phone number."""
    _log.error("unexpected", kind=type(error).__name__, place=innermost_frames(error))
    return _problem(request, problems.InternalError())
