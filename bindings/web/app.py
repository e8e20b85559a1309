"""The application: the routes, what becomes of an error, and the gate in front."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from litestar import Litestar, Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from bindings.errors import BindingsError
from bindings.web import problems
from bindings.web.api import ops_routes, routes
from bindings.web.console import router
from bindings.web.middleware import RequestMiddleware

if TYPE_CHECKING:
    from bindings.web.state import AppState

_log = structlog.get_logger("bindings.web")


def application(app_state: AppState) -> RequestMiddleware:
    """The application that a server runs."""
    inner = Litestar(
        route_handlers=[routes.router(), ops_routes.router(), router.router()],
        exception_handlers={
            BindingsError: _error_response,
            HTTPException: _framework_error,
            Exception: _unexpected_error,
        },
        openapi_config=None,
        logging_config=None,
    )
    inner.state.app_state = app_state
    return RequestMiddleware(inner, app_state.metrics)  # type: ignore[arg-type]  # ASGI's own types differ in name only


def _error_response(request: Request[Any, Any, Any], error: BindingsError) -> Response[Any]:
    if router.wants_page(request):
        return router.error_page(request, error)
    return Response(
        problems.body(error, request.scope["state"]["request_id"]),
        status_code=error.http_status,
        headers=problems.headers(error),
        media_type=problems.MEDIA_TYPE,
    )


def _framework_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """What the framework refuses, in our words: its own repeat the address and the values."""
    match error:
        case NotFoundException():
            told: BindingsError = problems.NoSuchPath()
        case MethodNotAllowedException():
            told = problems.MethodNotAllowed()
        case _ if error.status_code < 500:  # noqa: PLR2004 -- the caller's fault
            told = problems.Malformed()
        case _:
            return _unexpected_error(request, error)
    answer = _error_response(request, told)
    allowed = (error.headers or {}).get("allow")
    if allowed is not None:
        answer.headers["Allow"] = allowed
    return answer


def _unexpected_error(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """A fault of ours. Its type and place are logged, never its text: that may carry a phone number."""
    frames = traceback.extract_tb(error.__traceback__)
    place = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-4:]))
    _log.error("unexpected", kind=type(error).__name__, place=place)
    return _error_response(request, problems.InternalError())
